"""Faults of a node's kernel, provoked one after the other, and the report of each tool: the condition, `galactic
status`, `galactic trace` and the alert name the same cause; afterwards nothing is wrong (docs/operations/faults.md).
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from story import Tenant, eventually

from galactic.names import VPC_LABEL, host_end, parse_function, parse_vpc
from galactic_lab.cluster import Lab
from galactic_lab.controlplane.prometheus import Api

PATIENCE = 240.0
CHAIN = "{ type filter hook forward priority 10; policy drop; }"


@dataclass(frozen=True)
class Fault:
    """``breaks`` and ``mends`` are scripts on ``node``, in which DEVICE is the host end of the pod there.

    ``condition``: its type and reason, and a part of its message; None: the node puts it back at once, so it is
    provoked while the node controller is away. ``trace``: the hop that stops, and a part of its text. ``alert``
    has the label ``node``.
    """

    node: str
    breaks: str
    mends: str
    trace: tuple[str, str]
    condition: tuple[str, str, str] | None = None
    alert: str = ""


FAULTS = [
    pytest.param(
        Fault(
            "node-2",
            f"nft 'add table ip theirs; add chain ip theirs forwarding {CHAIN}'",
            "nft delete table ip theirs",
            (
                "packet filter of node-2",
                "chain forwarding of the nft table ip theirs (policy drop) drops IPv4",
            ),
            (
                "PacketFilter",
                "ForeignDrop",
                "chain forwarding of the nft table ip theirs (policy drop) drops IPv4",
            ),
            "GalacticHostStopsPackets",
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
    pytest.param(
        Fault(
            "node-1",
            "ip rule del pref 0 l3mdev protocol 154 || ip rule del pref 0",
            "true",
            ("policy rules of node-1", "no policy rule leads packets"),
        ),
        id="the-policy-rule-of-vrfs",
    ),
]


def galactic(lab: Lab, *words: str, ok: tuple[int, ...]) -> Any:
    """Its answer, as JSON."""
    program = Path(sys.executable).with_name("galactic")
    command = [str(program), *words, "-o", "json", "--kubeconfig", str(lab.kubeconfig)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode in ok, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout)


def condition(lab: Lab, node: str, kind: str) -> dict[str, Any]:
    conditions = lab.get("nseg", node)["status"]["conditions"]
    return next(one for one in conditions if one["type"] == kind)


def active(asked: Api, alert: str) -> set[str]:
    """The nodes of an alert that waits for its time, or fires."""
    (rule,) = [rule for rule in asked.rules() if rule["name"] == alert]
    return {one["labels"].get("node", "") for one in rule["alerts"]}


@pytest.fixture(scope="module")
def tenant(lodgers: Callable[..., Tenant]) -> Tenant:
    one = lodgers("faults")
    one.settle({"web": ("node-1", "10.1.1.1/24"), "api": ("node-2", "10.1.1.2/24")})
    one.reaches("web", "10.1.1.2")
    return one


def device(tenant: Tenant, attachment: str) -> str:
    """The host end of its pod."""
    made = tenant.attachment(attachment)
    vpc = parse_vpc(made["metadata"]["labels"][VPC_LABEL])
    return host_end(vpc, parse_function(made["status"]["identifier"]))


@pytest.mark.parametrize("fault", FAULTS)
def test_tools_agree(fault: Fault, tenant: Tenant, asked: Api, lab: Lab) -> None:
    own = device(tenant, "web" if fault.node == "node-1" else "api")
    pods = [f"{tenant.namespace}/{name}" for name in ("web", "api")]
    if fault.condition is None:
        lab.hold(fault.node)
    lab.exec(fault.node, ["sh", "-ec", fault.breaks.replace("DEVICE", own)])
    try:
        eventually("packets are lost", lambda: not tenant.ping("web", "10.1.1.2"), PATIENCE)
        there, *_ = galactic(lab, "trace", *pods, ok=(3,))["ways"]
        stop = next(hop for hop in there["hops"] if hop["state"] == "stops")
        assert stop["where"] == fault.trace[0]
        assert fault.trace[1] in stop["what"]
        assert stop["remedy"]
        if fault.condition is not None:
            _conditions_agree(fault, asked, lab)
    finally:
        lab.exec(fault.node, ["sh", "-ec", fault.mends.replace("DEVICE", own)])
        lab.release(fault.node)
    tenant.reaches("web", "10.1.1.2")
    galactic(lab, "trace", *pods, ok=(0,))
    if fault.condition is not None:
        kind = fault.condition[0]
        eventually(f"{kind} is True again", lambda: condition(lab, fault.node, kind)["status"] == "True")
        eventually(f"{fault.alert} is over", lambda: fault.node not in active(asked, fault.alert))


def _conditions_agree(fault: Fault, asked: Api, lab: Lab) -> None:
    assert fault.condition
    kind, reason, message = fault.condition

    def stands() -> bool:
        one = condition(lab, fault.node, kind)
        return (one["status"], one["reason"]) == ("False", reason) and message in one["message"]

    eventually(f"{kind} is {reason}", stands, PATIENCE)
    findings = galactic(lab, "status", ok=(3,))["findings"]
    (found,) = [one for one in findings if one["about"] == f"NodeSegment {fault.node}"]
    assert found["reason"] == f"{kind}: {reason}"
    assert message in found["message"]
    assert found["remedy"]
    others = {one["about"] for one in findings} & {f"NodeSegment node-{number}" for number in (1, 2, 3)}
    assert others == {f"NodeSegment {fault.node}"}, "no other node is accused"
    eventually(f"{fault.alert} waits to fire", lambda: active(asked, fault.alert) == {fault.node}, PATIENCE)
