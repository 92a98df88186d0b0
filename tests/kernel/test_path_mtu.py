"""A link between two nodes that is smaller than the nodes' own: pods learn it, of TCP, of UDP and of echo requests.

Two nodes as the plan has them, two routers with a link of 1400 bytes between them, a pod on either node.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv6Network, ip_address, ip_network
from types import SimpleNamespace

import pytest

from galactic import names, srv6
from galactic.linux.namespace import Namespace
from galactic.linux.objects import packed
from galactic.linux.too_big import TooBigSocket
from galactic.node.dataplane.path_mtu import PathMTU
from galactic.node.dataplane.plan import Host

pytestmark = pytest.mark.vrf

VPC = 1234
VRF, TABLE = names.vrf(VPC), 1000001234
PREFIXES = {node: IPv6Network(f"2001:db8:ff0{node}:100::/56") for node in (1, 2)}
SIDS = {node: srv6.sid(PREFIXES[node], VPC, node).address for node in (1, 2)}
BLOCK = IPv6Network("2001:db8:ff00::/40")
PODS = {4: {1: "10.1.1.1", 2: "10.1.1.2"}, 6: {1: "2001:10:1:1::1", 2: "2001:10:1:1::2"}}
MODES = {4: "encap.red", 6: "encap"}
"""Of the encapsulation, by family: either mode is tried with one."""
FULL = {4: 1500 - 40, 6: 1500 - 64}
SMALL = {4: 1400 - 40, 6: 1400 - 64}
BY_FAMILY = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
SERVER = """
import socket, sys
tcp = socket.create_server((sys.argv[1], 7), family=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
udp = socket.socket(tcp.family, socket.SOCK_DGRAM)
udp.bind((sys.argv[1], 7))
print("ready", flush=True)
for line in sys.stdin:
    if line == "tcp\\n":
        connection, _ = tcp.accept()
        count = 0
        while data := connection.recv(1 << 16):
            count += len(data)
        print(count, flush=True)
    else:
        udp.settimeout(5)
        print(len(udp.recv(1 << 16)), flush=True)
"""
TCP = """
import socket, sys, time
connection = socket.create_connection((sys.argv[1], 7), timeout=20)
connection.sendall(bytes(1_000_000))
print(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG))
"""
UDP = """
import socket, sys, time
sending = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(20):
    sending.sendto(bytes(1360), (sys.argv[1], 7))
    time.sleep(0.2)
"""

REPORT = """
import socket, struct, sys
from ipaddress import ip_address
to = sys.argv[1]
loopback, sid, source, destination = (ip_address(text) for text in sys.argv[2:])
if source.version == 4:
    inner = bytes([0x45, 0, 5, 180, 0, 0, 64, 0, 63, 17, 0, 0]) + source.packed + destination.packed + bytes(99)
else:
    inner = bytes([0x60, 0, 0, 0, 5, 100, 17, 63]) + source.packed + destination.packed + bytes(99)
outer = struct.pack("!IHBB", 6 << 28, len(inner), 4 if source.version == 4 else 41, 60)
raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
message = struct.pack("!BBHI", 2, 0, 0, 1400) + outer + loopback.packed + sid.packed + inner
raw.sendto(message, (to, 0))
"""


@dataclass
class World:
    pods: dict[int, Namespace]
    nodes: dict[int, Namespace]
    routers: dict[int, Namespace]


@pytest.fixture
def world(sh):
    """The namespaces. Every link is a veth pair with a name of its own at either end."""
    with ExitStack() as stack:
        names_ = ("p1", "n1", "r1", "r2", "n2", "p2")
        spaces = {name: stack.enter_context(Namespace.fresh()) for name in names_}
        for space in spaces.values():
            sh(
                space,
                "ip link set lo up; sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv4.ip_forward=1"
                " net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 net.ipv6.conf.default.accept_dad=0",
            )
        for (one, near_device), (other, far_device), mtu in (
            (("n1", names.host_end(VPC, 1)), ("p1", "galactic0"), FULL[4]),
            (("n1", "eth0"), ("r1", "near"), 1500),
            (("r1", "far"), ("r2", "far"), 1400),
            (("n2", "eth0"), ("r2", "near"), 1500),
            (("n2", names.host_end(VPC, 2)), ("p2", "galactic0"), FULL[4]),
        ):
            target = f"/proc/{os.getpid()}/fd/{spaces[other]._fd}"
            sh(
                spaces[one],
                f"ip link add {near_device} mtu {mtu} type veth peer name peer9 mtu {mtu};"
                f"ip link set peer9 netns {target} name {far_device}; ip link set {near_device} up",
            )
            sh(spaces[other], f"ip link set {far_device} up")
        for number, far in ((1, 2), (2, 1)):
            _router(sh, spaces[f"r{number}"], number, far)
            _node(sh, spaces[f"n{number}"], number, far)
            _pod(sh, spaces[f"p{number}"], number)
        two = {kind: {number: spaces[f"{kind}{number}"] for number in (1, 2)} for kind in "pnr"}
        yield World(two["p"], two["n"], two["r"])


def _router(sh, space, number, far):
    sh(
        space,
        f"ip addr add fd0{number}::1/64 dev near nodad; ip addr add fd09::{number}/64 dev far nodad;"
        f"ip -6 route add {PREFIXES[number]} via fd0{number}::2;"
        f"ip -6 route add {PREFIXES[far]} via fd09::{far}; ip -6 route add fd0{far}::/64 via fd09::{far}",
    )


def _node(sh, space, number, far):
    host_end = names.host_end(VPC, number)
    encap = {
        family: f"encap seg6 mode {mode} segs {SIDS[far]} dev lo-galactic table {TABLE}"
        for family, mode in MODES.items()
    }
    sh(
        space,
        "sysctl -qw net.vrf.strict_mode=1;"
        f"ip addr add fd0{number}::2/64 dev eth0 nodad; ip -6 route add default via fd0{number}::1;"
        f"ip link add lo-galactic type dummy; ip link set lo-galactic up;"
        f"ip addr add {srv6.loopback(PREFIXES[number])}/128 dev lo-galactic nodad;"
        f"ip link add {VRF} type vrf table {TABLE}; ip link set {VRF} up; ip link set {host_end} master {VRF};"
        f"ip addr add 169.254.1.1/32 dev {host_end}; ip addr add fe80::1/64 dev {host_end} nodad;"
        f"ip -6 rule add pref 999 to {BLOCK} lookup main;"
        f"ip route add {PODS[4][number]}/32 dev {host_end} table {TABLE};"
        f"ip -6 route add {PODS[6][number]}/128 dev {host_end} table {TABLE};"
        f"ip -6 route add {SIDS[number]}/128 encap seg6local action End.DT46 vrftable {TABLE} dev {VRF};"
        f"ip route add {PODS[4][far]}/32 {encap[4]}; ip -6 route add {PODS[6][far]}/128 {encap[6]}",
    )


def _pod(sh, space, number):
    sh(
        space,
        f"ip addr add {PODS[4][number]}/24 dev galactic0 noprefixroute;"
        f"ip addr add {PODS[6][number]}/64 dev galactic0 nodad noprefixroute;"
        "ip route add 169.254.1.1 dev galactic0; ip route add 10.1.1.0/24 via 169.254.1.1;"
        "ip -6 route add 2001:10:1:1::/64 via fe80::1 dev galactic0",
    )


class Watch:
    """``PathMTU`` of node 1, in a thread."""

    def __init__(self, world):
        remotes = {packed(ip_network(PODS[family][2])): SIDS[2].packed for family in (4, 6)}
        attachment = SimpleNamespace(announces=[ip_network(PODS[family][1]) for family in (4, 6)])
        store = SimpleNamespace(
            tables={VPC: SimpleNamespace(segment=remotes.get)},
            attachments=SimpleNamespace(of_vpc=lambda vpc: [attachment] if vpc == VPC else []),
        )
        host = Host(PREFIXES[1], BLOCK, "eth0")
        self.results = []
        self.paths = PathMTU(
            lambda own: TooBigSocket(own, world.nodes[1]), store, lambda: host, self.results.append
        )

    def __enter__(self):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def _run(self):
        self._task = self._loop.create_task(self.paths.run())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)

    def __exit__(self, *error):
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def watch(world):
    with Watch(world) as watch:
        yield watch


def report(world, to, sid, inside, outside):
    """A router's message about a packet of node 1 to ``sid``."""
    loopback = str(srv6.loopback(PREFIXES[1]))
    argv = [sys.executable, "-c", REPORT, to, loopback, sid, inside, outside]
    world.routers[1].run(lambda: subprocess.run(argv, check=True))


def ping(sh, world, family, size):
    payload = size - (28 if family == 4 else 48)
    command = f"ping -n -M do -c6 -i0.3 -W2 -s{payload} {PODS[family][2]} 2>&1"
    return sh(world.pods[1], command, check=False)


class Far:
    """A server in the other pod."""

    def __init__(self, world, family):
        argv = [sys.executable, "-u", "-c", SERVER, PODS[family][2]]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = world.pods[2].run(lambda: subprocess.Popen(argv, **pipes))
        assert self._process.stdout.readline() == "ready\n"

    def asks(self, what):
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()

    def answer(self):
        return int(self._process.stdout.readline() or -1)

    def close(self):
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


@pytest.fixture
def far(world, family):
    server = Far(world, family)
    yield server
    server.close()


def client(world, family, code):
    argv = [sys.executable, "-c", code, PODS[family][2]]
    return world.pods[1].run(
        lambda: subprocess.run(argv, text=True, capture_output=True, timeout=120, check=False)
    )


@pytest.mark.every_kernel
@BY_FAMILY
def test_the_kernel_alone_sends_a_pod_no_mtu(sh, world, family):
    """The reason for all this: if it fails, a kernel does it by itself."""
    assert " 0 received" in ping(sh, world, family, FULL[family])
    assert "bytes from" in ping(sh, world, family, SMALL[family])


@BY_FAMILY
def test_an_echo_request_learns_the_size(sh, world, watch, family):
    mtu = SMALL[family]
    printed = ping(sh, world, family, FULL[family])
    assert f"mtu = {mtu}" in printed or f"mtu={mtu}" in printed
    assert "bytes from" in ping(sh, world, family, mtu)
    shown = sh(world.pods[1], f"ip route get {PODS[family][2]}")
    assert f" mtu {mtu} " in f"{shown} "
    assert set(watch.results) <= {"answered", "limited"}
    assert "1400 bytes to 2001:db8:ff02:100::/64 (reported by fd01::1)" in watch.paths.condition(0.0).message


@pytest.mark.every_kernel
@BY_FAMILY
def test_tcp_makes_smaller_segments(world, watch, far, family):
    far.asks("tcp")
    sent = client(world, family, TCP)
    assert sent.returncode == 0, sent.stderr
    assert far.answer() == 1_000_000
    assert int(sent.stdout) == SMALL[family] - (40 if family == 4 else 60) - 12


@BY_FAMILY
def test_udp_arrives_in_fragments(world, watch, far, family):
    far.asks("udp")
    sent = client(world, family, UDP)
    assert sent.returncode == 0 or "Message too long" in sent.stderr, sent.stderr
    assert far.answer() == 1360


@BY_FAMILY
def test_a_forged_report_is_no_report(sh, world, watch, family):
    """From a router on the way, about another's packets and SIDs."""
    source, destination = PODS[family][1], PODS[family][2]
    loopback = srv6.loopback(PREFIXES[1])
    for sid, inside, outside in (
        (SIDS[1], source, destination),
        (SIDS[2], destination, source),
        (ip_address("2001:db8:ff02:100::4d3:2"), source, destination),
    ):
        report(world, str(loopback), str(sid), inside, outside)
    deadline = 200
    while len(watch.results) < 3 and deadline:
        deadline -= 1
        sh(world.nodes[1], "sleep 0.05")
    assert watch.results == ["forged"] * 3
    assert " mtu " not in sh(world.pods[1], f"ip route get {destination}")


@BY_FAMILY
def test_a_report_to_another_address_of_the_node_is_not_read(world, watch, family):
    """The packet filter guards the SRv6 loopback: any pod may write to the node's other addresses. This one is right in
    all the rest.
    """
    inside = PODS[family][1], PODS[family][2]
    forged = (str(srv6.loopback(PREFIXES[1])), str(SIDS[1]), *inside)

    def counted():
        """Once one was counted, all before it were."""
        before, deadline = len(watch.results), time.monotonic() + 120
        while len(watch.results) == before:
            assert time.monotonic() < deadline
            report(world, *forged)
            time.sleep(0.1)

    counted()
    for _ in range(3):
        report(world, "fd01::2", str(SIDS[2]), *inside)
    counted()
    assert set(watch.results) == {"forged"}
    assert watch.paths.condition(0.0).reason == "NoSmallerLink"


@BY_FAMILY
def test_a_smaller_uplink_of_the_node_itself(sh, world, watch, family):
    """The packets of one node to another leave by a second interface; the kernel's report is the node's own."""
    near = f"/proc/{os.getpid()}/fd/{world.routers[1]._fd}"
    sh(
        world.nodes[1],
        "ip link add eth1 mtu 1400 type veth peer name peer9 mtu 1400;"
        f"ip link set peer9 netns {near} name second; ip link set eth1 up; ip addr add fd05::2/64 dev eth1 nodad;"
        f"ip -6 route add {PREFIXES[2]} via fd05::1 dev eth1",
    )
    sh(
        world.routers[1],
        "ip link set second up; ip addr add fd05::1/64 dev second nodad; ip link set far mtu 1500",
    )
    sh(world.routers[2], "ip link set far mtu 1500")
    mtu = SMALL[family]
    printed = ping(sh, world, family, FULL[family])
    assert f"mtu = {mtu}" in printed or f"mtu={mtu}" in printed
    assert "bytes from" in ping(sh, world, family, mtu)
