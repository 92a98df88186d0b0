"""A pod sends first fragments alone, until the memory for reassembly is full, on a host that tracks connections: the
datagrams of other VPCs arrive all the same.
"""

import itertools
import socket
import struct

import pytest
from gateway_net import OUTSIDE, built, gateway
from two_nodes import ADDRESSES, PODS, hardware, ip, patiently, write_table

from galactic import names
from galactic.node.dataplane import fragments

pytestmark = [pytest.mark.vrf, pytest.mark.every_kernel]

BY_FAMILY = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
DATA = bytes(1376)
FRAGMENTS = 4000
"""ipfrag_high_thresh and nf_conntrack_frag6_high_thresh, 4 MiB, are full with less than half of them."""
TRACKED = (
    "nft add table inet host; nft 'add chain inet host seen { type filter hook prerouting priority 0; }';"
)
TRACKED += "nft add rule inet host seen ct state new counter"
"""A rule of another program: from here on the kernel tracks connections, and reassembles in both families."""
BIG = "ping -c1 -W1 -s 3000"


@pytest.fixture
def tracked(net, sh):
    """Both nodes track connections."""
    net.protect()
    for node in net.nodes.values():
        sh(node, TRACKED)
    yield net
    for node in net.nodes.values():
        sh(node, "nft delete table inet host; nft delete table inet galactic-fragments", check=False)


def first_fragment(family: int, number: int) -> bytes:
    """Of a datagram of pod 9 to pod 8, which is never completed (RFC 791 §3.1, RFC 8200 §4.5)."""
    source, destination = ADDRESSES["9"][family == 6], ADDRESSES["8"][family == 6]
    if family == 6:
        return ip(source, destination, 44, struct.pack("!BBHI", 17, 0, 1, number) + DATA)
    return ip(source, destination, 17, DATA, (number, 0x2000))


def flood(net, family: int) -> None:
    """Pod 9 sends more of them than the memory of its node holds."""
    via = bytes.fromhex(hardware(net.nodes[1], names.host_end(*PODS["9"][1:])))
    kind = 0x86DD if family == 6 else 0x0800

    def send():
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as made:
            for number in range(FRAGMENTS):
                made.sendto(first_fragment(family, number), ("galactic0", kind, 0, 0, via))

    net.pods["9"].run(send)


def excluded(net) -> None:
    """The node controller's table is on both nodes."""
    for node in net.nodes.values():
        write_table(node, fragments.table(()))


def big(net, family: int) -> set[str]:
    """The pods of VPC 1 on both nodes that answer pod 1's datagrams in fragments, of five each."""
    return {
        pod
        for pod, _ in itertools.product(("3", "2"), range(5))
        if " 0% packet loss" in net.sh(net.pods["1"], f"{BIG} {ADDRESSES[pod][family == 6]}", check=False)
    }


@BY_FAMILY
def test_fragments_of_another_vpc_take_nothing(tracked, family):
    excluded(tracked)
    flood(tracked, family)
    assert big(tracked, family) == {"3", "2"}


@BY_FAMILY
def test_without_the_table_the_memory_is_full(tracked, family):
    """The flood is one: what is proven above is not for lack of it."""
    flood(tracked, family)
    assert big(tracked, family) == set()


@pytest.fixture(scope="module")
def outward(sh, vrfs):
    with built(sh) as made:
        yield made


@BY_FAMILY
@pytest.mark.parametrize("pod", ["1", "2"])
def test_what_a_gateway_leads_out_is_reassembled(outward, sh, family, pod):
    """Pod 2 is on the gateway's node, pod 1 is not."""
    outward.lead([gateway(1, (2,))])
    assert any(
        " 0% packet loss" in sh(outward.pods[pod], f"{BIG} {OUTSIDE[family]}", check=False)
        for _ in patiently()
    )
