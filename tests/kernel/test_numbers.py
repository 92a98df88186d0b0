"""The kernel's counters: what counts where, exactly; and the flows of a pod with their verdicts."""

import asyncio
import json
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from two_nodes import ADDRESSES, payload, transmit, udp
from two_nodes import hardware as hardware_of

from galactic import names
from galactic.linux import link_counters
from galactic.linux.link_counters import HEADER_BYTES, LinkCounters
from galactic.linux.nftables import Table, difference
from galactic.node.inspection import _policy_drops
from galactic.node.policies.rules import Rules
from galactic.node.policies.ruleset import TABLE, table

pytestmark = [pytest.mark.vrf, pytest.mark.every_kernel]

HOST_END = names.host_end(1, 1)
FAR_END = names.host_end(1, 2)
COUNT, DATA = 50, 200
SIZES = {4: 20 + 8 + DATA, 6: 40 + 8 + DATA}
FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
NOWHERE = {4: "10.9.9.9", 6: "2001:10:9:9::9"}
SEND = """
import socket, sys
made = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
for _ in range(int(sys.argv[2])):
    try:
        made.sendto(bytes(int(sys.argv[3])), (sys.argv[1], 4242))
    except ConnectionError:
        pass
"""


def send(net, pod: str, address: str, count: int = COUNT) -> None:
    argv = [sys.executable, "-c", SEND, address, str(count), str(DATA)]
    net.pods[pod].run(lambda: subprocess.run(argv, check=True, timeout=120))


def counters(net, node: int, device: str) -> LinkCounters:
    return asyncio.run(link_counters.read(net.nodes[node]))[device].counters


def risen(now: LinkCounters, before: LinkCounters) -> LinkCounters:
    return LinkCounters(*(a - b for a, b in zip(now, before, strict=True)))


@FAMILIES
def test_packets_of_known_size_are_counted_at_both_ends(net, until, family) -> None:
    before = counters(net, 1, HOST_END), counters(net, 2, FAR_END)
    send(net, "1", ADDRESSES["2"][family == 6])
    size = COUNT * (SIZES[family] + HEADER_BYTES)
    until(lambda: risen(counters(net, 2, FAR_END), before[1]).received_packets >= COUNT)
    near, far = risen(counters(net, 1, HOST_END), before[0]), risen(counters(net, 2, FAR_END), before[1])
    # Beside them: the answers that no port is there, and neighbour discovery.
    assert COUNT <= near.sent_packets <= COUNT + 10
    assert size <= near.sent_bytes <= size + 10 * 100
    assert COUNT <= far.received_packets <= COUNT + 10
    assert size <= far.received_bytes <= size + 10 * 100


def test_one_device_is_read_without_the_dump(net) -> None:
    found = net.nodes[1].run(lambda: link_counters.traffic(HOST_END))
    known = counters(net, 1, HOST_END)
    assert found is not None
    assert found.sent_packets == pytest.approx(known.sent_packets, abs=10)
    assert net.nodes[1].run(lambda: link_counters.traffic("nosuch")) is None


def test_ipv6_packets_without_a_route_count_at_the_pods_host_end(net) -> None:
    net.sh(net.pods["1"], f"ip -6 route replace {NOWHERE[6]} via fe80::1 dev galactic0")
    before, beside = counters(net, 1, HOST_END), counters(net, 1, names.host_end(1, 3))
    send(net, "1", NOWHERE[6])
    assert risen(counters(net, 1, HOST_END), before).no_route == COUNT
    assert risen(counters(net, 1, names.host_end(1, 3)), beside).no_route == 0


def test_ipv4_packets_without_a_route_count_on_the_node(net) -> None:
    net.sh(net.pods["1"], f"ip route replace {NOWHERE[4]} via 169.254.1.1 dev galactic0 onlink")
    before = net.nodes[1].run(link_counters.unrouted4)
    assert before is not None
    send(net, "1", NOWHERE[4])
    assert net.nodes[1].run(link_counters.unrouted4) - before >= COUNT


def test_ipv6_packets_larger_than_the_way_count_at_the_pods_host_end(net) -> None:
    """The pod has not learned the smaller MTU yet: the node answers with it, and the pod then sends in pieces."""
    far = names.host_end(1, 3)
    mtu = net.sh(net.nodes[1], f"cat /sys/class/net/{far}/mtu", check=False).strip()
    net.sh(net.nodes[1], f"ip link set {far} mtu 1300")
    try:
        before = counters(net, 1, HOST_END)
        packet = udp(ADDRESSES["1"][1], ADDRESSES["3"][1], bytes(1360))
        via = hardware_of(net.nodes[1], HOST_END)
        net.pods["1"].run(lambda: transmit(packet, "galactic0", via))
        assert risen(counters(net, 1, HOST_END), before).too_big == 1
    finally:
        net.sh(net.nodes[1], f"ip link set {far} mtu {mtu or 1500}")


# -- flows -------------------------------------------------------------------------------------------------------------


WATCH = """
import asyncio, json, sys, threading, time
from galactic.node.dataplane.flows import flows
ended = []
threading.Thread(target=lambda: (sys.stdin.read(), ended.append(time.monotonic())), daemon=True).start()
clock = lambda: 5.0 + time.monotonic() - ended[0] if ended else 0.0
print(json.dumps(asyncio.run(flows(sys.argv[1], clock=clock))))
"""
"""As ``galactic-node-inspect --flows`` does, but until its standard input ends: machines differ in speed."""


class Watching:
    """The flows of pod 1 on its node, while a test sends."""

    def __init__(self, net) -> None:
        argv = [sys.executable, "-c", WATCH, f"{HOST_END}@5@{','.join(ADDRESSES['1'])}"]
        self._net = net
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self._process = net.nodes[1].run(lambda: subprocess.Popen(argv, text=True, **pipes))

    def __enter__(self):
        deadline = time.monotonic() + 120
        while not self.sockets():
            assert self._process.poll() is None, self._process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return self

    def __exit__(self, *_) -> None:
        self._process.kill()
        self._process.communicate()

    def sockets(self) -> list[str]:
        """The packet sockets on the node that are bound to every protocol."""
        lines = self._net.sh(self._net.nodes[1], "cat /proc/thread-self/net/packet || cat /proc/net/packet")
        return [line for line in lines.splitlines()[1:] if line.split()[3] == "0003"]

    def flows(self) -> dict:
        deadline = time.monotonic() + 120
        while any(int(line.split()[6]) for line in self.sockets()):  # what it has received and not read yet
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.2)
        output, errors = self._process.communicate(timeout=300)
        assert self._process.returncode == 0, errors
        printed = json.loads(output)
        assert printed["lost"] == 0
        udp = (flow for flow in printed["flows"] if flow["protocol"] == "udp")
        return {(flow["direction"], flow["source"], flow["destination"]): flow for flow in udp}

    def interrupt(self) -> None:
        self._process.kill()
        self._process.communicate()


def forged(net, source: str, destination: str) -> None:
    via = hardware_of(net.nodes[1], HOST_END)
    for _ in range(COUNT):
        packet = udp(source, destination, payload())
        net.pods["1"].run(lambda packet=packet: transmit(packet, "galactic0", via))


@FAMILIES
def test_flows_have_the_verdict_of_their_packets(net, family) -> None:
    net.protect()
    six = family == 6
    here, there, beside = (ADDRESSES[pod][six] for pod in ("1", "2", "3"))
    route = (
        f"ip -6 route replace {NOWHERE[6]} via fe80::1 dev galactic0"
        if six
        else f"ip route replace {NOWHERE[4]} via 169.254.1.1 dev galactic0 onlink"
    )
    net.sh(net.pods["1"], route)
    assert net.answers("1", there)
    assert net.answers("1", beside)
    with Watching(net) as watching:
        send(net, "1", there)
        send(net, "1", beside)
        send(net, "1", NOWHERE[family])
        send(net, "3", here)
        send(net, "2", here)
        spoofed = "10.1.1.77" if not six else "2001:10:1:1::77"
        forged(net, spoofed, there)
        flows = watching.flows()
    verdicts = {key: (flow["packets"], flow["verdict"], flow["why"]) for key, flow in flows.items()}
    assert verdicts == {
        ("sent", here, there): (COUNT, "passed", ""),
        ("sent", here, beside): (COUNT, "passed", ""),
        ("sent", here, NOWHERE[family]): (COUNT, "dropped", "no route"),
        ("received", beside, here): (COUNT, "passed", ""),
        ("received", there, here): (COUNT, "passed", ""),
        ("sent", spoofed, there): (COUNT, "dropped", "forged source"),
    }
    assert flows["sent", here, there]["bytes"] == COUNT * SIZES[family]


def test_what_a_packet_filter_drops_behind_the_vrf_is_seen(net) -> None:
    """A packet to another node is encapsulated before FORWARD."""
    here, there = ADDRESSES["1"][0], ADDRESSES["3"][0]
    net.sh(net.nodes[1], f"iptables-legacy -I FORWARD -s {here} -p udp -j DROP")
    try:
        with Watching(net) as watching:
            send(net, "1", there)
            flows = watching.flows()
    finally:
        net.sh(net.nodes[1], f"iptables-legacy -D FORWARD -s {here} -p udp -j DROP")
    flow = flows["sent", here, there]
    assert (flow["verdict"], flow["why"], flow["dropped"]) == ("dropped", "policy or packet filter", COUNT)


@contextmanager
def denied(net, **directions):
    """A policy without rules for pod 1."""
    closed = Rules("closed", False, directions.get("ingress"), directions.get("egress"))
    script = difference(Table(TABLE), table({HOST_END: [closed]}, {}))
    net.nodes[1].run(
        lambda: subprocess.run(["nft", "-f", "-"], input=script, text=True, check=True, timeout=120)
    )
    try:
        yield
    finally:
        net.sh(net.nodes[1], f"nft delete table {TABLE}")


@FAMILIES
@pytest.mark.parametrize("direction", ["egress", "ingress"])
def test_what_a_policy_drops_is_counted_at_its_host_end_and_seen(net, family, direction) -> None:
    here, beside = ADDRESSES["1"][family == 6], ADDRESSES["3"][family == 6]
    assert net.answers("1", beside)
    sender, source, to = ("1", here, beside) if direction == "egress" else ("3", beside, here)
    with denied(net, **{direction: ()}), Watching(net) as watching:
        send(net, sender, to)
        flow = watching.flows()["sent" if direction == "egress" else "received", source, to]
        dropped = net.nodes[1].run(lambda: asyncio.run(_policy_drops()))
    assert dropped == {HOST_END: COUNT}
    assert (flow["verdict"], flow["dropped"]) == ("dropped", COUNT)
    assert flow["why"].startswith("policy")
    assert net.nodes[1].run(lambda: asyncio.run(_policy_drops())) == {}


def test_interrupted_it_leaves_nothing(net) -> None:
    with Watching(net) as watching:
        assert watching.sockets()
        watching.interrupt()
        assert watching.sockets() == []
