"""kind-config.yaml, kind-values.yaml and the routes between the nodes, without kind."""

from typing import Any

import pytest
import yaml

from galactic.srv6 import parse_prefix
from kind_underlay import Incomplete, command, routes
from tilt import ROOT

FIELDS: dict[str, Any] = {
    "kind": str,
    "apiVersion": str,
    "name": str,
    "networking": {
        "ipFamily": {"ipv4", "ipv6", "dual"},
        "apiServerPort": int,
        "apiServerAddress": str,
        "podSubnet": str,
        "serviceSubnet": str,
        "disableDefaultCNI": bool,
        "kubeProxyMode": {"iptables", "ipvs", "nftables", "none"},
        "dnsSearch": [str],
    },
    "nodes": [
        {
            "role": {"control-plane", "worker"},
            "image": str,
            "labels": dict,
            "extraMounts": [dict],
            "extraPortMappings": [dict],
            "kubeadmConfigPatches": [str],
            "kubeadmConfigPatchesJSON6902": [dict],
        }
    ],
    "featureGates": dict,
    "runtimeConfig": dict,
    "kubeadmConfigPatches": [str],
    "kubeadmConfigPatchesJSON6902": [dict],
    "containerdConfigPatches": [str],
    "containerdConfigPatchesJSON6902": [str],
}
"""kind.x-k8s.io/v1alpha4 (https://pkg.go.dev/sigs.k8s.io/kind/pkg/apis/config/v1alpha4): kind refuses other fields."""


def checked(value: Any, shape: Any, where: str = "") -> None:
    if isinstance(shape, dict):
        assert isinstance(value, dict), where
        for key, inner in value.items():
            assert key in shape, f"{where}.{key} is no field"
            checked(inner, shape[key], f"{where}.{key}")
    elif isinstance(shape, list):
        assert isinstance(value, list), where
        for number, inner in enumerate(value):
            checked(inner, shape[0], f"{where}[{number}]")
    elif isinstance(shape, set):
        assert value in shape, f"{where}: {value}"
    else:
        assert isinstance(value, shape), f"{where}: {value!r}"


@pytest.fixture
def cluster() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "kind-config.yaml").read_text())
    return found


def names(cluster) -> list[str]:
    """What kind calls the nodes: by role, from the second of a role on with its number."""
    made: list[str] = []
    for node in cluster["nodes"]:
        number = 1 + sum(name.startswith(f"{cluster['name']}-{node['role']}") for name in made)
        made.append(f"{cluster['name']}-{node['role']}{number if number > 1 else ''}")
    return made


def test_kind_knows_every_field(cluster):
    checked(cluster, FIELDS)
    assert (cluster["kind"], cluster["apiVersion"]) == ("Cluster", "kind.x-k8s.io/v1alpha4")
    for node in cluster["nodes"]:
        for patch in node.get("kubeadmConfigPatches", ()):
            assert yaml.safe_load(patch)["kind"] in ("InitConfiguration", "JoinConfiguration")


@pytest.mark.parametrize(
    "wrong", [{"networking": {"family": "dual"}}, {"nodes": [{"role": "master"}]}, {"nodes": {}}]
)
def test_a_field_that_kind_does_not_know_is_seen(cluster, wrong):
    """The test's own test."""
    with pytest.raises(AssertionError):
        checked(cluster | wrong, FIELDS)


def test_three_nodes_with_ipv6_each_with_a_prefix_of_its_own(cluster):
    values = yaml.safe_load((ROOT / "kind-values.yaml").read_text())
    assert cluster["networking"]["ipFamily"] == "dual"
    assert len(cluster["nodes"]) == 3
    assert sorted(values["segments"]) == sorted(names(cluster))
    prefixes = [parse_prefix(text) for text in values["segments"].values()]
    assert len({str(prefix) for prefix in prefixes}) == 3


def node(name, *addresses):
    listed = [{"type": "InternalIP", "address": address} for address in addresses]
    return {
        "metadata": {"name": name},
        "status": {"addresses": [*listed, {"type": "Hostname", "address": name}]},
    }


def segment(name, prefix):
    return {"metadata": {"name": name}, "spec": {"prefix": prefix}}


TWO = {"items": [node("a", "172.18.0.2", "fc00::2"), node("b", "172.18.0.3", "fc00::3")]}


def test_each_node_reaches_the_others_prefixes():
    segments = {"items": [segment("a", "2001:db8:1::/56"), segment("b", "2001:db8:2::/56")]}
    assert routes(TWO, segments) == {
        "a": {"2001:db8:2::/56": "fc00::3"},
        "b": {"2001:db8:1::/56": "fc00::2"},
    }
    assert command("a", "2001:db8:2::/56", "fc00::3")[2:] == [
        *("a", "ip", "-6", "route", "replace"),
        *("2001:db8:2::/56", "via", "fc00::3"),
    ]


@pytest.mark.parametrize(
    ("nodes", "segments", "told"),
    [
        pytest.param(TWO, {"items": [segment("a", "2001:db8:1::/56")]}, "NodeSegment for b", id="no-prefix"),
        pytest.param({"items": [node("a", "172.18.0.2")]}, {"items": []}, "kind-config.yaml", id="no-ipv6"),
    ],
)
def test_what_is_missing_is_named(nodes, segments, told):
    with pytest.raises(Incomplete, match=told):
        routes(nodes, segments)
