"""The hop that drops packets is named, and no hop without proof from counters."""

import asyncio
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from states import VPC_ID, fine, snapshot
from test_walk import SID, kernel

from galactic.cli import trace
from galactic.cli.desired import desired
from galactic.cli.hop import Hop
from galactic.cli.observed import Echo, explained, rises, silent_gateway
from galactic.cli.walk import places, walk
from galactic.errors import Unreachable
from galactic.names import host_end, vrf

VPC = int(VPC_ID, 16)
NEAR, FAR = host_end(VPC, 1), host_end(VPC, 2)
SIZE = 431


def counted(*drops: dict[str, Any], **links: tuple[int, int]) -> dict[str, Any]:
    """``links``: received and sent, of ``near`` or ``far``."""
    devices = {"near": NEAR, "far": FAR}
    packets = {devices[name]: {"rx_packets": rx, "tx_packets": tx} for name, (rx, tx) in links.items()}
    return {"drops": list(drops), "links": packets}


def rule(packets: int, size: int, *, chain: str = "GALACTIC-INPUT", **more: Any) -> dict[str, Any]:
    """A rule of Galactic that dropped that many packets of that size."""
    return {
        "backend": "legacy",
        "family": 6,
        "chain": chain,
        "rule": 1,
        "what": "packets from pods to the node itself",
        "icmp": True,
        "discovery": True,
        "packets": packets,
        "bytes": packets * size,
    } | more


ANSWERED = Echo(3, 3, SIZE, 0.4)
SILENCE = Echo(3, 0, SIZE, gateways={"169.254.1.1": "REACHABLE"}, local=counted(near=(3, 0)))
BLOCKED = {
    "text": "chain FORWARD of the legacy table ip filter (policy drop) drops IPv4 packets between pods",
    "packets": "IPv4 packets between pods",
    "remedy": "iptables-legacy -t filter -I FORWARD -i G+ -j ACCEPT",
    "counted": 7,
}
INTO = counted(far=(3, 3))


def walked(echo: Echo | None, change: Any = None) -> list[Hop]:
    kernels = {"node-1": deepcopy(kernel(1)), "node-2": deepcopy(kernel(2))}
    if change:
        change(kernels)
    seen = snapshot(fine())
    hops = walk(places(seen)["blue/web"], "10.1.1.2", kernels, seen, desired(seen, VPC, {}), echo=echo)
    return [*hops]


def neighbour(node: int, device: str, address: str, state: str, *, asked: bool = True) -> Any:
    """Sets the state of the path's next hop in that node's kernel."""

    def change(kernels: dict[str, Any]) -> None:
        entry = {"address": address, "state": state, "asked": asked}
        kernels[f"node-{node}"]["ways"][device]["neighbour"] = entry

    return change


def both(*changes: Any) -> Any:
    return lambda kernels: [change(kernels) for change in changes]


def inside(node: int, name: str, **more: Any) -> Any:
    return lambda kernels: kernels[f"node-{node}"]["pods"][f"/run/netns/{name}@galactic0"].update(more)


TO_API = neighbour(2, f"{VPC_ID}@10.1.1.2", "10.1.1.2", "FAILED")


@pytest.mark.parametrize(
    ("echo", "change", "state", "where", "what", "remedy"),
    [
        pytest.param(
            ANSWERED, None, "passes", "10.1.1.2", "answers: 3 of 3 echo requests, 0.4 ms", "", id="all"
        ),
        pytest.param(
            Echo(3, 0, SIZE, gateways={"169.254.1.1": "FAILED"}),
            None,
            *("stops", "pod blue/web"),
            "neighbour 169.254.1.1 on galactic0: FAILED (no answer to ARP)",
            "arptables-save",
            id="gateway-silent",
        ),
        pytest.param(
            None,
            TO_API,
            *("stops", f"{FAR} on node-2", f"neighbour 10.1.1.2 on {FAR}: FAILED (no answer to ARP)"),
            "arptables-save",
            id="pod-silent",
        ),
        pytest.param(
            None,
            neighbour(2, f"{VPC_ID}@10.1.1.2", "10.1.1.2", "FAILED", asked=False),
            *("unknown", f"{FAR} on node-2", "FAILED at the last attempt", "--no-probe"),
            id="pod-was-silent",
        ),
        pytest.param(
            None,
            both(TO_API, inside(2, "api", addresses=["10.1.1.9/24"])),
            *(
                "stops",
                f"{FAR} on node-2",
                "no answer to ARP",
                "10.1.1.2 is not on galactic0 (it has 10.1.1.9)",
            ),
            id="address-taken-out-of-the-pod",
        ),
        pytest.param(
            None,
            both(TO_API, inside(2, "api", up=False)),
            *("stops", "pod blue/api", "galactic0 is down", "ip link set galactic0 up"),
            id="far-interface-down",
        ),
        pytest.param(
            SILENCE,
            inside(1, "web", up=False, routes=[]),
            *("stops", "pod blue/web", "galactic0 is down", "ip link set galactic0 up"),
            id="near-interface-down",
        ),
        pytest.param(
            None,
            neighbour(1, SID[2], "fd00::1", "INCOMPLETE"),
            *("stops", "underlay of node-1"),
            "neighbour fd00::1 on eth0: INCOMPLETE (no answer to neighbour discovery)",
            "docs/underlay.md",
            id="underlay-silent",
        ),
        pytest.param(
            replace(SILENCE, local=counted(rule(3, SIZE, family=4), near=(3, 0))),
            None,
            *("stops", "GALACTIC-INPUT on node-1"),
            "rule 1 on node-1 (IPv4, legacy tables) dropped 3 packets, 1293 bytes; it drops packets from pods",
            "condition PacketFilter",
            id="dropped-by-us-here",
        ),
        pytest.param(
            replace(SILENCE, remote=counted(rule(4, 0, chain="GALACTIC-PREROUTING", bytes=3 * 471 + 60))),
            None,
            *("stops", "GALACTIC-PREROUTING on node-2", "while 3 echo requests of 431 bytes were sent"),
            "kubectl describe nseg node-2",
            id="dropped-by-us-there-with-the-outer-header",
        ),
        pytest.param(
            replace(SILENCE, local=counted(near=(0, 0)), remote=INTO),
            None,
            *("stops", "pod blue/web", "none of 3 echo requests came out of it", "in the pod"),
            id="not-out-of-the-pod",
        ),
        pytest.param(
            replace(SILENCE, remote=counted(far=(0, 1))),
            None,
            *("stops", f"{FAR} on node-2", "at most 1 of 3 echo requests went to the pod", "the underlay"),
            id="lost-between-the-nodes",
        ),
        pytest.param(
            replace(SILENCE, remote=counted(far=(0, 3))),
            None,
            *(
                "unknown",
                "pod blue/api",
                "3 echo requests went into it, none of 3 answers came out of it",
                "service",
            ),
            id="the-pod-answers-no-pings",
        ),
        pytest.param(
            replace(SILENCE, remote=INTO),
            None,
            *("unknown", "10.1.1.2", "no answer to 3 echo requests; all visible hops pass", "service"),
            id="lost-on-the-way-back-perhaps",
        ),
        pytest.param(
            SILENCE,
            None,
            *("unknown", "10.1.1.2", "the pod may not answer pings", "connectivity test"),
            id="other-node-not-counted",
        ),
        pytest.param(
            replace(SILENCE, sent=0, refused="Operation not permitted"),
            None,
            *("stops", "10.1.1.2", "sends no echo request: Operation not permitted", "in the pod"),
            id="refused-in-the-pod",
        ),
        pytest.param(
            replace(SILENCE, errors=["169.254.1.1: host unreachable"]),
            None,
            *("stops", "10.1.1.2", "169.254.1.1: host unreachable", "drops the packets"),
            id="an-error-came-back",
        ),
        pytest.param(
            replace(SILENCE, answered=2),
            None,
            *("unknown", "10.1.1.2", "answers 2 of 3 echo requests", "trace again"),
            id="some-are-lost",
        ),
        pytest.param(
            SILENCE,
            lambda kernels: kernels["node-2"].update(foreign=[BLOCKED]),
            *(
                "stops",
                "packet filter of node-2",
                "(policy drop) drops IPv4 packets between pods (7 packets so far)",
            ),
            "iptables-legacy",
            id="dropped-by-others-there",
        ),
        pytest.param(
            SILENCE,
            lambda kernels: kernels["node-1"].update(foreign=[BLOCKED | {"packets": "SRv6 packets"}]),
            *("stops", "packet filter of node-1", "drops IPv4 packets between pods", "iptables-legacy"),
            id="dropped-by-others-here-with-the-outer-header",
        ),
        pytest.param(
            None,
            lambda kernels: kernels["node-2"].update(foreign=[BLOCKED]),
            *("unknown", "packet filter of node-2", "(policy drop)", "iptables-legacy"),
            id="not-probed",
        ),
        pytest.param(
            ANSWERED,
            lambda kernels: kernels["node-2"].update(foreign=[BLOCKED]),
            *("passes", "10.1.1.2", "answers: 3 of 3", ""),
            id="answered-although-others-may-drop",
        ),
        pytest.param(
            ANSWERED,
            lambda kernels: kernels["node-1"].update(rules=[]),
            *("unknown", "10.1.1.2", "but 3 of 3 echo requests were answered", "trace again"),
            id="answered-although-it-stops",
        ),
        pytest.param(
            ANSWERED,
            lambda kernels: kernels.update({"node-2": "no pod of galactic-node runs there"}),
            *("passes", "10.1.1.2", "answers: 3 of 3", ""),
            id="answered-by-a-node-that-cannot-be-looked-at",
        ),
    ],
)
def test_where_packets_end(  # noqa: PLR0917
    echo: Echo | None, change: Any, state: str, where: str, what: str, remedy: str
) -> None:
    hops = walked(echo, change)
    matching = [hop for hop in hops if (hop.state, hop.where) == (state, where)]
    assert matching, hops
    assert what in matching[-1].what
    assert remedy in matching[-1].remedy
    assert state != "stops" or matching[-1] is hops[-1]


@pytest.mark.parametrize(
    ("drops", "accused"),
    [
        pytest.param([rule(3, 72)], True, id="three-solicitations"),
        pytest.param([rule(3, 64)], True, id="three-advertisements"),
        pytest.param([rule(6, 0, bytes=3 * 72 + 3 * SIZE)], True, id="and-echo-requests"),
        pytest.param([rule(1, 72)], False, id="one-packet-is-anybody-s"),
        pytest.param([rule(3, 80)], False, id="of-another-size"),
        pytest.param([rule(3, 72, discovery=False)], False, id="a-rule-that-cannot-match-it"),
        pytest.param([], False, id="nothing"),
    ],
)
def test_who_drops_neighbour_discovery(drops: list[dict[str, Any]], accused: bool) -> None:
    echo = Echo(3, 0, SIZE, gateways={"fe80::1": "FAILED"}, local=counted(*drops))
    (hop,) = silent_gateway("pod blue/web", "node-1", "galactic0", "fe80::1", echo)
    assert hop.what.startswith("neighbour fe80::1 on galactic0: FAILED (no answer to neighbour discovery)")
    assert ("GALACTIC-INPUT rule 1 on node-1" in hop.what) is accused
    assert ("PacketFilter" in hop.remedy) is accused
    assert ("ip6tables-save" in hop.remedy) is not accused


def test_a_gateway_is_not_silent_where_echo_requests_are_answered() -> None:
    echo = replace(ANSWERED, gateways={"fe80::1": "FAILED"})
    assert [*silent_gateway("pod", "node-1", "galactic0", "fe80::1", echo)] == []


@pytest.mark.parametrize(
    ("packets", "size", "expected"),
    [
        pytest.param(3, 3 * SIZE, True, id="exactly-those"),
        pytest.param(2, 2 * SIZE, False, id="too-few"),
        pytest.param(3, 3 * SIZE + 1, False, id="one-byte-more"),
        pytest.param(5, 3 * SIZE + 2 * 60, True, id="and-others"),
        pytest.param(5, 3 * SIZE + 30, False, id="others-would-be-too-small"),
        pytest.param(1, 1500, False, id="an-unrelated-packet"),
    ],
)
def test_what_a_rise_can_be(packets: int, size: int, expected: bool) -> None:
    assert explained(rule(packets, 0, bytes=size), 3, SIZE) is expected


def test_rises_are_of_the_same_rules_and_devices() -> None:
    link = {"rx_packets": 5, "tx_packets": 7}
    before = {
        "drops": [rule(1, 100), rule(2, 100, rule=2), rule(9, 100, rule=3, what="another rule by then")],
        "links": {NEAR: link},
    }
    after = {
        "drops": [rule(4, 100), rule(2, 100, rule=2), rule(10, 100, rule=3)],
        "links": {NEAR: {"rx_packets": 8, "tx_packets": 7}, FAR: link},
    }
    assert rises(before, after) == {
        "drops": [rule(3, 100)],
        "links": {NEAR: {"rx_packets": 3, "tx_packets": 0}, FAR: {}},
    }


class _Nodes:
    """Nodes of a cluster: the next answers of each, and the order of the requests."""

    def __init__(self, *answers: tuple[str, Any]) -> None:
        self._answers, self.asked = list(answers), [node for node, _ in answers]

    async def inspect(self, node: str, arguments: list[str]) -> Any:
        expected, answer = self._answers.pop(0)
        assert node == expected
        assert bool(arguments) is ("echoes" in answer)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_the_other_node_counts_before_and_afterwards() -> None:
    seen = snapshot(fine())
    pair = trace._Pair(places(seen)["blue/web"], "10.1.1.2", SIZE)
    sent = {"sent": 3, "answered": 0, "size": SIZE, "milliseconds": None, "refused": "", "errors": []}
    plain = sent | {"gateways": {}, **counted(near=(3, 0))}
    kernels = {"node-1": kernel(1), "node-2": kernel(2)}
    nodes = _Nodes(
        ("node-2", counted(far=(10, 10))),
        ("node-1", {"echoes": {pair.name: plain}}),
        ("node-2", counted(far=(10, 13))),
    )
    hops = asyncio.run(trace._recounted(seen, [pair], kernels, nodes))
    assert hops[pair.name].remote == {"drops": [], "links": {FAR: {"rx_packets": 0, "tx_packets": 3}}}
    assert hops[pair.name].local["links"] == {NEAR: {"rx_packets": 3, "tx_packets": 0}}
    failing = _Failing()
    assert asyncio.run(trace._recounted(seen, [pair], kernels, failing)) == {}
    assert failing.asked == 1
    unknown = kernels | {"node-2": "no pod of galactic-node runs there"}
    assert asyncio.run(trace._recounted(seen, [pair], unknown, failing)) == {}
    assert failing.asked == 1, "a node that could not be looked at is not asked again"


class _Failing:
    asked = 0

    async def inspect(self, node: str, arguments: list[str]) -> Any:
        self.asked += 1
        raise Unreachable("node", "away")


RP_FILTER = {
    "device": vrf(VPC),
    "text": f"net.ipv4.conf.{vrf(VPC)}.rp_filter is 1, and VPCs need 0",
}


def set_up(node: int, *settings: dict[str, str]) -> Any:
    def change(kernels: dict[str, Any]) -> None:
        kernels[f"node-{node}"]["settings"] = list(settings)

    return change


@pytest.mark.parametrize("node", [1, 2])
def test_a_sysctl_of_a_device_on_the_path(node: int) -> None:
    *before, last = walked(replace(SILENCE, remote=counted(far=(0, 0))), set_up(node, RP_FILTER))
    assert {hop.state for hop in before} == {"passes"}
    assert (last.where, last.state) == (f"sysctls of node-{node}", "stops")
    assert last.what == RP_FILTER["text"]
    assert f"sysctl -w on node-{node}" in last.remedy
    assert {hop.state for hop in walked(ANSWERED, set_up(node, RP_FILTER))} == {"passes"}
    elsewhere = RP_FILTER | {"device": "G0000000009V"}
    assert "sysctls" not in str(walked(None, set_up(node, elsewhere)))


def test_an_address_that_the_node_may_take() -> None:
    def change(kernels: dict[str, Any]) -> None:
        kernels["node-2"]["lookups"] = {"IPv4": {"vrf_first": False, "block": "", "main": True}}

    hops = walked(ANSWERED, change)
    (hop,) = [hop for hop in hops if hop.state != "passes"]
    assert (hop.where, hop.state) == ("policy rules of node-2", "unknown")
    assert "goes to the node and not to the pod" in hop.what
