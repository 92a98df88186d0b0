"""The Multus annotation: both its forms, appended to and never overwritten."""

import json

import pytest

from galactic.errors import Rejected
from galactic.validation.multus import (
    ELSEWHERE,
    Network,
    appended,
    configured_elsewhere,
    interfaces,
    networks,
)
from galactic_lab.node.selections import selections


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", "web@galactic0", id="empty"),
        pytest.param("  ", "web@galactic0", id="blank"),
        pytest.param("other", "other,web@galactic0", id="comma-list"),
        pytest.param("a, b@net7", "a, b@net7,web@galactic0", id="two"),
        pytest.param("web@galactic0", "web@galactic0", id="there-already"),
        pytest.param("a,blue/web@galactic0", "a,blue/web@galactic0", id="there-with-its-namespace"),
        pytest.param("green/web", "green/web,web@galactic0", id="a-namesake-elsewhere"),
        pytest.param("web@other", "web@other", id="there-under-another-name"),
    ],
)
def test_comma_form(text: str, expected: str) -> None:
    assert appended(text, "web", "galactic0", "blue") == expected
    assert appended(expected, "web", "galactic0", "blue") == expected


@pytest.mark.parametrize(
    ("text", "name", "interface", "expected"),
    [
        pytest.param("", "web.v2", "galactic0", [("web.v2", "galactic0")], id="a-dot-in-the-name"),
        pytest.param("", "web", "Net_1.0", [("web", "Net_1.0")], id="an-interface-that-is-no-label"),
        pytest.param(
            "a, green/b@net7",
            "web.v2",
            "galactic0",
            [("a", ""), ("green/b", "net7"), ("web.v2", "galactic0")],
            id="after-a-comma-list",
        ),
        pytest.param("[]", "web.v2", "galactic0", [("web.v2", "galactic0")], id="after-an-empty-list"),
    ],
)
def test_what_a_comma_list_cannot_have_makes_it_json(
    text: str, name: str, interface: str, expected: list[tuple[str, str]]
) -> None:
    after = appended(text, name, interface, "blue")
    listed = selections(after, "blue")
    assert [(entry.name, entry.interface) for entry in listed][-1] == (name, interface)
    found = [(f"{entry.namespace}/{entry.name}".lstrip("/"), entry.interface) for entry in networks(after)]
    assert found == expected
    assert appended(after, name, interface, "blue") == after


@pytest.mark.parametrize("request_", ELSEWHERE)
def test_what_the_attachment_decides_is_refused_in_its_entry_and_in_no_other(request_: str) -> None:
    web, other = networks(
        json.dumps([{"name": name, "interface": name, request_: "x"} for name in ("web", "other")])
    )
    with pytest.raises(Rejected, match=f"'{request_}' of 'web' has no effect; "):
        configured_elsewhere(web)
    assert other.requests == (request_,)
    (plain,) = networks(json.dumps([{"name": "web", request_: None}]))
    configured_elsewhere(plain)


@pytest.mark.parametrize(
    ("entries", "added"),
    [
        pytest.param([], True, id="empty-list"),
        pytest.param(
            [{"name": "a", "interface": "net7", "ips": ["10.0.0.1/24"], "mac": "c2:b0:57:49:47:f1"}],
            True,
            id="one",
        ),
        pytest.param([{"name": "web", "interface": "galactic0"}], False, id="there-already"),
        pytest.param([{"name": "web", "namespace": "green"}], True, id="a-namesake-elsewhere"),
    ],
)
def test_json_form(entries: list[dict[str, object]], added: bool) -> None:
    text = json.dumps(entries)
    once = appended(text, "web", "galactic0", "blue")
    assert appended(once, "web", "galactic0", "blue") == once
    if not entries:
        assert once == "web@galactic0"
    else:
        assert json.loads(once) == [*entries, *([{"name": "web", "interface": "galactic0"}] if added else [])]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a,,b", id="empty-entry"),
        pytest.param("a@", id="no-interface"),
        pytest.param("a@b@c", id="two-interfaces"),
        pytest.param("x/y/z", id="two-slashes"),
        pytest.param("/a", id="no-namespace"),
        pytest.param("Upper", id="not-a-name"),
        pytest.param("web.v2", id="a-dot"),
        pytest.param("a@averyveryverylongname", id="interface-too-long"),
        pytest.param("[", id="half-a-list"),
        pytest.param('{"name":"a"}', id="an-object"),
        pytest.param('["a"]', id="list-of-texts"),
        pytest.param('[{"interface":"a"}]', id="entry-without-name"),
        pytest.param('[{"name":7}]', id="name-is-a-number"),
        pytest.param('"a"', id="a-string"),
    ],
)
def test_malformed_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(Rejected, match=r"k8s.v1.cni.cncf.io/networks\].*write NAME@INTERFACE"):
        networks(text)


def test_interfaces_have_multus_names_where_none_is_given() -> None:
    entries = networks("a,b@x,c")
    assert entries == (Network("", "a", ""), Network("", "b", "x"), Network("", "c", ""))
    assert interfaces(entries) == ("net1", "x", "net3")
