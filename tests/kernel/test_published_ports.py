"""Published ports of VPCs, by the product's own plan and rules: connections from outside to ready pods, and nothing
else. VPC 1 has pods on node 1 and on node 2, which holds the addresses; VPC 2 has one with the same addresses.
"""

import asyncio
import json
import socket
import threading
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from ipaddress import ip_address

import pytest
from gateway_net import (
    FORBIDDEN,
    FUNCTION,
    METADATA,
    OUTSIDE,
    POD,
    built,
    gateway,
    held,
    planned,
    state,
    ways_out,
)
from two_nodes import path_of

from galactic import names
from galactic.linux.kernel import LinuxKernel
from galactic.linux.objects import change
from galactic.node.state.gateways import Published

pytestmark = pytest.mark.vrf

INSIDE = {4: "10.1.1.200", 6: "2001:10:1:1::200"}
PODS = {"1": POD, "2": {4: "10.1.1.2", 6: "2001:10:1:1::2"}, "9": POD}
OUT, IN = 80, 8080
FAMILIES = pytest.mark.parametrize("family", [4, 6])
PROTOCOLS = pytest.mark.parametrize("protocol", ["tcp", "udp"])
TRIES = 40
"""Connections that all go to one of two pods by chance: once in 5e11 times."""


def ports(vpc=1, node=2, pods=("1", "2"), protocols=("tcp", "udp"), port=OUT) -> tuple[Published, ...]:
    return tuple(
        Published(
            ip_address(held(vpc, node)[family]),
            port,
            protocol,
            f"node-{node}",
            ip_address(INSIDE[family]),
            IN,
            tuple(ip_address(PODS[pod][family]) for pod in pods),
        )
        for family in (4, 6)
        for protocol in protocols
    )


def publishing(vpc=1, exits=(2, 3), **given):
    return gateway(vpc, exits, published=ports(vpc, **given))


@pytest.fixture(scope="module")
def net(sh, vrfs):
    with built(sh) as made, ExitStack() as stack:
        for pod in PODS:
            stack.enter_context(answering(made.pods[pod], pod))
        for node in made.nodes.values():
            stack.enter_context(answering(node, "node", port=OUT))
        yield made


@contextmanager
def answering(space, name, port=IN):
    """Servers that answer with their name and the asker's address; of a connection, then with what they get."""
    ended = threading.Event()
    with ExitStack() as stack:
        threads = []
        for kind, serve in ((socket.SOCK_STREAM, connections), (socket.SOCK_DGRAM, datagrams)):
            server = stack.enter_context(space.run(lambda kind=kind: listen(kind, port)))
            threads.append(threading.Thread(target=serve, args=(server, name, ended)))
            threads[-1].start()
        try:
            yield
        finally:
            ended.set()
            for thread in threads:
                thread.join()


def listen(kind, port):
    made = socket.socket(socket.AF_INET6, kind)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    made.bind(("::", port))
    if kind == socket.SOCK_STREAM:
        made.listen(100)
    made.settimeout(0.5)
    return made


def datagrams(server, name, ended):
    while not ended.is_set():
        with suppress(OSError):
            _, address = server.recvfrom(100)
            server.sendto(text(name, address[0]), address)


def connections(server, name, ended):
    while not ended.is_set():
        with suppress(TimeoutError):
            connection, (address, *_) = server.accept()
            threading.Thread(target=repeat, args=(connection, text(name, address)), daemon=True).start()


def repeat(connection, first):
    with connection, suppress(OSError):
        connection.sendall(first)
        while data := connection.recv(65536):
            connection.sendall(data)


def text(name, address):
    return f"{name} {address.removeprefix('::ffff:')}".encode()


def ask(space, protocol, address, port=OUT) -> str:
    """The answer; "refused", or "" for none."""

    def made():
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as one:
            one.settimeout(2)
            try:
                one.connect((address, port))
                if protocol == "udp":
                    one.send(b"?")
                return one.recv(100).decode()
            except ConnectionRefusedError:
                return "refused"
            except OSError:
                return ""

    return space.run(made)


def answers(net, protocol, family, *, vpc=1, node=2, tries=TRIES, space=None):
    address = held(vpc, node)[family]
    eventually(lambda: ask(space or net.outside, protocol, address) != "")
    return {ask(space or net.outside, protocol, address) for _ in range(tries)}


def eventually(true):
    for _ in range(10):
        if true():
            return


@pytest.mark.every_kernel
@PROTOCOLS
@FAMILIES
def test_connections_from_outside_reach_the_ready_pods_here_and_on_another_node(net, family, protocol):
    net.lead([publishing(), gateway(2)])
    expected = {f"{pod} {INSIDE[family]}" for pod in ("1", "2")}
    assert answers(net, protocol, family) == expected


@PROTOCOLS
@FAMILIES
def test_an_address_that_another_node_holds(net, family, protocol):
    """Pod 2 is on a gateway's node that does not hold it."""
    net.lead([publishing(node=3), gateway(2)])
    assert answers(net, protocol, family, node=3) == {f"{pod} {INSIDE[family]}" for pod in ("1", "2")}


@FAMILIES
def test_vpcs_with_equal_addresses_are_kept_apart(net, family):
    net.lead([publishing(pods=("1",)), publishing(2, pods=("9",))])
    assert answers(net, "tcp", family) == {f"1 {INSIDE[family]}"}
    assert answers(net, "tcp", family, vpc=2) == {f"9 {INSIDE[family]}"}


@PROTOCOLS
@FAMILIES
def test_without_a_ready_pod_connections_are_refused(net, family, protocol):
    net.lead([publishing(pods=()), gateway(2)])
    assert answers(net, protocol, family, tries=5) == {"refused"}


@pytest.mark.every_kernel
def test_no_other_port_is_open(net):
    """Nor does the port of one protocol open the other's. The node itself listens on all of them."""
    net.lead([publishing(protocols=("tcp",)), gateway(2)])
    with answering(net.nodes[2], "node", port=22):
        for family in (4, 6):
            address = held(1, 2)[family]
            assert answers(net, "tcp", family, tries=1)
            for protocol, port in (("udp", OUT), ("tcp", 22), ("tcp", IN), ("udp", IN)):
                assert ask(net.outside, protocol, address, port) == "", (address, protocol, port)
            assert ask(net.outside, "tcp", held(1, 3)[family]) == ""
            assert ask(net.outside, "tcp", held(2, 2)[family]) == ""


@FAMILIES
def test_the_address_inside_leads_nowhere_by_itself(net, sh, family):
    """Neither pods nor hosts outside reach anything by it; nor does an address that no pod has go round."""
    net.lead([publishing(), gateway(2)])
    assert answers(net, "tcp", family, tries=1)
    unused = {4: "10.1.1.77", 6: "2001:10:1:1::77"}[family]
    join = names.join_end(1, FUNCTION)
    for pod in ("1", "2"):
        for address in (INSIDE[family], unused):
            before = sent(sh, net.nodes[2], join)
            assert " 0 received" in sh(net.pods[pod], f"ping -n -c2 -i0.3 -W1 {address}", check=False)
            assert sent(sh, net.nodes[2], join) - before < 20, "it goes round"
        assert ask(net.pods[pod], "tcp", INSIDE[family]) in ("", "refused")
    via = {4: ("198.51.100.1", "10.200.2.2"), 6: ("2001:db8:7::1", "fd00:2::2")}[family]
    sh(net.outside, f"ip route replace {INSIDE[family]} via {via[0]}")
    sh(net.fabric, f"ip route replace {INSIDE[family]} via {via[1]}")
    assert ask(net.outside, "tcp", INSIDE[family]) == ""


@pytest.mark.every_kernel
@FAMILIES
def test_udp_clients_get_another_pod_when_theirs_is_gone(net, family):
    """By the same socket: its flow stays with a pod that serves, and is led elsewhere afterwards; nowhere, once the
    port is not published.
    """

    def released(*published):
        """The number, after the rules: without it the kernel keeps the flow where it is."""
        gateways = [gateway(1, published=published), gateway(2)]
        net.lead(gateways, released=False)
        assert asked(client).startswith(held_by)
        return net.release(2, ways_out(2, state(2, gateways)))

    net.lead([publishing(pods=("1",)), gateway(2)])
    assert answers(net, "udp", family, tries=1)
    with net.outside.run(lambda: client_of(held(1, 2)[family])) as client:
        held_by = "1 "
        assert asked(client).startswith("1 ")
        assert released(*ports(pods=("1", "2"))) == 0
        assert asked(client).startswith("1 ")
        assert released(*ports(pods=("2",))) >= 1
        held_by = "2 "
        assert asked(client).startswith("2 ")
        assert released(*ports(pods=("2",), protocols=("tcp",))) >= 1
        client.send(b"?")
        with pytest.raises(TimeoutError):
            client.recv(100)


def client_of(address):
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(2)
    made.connect((address, OUT))
    return made


def asked(client) -> str:
    client.send(b"?")
    return client.recv(100).decode()


def sent(sh, space, device) -> int:
    """Packets that a device has sent."""
    return json.loads(sh(space, f"ip -j -s link show dev {device}"))[0]["stats64"]["tx"]["packets"]


@FAMILIES
def test_connections_stay_with_their_pod_when_others_are_ready_or_the_controller_starts_again(net, family):
    net.lead([publishing(pods=("1",)), gateway(2)])
    assert answers(net, "tcp", family, tries=1)

    def connect():
        return socket.create_connection((held(1, 2)[family], OUT), 20)

    with net.outside.run(connect) as made:
        assert made.recv(100).decode().startswith("1 ")
        for pods in (("1", "2"), ("2",), (), ("2",)):
            net.lead([publishing(pods=pods), gateway(2)])
            made.sendall(b"still there?")
            assert made.recv(100) == b"still there?"
        assert answers(net, "tcp", family, tries=10) == {f"2 {INSIDE[family]}"}


@pytest.mark.every_kernel
@FAMILIES
def test_bytes_by_the_megabyte_in_both_directions(net, family):
    net.lead([publishing(pods=("1",)), gateway(2)])
    assert answers(net, "tcp", family, tries=1)

    def exchange():
        with socket.create_connection((held(1, 2)[family], OUT), 30) as made:
            made.recv(100)
            sent, got = 1_000_000, 0
            threading.Thread(target=made.sendall, args=(b"x" * sent,), daemon=True).start()
            while got < sent:
                got += len(made.recv(65536))
            return got

    assert net.outside.run(exchange) == 1_000_000


@FAMILIES
def test_pods_reach_published_ports_as_hosts_outside_do(net, family):
    """Of their own VPC, and of another one."""
    net.lead([publishing(exits=(2,), pods=("1",)), gateway(2, (2,))])
    for pod in ("2", "9"):
        assert answers(net, "tcp", family, tries=3, space=net.pods[pod]) == {f"1 {INSIDE[family]}"}


@FAMILIES
@pytest.mark.parametrize("pod", ["1", "2"])
def test_pods_leave_as_without_published_ports(net, sh, family, pod):
    net.lead([publishing(exits=(2,)), gateway(2)])
    sh(net.fabric, f"ip route replace {METADATA} dev out")
    assert net.seen(pod, family, tries=10) == held(1, 2)[family]
    for address in (FORBIDDEN[family], *((METADATA, "10.200.2.2") if family == 4 else ("fd00:2::2",))):
        assert " 0 received" in sh(net.pods[pod], f"ping -n -c2 -i0.3 -W1 {address}", check=False)


@FAMILIES
def test_a_pod_answers_from_the_port_that_is_published(net, family):
    """A connection of the pod's own from the published port's number: its answers are no connections from outside."""
    net.lead([publishing(exits=(2,)), gateway(2)])

    def leave():
        with socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET) as made:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.settimeout(20)
            made.bind((PODS["2"][family], OUT))
            made.connect((OUTSIDE[family], 4242))
            return made.recv(100).decode()

    assert net.seen("2", family, tries=10)
    assert net.pods["2"].run(leave) == held(1, 2)[family]


def test_an_address_of_its_own_is_held_for_its_port_alone(net, sh):
    """No packet of the VPC's own leaves with it."""
    further = {4: "203.0.113.99", 6: "2001:db8:cafe:1::99"}
    for family in (4, 6):
        via = {4: "10.200.2.2", 6: "fd00:2::2"}[family]
        sh(net.fabric, f"ip route replace {further[family]} via {via}")
    published = tuple(
        replace(one, address=ip_address(further[one.address.version])) for one in ports(protocols=("tcp",))
    )
    net.lead([gateway(1, (2,), published=published), gateway(2)])
    for family in (4, 6):
        eventually(lambda family=family: ask(net.outside, "tcp", further[family]))
        assert ask(net.outside, "tcp", further[family]).endswith(INSIDE[family])
        assert ask(net.outside, "tcp", held(1, 2)[family]) == ""
        assert net.seen("1", family) == held(1, 2)[family]


def test_a_second_writing_changes_nothing_and_all_of_it_goes(net):
    gateways = [publishing(), gateway(2)]
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
        assert not asyncio.run(left(node, gateways)), node
    for without in ([gateway(1), gateway(2)], []):
        net.lead(without)
        for node in net.nodes:
            assert not asyncio.run(left(node, without)), node
            shown = net.sh(
                net.nodes[node], "ip -br link; ip route show table all; ip -6 route show table all"
            )
            assert not [text for text in INSIDE.values() if f"{text} " in shown]
            for end in (names.gateway_vrf, names.inner_end, names.join_end):
                assert (end(1, FUNCTION) in shown) == (bool(without) and node != 1)
            rules = net.sh(net.nodes[node], "nft list ruleset")
            assert f"dport {OUT}" not in rules
        for family in (4, 6):
            assert ask(net.outside, "tcp", held(1, 2)[family]) == ""
    net.lead([gateway(1), gateway(2)])
    assert all(net.seen("1", family, tries=10) for family in (4, 6))
