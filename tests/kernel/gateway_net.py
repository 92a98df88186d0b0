"""Three nodes, a fabric, a host outside, and pods of two VPCs with equal addresses, which gateways lead out: by the
product's own plan and rules. Most pods are on node 1, gateways on nodes 2 and 3.
"""

import asyncio
import socket
import threading
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv6Network, ip_address, ip_interface, ip_network

from two_nodes import install, path_of, write_table

from galactic import srv6
from galactic.linux.connections import release
from galactic.linux.firewall import firewall
from galactic.linux.kernel import LinuxKernel
from galactic.linux.namespace import Namespace
from galactic.linux.nftables import Table
from galactic.linux.objects import LOOPBACK_DEVICE, Encap, Objects, change, route_key
from galactic.linux.preflight import preflight
from galactic.node.dataplane import fragments, gateway_routes, gateway_rules, plan
from galactic.node.dataplane.connection_rules import CONNECTIONS
from galactic.node.dataplane.gateway_rules import WayOut, table
from galactic.node.dataplane.parts import union
from galactic.node.state.attachment import Attachment
from galactic.node.state.gateways import Exit, Gateway, GatewayState

BLOCK = IPv6Network("2001:db8:ff00::/40")
NETWORKS = (ip_network("10.1.1.0/24"), ip_network("2001:10:1:1::/64"))
PODS = {"1": (1, 1, 1), "9": (1, 2, 1), "2": (2, 1, 2)}
"""Name → (node, VPC, function): the first two have the same addresses, the last one is where its gateway is."""
POD = {4: "10.1.1.1", 6: "2001:10:1:1::1"}
OUTSIDE = {4: "198.51.100.7", 6: "2001:db8:7::7"}
FORBIDDEN = {4: "198.51.100.8", 6: "2001:db8:7::8"}
METADATA = "169.254.169.254"
FUNCTION = 0x64
PORT = 4242
MULTIPATH = [True]
"""As the kernel can do it."""


def prefix(node: int) -> IPv6Network:
    return IPv6Network(f"2001:db8:ff0{node}:100::/56")


def held(vpc: int, node: int) -> dict[int, str]:
    """The gateway's addresses on a node."""
    return {4: f"203.0.113.{10 * vpc + node}", 6: f"2001:db8:cafe:{vpc}::{node}"}


def gateway(vpc: int, exits=(2, 3), *, snat=True, published=()) -> Gateway:
    return Gateway(
        f"t/{vpc}",
        vpc,
        FUNCTION,
        frozenset({4, 6}),
        snat,
        NETWORKS,
        tuple(ip_network(address) for address in FORBIDDEN.values()),
        tuple(
            Exit(
                f"node-{node}",
                srv6.sid(prefix(node), vpc, FUNCTION).address,
                tuple(map(ip_address, held(vpc, node).values())) if snat else (),
                True,
            )
            for node in exits
        ),
        tuple(published),
    )


def attachment(pod: str, path: str) -> Attachment:
    _, vpc, function = PODS[pod]
    addresses = (ip_interface(f"10.1.1.{function}/24"), ip_interface(f"2001:10:1:1::{function}/64"))
    everything = (ip_network("0.0.0.0/0"), ip_network("::/0"))
    return Attachment(
        vpc, function, f"t/{pod}", pod, path, "galactic0", addresses, networks=NETWORKS, routes=everything
    )


def state(node: int, gateways, away=()) -> GatewayState:
    made = GatewayState()
    made.node, made.all = f"node-{node}", {one.vpc: one for one in gateways}
    made.away, made.filtered = frozenset(f"node-{one}" for one in away), frozenset(made.all)
    return made


def planned(node: int, paths: dict[str, str], gateways: GatewayState) -> Objects:
    facts = plan.Host(prefix(node), BLOCK, "eth0", multipath=MULTIPATH[0])
    parts = [plan.host(facts)]
    for vpc in (1, 2):
        table_number = plan.FIRST_TABLE + vpc
        parts += [plan.vpc(vpc, table_number), gateway_routes.objects(facts, vpc, table_number, gateways)]
    for pod, path in paths.items():
        at, vpc, function = PODS[pod]
        if node == at:
            parts.append(plan.attached(facts, plan.FIRST_TABLE + vpc, attachment(pod, path), lambda _: True))
        else:
            way = Encap(LOOPBACK_DEVICE, srv6.sid(prefix(at), vpc, function).address.packed, "encap.red")
            for network in attachment(pod, path).announces:
                parts.append(Objects(routes={route_key(plan.FIRST_TABLE + vpc, network): way}))
    return union(parts)


def ways_out(node: int, gateways: GatewayState) -> list[WayOut]:
    exits = ((one, gateways.exit_here(vpc, prefix(node))) for vpc, one in gateways.all.items())
    return [WayOut(one, exit_) for one, exit_ in exits if exit_]


def rules(here: list[WayOut], connections: int) -> list[Table]:
    translated = fragments.translated(way.gateway for way in here)
    return [fragments.table(translated), table(here, connections)]


@dataclass
class Net:
    nodes: dict[int, Namespace]
    fabric: Namespace
    outside: Namespace
    pods: dict[str, Namespace]
    sh: object

    def lead(self, gateways, away=(), connections: int = CONNECTIONS, released: bool = True) -> None:
        """The gateways are in force on all nodes; ``away``: nodes that are led round. ``connections``: of a VPC.
        ``released``: former UDP flows have ended too.
        """
        paths = {pod: path_of(one) for pod, one in self.pods.items()}
        for node, space in self.nodes.items():
            known = state(node, gateways, away)
            here = ways_out(node, known)
            self.nft(node, *rules(here, connections))
            asyncio.run(write(space, planned(node, paths, known)))
            if released:
                self.release(node, here)

    def release(self, node: int, here: list[WayOut]) -> int:
        """As the node controller does after the rules, with the first round after its start as well: how many UDP
        flows have ended.
        """
        return (
            self.nodes[node].run(lambda: release(gateway_rules.held(here), gateway_rules.served(here)))
            if here
            else 0
        )

    def nft(self, node: int, *tables: Table) -> None:
        for wanted in tables:
            write_table(self.nodes[node], wanted)

    def seen(
        self, pod: str, family: int, address: str | None = None, port: int = PORT, tries: int = 3
    ) -> str:
        """The source that a TCP connection of the pod has outside; empty where there is none."""
        at = address or OUTSIDE[family]

        def ask():
            with suppress(OSError), socket.create_connection((at, port), 2) as made:
                return made.recv(100).decode()
            return ""

        for _ in range(tries):
            if answer := self.pods[pod].run(ask):
                return answer
        return ""


async def write(space: Namespace, wanted: Objects) -> None:
    async with LinuxKernel(space) as kernel:
        await kernel.write(change(wanted, await kernel.read()))


FABRIC = (
    "ip link set lo up; sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv4.ip_forward=1;"
    "for n in 1 2 3; do ip link add e$n type veth peer name eth0 netns $(eval echo \\$node$n);"
    "ip addr add fd00:$n::1/64 dev e$n nodad; ip addr add 10.200.$n.1/24 dev e$n; ip link set dev e$n up;"
    "ip -6 route add 2001:db8:ff0$n:100::/56 via fd00:$n::2;"
    "for v in 1 2; do ip route add 203.0.113.$v$n via 10.200.$n.2;"
    "ip -6 route add 2001:db8:cafe:$v::$n via fd00:$n::2; done; done;"
    "ip link add out type veth peer name eth0 netns $outside;"
    "ip addr add 198.51.100.1/24 dev out; ip addr add 2001:db8:7::1/64 dev out nodad; ip link set dev out up"
)


@contextmanager
def built(sh):
    """The nodes, with both gateways in force."""
    MULTIPATH[0] = asyncio.run(preflight()).multipath
    with ExitStack() as stack:
        fabric, outside, *hosts = (stack.enter_context(Namespace.fresh()) for _ in range(5))
        nodes = dict(enumerate(hosts, 1))
        paths = " ".join(f"node{n}={path_of(host)}" for n, host in nodes.items())
        sh(fabric, f"{paths} outside={path_of(outside)}; {FABRIC}")
        for n, host in nodes.items():
            sh(
                host,
                f"ip link set lo up; ip addr add fd00:{n}::2/64 dev eth0 nodad; ip addr add 10.200.{n}.2/24 dev eth0;"
                f"ip link set dev eth0 up; ip -6 route add default via fd00:{n}::1;"
                f"ip route add default via 10.200.{n}.1",
            )
        sh(
            outside,
            "ip link set lo up; ip link set eth0 up; sysctl -qw net.ipv4.ip_forward=0;"
            + "".join(
                f"ip addr add {addresses[4]}/24 dev eth0; ip addr add {addresses[6]}/64 dev eth0 nodad;"
                for addresses in (OUTSIDE, FORBIDDEN)
            )
            + f"ip addr add {METADATA}/32 dev eth0;"
            "ip route add default via 198.51.100.1; ip -6 route add default via 2001:db8:7::1",
        )
        pods = {pod: stack.enter_context(Namespace.fresh()) for pod in PODS}
        for space in pods.values():
            sh(space, "ip link set lo up")
        made = Net(nodes, fabric, outside, pods, sh)
        with serving(outside):
            made.lead([gateway(1), gateway(2)])
            for pod, space in pods.items():
                path = path_of(space)

                async def inside(path=path, pod=pod):
                    async with LinuxKernel(nodes[PODS[pod][0]]) as kernel:
                        wanted = plan.pod(attachment(pod, path))
                        await kernel.write_pod(path, change(wanted, await kernel.read_pod(path, "galactic0")))

                asyncio.run(inside())
            for number, node in nodes.items():
                guard = firewall(
                    BLOCK, srv6.locator(prefix(number)), srv6.loopback(prefix(number)), ("eth0",)
                )
                install(node, guard, "legacy")
            yield made


@contextmanager
def serving(space: Namespace):
    """A server that answers each connection with the address that it comes from, and then repeats what it gets."""

    def listen():
        made = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)
        made.settimeout(0.5)
        return made

    ended = threading.Event()

    def answer(listener):
        while not ended.is_set():
            with suppress(TimeoutError):
                connection, (address, *_) = listener.accept()
                threading.Thread(target=repeat, args=(connection, address), daemon=True).start()

    def repeat(connection, address):
        with connection, suppress(OSError):
            connection.sendall(address.removeprefix("::ffff:").encode())
            while data := connection.recv(1000):
                connection.sendall(data)

    with space.run(listen) as listener:
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
