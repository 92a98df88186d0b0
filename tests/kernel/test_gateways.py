"""Ways out of VPCs, by the product's own plan and rules: packets of pods at a host outside, and those that must not get
there. Pods are on node 1, gateways on nodes 2 and 3. Two VPCs have equal addresses.
"""

import asyncio
import socket
import threading
from contextlib import suppress

import pytest
from gateway_net import (
    FORBIDDEN,
    FUNCTION,
    METADATA,
    MULTIPATH,
    NETWORKS,
    OUTSIDE,
    POD,
    PODS,
    PORT,
    built,
    gateway,
    held,
    planned,
    state,
)
from two_nodes import path_of, patiently

from galactic import names
from galactic.linux.kernel import LinuxKernel
from galactic.linux.nftables import Nftables
from galactic.linux.objects import change
from galactic.node.dataplane.connection_rules import REFUSED
from galactic.node.dataplane.gateway_rules import TABLE

pytestmark = [pytest.mark.vrf, pytest.mark.every_kernel]
SILENT = {4: "198.51.100.9", 6: "2001:db8:7::9"}
"""An address outside that answers nothing."""


@pytest.fixture(scope="module")
def net(sh, vrfs):
    with built(sh) as made:
        yield made


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


@pytest.mark.parametrize("family", [4, 6])
def test_a_vpc_has_a_share_of_connection_tracking_alone(net, sh, family):
    """All of VPC 1's connections that are never answered count, until they are given up. Those that are established go
    on, and the other VPC has its own share.
    """
    share = 40
    net.lead([gateway(1, (2,)), gateway(2, (2,))], connections=share)
    index = socket.AF_INET6 if family == 6 else socket.AF_INET

    def connect():
        return socket.create_connection((OUTSIDE[family], PORT), 20)

    def flood():
        for port in range(20000, 20000 + 10 * share):
            with socket.socket(index, socket.SOCK_DGRAM) as made:
                made.bind((POD[family], port))
                made.sendto(b"?", (SILENT[family], 9))

    def tracked() -> int:
        return int(sh(net.nodes[2], "sysctl -n net.netfilter.nf_conntrack_count"))

    sh(net.outside, f"ip addr replace {SILENT[family]}/{24 if family == 4 else '64 nodad'} dev eth0")
    sh(net.outside, f"ip{'6' * (family == 6)}tables -A INPUT -d {SILENT[family]} -j DROP")
    try:
        with net.pods["1"].run(connect) as made:
            assert made.recv(100).decode() == held(1, 2)[family]
            before = tracked()
            net.pods["1"].run(flood)
            assert share // 2 < tracked() - before < 5 * share, "more than a share only where this takes long"
            counted = net.nodes[2].run(lambda: asyncio.run(Nftables().counted(TABLE, REFUSED)))
            assert counted[names.exit_end(1, FUNCTION)] >= 4 * share
            made.sendall(b"still there?")
            assert made.recv(100) == b"still there?"
            assert net.seen("9", family, tries=10) == held(2, 2)[family]
        assert patient(lambda: net.seen("1", family) == held(1, 2)[family]), "there is room again"
    finally:
        sh(net.outside, f"ip{'6' * (family == 6)}tables -D INPUT -d {SILENT[family]} -j DROP")
        net.lead([])


def patient(true) -> bool:
    return any(true() for _ in patiently())


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
