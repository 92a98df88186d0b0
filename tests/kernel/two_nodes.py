"""Two nodes with the product's own plan, for tests by packets.

VPC 1 has pods 1 and 3 on node 1, of which 3 terminates 192.168.3.0/24 and 2001:db8:3::/64, and pod 2 on
node 2. VPC 2 has pods 9 and 8 on node 1, and 7 on node 2; it uses the same networks, and 8 and 7 have the addresses of
1 and 2.
"""

import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_interface, ip_network

from galactic import names, srv6
from galactic.linux.firewall import firewall
from galactic.linux.kept_table import KeptTable
from galactic.linux.kernel import LinuxKernel
from galactic.linux.namespace import Namespace
from galactic.linux.nftables import Nftables, Table
from galactic.linux.objects import LOOPBACK_DEVICE, Encap, Objects, change, route_key
from galactic.node.dataplane import plan
from galactic.node.state.attachment import Attachment, Termination

SPACE = IPv6Network("2001:db8:ff00::/40")
NETWORKS = (ip_network("10.1.1.0/24"), ip_network("2001:10:1:1::/64"))
BEHIND = (ip_network("192.168.3.0/24"), ip_network("2001:db8:3::/64"))
PODS = {"1": (1, 1, 1), "3": (1, 1, 3), "2": (2, 1, 2), "9": (1, 2, 9), "8": (1, 2, 1), "7": (2, 2, 2)}
"""Name → (node, VPC, function)."""
PORT = 4242
PATIENCE_SECONDS = 120
"""For what arrives within milliseconds where nothing holds the kernel up."""


def prefix(node: int) -> IPv6Network:
    return IPv6Network(f"2001:db8:ff0{node}:100::/56")


def loopback(node: int) -> str:
    return str(srv6.loopback(prefix(node)))


def sid(pod: str) -> str:
    node, vpc, function = PODS[pod]
    return str(srv6.sid(prefix(node), vpc, function).address)


def attachment(pod: str, path: str) -> Attachment:
    _, vpc, function = PODS[pod]
    addresses = (ip_interface(f"10.1.1.{function}/24"), ip_interface(f"2001:10:1:1::{function}/64"))
    terminations = tuple(
        Termination(network, address.ip) for network, address in zip(BEHIND, addresses, strict=True)
    )
    return Attachment(
        vpc,
        function,
        f"t/{pod}",
        pod,
        path,
        "galactic0",
        addresses,
        networks=(*NETWORKS, *(() if pod == "3" else BEHIND)),
        terminations=terminations if pod == "3" else (),
    )


def planned(node: int, paths: dict[str, str]) -> Objects:
    facts = plan.Host(prefix(node), SPACE, "eth0")
    parts = [plan.host(facts)]
    tables = {vpc: plan.FIRST_TABLE + vpc for at, vpc, _ in PODS.values() if at == node}
    parts += [plan.vpc(vpc, table) for vpc, table in tables.items()]
    for pod, path in paths.items():
        at, vpc, _ = PODS[pod]
        if at == node:
            parts.append(plan.attached(facts, tables[vpc], attachment(pod, path), lambda _: True))
        elif vpc in tables:
            way = Encap(LOOPBACK_DEVICE, IPv6Address(sid(pod)).packed, "encap.red")
            announced = attachment(pod, path).announces
            parts.append(Objects(routes={route_key(tables[vpc], network): way for network in announced}))
    whole = Objects()
    for part in parts:
        for kind in ("links", "addresses", "routes", "rules", "sysctls", "lookups", "neighbours"):
            getattr(whole, kind).update(getattr(part, kind))
    return whole


def path_of(namespace: Namespace) -> str:
    return f"/proc/{os.getpid()}/fd/{namespace._fd}"


def install(node: Namespace, rules, backend: str) -> dict:
    order = json.dumps({"backend": backend, "rules": [asdict(rule) for rule in rules]})
    command = [sys.executable, "-m", "galactic.linux.iptables"]
    done = node.run(lambda: subprocess.run(command, input=order, text=True, capture_output=True, check=False))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def write_table(node: Namespace, wanted: Table) -> None:
    """As after a restart of the node controller: it does not know the kernel's table."""
    node.run(lambda: asyncio.run(KeptTable(Nftables(), wanted.name).write(wanted)))


@dataclass
class Net:
    """The two nodes, the router between them, and the pods by name."""

    nodes: dict[int, Namespace]
    fabric: Namespace
    pods: dict[str, Namespace]
    sh: object

    def protect(self, without=lambda rule: False, backend="legacy"):
        for number, node in self.nodes.items():
            rules = firewall(SPACE, srv6.locator(prefix(number)), srv6.loopback(prefix(number)), ("eth0",))
            installed = install(node, [rule for rule in rules if not without(rule)], backend)
            assert not installed["lacking"]

    def answers(self, pod: str, address: str) -> bool:
        """Whether a ping is answered. Repeated: neighbour discovery may lose the first, and a busy machine may be
        late.
        """
        return any(
            " 0% packet loss" in self.sh(self.pods[pod], f"ping -c1 -W1 {address}", check=False)
            for _ in patiently()
        )

    def connects(self, client: str, server: str, family: int, seconds: float = 2) -> bool:
        """Whether a TCP connection comes about in time, and the server sees the client's own address and answers."""
        at, index = ADDRESSES[server][family == 6], socket.AF_INET6 if family == 6 else socket.AF_INET

        def listening():
            made = socket.create_server((at, PORT), family=index)
            made.settimeout(seconds)
            return made

        def answer(listener, seen):
            with suppress(TimeoutError):
                connection, (address, *_) = listener.accept()
                with connection:
                    seen.append(address)
                    connection.sendall(b"welcome")

        def ask():
            with suppress(OSError), socket.create_connection((at, PORT), seconds) as made:
                return made.recv(100) == b"welcome"
            return False

        seen = []
        with self.pods[server].run(listening) as listener:
            answering = threading.Thread(target=answer, args=(listener, seen))
            answering.start()
            try:
                return self.pods[client].run(ask) and seen == [ADDRESSES[client][family == 6]]
            finally:
                answering.join()

    def arrivals(
        self,
        packets: dict[str, bytes],
        last: bytes,
        device: str,
        *,
        sender: Namespace,
        at: Namespace,
        via: str,
    ) -> set[str]:
        """The names of those packets that arrive ``at`` a namespace, on any device, when they leave ``sender``. Each is
        recognised by the end of its payload, also inside another packet. ``last`` is sent after them, again and
        again, and must arrive: then the others have arrived too, or were dropped.
        """

        def capturing():
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            made.settimeout(0.5)
            return made

        def send(packet):
            sender.run(lambda: transmit(packet, device, via))

        found = set()
        with at.run(capturing) as capture:
            for packet in packets.values():
                send(packet)
            for _ in patiently():
                send(last)
                try:
                    while True:
                        got, (_, _, kind, *_) = capture.recvfrom(65535)
                        if kind == socket.PACKET_OUTGOING:
                            continue
                        found |= {name for name, packet in packets.items() if packet[-16:] in got}
                        if last[-16:] in got:
                            return found
                except TimeoutError:
                    continue
        raise AssertionError("what is allowed does not arrive either")


def patiently():
    """Yields once, then again until PATIENCE_SECONDS have passed."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    yield
    while time.monotonic() < deadline:
        yield


def in_order() -> None:
    """Binds the thread to one processor: packets sent on one processor arrive in order, those of two may not."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(os.getpid()))})


def transmit(packet: bytes, device: str, via: str) -> None:
    """An IP packet onto the wire as it is, to the hardware address of the other end."""
    in_order()
    six = packet[0] >> 4 == 6
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as made:
        made.sendto(packet, (device, 0x86DD if six else 0x0800, 0, 0, bytes.fromhex(via)))


def hardware(namespace: Namespace, device: str) -> str:
    return (
        namespace.run(
            lambda: subprocess.run(
                ["ip", "-br", "link", "show", "dev", device], text=True, capture_output=True, check=True
            )
        )
        .stdout.split()[2]
        .replace(":", "")
    )


def payload() -> bytes:
    return b"forged" + os.urandom(10)


def udp(source: str, destination: str, data: bytes, port: int = PORT) -> bytes:
    """An IPv4 or IPv6 packet with a UDP datagram and right checksums."""
    a, b = ip_address(source), ip_address(destination)
    header = struct.pack("!HHHH", port, port, 8 + len(data), 0)
    pseudo = a.packed + b.packed + struct.pack("!IHBB", 8 + len(data), 0, 0, 17)
    if isinstance(a, IPv4Address):
        pseudo = a.packed + b.packed + struct.pack("!BBH", 0, 17, 8 + len(data))
    datagram = header[:6] + struct.pack("!H", checksum(pseudo + header + data) or 0xFFFF) + data
    return ip(source, destination, 17, datagram)


def ip(
    source: str, destination: str, protocol: int, body: bytes, fragment: tuple[int, int] = (1, 0)
) -> bytes:
    """``fragment``: the identification and the flags of IPv4 (RFC 791 §3.1)."""
    a, b = ip_address(source), ip_address(destination)
    if isinstance(a, IPv6Address):
        return struct.pack("!IHBB", 0x60000000, len(body), protocol, 64) + a.packed + b.packed + body
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), *fragment, 64, protocol, 0)
    header += a.packed + b.packed
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + body


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) // 2 * 2]))
    total += data[-1] << 8 if len(data) % 2 else 0
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def routed(source: str, destination: str, then: str, inner: bytes, kind: int = 41) -> bytes:
    """An IPv6 packet with a segment routing header (RFC 8754 §2) of its own: to ``destination``, then to ``then``."""
    segments = IPv6Address(then).packed + IPv6Address(destination).packed
    header = struct.pack("!BBBBBBH", kind, len(segments) // 8, 4, 1, 1, 0, 0) + segments
    return ip(source, destination, 43, header + inner)


FABRIC = (
    "ip link set lo up; sysctl -qw net.ipv6.conf.all.forwarding=1;"
    "for n in 1 2; do ip link add e$n type veth peer name eth0 netns $(eval echo \\$node$n);"
    "ip addr add fd00:$n::1/64 dev e$n nodad; ip link set dev e$n up;"
    "ip -6 route add 2001:db8:ff0$n:100::/56 via fd00:$n::2; done"
)


@contextmanager
def two_nodes(sh):
    """Made once for a file: each test sets the rules that are in force."""
    with ExitStack() as stack:
        fabric, *hosts = (stack.enter_context(Namespace.fresh()) for _ in range(3))
        nodes = dict(enumerate(hosts, 1))
        sh(fabric, f"{' '.join(f'node{n}={path_of(host)}' for n, host in nodes.items())}; {FABRIC}")
        for n, host in nodes.items():
            sh(
                host,
                f"ip link set lo up; ip addr add fd00:{n}::2/64 dev eth0 nodad; ip link set dev eth0 up;"
                f"ip -6 route add default via fd00:{n}::1",
            )
        pods = {pod: stack.enter_context(Namespace.fresh()) for pod in PODS}
        for namespace in pods.values():
            sh(namespace, "ip link set lo up")
        paths = {pod: path_of(namespace) for pod, namespace in pods.items()}
        asyncio.run(attached(nodes, paths))
        net = Net(nodes, fabric, pods, sh)
        assert net.answers("1", "10.1.1.2")  # the way there is known from here on
        assert net.answers("1", "2001:10:1:1::2")
        assert net.answers("1", "10.1.1.3")
        assert net.answers("1", "2001:10:1:1::3")
        yield net


async def attached(nodes: dict[int, Namespace], paths: dict[str, str]) -> None:
    """The plan is in the kernel, of both nodes and of the pods on them."""
    for n, host in nodes.items():
        async with LinuxKernel(host) as kernel:
            await kernel.write(change(planned(n, paths), await kernel.read()))
            for pod, path in paths.items():
                if PODS[pod][0] == n:
                    wanted = plan.pod(attachment(pod, path))
                    await kernel.write_pod(path, change(wanted, await kernel.read_pod(path, "galactic0")))
            # The kernel forgets a host end's neighbours while its pod's end is down.
            await kernel.write(change(planned(n, paths), await kernel.read()))


ADDRESSES = {pod: (f"10.1.1.{number}", f"2001:10:1:1::{number}") for pod, (_, _, number) in PODS.items()}


def from_pod(net: Net, pod: str, packets: dict[str, bytes], *, at: Namespace, to: str) -> set[str]:
    """Those packets of a pod that arrive there; ``to`` is a pod there that it may write to."""
    node, vpc, function = PODS[pod]
    via = hardware(net.nodes[node], names.host_end(vpc, function))
    last = udp(ADDRESSES[pod][1], ADDRESSES[to][1], payload())
    return net.arrivals(packets, last, "galactic0", sender=net.pods[pod], at=at, via=via)
