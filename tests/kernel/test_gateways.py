"""Ways out of VPCs, by the product's own plan and rules: packets of pods at a host outside, and those that must not get
there. Pods are on node 1, gateways on nodes 2 and 3. Two VPCs have equal addresses.
"""

import asyncio
import socket
import subprocess
import threading
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv6Network, ip_address, ip_interface, ip_network

import pytest
from two_nodes import install, path_of

from galactic import names, srv6
from galactic.linux.firewall import firewall
from galactic.linux.kernel import LinuxKernel
from galactic.linux.namespace import Namespace
from galactic.linux.nftables import Present, rewrite
from galactic.linux.objects import LOOPBACK_DEVICE, Encap, Objects, change, route_key
from galactic.linux.preflight import preflight
from galactic.node.dataplane import gateway_routes, plan
from galactic.node.dataplane.gateway_rules import WayOut, table
from galactic.node.dataplane.parts import union
from galactic.node.state.attachment import Attachment
from galactic.node.state.gateways import Exit, Gateway, GatewayState

pytestmark = [pytest.mark.vrf, pytest.mark.every_kernel]

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


def gateway(vpc: int, exits=(2, 3), *, snat=True) -> Gateway:
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


def rules(node: int, gateways: GatewayState) -> str:
    exits = ((one, gateways.exit_here(vpc, prefix(node))) for vpc, one in gateways.all.items())
    return rewrite(Present(), table(WayOut(one, exit_) for one, exit_ in exits if exit_))


@dataclass
class Net:
    nodes: dict[int, Namespace]
    fabric: Namespace
    outside: Namespace
    pods: dict[str, Namespace]
    sh: object

    def lead(self, gateways, away=()) -> None:
        """The gateways are in force on all nodes; ``away``: nodes that are led round."""
        paths = {pod: path_of(one) for pod, one in self.pods.items()}
        for node, space in self.nodes.items():
            known = state(node, gateways, away)
            self.nft(node, rules(node, known))
            asyncio.run(write(space, planned(node, paths, known)))

    def nft(self, node: int, script: str) -> None:
        def load():
            subprocess.run(["nft", "delete table inet galactic-gateways"], capture_output=True, check=False)
            done = subprocess.run(
                ["nft", "-f", "-"], input=script, text=True, capture_output=True, check=False
            )
            assert done.returncode == 0, done.stderr

        self.nodes[node].run(load)

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


@pytest.fixture(scope="module")
def net(sh, vrfs):
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


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("pod", PODS)
def test_packets_leave_with_an_address_of_the_gateway(net, pod, family):
    net.lead([gateway(1), gateway(2)])
    assert net.seen(pod, family, tries=10) in {
        held(PODS[pod][1], node)[family] for node in ((2, 3) if PODS[pod][0] == 1 else (2,))
    }


@pytest.mark.parametrize("family", [4, 6])
def test_vpcs_with_equal_addresses_and_ports_share_no_connection(net, family):
    net.lead([gateway(1, (2,)), gateway(2, (2,))])
    index = socket.AF_INET6 if family == 6 else socket.AF_INET

    def connect():
        made = socket.socket(index)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.settimeout(20)
        made.bind((POD[family], 5000))
        made.connect((OUTSIDE[family], PORT))
        return made

    with net.pods["1"].run(connect) as one, net.pods["9"].run(connect) as other:
        assert one.recv(100).decode() == held(1, 2)[family]
        assert other.recv(100).decode() == held(2, 2)[family]
        for connection, text in ((one, b"one"), (other, b"other")):
            connection.sendall(text)
        assert (one.recv(100), other.recv(100)) == (b"one", b"other")


@pytest.mark.parametrize(
    ("family", "address"),
    [
        (4, FORBIDDEN[4]),
        (6, FORBIDDEN[6]),
        (4, METADATA),
        (4, "10.200.2.2"),
        (6, "fd00:2::2"),
        (4, "10.200.2.1"),
    ],
)
def test_forbidden_destinations_and_the_node_itself_are_not_reached(net, sh, family, address):
    """10.200.2.1 is the fabric's router, of no list: it answers."""
    net.lead([gateway(1, (2,)), gateway(2, (2,))])
    sh(net.fabric, f"ip route replace {METADATA} dev out")
    output = sh(net.pods["1"], f"ping -n -c2 -i0.3 -W2 {address} || true", check=False)
    expected = address == "10.200.2.1"
    assert (" 0 received" not in output) == expected, output


def connects(address: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((address, port), 2):
        return True
    return False


def test_no_host_outside_gets_in(net, sh):
    """New connections to the gateway's address lead nowhere, nor do packets for the VPC's own addresses."""
    net.lead([gateway(1, (2,)), gateway(2, (2,))])
    assert all(net.seen("1", family) for family in (4, 6))
    for family in (4, 6):
        target = POD[family]
        sh(net.outside, f"ip route replace {target} via {'198.51.100.1' if family == 4 else '2001:db8:7::1'}")
        via = "10.200.2.2" if family == 4 else "fd00:2::2"
        sh(net.fabric, f"ip route replace {target} via {via}")
    with net.pods["1"].run(
        lambda: socket.create_server(("::", 5001), family=socket.AF_INET6, dualstack_ipv6=True)
    ):
        for address in (*held(1, 2).values(), *POD.values()):
            output = sh(
                net.outside,
                f"ping -n -c2 -i0.3 -W1 -I {OUTSIDE[6 if ':' in address else 4]} {address}",
                check=False,
            )
            assert " 0 received" in output, output
            assert not net.outside.run(lambda address=address: connects(address, 5001))


@pytest.mark.parametrize("family", [4, 6])
def test_errors_from_outside_reach_the_pod(net, sh, family):
    """A smaller link beyond: the router's report leads to the pod, which then sends smaller packets."""
    net.lead([gateway(1, (2,)), gateway(2, (2,))])
    sh(net.fabric, "ip link set out mtu 1300")
    try:
        size = 1400 - (28 if family == 4 else 48)
        output = sh(net.pods["1"], f"ping -n -c3 -i0.3 -W2 -M do -s {size} {OUTSIDE[family]}", check=False)
        assert "1300" in output, output
    finally:
        sh(net.fabric, "ip link set out mtu 1500")


def test_what_is_too_big_for_the_vpc_is_reported_to_the_host_outside(net, sh):
    """Its connection goes on with smaller packets: bytes by the megabyte arrive in the pod."""
    net.lead([gateway(1, (2,)), gateway(2, (2,))])
    for family in (4, 6):
        index = socket.AF_INET6 if family == 6 else socket.AF_INET

        def exchange(index=index, family=family):
            with socket.socket(index) as made:
                made.settimeout(30)
                made.connect((OUTSIDE[family], PORT))
                made.recv(100)
                sent, got = 200_000, 0
                threading.Thread(target=made.sendall, args=(b"x" * sent,), daemon=True).start()
                while got < sent:
                    got += len(made.recv(65536))
                return got

        assert net.pods["1"].run(exchange) == 200_000


def test_without_snat_packets_keep_their_source_both_ways(net, sh):
    net.lead([gateway(1, (2,), snat=False)])
    for family in (4, 6):
        target, via = NETWORKS[family == 6], ("10.200.2.2", "fd00:2::2")[family == 6]
        sh(net.fabric, f"ip route replace {target} via {via}")
    try:
        for family in (4, 6):
            assert net.seen("1", family, tries=10) == POD[family]
            output = sh(net.outside, f"ping -n -c2 -i0.3 -W2 -I {OUTSIDE[family]} {POD[family]}", check=False)
            assert " 0 received" not in output, output
    finally:
        for network in NETWORKS:
            sh(net.fabric, f"ip route del {network}")


@pytest.mark.parametrize("family", [4, 6])
def test_another_exit_goes_on_when_one_is_gone(net, sh, family):
    """The exits that are led round are used no more, and what went by the other one goes on by it."""
    net.lead([gateway(1), gateway(2)])
    many = [f"198.51.100.{n}" if family == 4 else f"2001:db8:7::{n:x}" for n in range(100, 116)]
    for address in many:
        sh(net.outside, f"ip addr replace {address}/{24 if family == 4 else '64 nodad'} dev eth0")
    before = {address: net.seen("1", family, address) for address in many}
    assert set(before.values()) <= {held(1, node)[family] for node in (2, 3)}
    if family == 4 and MULTIPATH[0]:
        assert len(set(before.values())) == 2
    for away, left in ((3, 2), (2, 3)):
        net.lead([gateway(1), gateway(2)], away=(away,))
        after = {address: net.seen("1", family, address) for address in many}
        assert set(after.values()) == {held(1, left)[family]}
    net.lead([gateway(1), gateway(2)])
    assert {address: net.seen("1", family, address) for address in many} == before


def test_a_second_writing_changes_nothing_and_all_of_it_goes(net):
    gateways = [gateway(1), gateway(2)]
    net.lead(gateways)
    paths = {pod: path_of(one) for pod, one in net.pods.items()}

    async def left(node, known):
        async with LinuxKernel(net.nodes[node]) as kernel:
            left = change(planned(node, paths, state(node, known)), await kernel.read())
            return [
                *left.links.set,
                *left.links.delete,
                *left.addresses.set,
                *left.routes.set,
                *left.routes.delete,
            ]

    for node in net.nodes:
        assert not asyncio.run(left(node, gateways)), asyncio.run(left(node, gateways))
    net.lead([])
    for node in net.nodes:
        assert not asyncio.run(left(node, []))
        shown = net.sh(net.nodes[node], "ip -br link; ip route show table all; ip -6 route show table all")
        assert not [line for line in shown.splitlines() if "203.0.113" in line or "2001:db8:cafe" in line]
        assert names.exit_end(1, FUNCTION) not in shown
