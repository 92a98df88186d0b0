"""The picture is well-formed, shows all attachments, and escapes names."""

from xml.etree import ElementTree as ET

from states import attachment, fine, snapshot

from galactic.cli.graph import ELSEWHERE, picture, svg

SVG = "{http://www.w3.org/2000/svg}"


def test_who_is_where() -> None:
    seen = picture(snapshot(fine()))
    assert [node for node, *_ in seen.nodes] == ["node-1", "node-2"]
    assert {place: [dot.label for dot in dots] for place, dots in seen.cells.items()} == {
        ("blue/blue", "node-1"): ["web 10.1.1.1"],
        ("blue/blue", "node-2"): ["api 10.1.1.2"],
    }
    texts = [element.text for element in ET.fromstring(svg(seen)).iter(f"{SVG}text")]  # noqa: S314 - our own
    assert {"blue/blue", "node-1", "node-2", "web 10.1.1.1", "api 10.1.1.2"} <= {*texts}


def test_what_is_attached_nowhere_or_not_ready_is_seen() -> None:
    objects = fine()
    status = objects["VPCAttachment web"]["status"]
    del status["endpoint"]
    status["ready"] = False
    seen = picture(snapshot(objects))
    (dot,) = seen.cells["blue/blue", ELSEWHERE]
    assert not dot.fine
    assert "#c0392b" in svg(seen)


def test_names_are_text() -> None:
    objects = fine()
    objects["NodeSegment node-1"]["spec"]["prefix"] = '"/><script>alert(1)</script>'
    drawn = svg(picture(snapshot(objects)))
    assert "<script>" not in drawn
    ET.fromstring(drawn)  # noqa: S314 - our own


def test_no_text_leaves_its_column() -> None:
    """For names of any length: the widest digit takes 8 pixels at this font size."""
    objects = fine()
    for letter, length in (("a", 20), ("b", 40), ("c", 200)):
        objects[f"VPCAttachment {letter}"] = attachment(letter * length, 1, 7, 7)
    objects["VPC blue"]["spec"]["networks"] = [f"10.{number}.0.0/16" for number in range(30)]
    drawn = ET.fromstring(svg(picture(snapshot(objects))))  # noqa: S314 - our own
    edges = [
        float(element.get("x", 0)) for element in drawn.iter(f"{SVG}rect") if element.get("class") == "g"
    ]
    assert len(edges) == 2
    for element in drawn.iter(f"{SVG}text"):
        x = float(element.get("x", 0))
        edge = min([edge for edge in edges if edge > x], default=float(drawn.get("width", 0)))
        assert x + 8 * len(element.text or "") <= edge, element.text
    assert any(
        "…" in (element.text or "") and (element.text or "").endswith("10.1.1.7")
        for element in drawn.iter(f"{SVG}text")
    )
