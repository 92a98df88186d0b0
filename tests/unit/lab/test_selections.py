"""Networks that a Pod requests, in both forms of the annotation, and their status."""

import json

import pytest

from galactic.errors import Rejected
from galactic_lab.node.selections import Selection, selections, status


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        pytest.param("", [], id="nothing"),
        pytest.param("a", [("pods", "a", "net1")], id="a-name"),
        pytest.param("other/a@eth9, b ", [("other", "a", "eth9"), ("pods", "b", "net2")], id="comma-form"),
        pytest.param(
            '[{"name": "a", "namespace": "other", "interface": "eth9"}, {"name": "b"}]',
            [("other", "a", "eth9"), ("pods", "b", "net2")],
            id="json-form",
        ),
    ],
)
def test_both_forms(annotation: str, expected: list[tuple[str, str, str]]) -> None:
    selected = [
        (selection.namespace, selection.name, selection.interface)
        for selection in selections(annotation, "pods")
    ]
    assert selected == expected


@pytest.mark.parametrize(
    "annotation",
    [
        pytest.param("a/b/c", id="too-many-slashes"),
        pytest.param("@eth0", id="no-name"),
        pytest.param("[{", id="broken-json"),
        pytest.param('[{"namespace": "x"}]', id="json-without-name"),
        pytest.param("a@net1,b@net1", id="one-interface-twice"),
    ],
)
def test_nonsense_is_rejected(annotation: str) -> None:
    with pytest.raises(Rejected):
        selections(annotation, "pods")


def test_status_has_the_interface_inside_and_bare_addresses() -> None:
    result = {
        "interfaces": [
            {"name": "host0", "mac": "02:00:00:00:00:01"},
            {"name": "eth9", "mac": "02:00:00:00:00:02"},
        ],
        "ips": [{"address": "10.1.1.1/24", "interface": 1}],
    }
    result["interfaces"][1]["sandbox"] = "/run/netns/x"
    (entry,) = json.loads(status([(Selection("pods", "a", "net1", {}), result)]))
    assert entry["name"] == "pods/a"
    assert (entry["interface"], entry["mac"], entry["ips"]) == ("eth9", "02:00:00:00:00:02", ["10.1.1.1"])
