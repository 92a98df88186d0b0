"""kind-config.yaml by kind's own parser, kind-values.yaml, and the routes between the nodes."""

import subprocess
from typing import Any

import pytest
import yaml

from galactic.srv6 import parse_prefix
from galactic_lab.builds import build_modules
from kind_underlay import Incomplete, command, routes
from tilt import ROOT

CONFIG = ROOT / "kind-config.yaml"


def parsed(text: str) -> str:
    """The output of `kind create cluster` with that configuration, on a machine without Docker."""
    kind = build_modules.kind().ensure(lambda _done, _title: None) / "kind"
    done = subprocess.run(
        [kind, "create", "cluster", "--config", "-"],
        input=text,
        env={"PATH": "/nowhere", "HOME": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    return done.stderr


@pytest.fixture
def cluster() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "kind-config.yaml").read_text())
    return found


def names(cluster) -> list[str]:
    """The names that kind gives nodes: by role, from the second of a role on with its number."""
    made: list[str] = []
    for node in cluster["nodes"]:
        number = 1 + sum(name.startswith(f"{cluster['name']}-{node['role']}") for name in made)
        made.append(f"{cluster['name']}-{node['role']}{number if number > 1 else ''}")
    return made


def test_kind_takes_the_configuration():
    """It reads the file before it asks Docker for anything, and ends there."""
    assert '"docker"' in parsed(CONFIG.read_text())


@pytest.mark.parametrize(
    ("right", "wrong", "answer"),
    [
        ("nodes:", "nodez:", "field nodez not found"),
        ("  ipFamily:", "  family:", "field family not found"),
    ],
)
def test_kind_refuses_an_invalid_configuration(right, wrong, answer):
    text = CONFIG.read_text()
    assert right in text
    assert answer in parsed(text.replace(right, wrong))


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
    ("nodes", "segments", "message"),
    [
        pytest.param(TWO, {"items": [segment("a", "2001:db8:1::/56")]}, "NodeSegment for b", id="no-prefix"),
        pytest.param({"items": [node("a", "172.18.0.2")]}, {"items": []}, "kind-config.yaml", id="no-ipv6"),
    ],
)
def test_missing_programs_are_named(nodes, segments, message):
    with pytest.raises(Incomplete, match=message):
        routes(nodes, segments)
