"""Router advertisements: a host whose default route or address comes from them keeps both, on any interface."""

import asyncio
import os
import subprocess
import sys
from ipaddress import IPv6Network

import pytest

from galactic.linux import sysctl
from galactic.linux.namespace import Namespace
from galactic.linux.underlay import underlay
from galactic.node.dataplane import plan
from galactic.node.prepare import sysctls

pytestmark = pytest.mark.every_kernel

SPACE, PREFIX = IPv6Network("2001:db8:ff00::/40"), IPv6Network("2001:db8:ff01:100::/56")
ADVERTISE = """
import socket, struct, sys
from ipaddress import IPv6Address
device, lifetime = sys.argv[1], int(sys.argv[2])
raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, 1800, 0) + IPv6Address("2001:db8:5::").packed
message = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, lifetime, 0, 0) + prefix
raw.sendto(message, ("ff02::1", 0, 0, socket.if_nametoindex(device)))
"""
"""One advertisement (RFC 4861 §4.2) with a prefix for addresses (§4.6.2)."""


@pytest.fixture
def hosted(sh):
    """(host, router): eth0 and eth1 of the host, r0 and r1 of the router; the host is as a kernel boots, no router."""
    with Namespace.fresh() as host, Namespace.fresh() as router:
        for space in (host, router):
            sh(space, "ip link set lo up; sysctl -qw net.ipv6.conf.default.accept_dad=0")
        for number in (0, 1):
            sh(
                router,
                f"ip link add r{number} type veth peer name peer9;"
                f"ip link set peer9 netns /proc/{os.getpid()}/fd/{host._fd} name eth{number}; ip link set r{number} up",
            )
            sh(host, f"ip link set eth{number} up")
        sh(router, "sysctl -qw net.ipv6.conf.all.forwarding=1")
        for number in (0, 1):
            sh(router, f"ip addr add fe80::1/64 dev r{number} nodad")
            sh(host, f"ip addr add fe80::2/64 dev eth{number} nodad")
        yield host, router


def advertise(router, device, lifetime=1800):
    argv = [sys.executable, "-ISc", ADVERTISE, device, str(lifetime)]
    router.run(lambda: subprocess.run(argv, check=True))


def default(sh, host):
    return sh(host, "ip -6 route show default")


def prepared(host):
    """As galactic-node-prepare writes sysctls; the underlay as it was found before."""
    found = asyncio.run(underlay(None, namespace=host))
    failed = sysctl.write(host, sysctls(found.device, found.advertised))
    assert failed.keys() <= {"net/vrf/strict_mode"}, "which kernels without VRFs do not have"
    return found


def test_a_default_route_of_an_advertisement_stays_and_is_renewed(hosted, sh, until):
    host, router = hosted
    advertise(router, "r0")
    until(lambda: "proto ra" in default(sh, host))
    until(lambda: "2001:db8:5:" in sh(host, "ip -6 addr show dev eth0"))
    found = prepared(host)
    assert (found.device, found.advertised) == ("eth0", ("eth0",))
    assert "proto ra" in default(sh, host), "forwarding alone takes it"
    assert sh(host, "sysctl -n net.ipv6.conf.all.forwarding").strip() == "1"
    advertise(router, "r0", lifetime=0)
    until(lambda: not default(sh, host))
    found = asyncio.run(underlay(None, device="eth0", namespace=host))
    assert found.advertised == ("eth0",), "a router that is away comes back"
    advertise(router, "r0")
    until(lambda: "proto ra" in default(sh, host))
    assert sh(host, "cat /proc/sys/net/ipv6/conf/eth0/autoconf").strip() == "1"


def test_another_interface_than_the_underlay(hosted, sh, until):
    host, router = hosted
    sh(
        host,
        "ip -6 addr add fd07::2/64 dev eth0 nodad; ip -6 route add default via fd07::1 dev eth0 metric 100",
    )
    advertise(router, "r1")
    until(lambda: "proto ra" in default(sh, host))
    found = prepared(host)
    assert (found.device, found.advertised) == ("eth0", ("eth1",))
    assert "dev eth1 proto ra" in default(sh, host)
    assert sh(host, "cat /proc/sys/net/ipv6/conf/eth0/accept_ra").strip() == "0"
    assert sh(host, "cat /proc/sys/net/ipv6/conf/eth1/accept_ra").strip() == "2"


def test_a_static_host_takes_no_more_advertisements(hosted, sh):
    host, router = hosted
    sh(host, "ip -6 addr add fd07::2/64 dev eth0 nodad; ip -6 route add default via fd07::1 dev eth0")
    found = prepared(host)
    assert (found.device, found.advertised) == ("eth0", ())
    advertise(router, "r0")
    sh(host, "sleep 0.3")
    assert "proto ra" not in default(sh, host)
    for name in ("accept_ra", "autoconf"):
        assert sh(host, f"cat /proc/sys/net/ipv6/conf/eth0/{name}").strip() == "0"


def test_what_a_program_handles_is_left_to_it(hosted, sh):
    """systemd-networkd sets accept_ra to 0 and writes the routes itself."""
    host, _ = hosted
    sh(
        host,
        "sysctl -qw net.ipv6.conf.eth0.accept_ra=0; ip -6 route add default via fe80::1 dev eth0 proto ra",
    )
    found = prepared(host)
    assert found.advertised == ()
    assert "proto ra" in default(sh, host)
    assert plan.host(plan.Host(PREFIX, SPACE, "eth0")).sysctls["net/ipv6/conf/eth0/accept_ra"] == "0"
