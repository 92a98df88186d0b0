"""Packets that a pod forges arrive nowhere: to SIDs, to the nodes, with the source of another pod, with a routing
header; nor does a pod of the default network with a node's source get into a VPC. All of them are sent for real, beside
permitted packets that arrive, and once more without the node's protections: then they arrive, which proves that the
protections stopped them. Two VPCs with the same addresses stay apart.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.inet6 import IPv6ExtHdrSegmentRouting as RoutingHeader
from scapy.packet import Packet
from story import Tenant, eventually
from wired import PORT, Arrivals, Port, Wire, marked

from galactic import names
from galactic_lab.cluster import Lab

NODE_1, NODE_2 = "fd00:1::2", "fd00:2::2"
LOOPBACK_1, LOOPBACK_2 = (f"2001:db8:ff0{number}:100:ffff:ffff:ffff:ffff" for number in (1, 2))
OWN_4, OWN_6 = "10.1.1.1", "2001:10:1:1::1"
TWO_4, TWO_6 = "10.1.1.2", "2001:10:1:1::2"
MATE_4, MATE_6 = "10.1.1.3", "2001:10:1:1::3"
NEAR, FAR = "near", "far"
GUEST = "fd00:99::2"
TERMINATED = (
    {"destination": "192.168.3.0/24", "via": MATE_4},
    {"destination": "2001:10:3:3::/64", "via": MATE_6},
)
GREEN = {NEAR: (OWN_4, OWN_6), FAR: (TWO_4, TWO_6)}


@dataclass(frozen=True)
class Attempt:
    """A packet, from blue's pod ``one``, green's ``near``, from ``outside`` (the fabric) or from ``guest``, a pod of
    node-1 that has only the default network. ``reaches``: the listener that it arrives at
    without Galactic's protections; None: the kernel drops it then, too. ``made`` gets green's SIDs by pod, and the
    packet's mark.
    """

    made: Callable[[Mapping[str, str], str], Packet]
    reaches: str | None
    sender: Literal["one", "near", "outside", "guest"] = "one"


def inner(version: int, pod: str, mark: str) -> Packet:
    """The inner packet for a SID: from an unused address to one of green's pods."""
    four, six = GREEN[pod]
    if version == 4:
        return IP(src="10.1.1.99", dst=four) / marked(mark)
    return IPv6(src="2001:10:1:1::99", dst=six) / marked(mark)


def to_sid(pod: str, source: str, kind: str) -> Callable[[Mapping[str, str], str], Packet]:
    def made(sids: Mapping[str, str], mark: str) -> Packet:
        sid = sids[pod]
        if kind == "srh":
            header = RoutingHeader(addresses=[sid], segleft=0, lastentry=0, nh=41)
            return IPv6(src=source, dst=sid, nh=43) / header / inner(6, pod, mark)
        return IPv6(src=source, dst=sid, nh=41 if kind == "6" else 4) / inner(int(kind), pod, mark)

    return made


def by_way_of(hop: str, pod: str) -> Callable[[Mapping[str, str], str], Packet]:
    """A routing header whose first hop is ``hop``, and whose last is a SID."""

    def made(sids: Mapping[str, str], mark: str) -> Packet:
        header = RoutingHeader(addresses=[sids[pod], hop], segleft=1, lastentry=1, nh=41)
        return IPv6(src=OWN_6, dst=hop, nh=43) / header / inner(6, pod, mark)

    return made


def plain(packet: Packet) -> Callable[[Mapping[str, str], str], Packet]:
    return lambda _sids, mark: packet / marked(mark)


ATTEMPTS = {
    # (node-2 takes from the underlay only what has a source in the SRv6 space: those of its own get as far as there)
    **{
        f"{kind}-to-a-sid-{where}": Attempt(to_sid(pod, OWN_6, kind), reaches)
        for kind in ("6", "4", "srh")
        for where, pod, reaches in (("here", NEAR, NEAR), ("elsewhere", FAR, "node-2"))
    },
    **{
        f"{kind}-to-a-sid-elsewhere-as-the-node": Attempt(to_sid(FAR, LOOPBACK_1, kind), FAR)
        for kind in ("6", "4", "srh")
    },
    # (None: the order of lookups stops it as well, of which tests/kernel/test_hosts.py has the packets without)
    "to-the-loopback-here": Attempt(plain(IPv6(src=OWN_6, dst=LOOPBACK_1)), None),
    "to-the-loopback-elsewhere": Attempt(plain(IPv6(src=OWN_6, dst=LOOPBACK_2)), "node-2"),
    "routing-header-at-the-gateway": Attempt(by_way_of("fe80::1", NEAR), NEAR),
    "routing-header-at-the-node": Attempt(by_way_of(NODE_1, NEAR), None),
    "routing-header-at-the-node-elsewhere": Attempt(by_way_of(NODE_1, FAR), None),
    "as-a-pod-of-its-vpc": Attempt(plain(IP(src=MATE_4, dst=TWO_4)), "two"),
    "as-a-pod-of-its-vpc-6": Attempt(plain(IPv6(src=MATE_6, dst=TWO_6)), "two"),
    "as-a-pod-elsewhere": Attempt(plain(IP(src=TWO_4, dst=MATE_4)), "mate"),
    "as-a-pod-elsewhere-6": Attempt(plain(IPv6(src=TWO_6, dst=MATE_6)), "mate"),
    "as-nobody": Attempt(plain(IP(src="192.0.2.1", dst=TWO_4)), "two"),
    "as-nobody-6": Attempt(plain(IPv6(src="2001:db8:99::1", dst=TWO_6)), "two"),
    "as-a-node": Attempt(plain(IPv6(src=LOOPBACK_2, dst=TWO_6)), "two"),
    "as-what-its-mate-terminates": Attempt(plain(IP(src="192.168.3.5", dst=TWO_4)), "two"),
    "as-what-its-mate-terminates-6": Attempt(plain(IPv6(src="2001:10:3:3::5", dst=TWO_6)), "two"),
    "as-the-gateway": Attempt(plain(IP(src="169.254.1.1", dst=TWO_4)), None),
    "as-its-node": Attempt(plain(IPv6(src=NODE_1, dst=TWO_6)), None),
    "to-a-service-at-the-gateway": Attempt(plain(IP(src=OWN_4, dst="169.254.1.1")), "services-1"),
    "to-a-service-at-the-gateway-6": Attempt(plain(IPv6(src=OWN_6, dst="fe80::1")), "services-1"),
    "to-a-service-of-the-node": Attempt(plain(IPv6(src=OWN_6, dst=NODE_1)), None),
    "a-stranger-to-a-sid": Attempt(to_sid(NEAR, "2001:db8:bad::1", "6"), NEAR, "outside"),
    "a-stranger-to-a-sid-4": Attempt(to_sid(NEAR, "fd00:1::1", "4"), NEAR, "outside"),
    "a-stranger-to-the-loopback": Attempt(
        plain(IPv6(src="fd00:1::1", dst=LOOPBACK_1)), "services-1", "outside"
    ),
    **{
        f"guest-{kind}-to-a-sid-{where}-as-a-node": Attempt(to_sid(pod, source, kind), pod, "guest")
        for kind in ("6", "4", "srh")
        for where, pod, source in (("here", NEAR, LOOPBACK_2), ("elsewhere", FAR, LOOPBACK_1))
    },
    "guest-to-a-sid-here": Attempt(to_sid(NEAR, GUEST, "6"), NEAR, "guest"),
    "guest-to-a-sid-elsewhere": Attempt(to_sid(FAR, GUEST, "6"), "node-2", "guest"),
    "guest-to-the-loopback-here": Attempt(plain(IPv6(src=LOOPBACK_2, dst=LOOPBACK_1)), "services-1", "guest"),
    "guest-to-the-loopback-elsewhere": Attempt(
        plain(IPv6(src=LOOPBACK_1, dst=LOOPBACK_2)), "services-2", "guest"
    ),
    "guest-to-a-node-as-a-node": Attempt(plain(IPv6(src=LOOPBACK_1, dst=NODE_2)), "services-2", "guest"),
}
PERMITTED = {
    "permitted": Attempt(plain(IP(src=OWN_4, dst=TWO_4)), "two"),
    "permitted-6": Attempt(plain(IPv6(src=OWN_6, dst=TWO_6)), "two"),
    "permitted-here": Attempt(plain(IP(src=OWN_4, dst=MATE_4)), "mate"),
    "a-member-to-a-sid": Attempt(to_sid(NEAR, LOOPBACK_2, "6"), NEAR, "outside"),
    "guest-to-a-service": Attempt(plain(IPv6(src=GUEST, dst=NODE_1)), "services-1", "guest"),
    "guest-to-a-service-elsewhere": Attempt(plain(IPv6(src=GUEST, dst=NODE_2)), "services-2", "guest"),
    "outside-to-a-service": Attempt(plain(IPv6(src="fd00:1::1", dst=NODE_1)), "services-1", "outside"),
}
OF_GREEN = {
    "of-green": Attempt(plain(IP(src=OWN_4, dst=TWO_4)), FAR, NEAR),
    "of-green-6": Attempt(plain(IPv6(src=OWN_6, dst=TWO_6)), FAR, NEAR),
}


@dataclass(frozen=True)
class Scene:
    """blue: ``one`` (the forger) and ``mate`` on node-1, ``two`` on node-2. green, with the same addresses:
    ``near`` on node-1, ``far`` on node-2.
    """

    lab: Lab
    wire: Wire
    blue: Tenant
    green: Tenant
    ports: Mapping[str, Port]
    vrf: str  # blue's on node-1
    sids: Mapping[str, str]  # green's

    def sent(self, attempts: Mapping[str, Attempt], permitted: Mapping[str, Attempt] = PERMITTED) -> Arrivals:
        """Sends them in order, and returns the arrivals. The permitted packets come last, and must arrive."""
        listen: dict[str, dict[str, object]] = {
            name: {"netns": self.wire.pod(tenant, name)}
            for tenant, pods in ((self.blue, ("mate", "two")), (self.green, (NEAR, FAR)))
            for name in pods
        }
        for number in (1, 2):
            listen[f"services-{number}"] = {"netns": self.wire.node(f"node-{number}"), "udp": PORT}
        listen["node-2"] = {"netns": self.wire.node("node-2"), "device": "eth0"}
        packets = [
            (self.ports[attempt.sender], attempt.made(self.sids, mark))
            for mark, attempt in {**attempts, **permitted}.items()
        ]
        return self.wire.exchange(
            packets,
            listen,
            [(attempt.reaches, mark) for mark, attempt in permitted.items() if attempt.reaches],
        )


@pytest.fixture(scope="module")
def guest(lab: Lab) -> Iterator[Port]:
    """The eth0 of a pod of node-1, as a plugin for the default network makes it."""
    wire, netns, node = Wire(lab), "a-guest", lab.state.node("node-1").namespace
    lab.run("kernel", ["ip", "netns", "add", netns])
    try:
        inside, device = f"/run/netns/{netns}", "veth1a2b3c4d"
        pair = ["link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", netns]
        lab.run("kernel", ["ip", "-n", node, *pair])
        lab.run("kernel", ["ip", "-n", node, "link", "set", device, "up"])
        lab.run("kernel", ["ip", "-n", netns, "link", "set", "eth0", "up"])
        yield wire.end((inside, "eth0"), (wire.node("node-1"), device))
    finally:
        lab.run("kernel", ["ip", "netns", "del", netns])


@pytest.fixture(scope="module")
def scene(lodgers: Callable[..., Tenant], lab: Lab, guest: Port) -> Scene:
    blue, green = lodgers("blue"), lodgers("green")
    blue.settle(
        {
            "one": ("node-1", f"{OWN_4}/24", f"{OWN_6}/64"),
            "mate": ("node-1", f"{MATE_4}/24", f"{MATE_6}/64"),
            "two": ("node-2", f"{TWO_4}/24", f"{TWO_6}/64"),
        },
        routes={"mate": TERMINATED},
    )
    green.settle(
        {NEAR: ("node-1", f"{OWN_4}/24", f"{OWN_6}/64"), FAR: ("node-2", f"{TWO_4}/24", f"{TWO_6}/64")}
    )
    blue.all_reach((pod, address) for pod in ("one", "mate") for address in (TWO_4, TWO_6))
    green.all_reach(((NEAR, TWO_4), (NEAR, TWO_6)))
    wire = Wire(lab)
    sids = {
        name: eventually(f"{name} has an endpoint", lambda name=name: green.endpoint(name))["sid"]
        for name in GREEN
    }
    vpc = lab.get("vpc", "-n", blue.namespace, "vpc")["status"]["identifier"]
    ports = {
        "one": wire.port(blue, "one", "node-1"),
        NEAR: wire.port(green, NEAR, "node-1"),
        "outside": wire.underlay("node-1"),
        "guest": guest,
    }
    return Scene(lab, wire, blue, green, ports, names.vrf(int(vpc, 16)), sids)


@contextmanager
def unprotected(scene: Scene) -> Iterator[None]:
    """node-1 without its protections: Galactic's chains, the VRF's refusal of routing headers, and the kernel's default
    that sockets receive nothing from VRFs. The order of lookups stays. Its controller is away, or it would repair them.
    """
    lab = scene.lab
    lab.hold("node-1")
    try:
        for family in ("iptables", "ip6tables"):
            for backend in ("legacy", "nft"):
                for table, chain in (("raw", "GALACTIC-PREROUTING"), ("filter", "GALACTIC-INPUT")):
                    lab.run("node-1", [f"{family}-{backend}", "-t", table, "-F", chain], check=False)
        obey = f"net.ipv6.conf.{scene.vrf}.seg6_enabled"
        lab.exec("node-1", ["sysctl", "-qw", f"{obey}=1", "net.ipv4.udp_l3mdev_accept=1"])
        yield
        lab.exec("node-1", ["sysctl", "-qw", f"{obey}=0", "net.ipv4.udp_l3mdev_accept=0"])
    finally:
        lab.release("node-1")


@pytest.fixture(scope="module")
def protected_arrivals(scene: Scene) -> Arrivals:
    return scene.sent(ATTEMPTS)


@pytest.fixture(scope="module")
def unprotected_arrivals(scene: Scene, protected_arrivals: Arrivals) -> Arrivals:
    with unprotected(scene):
        return scene.sent(ATTEMPTS)


@pytest.mark.parametrize("mark", ATTEMPTS)
def test_it_arrives_nowhere(protected_arrivals: Arrivals, mark: str) -> None:
    assert [
        listener for listener in protected_arrivals.counts if mark in protected_arrivals.at(listener)
    ] == []


def test_equal_addresses_lead_to_pods_of_the_same_vpc(scene: Scene) -> None:
    """A pod of each VPC sends to the same addresses, from the same address and node."""
    arrivals = scene.sent({}, OF_GREEN | PERMITTED)
    assert arrivals.at("two") == {"permitted", "permitted-6"}
    assert arrivals.at(FAR) == set(OF_GREEN)


def test_a_routing_header_that_leads_through_a_pod_of_its_vpc(scene: Scene) -> None:
    """It may reach that pod, which is the tenant's own, but nothing comes of what lies beyond."""
    attempts = {f"through-a-pod-to-{pod}": Attempt(by_way_of(TWO_6, pod), "two") for pod in GREEN}
    arrivals = scene.sent(attempts)
    assert arrivals.at(NEAR) == {"a-member-to-a-sid"}
    assert arrivals.at(FAR) == set()


def test_over_tcp_to_the_services_of_a_node(scene: Scene) -> None:
    """A socket on all addresses of the node, of the kind every daemon has."""
    program = "import socket; socket.create_server(('::', 7778), family=socket.AF_INET6, dualstack_ipv6=True).accept()"
    listening = scene.lab.popen("node-1", [sys.executable, "-ISc", program])
    pod, fabric = scene.wire.pod(scene.blue, "one"), scene.wire.node("fabric")
    scene.blue.run("one", ["ip", "-6", "route", "replace", NODE_1, "via", "fe80::1", "dev", "galactic0"])
    try:
        eventually("the node listens", lambda: ":7778" in scene.lab.exec("node-1", ["ss", "-Hltn"]))
        for address in ("169.254.1.1", NODE_1):
            assert scene.wire.connects(pod, address, 7778, seconds=2.0) != "connected"
        assert scene.wire.connects(fabric, NODE_1, 7778) == "connected"
    finally:
        listening.terminate()
        listening.wait()


# The last of the file: afterwards node-1 is busy getting everything back.
@pytest.mark.parametrize(
    ("mark", "by"), [(mark, attempt.reaches) for mark, attempt in ATTEMPTS.items() if attempt.reaches]
)
def test_without_protection_it_arrives(unprotected_arrivals: Arrivals, mark: str, by: str) -> None:
    assert mark in unprotected_arrivals.at(by)
