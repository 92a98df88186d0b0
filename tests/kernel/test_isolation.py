"""Attacks of a tenant's pod, or from outside, that fail: each with the real packet, on the product's own plan.

The nodes and pods are those of ``two_nodes``. Packets are counted where they arrive, or would.
"""

import errno
import itertools
import select
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager

import pytest
from two_nodes import (
    PORT,
    from_pod,
    hardware,
    in_order,
    loopback,
    patiently,
    payload,
    routed,
    sid,
    transmit,
    udp,
)

from galactic.linux.namespace import Namespace

pytestmark = [pytest.mark.vrf, pytest.mark.every_kernel]


def test_legitimate_packets_pass(net):
    """Both ways, on one node and across two, from behind a termination, and a pod finds its gateway."""
    net.protect()
    net.sh(
        net.pods["3"],
        "ip link add inner type dummy; ip link set inner up; ip addr add 192.168.3.1/24 dev inner;"
        "ip addr add 2001:db8:3::1/64 dev inner nodad",
    )
    for pod in ("1", "2"):
        for address in ("10.1.1.3", "2001:10:1:1::3", "192.168.3.1", "2001:db8:3::1"):
            assert net.answers(pod, address), (pod, address)
    assert net.answers("2", "10.1.1.1")
    assert net.answers("2", "2001:10:1:1::1")
    net.sh(net.pods["3"], "ip -4 neigh flush dev galactic0; ip -6 neigh flush dev galactic0")
    assert net.answers("3", "-I 192.168.3.1 10.1.1.2")
    assert net.answers("3", "-I 2001:db8:3::1 2001:10:1:1::2")
    assert net.answers("1", "169.254.1.1")
    assert net.answers("1", "fe80::1%galactic0")


@contextmanager
def counted(at: Namespace):
    """Yields a function that returns whether a packet has arrived there since."""

    def capturing():
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(3))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        return made

    with at.run(capturing) as capture:

        def seen(packet: bytes) -> bool:
            try:
                while True:
                    if packet[-16:] in capture.recv(65535):
                        return True
            except BlockingIOError:
                return False

        yield seen


def test_a_routing_header_of_its_own_leads_nowhere(net):
    """By way of an address that the node itself has in the VPC: no packet filter sees where it goes then."""
    net.protect()
    inner = udp("2001:10:1:1::1", "2001:10:1:1::9", payload())
    with counted(net.pods["9"]) as seen:
        packet = routed("2001:10:1:1::1", "fe80::1", sid("9"), inner)
        from_pod(net, "1", {"srh": packet}, at=net.pods["3"], to="3")
        assert not seen(inner)


def test_a_routing_header_from_outside_leads_nowhere(net):
    """By way of the node's own address, which is not a SID."""
    net.protect()
    assert net.answers("1", "10.1.1.2")  # which needs no seg6_enabled
    inner = udp("10.1.1.2", "10.1.1.1", payload())
    with counted(net.pods["1"]) as seen:
        packet = routed("fd00:1::1", "fd00:1::2", sid("1"), inner, kind=4)
        via = hardware(net.nodes[1], "eth0")
        last = udp("fd00:1::1", "fd00:1::2", payload())
        net.arrivals({}, last, "e1", sender=net.fabric, at=net.nodes[1], via=via)
        net.fabric.run(lambda: transmit(packet, "e1", via))
        net.arrivals({}, last, "e1", sender=net.fabric, at=net.nodes[1], via=via)
        assert not seen(inner)


LISTENER = """
import select, socket
tcp = socket.create_server(("::", {port}), family=socket.AF_INET6, dualstack_ipv6=True)
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
udp.bind(("::", {port}))
print("listening", flush=True)
while True:
    for ready in select.select([tcp, udp], [], [])[0]:
        if ready is udp:
            print(udp.recv(100).decode(), flush=True)
        else:
            ready.accept()[0].close()
"""


@contextmanager
def listening(node: Namespace):
    """TCP and UDP on all addresses of a node, as a kubelet listens; gives what prints the datagrams it gets."""
    command = [sys.executable, "-c", LISTENER.format(port=PORT)]
    server = node.run(lambda: subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    try:
        assert server.stdout.readline() == "listening\n"
        yield server.stdout
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def test_the_nodes_services_are_out_of_reach(net):
    """Not by the gateway's addresses, not by the node's, not by multicast: neither as kernels are by default, nor where
    net.ipv4.*_l3mdev_accept is on, which hosts with VRFs of their own may have.
    """
    places = ("169.254.1.1", "fe80::1%galactic0", "fd00:1::2", loopback(1), "ff02::1%galactic0")

    rounds = itertools.count()

    def reached(output) -> set[tuple[str, str]]:
        mark = f"{next(rounds)} "  # what was left over by a look before is not of this one
        found = net.pods["1"].run(lambda: {("tcp", place) for place in connected(places)})
        for place in places:
            net.pods["1"].run(lambda place=place: says(place, mark + place))
        net.nodes[1].run(lambda: says("::1", f"{mark}no more"))  # which comes after them
        while (line := output.readline().strip()) != f"{mark}no more":
            if line.startswith(mark):
                found.add(("udp", line.removeprefix(mark)))
        return found

    net.sh(
        net.pods["1"],
        "ip route add default via 169.254.1.1; ip -6 route add default via fe80::1 dev galactic0",
    )
    with listening(net.nodes[1]) as output:
        net.protect(without=lambda rule: rule.chain == "INPUT")
        assert reached(output) == set()
        for kind in ("tcp", "udp"):
            net.sh(net.nodes[1], f"sysctl -qw net.ipv4.{kind}_l3mdev_accept=1")
        open_ = {("tcp", "169.254.1.1"), ("udp", "169.254.1.1")}
        assert any(reached(output) >= open_ for _ in patiently())
        net.protect()
        assert reached(output) == set()
    assert net.answers("1", "169.254.1.1")


def connected(places: Sequence[str]) -> set[str]:
    """Those that take a TCP connection within a second, all of them tried at once."""
    with ExitStack() as stack:
        waiting = {}
        for place in places:
            (family, *_, address), *_ = socket.getaddrinfo(place, PORT, type=socket.SOCK_STREAM)
            made = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            made.setblocking(False)
            if made.connect_ex(address) == errno.EINPROGRESS:
                waiting[made] = place
        found, deadline = set(), time.monotonic() + 1
        while waiting and (left := deadline - time.monotonic()) > 0:
            for made in select.select([], waiting, [], left)[1]:
                place = waiting.pop(made)
                if made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    found.add(place)
        return found


def says(place: str, text: str) -> None:
    in_order()
    (family, *_, address), *_ = socket.getaddrinfo(place, PORT, type=socket.SOCK_DGRAM)
    with socket.socket(family, socket.SOCK_DGRAM) as made:
        made.sendto(text.encode(), address)
