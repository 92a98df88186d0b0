"""``galactic trace`` and ``galactic status`` about VPCPolicies."""

from typing import Any

import pytest
from states import Objects, condition, fine, snapshot
from test_walk import kernel, walked

from galactic.cli.findings import findings

KERNELS = {"node-1": kernel(1), "node-2": kernel(2)}


def rules(name: str, attachment: str, role: str = "Policy", **spec: Any) -> Objects:
    """The state with rules of an attachment, api or web."""
    things = fine()
    things[f"VPCAttachment {attachment}"]["status"]["policies"] = [name]
    things[f"PolicySlice {name}"] = {
        "kind": "PolicySlice",
        "metadata": {"name": name},
        "spec": {"role": role, "source": "blue/db", **spec},
    }
    return things


@pytest.mark.parametrize(
    ("things", "where", "what"),
    [
        pytest.param(
            rules("policy-a", "api", ingress=[]),
            "rules into blue/api",
            "nothing passes from 10.1.1.1, by VPCPolicy blue/db",
            id="default-deny",
        ),
        pytest.param(
            rules("policy-a", "web", egress=[{"blocks": [{"cidr": "10.9.0.0/16"}]}]),
            "rules out of blue/web",
            "nothing passes to 10.1.1.2, by VPCPolicy blue/db",
            id="egress",
        ),
        pytest.param(
            rules("policy-a", "api", ingress=[{"anyPeer": True, "ports": [{"port": 80, "endPort": 90}]}]),
            "rules into blue/api",
            "only TCP 80-90 passes from 10.1.1.1, by VPCPolicy blue/db",
            id="ports",
        ),
        pytest.param(
            rules("floor-a", "api", "Floor", ingress=[]),
            "rules into blue/api",
            "nothing passes from 10.1.1.1, by VPC blue/db",
            id="floor",
        ),
    ],
)
def test_a_trace_ends_at_the_rules(things: Objects, where: str, what: str) -> None:
    hops = walked(KERNELS, things)
    assert (hops[-1].state, hops[-1].where, hops[-1].what) == ("stops", where, what)
    assert "add a rule" in hops[-1].remedy


def test_rules_that_let_it_pass() -> None:
    things = rules("policy-a", "api", ingress=[{"groups": ["group-x"]}])
    things["PolicySlice group-x-0"] = {
        "kind": "PolicySlice",
        "metadata": {"name": "group-x-0"},
        "spec": {"role": "Group", "group": "group-x", "addresses": ["10.1.1.1"]},
    }
    hops = walked(KERNELS, things)
    assert {hop.state for hop in hops} == {"passes"}
    assert "everything passes from 10.1.1.1, by VPCPolicy blue/db" in [hop.what for hop in hops]


def test_slices_that_may_not_be_read() -> None:
    things = rules("policy-a", "api", ingress=[])
    del things["PolicySlice policy-a"]
    assert [hop.state for hop in walked(KERNELS, things)].count("unknown") == 1


@pytest.mark.parametrize(
    ("state", "reasons"),
    [
        pytest.param(condition("Enforced", "True", "Enforced", "fine"), [], id="fine"),
        pytest.param(
            condition("Enforced", "False", "NodesUnable", "node a"), ["NodesUnable"], id="a-node-cannot"
        ),
        pytest.param(condition("Accepted", "False", "Invalid", "spec.x"), ["Invalid"], id="invalid"),
        pytest.param(
            condition("Enforced", "True", "NothingSelected", "none"),
            ["NothingSelected"],
            id="selects-nothing",
        ),
    ],
)
def test_findings(state: dict[str, Any], reasons: list[str]) -> None:
    things = fine()
    things["VPCPolicy db"] = {
        "kind": "VPCPolicy",
        "metadata": {"name": "db", "namespace": "blue"},
        "spec": {"vpc": {"name": "blue"}},
        "status": {"conditions": [state]},
    }
    assert [one.reason for one in findings(snapshot(things)) if one.about == "VPCPolicy blue/db"] == reasons
