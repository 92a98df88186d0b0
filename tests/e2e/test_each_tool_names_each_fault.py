"""Faults of a node's kernel, provoked one after the other: the condition, `galactic status`, `galactic trace` and the
alert name the same cause, and no other node is accused of it; afterwards nothing is wrong (docs/operations/faults.md).

Each comparison waits for the report, for minutes if need be: nothing here depends on speed.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from story import Tenant, eventually

from galactic.names import VPC_LABEL, host_end, parse_function, parse_vpc
from galactic_lab.cluster import Lab
from galactic_lab.controlplane.prometheus import Api

PATIENCE = 240.0
ALERT_PATIENCE = 400.0
"""A condition is scraped and evaluated later."""
DEGRADED, UNREACHABLE = 3, 4
CHAIN = "{ type filter hook forward priority 10; policy drop; }"


@dataclass(frozen=True)
class Fault:
    """``breaks`` and ``mends`` are scripts on ``node``, in which DEVICE is the host end of the pod there.

    ``trace``: the hop that stops, and a part of its text. ``condition``: its type and reason, and a part of its
    message; empty: the node puts it back at once, so it is provoked while the node controller is held. ``remedy``: what
    the trace gives, which helps; empty: that depends on the node.
    """

    node: str
    breaks: str
    mends: str
    trace: tuple[str, str]
    condition: tuple[str, str, str] | None = None
    alert: str = ""
    remedy: str = ""


FOREIGN = "chain forwarding of the nft table ip theirs (policy drop) drops IPv4 packets between pods"
FAULTS = [
    pytest.param(
        Fault(
            "node-2",
            f"nft 'add table ip theirs; add chain ip theirs forwarding {CHAIN}'",
            "nft delete table ip theirs",
            ("packet filter of node-2", FOREIGN),
            ("PacketFilter", "ForeignDrop", FOREIGN),
            "GalacticHostStopsPackets",
            'nft insert rule ip theirs forwarding iifname "G*" accept',
        ),
        id="another-programs-chain",
    ),
    pytest.param(
        Fault(
            "node-1",
            "sysctl -qw net.ipv4.conf.all.arp_ignore=8; ip neigh flush dev DEVICE",
            "sysctl -qw net.ipv4.conf.all.arp_ignore=0",
            ("sysctls of node-1", "arp_ignore"),
            ("HostSettings", "StopsPackets", "net.ipv4.conf.all.arp_ignore is 8"),
            "GalacticHostStopsPackets",
        ),
        id="a-sysctl-of-the-host",
    ),
    pytest.param(
        Fault(
            "node-1",
            "sysctl -qw net.ipv4.conf.DEVICE.forwarding=0",
            "true",
            ("sysctls of node-1", "forwarding"),
        ),
        id="a-sysctl-of-ours",
    ),
]


def galactic(lab: Lab, *words: str) -> Any:
    """Its answer, as JSON; None where the API server did not answer."""
    program = Path(sys.executable).with_name("galactic")
    command = [str(program), *words, "-o", "json", "--kubeconfig", str(lab.kubeconfig)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode == UNREACHABLE:
        return None
    assert done.returncode in (0, DEGRADED), f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def tenant(lodgers: Callable[..., Tenant]) -> Tenant:
    one = lodgers("faults")
    one.settle({"web": ("node-1", "10.1.1.1/24"), "api": ("node-2", "10.1.1.2/24")})
    one.reaches("web", "10.1.1.2")
    return one


@contextmanager
def provoked(fault: Fault, tenant: Tenant) -> Iterator[None]:
    """The fault, once packets are lost by it; mended afterwards."""
    lab = tenant.lab
    device = host_end_of(tenant, "web" if fault.node == "node-1" else "api")
    if fault.condition is None:
        lab.hold(fault.node)
    try:
        lab.exec(fault.node, ["sh", "-ec", fault.breaks.replace("DEVICE", device)])
        eventually("packets are lost", lambda: not tenant.ping("web", "10.1.1.2"), PATIENCE)
        yield
    finally:
        lab.exec(fault.node, ["sh", "-ec", fault.mends.replace("DEVICE", device)])
        if fault.condition is None:
            lab.release(fault.node)


def host_end_of(tenant: Tenant, attachment: str) -> str:
    """The host end of its pod."""
    made = tenant.attachment(attachment)
    vpc = parse_vpc(made["metadata"]["labels"][VPC_LABEL])
    return host_end(vpc, parse_function(made["status"]["identifier"]))


def pair(tenant: Tenant) -> list[str]:
    return [f"{tenant.namespace}/{name}" for name in ("web", "api")]


@pytest.mark.parametrize("fault", FAULTS)
def test_tools_agree(fault: Fault, tenant: Tenant, asked: Api, lab: Lab) -> None:
    pods = pair(tenant)
    with provoked(fault, tenant):
        stops = [""]
        eventually(
            lambda: f"galactic trace stops at {fault.trace}: {stops}",
            lambda: _stops(lab, pods, fault, stops),
            PATIENCE,
        )
        if fault.condition is not None:
            _reported(fault, fault.condition, asked, lab)
        if fault.remedy:
            lab.exec(fault.node, ["sh", "-ec", fault.remedy])
            _over(fault, tenant, asked)
    _over(fault, tenant, asked)


def _over(fault: Fault, tenant: Tenant, asked: Api) -> None:
    """Packets arrive, and no tool names the fault any more."""
    lab, pods = tenant.lab, pair(tenant)
    tenant.reaches("web", "10.1.1.2")
    eventually("galactic trace finds nothing", lambda: _passes(lab, pods), PATIENCE)
    if fault.condition is not None:
        kind = fault.condition[0]
        eventually(
            f"{kind} is True again", lambda: condition(lab, fault.node, kind)["status"] == "True", PATIENCE
        )
        eventually("galactic status has no such finding", lambda: not accused(lab, fault.condition), PATIENCE)
        eventually(
            f"{fault.alert} is over", lambda: fault.node not in active(asked, fault.alert), ALERT_PATIENCE
        )


def _stops(lab: Lab, pods: list[str], fault: Fault, last: list[str]) -> bool:
    """Whether the trace stops where the fault is, with a remedy. ``last``: the hops that stop, for the reader."""
    traced = galactic(lab, "trace", *pods)
    hops = [hop for way in traced["ways"] for hop in way["hops"] if hop["state"] == "stops"] if traced else []
    last[:] = [json.dumps(hop) for hop in hops]
    where, text = fault.trace
    return any(
        hop["where"] == where
        and text in hop["what"]
        and hop["remedy"] == (fault.remedy or hop["remedy"] or "?")
        for hop in hops
    )


def _passes(lab: Lab, pods: list[str]) -> bool:
    traced = galactic(lab, "trace", *pods)
    return bool(traced) and not any(hop["state"] == "stops" for way in traced["ways"] for hop in way["hops"])


def _reported(fault: Fault, condition_: tuple[str, str, str], asked: Api, lab: Lab) -> None:
    """The condition, the finding and the alert, in the order in which one follows from the other."""
    kind, reason, message = condition_

    def stands() -> bool:
        one = condition(lab, fault.node, kind)
        return (one["status"], one["reason"]) == ("False", reason) and message in one["message"]

    eventually(f"{kind} of {fault.node} is {reason}", stands, PATIENCE)
    eventually(
        f"galactic status accuses {fault.node} of it, and no other node",
        lambda: accused(lab, condition_) == {f"NodeSegment {fault.node}"},
        PATIENCE,
    )
    eventually(
        f"{fault.alert} waits to fire for {fault.node} alone",
        lambda: active(asked, fault.alert) == {fault.node},
        ALERT_PATIENCE,
    )


def condition(lab: Lab, node: str, kind: str) -> dict[str, Any]:
    conditions = lab.get("nseg", node)["status"]["conditions"]
    return next(one for one in conditions if one["type"] == kind)


def accused(lab: Lab, condition_: tuple[str, str, str] | None) -> set[str] | None:
    """Those that `galactic status` has a finding of that reason about, with message and remedy; None: no answer."""
    assert condition_
    kind, reason, message = condition_
    answer = galactic(lab, "status")
    if answer is None:
        return None
    found = [one for one in answer["findings"] if one["reason"] == f"{kind}: {reason}"]
    return {one["about"] for one in found if message in one["message"] and one["remedy"]}


def active(asked: Api, alert: str) -> set[str]:
    """The nodes of an alert that waits for its time, or fires."""
    (rule,) = [rule for rule in asked.rules() if rule["name"] == alert]
    return {one["labels"].get("node", "") for one in rule["alerts"]}
