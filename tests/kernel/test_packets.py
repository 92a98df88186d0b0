"""Each kind of rule that the packet filter has, alone in the kernel, proven by packets: what it lets through or drops,
what it leaves alone, and that without it the same packets fare otherwise. Both backends, both families.

One node forwards between four others: ``peer`` (its underlay), ``other`` (a second uplink), ``pod``, behind a host
end, and ``guest``, a pod of the default network.
Neighbours are permanent entries, so that only the test of INPUT depends on neighbour discovery.
"""

import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from ipaddress import IPv6Network

import pytest

from galactic import srv6
from galactic.linux import firewall_fingerprint, readback
from galactic.linux.firewall import ICMPV6_ERRORS, OURS, PLACES, FirewallRule, firewall
from galactic.linux.namespace import Namespace
from galactic.linux.objects import HOST_ENDS

pytestmark = pytest.mark.every_kernel

SPACE = IPv6Network("2001:db8:ff00::/40")
PREFIX = IPv6Network("2001:db8:ff01:100::/56")
LOOPBACK = str(srv6.loopback(PREFIX))
SID = "2001:db8:ff01:100::1:5"
NEIGHBOUR = "2001:db8:ff02:100::9"
"""An address of ``peer`` inside the SRv6 space, as another node has."""
IN_SPACE_OF_POD = "2001:db8:ff02:100::77"
FOREIGN = {
    "pod": {4: "192.0.2.1", 6: "2001:db8:9::1"},
    "peer": {4: "192.0.2.2", 6: "2001:db8:9::2"},
    "other": {6: "2001:db8:ff03:100::9"},
    "guest": {6: "2001:db8:ff02:100::66"},
}
"""Addresses that they also send from, and that the node has no route to."""
UPLINKS = ("eth0", "eth1")
RULES = firewall(SPACE, srv6.locator(PREFIX), srv6.loopback(PREFIX), UPLINKS)
HOST_END = "G000000001001H"
DEVICES = {"peer": "eth0", "other": "eth1", "pod": HOST_END, "guest": "veth9"}
NUMBERS = {"peer": 1, "other": 2, "pod": 3, "guest": 4}
PORT = 4242
PATIENCE_SECONDS = 120

pytest_backends = pytest.mark.parametrize("backend", ["legacy", "nft"])


def address(place: str, family: int) -> str:
    """Of ``peer``, ``other``, ``pod`` and ``guest``; ``node@peer`` is the node's address on that side."""
    name, _, side = place.partition("@")
    number, last = NUMBERS[side or name], 1 if side else 2
    return f"10.0.{number}.{last}" if family == 4 else f"fd00:{number}::{last}"


@dataclass(frozen=True)
class Packet:
    """A UDP datagram. ``passes``: whether it arrives with the rules of the kind, ``otherwise``: without them."""

    sender: str
    to: str
    passes: bool
    otherwise: bool
    source: str = ""
    destination: str = ""
    families: tuple[int, ...] = (4, 6)


@dataclass(frozen=True)
class Kind:
    """Rules that do one thing, and packets that show it. ``policy``: of FORWARD, by others; ``others``: their rules in
    both families, in the table filter; ``raw``: in the table raw.
    """

    of: Callable[[FirewallRule], bool]
    packets: tuple[Packet, ...]
    policy: str = "ACCEPT"
    others: tuple[str, ...] = ()
    raw: tuple[str, ...] = ()


FROM_PODS = Kind(
    lambda rule: rule.chain == "FORWARD" and bool(rule.in_interface),
    (Packet("pod", "peer", True, False), Packet("other", "peer", False, False)),
    policy="DROP",
)
TO_PODS = Kind(
    lambda rule: rule.chain == "FORWARD" and bool(rule.out_interface),
    (Packet("peer", "pod", True, False), Packet("peer", "other", False, False)),
    policy="DROP",
)
FROM_SPACE = Kind(
    lambda rule: rule.chain == "FORWARD" and bool(rule.source),
    (
        Packet("peer", "other", True, False, source=NEIGHBOUR, families=(6,)),
        Packet("peer", "other", False, False),
    ),
    policy="DROP",
)
TO_SPACE = Kind(
    lambda rule: rule.chain == "FORWARD" and bool(rule.destination),
    (
        Packet("other", "peer", True, False, destination=NEIGHBOUR, families=(6,)),
        Packet("other", "peer", False, False),
    ),
    policy="DROP",
)
TO_NODE = Kind(
    lambda rule: rule.chain == "INPUT",
    (Packet("pod", "node@pod", False, True), Packet("peer", "node@peer", True, True)),
)
FORGED = Kind(
    lambda rule: rule.forged,
    (
        Packet("pod", "peer", False, True, source=FOREIGN["pod"][4], families=(4,)),
        Packet("pod", "peer", False, True, source=FOREIGN["pod"][6], families=(6,)),
        Packet("pod", "peer", True, True),
        Packet("peer", "pod", True, True, source=FOREIGN["peer"][4], families=(4,)),
        Packet("peer", "pod", True, True, source=FOREIGN["peer"][6], families=(6,)),
    ),
)
POD_TO_SID = Kind(
    lambda rule: rule.in_interface == OURS and rule.destination != "" and rule.chain == "PREROUTING",
    (
        Packet("pod", "node@pod", False, True, destination=SID, families=(6,)),
        Packet("pod", "peer", False, True, destination=NEIGHBOUR, families=(6,)),
        Packet("pod", "node@pod", True, True),
        Packet("peer", "node@peer", True, True, destination=SID, families=(6,)),
    ),
)
OUTSIDE_TO_SID = Kind(
    lambda rule: rule.outside,
    (
        Packet("peer", "node@peer", False, True, destination=SID, families=(6,)),
        Packet("peer", "node@peer", True, True, destination=SID, source=NEIGHBOUR, families=(6,)),
        Packet("peer", "node@peer", True, True),
        Packet("other", "peer", True, True, destination=NEIGHBOUR, families=(6,)),
    ),
)
ELSEWHERE_TO_SID = Kind(
    lambda rule: of_the_underlay(rule) and (passes(rule) or bool(rule.destination)),
    (
        Packet("guest", "node@guest", False, True, destination=SID, families=(6,)),
        Packet("guest", "node@guest", False, True, destination=LOOPBACK, families=(6,)),
        Packet("guest", "peer", False, True, destination=NEIGHBOUR, families=(6,)),
        Packet("guest", "node@guest", True, True),
        Packet("guest", "peer", True, True),
        Packet("peer", "node@peer", True, True, destination=SID, families=(6,)),
        Packet("other", "peer", True, True, destination=NEIGHBOUR, families=(6,)),
        Packet(
            "node", "node", True, True, source=address("node@peer", 6), destination=LOOPBACK, families=(6,)
        ),
    ),
)
FROM_ELSEWHERE_AS_A_NODE = Kind(
    lambda rule: of_the_underlay(rule) and (passes(rule) or bool(rule.source)),
    (
        Packet("guest", "node@guest", False, True, source=FOREIGN["guest"][6], families=(6,)),
        Packet("guest", "peer", False, True, source=FOREIGN["guest"][6], families=(6,)),
        Packet("guest", "node@guest", True, True),
        Packet("peer", "other", True, True, source=NEIGHBOUR, families=(6,)),
        Packet("other", "peer", True, True, source=FOREIGN["other"][6], families=(6,)),
        Packet("pod", "peer", True, True, source=IN_SPACE_OF_POD, families=(6,)),
        Packet(
            "node", "node", True, True, source=LOOPBACK, destination=address("node@peer", 6), families=(6,)
        ),
    ),
)
TRACKED = tuple(f"{chain} -m conntrack ! --ctstate UNTRACKED -j DROP" for chain in ("FORWARD", "OUTPUT"))
"""Rules that drop every packet that connection tracking has seen."""
UNTRACKED_FROM_PODS = Kind(
    lambda rule: rule.target == "NOTRACK" and bool(rule.in_interface),
    (Packet("pod", "peer", True, False), Packet("peer", "pod", False, False)),
    others=TRACKED,
)
ACCEPTED_FROM_PODS = Kind(
    lambda rule: rule.target == "ACCEPT" and rule.chain == "PREROUTING",
    (Packet("pod", "peer", True, False), Packet("peer", "pod", True, True)),
    raw=("PREROUTING -i G+ -j DROP",),
)
UNTRACKED_TO_SPACE = Kind(
    lambda rule: rule.target == "NOTRACK" and rule.chain == "PREROUTING" and bool(rule.destination),
    (
        Packet("other", "peer", True, False, destination=NEIGHBOUR, families=(6,)),
        Packet("other", "peer", False, False),
    ),
    others=TRACKED,
)
UNTRACKED_BY_NODE_TO_PODS = Kind(
    lambda rule: rule.target == "NOTRACK" and bool(rule.out_interface),
    tuple(
        Packet("node", name, name == "pod", False, source=address(f"node@{name}", family), families=(family,))
        for name in ("pod", "peer")
        for family in (4, 6)
    ),
    others=TRACKED,
)
BY_NODE_OUTSIDE = Packet("node", "peer", False, False, source=address("node@peer", 6), families=(6,))
UNTRACKED_BY_NODE_TO_SPACE = Kind(
    lambda rule: rule.target == "NOTRACK" and rule.chain == "OUTPUT" and bool(rule.destination),
    (
        Packet(
            "node", "peer", True, False, source=address("node@peer", 6), destination=NEIGHBOUR, families=(6,)
        ),
        BY_NODE_OUTSIDE,
    ),
    others=TRACKED,
)
UNTRACKED_BY_NODE_FROM_SPACE = Kind(
    lambda rule: rule.target == "NOTRACK" and rule.chain == "OUTPUT" and bool(rule.source),
    (Packet("node", "peer", True, False, source=LOOPBACK, families=(6,)), BY_NODE_OUTSIDE),
    others=TRACKED,
)


def passes(rule: FirewallRule) -> bool:
    """Whether what it matches meets no further rule of Galactic's."""
    return rule.target in ("RETURN", "ACCEPT")


def of_the_underlay(rule: FirewallRule) -> bool:
    """Whether it is one of the rules that accept sources and SIDs of the SRv6 block from the underlay's interfaces
    alone.
    """
    last = passes(rule) or (rule.target == "DROP" and bool(rule.source) != bool(rule.destination))
    return (
        rule.chain == "PREROUTING"
        and rule.family == 6
        and rule.icmpv6 is None
        and last
        and not rule.outside
        and not (rule.in_interface and rule.destination)
        and not rule.forged
    )


KINDS = {
    "FORWARD-from-pods": FROM_PODS,
    "FORWARD-to-pods": TO_PODS,
    "FORWARD-from-SRv6-space": FROM_SPACE,
    "FORWARD-to-SRv6-space": TO_SPACE,
    "INPUT-of-pods": TO_NODE,
    "PREROUTING-forged": FORGED,
    "PREROUTING-pod-to-SID": POD_TO_SID,
    "PREROUTING-outside-to-SID": OUTSIDE_TO_SID,
    "PREROUTING-elsewhere-to-SID": ELSEWHERE_TO_SID,
    "PREROUTING-elsewhere-as-a-node": FROM_ELSEWHERE_AS_A_NODE,
    "PREROUTING-untracked-from-pods": UNTRACKED_FROM_PODS,
    "PREROUTING-accepted-from-pods": ACCEPTED_FROM_PODS,
    "PREROUTING-untracked-to-SRv6-space": UNTRACKED_TO_SPACE,
    "OUTPUT-untracked-to-pods": UNTRACKED_BY_NODE_TO_PODS,
    "OUTPUT-untracked-to-SRv6-space": UNTRACKED_BY_NODE_TO_SPACE,
    "OUTPUT-untracked-from-SRv6-space": UNTRACKED_BY_NODE_FROM_SPACE,
}


def in_order() -> None:
    """One processor takes up packets in the order in which its threads sent them."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(os.getpid()))})


def patiently() -> Iterator[None]:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        yield


class Fabric:
    """The node and its three neighbours, with a UDP socket on all addresses of each."""

    def __init__(self, sh: Callable[..., str], stack: ExitStack) -> None:
        self.sh = sh
        self.spaces = {name: stack.enter_context(Namespace.fresh()) for name in ("node", *NUMBERS)}
        node = self.spaces["node"]
        sh(
            node,
            "ip link set lo up; sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"
            " net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0;"
            f"ip addr add {SID}/128 dev lo nodad; ip addr add {LOOPBACK}/128 dev lo nodad",
        )
        for name, device in DEVICES.items():
            there, number = self.spaces[name], NUMBERS[name]
            near, far = f"02:00:00:00:{number:02x}:01", f"02:00:00:00:{number:02x}:02"
            path = f"/proc/{os.getpid()}/fd/{there._fd}"
            sh(
                node,
                f"ip link add {device} address {near} type veth peer name up0 address {far} netns {path};"
                f"ip link set {device} up; ip addr add {address(f'node@{name}', 4)}/24 dev {device};"
                f"ip addr add {address(f'node@{name}', 6)}/64 dev {device} nodad",
            )
            sh(
                there,
                "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0;"
                "ip link set lo up; ip link set up0 up;"
                f"ip addr add {address(name, 4)}/24 dev up0; ip addr add {address(name, 6)}/64 dev up0 nodad;"
                f"ip route add default via {address(f'node@{name}', 4)};"
                f"ip -6 route add default via {address(f'node@{name}', 6)}",
            )
            foreigners = [*FOREIGN.get(name, {}).values(), *([IN_SPACE_OF_POD] if name == "pod" else [])]
            for foreign in foreigners:
                sh(there, f"ip addr add {foreign} dev lo {'nodad' if ':' in foreign else ''}")
            self.permanent(name)
        sh(node, f"ip link set {HOST_END} group {HOST_ENDS}")
        sh(self.spaces["peer"], f"ip addr add {NEIGHBOUR}/128 dev lo nodad")
        sh(node, f"ip -6 route add {NEIGHBOUR}/128 via {address('peer', 6)}")
        self.sockets = {
            name: stack.enter_context(space.run(self._listener)) for name, space in self.spaces.items()
        }
        self._kept: dict[str, list[str]] = {name: [] for name in self.sockets}
        self._tables: dict[str, str] = {}  # by backend, where no rule has been put since

    def permanent(self, name: str) -> None:
        """Neither side resolves the other's hardware address."""
        number = NUMBERS[name]
        for family in (4, 6):
            near, far = f"02:00:00:00:{number:02x}:01", f"02:00:00:00:{number:02x}:02"
            self.sh(
                self.spaces["node"],
                f"ip neigh replace {address(name, family)} lladdr {far} dev {DEVICES[name]} nud permanent",
            )
            self.sh(
                self.spaces[name],
                f"ip neigh replace {address(f'node@{name}', family)} lladdr {near} dev up0 nud permanent",
            )

    @staticmethod
    def _listener() -> socket.socket:
        made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind(("::", PORT))
        made.setblocking(False)
        return made

    def empty(
        self,
        backend: str,
        forward: str,
        others: tuple[str, ...] = (),
        *,
        inward: str = "ACCEPT",
        raw: tuple[str, ...] = (),
    ) -> None:
        """Nothing is left in the tables but ``others``, rules in filter, and ``raw``; FORWARD and INPUT have those
        policies.

        Does nothing where that is so already.
        """
        rules = "".join(f"-A {rule}\\n" for rule in others)
        policies = f":INPUT {inward} [0:0]\\n:FORWARD {forward} [0:0]\\n"
        ahead = "".join(f"-A {rule}\\n" for rule in raw)
        tables = f"*raw\\n{ahead}COMMIT\\n*filter\\n{policies}{rules}COMMIT\\n"
        if self._tables.get(backend) == tables:
            return
        commands = (f"printf '{tables}' | {name}-{backend}-restore -w" for name in ("iptables", "ip6tables"))
        self.sh(self.spaces["node"], "\n".join(commands))
        self._tables[backend] = tables

    def put(self, backend: str, rules: list[FirewallRule]) -> None:
        self._tables.pop(backend, None)
        order = json.dumps({"backend": backend, "rules": [asdict(rule) for rule in rules]})
        done = self.spaces["node"].run(
            lambda: subprocess.run(
                [sys.executable, "-m", "galactic.linux.iptables"],
                input=order,
                text=True,
                capture_output=True,
                check=False,
            )
        )
        assert done.returncode == 0, done.stderr
        assert not json.loads(done.stdout)["lacking"]

    def arrivals(self, packets: list[tuple[Packet, int]]) -> list[bool]:
        """Whether each packet, in that family, arrives where it is sent to."""
        marks = [os.urandom(8).hex() for _ in packets]
        for (packet, family), mark in zip(packets, marks, strict=True):
            destination = packet.destination or address(packet.to, family)
            self.send(packet.sender, packet.source or address(packet.sender, family), destination, mark)
        for _ in range(2):  # what the first one overtook on its second hop is ahead of the second one
            self.settle()
        received = {name: set(self._received(name)) for name in self.sockets}
        return [
            mark in received[packet.to.partition("@")[0]]
            for (packet, _), mark in zip(packets, marks, strict=True)
        ]

    def send(self, sender: str, source: str, destination: str, mark: str) -> None:
        def datagram() -> None:
            in_order()
            family = socket.AF_INET6 if ":" in destination else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as made:
                made.bind((source, 0))
                with suppress(PermissionError):  # dropped in OUTPUT
                    made.sendto(mark.encode(), (destination, PORT))

        self.spaces[sender].run(datagram)

    def settle(self) -> None:
        """A datagram that no rule concerns has arrived: what was sent before it has been decided."""
        for _ in patiently():
            mark = os.urandom(8).hex()
            self.send("peer", address("peer", 4), address("node@peer", 4), mark)
            for _ in range(50):
                self._kept["node"] += self._drained("node")
                if mark in self._kept["node"]:
                    return
                time.sleep(0.01)
        raise AssertionError("what no rule concerns does not arrive either")

    def _received(self, name: str) -> list[str]:
        self._kept[name] += self._drained(name)
        kept, self._kept[name] = self._kept[name], []
        return kept

    def _drained(self, name: str) -> list[str]:
        found = []
        try:
            while True:
                found.append(self.sockets[name].recv(100).decode())
        except BlockingIOError:
            return found

    def answers(self, name: str, destination: str) -> bool:
        """Whether a ping is answered. More than one is sent, because a slow machine may take one for lost."""
        return "received, 0% packet loss" in self.sh(
            self.spaces[name], f"ping -n -c1 -W1 {destination}", check=False
        )


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    def sh(namespace: Namespace, command: str, *, check: bool = True) -> str:
        done = namespace.run(
            lambda: subprocess.run(["sh", "-ec", command], text=True, capture_output=True, check=False)
        )
        assert done.returncode == 0 or not check, f"{command}: {done.stderr}"
        return done.stdout

    with ExitStack() as stack:
        yield Fabric(sh, stack)


@contextmanager
def clean(
    fabric: Fabric,
    backend: str,
    policy: str = "ACCEPT",
    others: tuple[str, ...] = (),
    *,
    inward: str = "ACCEPT",
    raw: tuple[str, ...] = (),
) -> Iterator[None]:
    fabric.empty(backend, policy, others, inward=inward, raw=raw)
    try:
        yield
    finally:
        fabric.empty(backend, "ACCEPT")


@pytest_backends
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_kind_of_rule_alone(fabric: Fabric, backend: str, kind: Kind) -> None:
    packets = [(packet, family) for packet in kind.packets for family in packet.families]
    rules = [rule for rule in RULES if kind.of(rule)]
    assert {rule.family for rule in rules} <= {family for _, family in packets}
    with clean(fabric, backend, kind.policy, kind.others, raw=kind.raw):
        assert fabric.arrivals(packets) == [packet.otherwise for packet, _ in packets]
        fabric.put(backend, rules)
        assert fabric.arrivals(packets) == [packet.passes for packet, _ in packets]


def test_every_rule_is_of_a_kind() -> None:
    """Each rule belongs to a kind, so that packets prove it."""
    strange = [
        rule
        for rule in RULES
        if rule.icmpv6 is None
        and sum(kind.of(rule) for kind in KINDS.values())
        != {"RETURN": 2, "ACCEPT": 3}.get(rule.target if of_the_underlay(rule) else "", 1)
    ]
    assert strange == []


@pytest_backends
@pytest.mark.parametrize("device", [OURS, "lo", *UPLINKS])
def test_only_the_underlay_may_bring_sources_and_sids_of_the_block(
    fabric: Fabric, backend: str, device: str
) -> None:
    """Without the rule for it, what it brings with a source in the SRv6 space is dropped; the others bring theirs."""
    sources = {
        OURS: Packet("pod", "peer", True, True, source=IN_SPACE_OF_POD, families=(6,)),
        "lo": Packet(
            "node", "node", True, True, source=LOOPBACK, destination=address("node@peer", 6), families=(6,)
        ),
        "eth0": Packet("peer", "other", True, True, source=NEIGHBOUR, families=(6,)),
        "eth1": Packet("other", "peer", True, True, source=FOREIGN["other"][6], families=(6,)),
    }
    rules = [rule for rule in RULES if of_the_underlay(rule)]
    with clean(fabric, backend):
        fabric.put(backend, [rule for rule in rules if rule.in_interface != device])
        arrived = fabric.arrivals([(packet, 6) for packet in sources.values()])
        assert dict(zip(sources, arrived, strict=True)) == {name: name != device for name in sources}


@pytest_backends
@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("policy", ["ACCEPT", "DROP"])
def test_a_pod_and_its_node_find_each_other(fabric: Fabric, backend: str, policy: str, family: int) -> None:
    """Neighbour discovery passes INPUT in both directions, and so do pings, while UDP does not: whatever policy a
    firewall of the host gives INPUT.
    """
    node, pod = fabric.spaces["node"], fabric.spaces["pod"]
    with clean(fabric, backend, inward=policy):
        fabric.put(backend, [rule for rule in RULES if rule.chain == "INPUT"])
        try:
            for asking, device in ((pod, "up0"), (node, HOST_END)):
                for space, name in ((pod, "up0"), (node, HOST_END)):
                    fabric.sh(space, f"ip neigh flush dev {name} nud all")
                if asking is pod:
                    place, destination = "pod", address("node@pod", family)
                else:
                    place, destination = "node", address("pod", family)
                # Neighbour discovery gives up after three seconds without an answer.
                assert any(fabric.answers(place, destination) for _ in range(5)), device
        finally:
            fabric.permanent("pod")


@pytest_backends
def test_icmpv6_errors_alone_reach_the_loopback(fabric: Fabric, backend: str) -> None:
    """A router outside the SRv6 space may send the four kinds of errors to the node's SRv6 loopback, nothing else."""
    node = fabric.spaces["node"]
    echo_reply, unassigned = 129, 100

    def raw() -> socket.socket:
        made = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        made.setblocking(False)
        return made

    def message(kind: int, sender: str) -> None:
        in_order()
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as made:
            made.bind((address(sender, 6), 0))
            made.sendto(struct.pack("!BBHI", kind, 0, 0, 0) + bytes(48), (LOOPBACK, 0))

    def arrived(sender: str = "peer") -> set[int]:
        found = set()
        with node.run(raw) as listening:
            for kind in (*ICMPV6_ERRORS, unassigned, echo_reply):
                fabric.spaces[sender].run(lambda kind=kind: message(kind, sender))
            fabric.settle()
            try:
                while True:
                    found.add(listening.recv(2000)[0])
            except BlockingIOError:
                return found

    guard = [rule for rule in RULES if rule.outside]
    errors = [rule for rule in RULES if rule.icmpv6 is not None]
    with clean(fabric, backend):
        assert arrived() >= {*ICMPV6_ERRORS, unassigned, echo_reply}
        fabric.put(backend, guard)
        assert not arrived() & {*ICMPV6_ERRORS, unassigned, echo_reply}
        fabric.put(backend, [*errors, *guard])
        for sender in ("peer", "other"):
            assert arrived(sender) & {*ICMPV6_ERRORS, unassigned, echo_reply} == set(ICMPV6_ERRORS)
        assert not arrived("guest") & {*ICMPV6_ERRORS, unassigned, echo_reply}


@pytest_backends
def test_what_is_read_back_is_what_was_meant(fabric: Fabric, backend: str) -> None:
    """Each rule decodes to itself: were one not decodable, nothing would be compared."""
    with clean(fabric, backend):
        fabric.put(backend, list(RULES))
        read = fabric.spaces["node"].run(
            lambda: [firewall_fingerprint.reader(backend)(place) for place in PLACES]
        )
        for place, chain in zip(PLACES, read, strict=True):
            meant = [rule for rule in RULES if (rule.family, rule.chain) == place]
            assert chain is not None
            assert chain.first
            assert [readback.decoded(backend, place, rule) for rule in chain.rules] == [
                readback.Applied(rule) for rule in meant
            ]


# Where a bit of struct ipt_ip and ip6t_ip6 decides what a packet must be like: masks, protocol, flags, inversions.
DECIDING = {4: (*range(8, 16), *range(48, 84)), 6: (*range(32, 64), *range(96, 133))}
PROTOCOL_AT = {4: slice(80, 82), 6: slice(128, 130)}
WITHOUT_PROTOCOL = {4: {(83, 0x40)}, 6: {(131, 0x01), (132, 0x40)}}
"""IPT_INV_PROTO, IP6T_F_PROTO, IP6T_INV_PROTO: the kernel compares no protocol where the rule names none."""


def test_a_single_wrong_bit_is_named(fabric: Fabric) -> None:
    """Of each rule in legacy tables each bit that decides about packets is turned over once."""
    with clean(fabric, "legacy"):
        fabric.put("legacy", list(RULES))
        read = fabric.spaces["node"].run(
            lambda: [firewall_fingerprint.reader("legacy")(place) for place in PLACES]
        )
    tried = 0
    for place, chain in zip(PLACES, read, strict=True):
        meant = [rule for rule in RULES if (rule.family, rule.chain) == place]
        for number, (entry, rule) in enumerate(zip(chain.rules, meant, strict=True)):
            for wrong in misread(place[0], entry):
                alone = firewall_fingerprint.Chain((wrong,), True)
                found = readback.compared("legacy", place, alone, [rule])
                assert found, (rule, wrong)
                assert all("rule 1: " in text for text in found)
                tried += 1
            among = (*chain.rules[:number], wrong, *chain.rules[number + 1 :])
            found = readback.compared("legacy", place, firewall_fingerprint.Chain(among, True), meant)
            assert found
            assert all(f"rule {number + 1}: " in text for text in found)
    assert tried > 5000


def misread(family: int, entry: bytes) -> Iterator[bytes]:
    """The rule as the kernel has it, with one deciding bit turned over: once for each of these bits."""
    for at in DECIDING[family]:
        for bit in (1, 2, 4, 8, 16, 32, 64, 128):
            if not any(entry[PROTOCOL_AT[family]]) and (at, bit) in WITHOUT_PROTOCOL[family]:
                continue
            wrong = bytearray(entry)
            wrong[at] ^= bit
            yield bytes(wrong)


D0 = FirewallRule(6, "INPUT", "DROP", in_interface="G+", not_icmp=True)


def test_a_protocol_that_the_kernel_does_not_compare_is_named(fabric: Fabric) -> None:
    """The fault of python-iptables: the rule prints right, and drops neighbour discovery too."""
    with clean(fabric, "legacy"):
        fabric.put("legacy", [D0])
        chain = fabric.spaces["node"].run(lambda: firewall_fingerprint.reader("legacy")((6, "INPUT")))
        entry = bytearray(chain.rules[0])
        entry[131] &= ~0x01  # IP6T_F_PROTO
        found = readback.compared(
            "legacy", (6, "INPUT"), firewall_fingerprint.Chain((bytes(entry),), True), [D0]
        )
    assert found == [
        "IPv6 GALACTIC-INPUT rule 1: not_icmp is False in the kernel, not True",
        "IPv6 GALACTIC-INPUT rule 1: protocol 58 is not compared: IP6T_F_PROTO is not set",
    ]
