"""Stories read objects without a kubectl: they get what it prints."""

import json
from typing import Any

import pytest

from galactic.errors import Rejected
from galactic_lab.cluster import Lab


@pytest.mark.parametrize(
    "arguments",
    [
        ("namespace", "default"),
        ("ns", "-l", "kubernetes.io/metadata.name in (default, kube-system)"),
        ("svc", "-A"),
        ("services", "-n", "default", "--field-selector=metadata.name=kubernetes"),
        ("configmaps", "-n", "nowhere"),
        ("net-attach-def", "-A"),
        ("crd", "vpcs.galactic.datumapis.com"),
        ("vpc", "-A"),
        ("validatingwebhookconfigurations", "galactic-admission"),
        ("leases", "-n", "galactic-system"),
    ],
    ids=" ".join,
)
def test_equal(control_plane: Lab, arguments: tuple[str, ...]) -> None:
    printed = json.loads(control_plane.kubectl("get", *arguments, "-o", "json"))
    assert stable(control_plane.get(*arguments)) == stable(printed)


def stable(answer: dict[str, Any]) -> Any:
    """The items of a list, by name; of objects that are renewed all the time what stays."""
    items = answer.get("items", [answer])
    for item in items:
        for field in ("resourceVersion", "managedFields"):
            item["metadata"].pop(field, None)
        item.get("spec", {}).pop("renewTime", None)
    return sorted(items, key=lambda item: (item["metadata"].get("namespace", ""), item["metadata"]["name"]))


def test_refused_alike(control_plane: Lab) -> None:
    for read in (control_plane.get, lambda *words: control_plane.kubectl("get", *words)):
        with pytest.raises(Rejected, match=r"\(NotFound\).*\"nothing\" not found"):
            read("pod", "nothing", "-n", "default")
