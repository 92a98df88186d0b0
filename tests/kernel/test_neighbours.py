"""Reachability of neighbours, in both families: each is asked, and a stale entry of the kernel is not enough."""

import asyncio
import time
from ipaddress import ip_address

import pytest

from galactic.linux import neighbours
from galactic.linux.kernel import LinuxKernel

pytestmark = pytest.mark.every_kernel

DEVICE = "G000000001001H"
POD = {4: ip_address("10.1.1.1"), 6: ip_address("2001:10:1:1::1")}
"""As ``pair`` has them."""
UNUSED = {4: ip_address("10.1.1.99"), 6: ip_address("2001:10:1:1::99")}
BY_FAMILY = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
SILENT = {
    "link-down": "ip link set galactic0 down",
    "address-gone": "ip addr flush dev galactic0",
    "discovery-dropped": "ip6tables-legacy -t raw -I PREROUTING -p ipv6-icmp -j DROP; ip link set galactic0 arp off",
}
"""Done in the pod."""


def resolved(host, address, **more):
    return asyncio.run(neighbours.resolve(host, (DEVICE, address), **more))


def listed(sh, host, address):
    """The line of ip for it."""
    return sh(host, f"ip neigh show {address} dev {DEVICE}")


@BY_FAMILY
def test_one_that_answers(pair, family):
    assert resolved(pair, POD[family]) == "REACHABLE"


@BY_FAMILY
def test_no_host_has_the_address(pair, family):
    assert resolved(pair, UNUSED[family]) == "FAILED"


@BY_FAMILY
@pytest.mark.parametrize("why", SILENT)
def test_a_pod_that_does_not_answer_any_more(pair, pod, sh, family, why):
    """It had answered before, and the kernel's entry is still there."""
    assert resolved(pair, POD[family]) == "REACHABLE"
    sh(pod, SILENT[why])
    sh(pair, f"ip neigh change {POD[family]} dev {DEVICE} nud stale", check=False)
    assert resolved(pair, POD[family]) in ("FAILED", "INCOMPLETE")


@BY_FAMILY
def test_a_stale_neighbour_is_asked_and_a_reachable_one_is_not(pair, pod, sh, family):
    """Another link-layer address stands for a pod that has moved: it gets no answer."""
    address = POD[family]
    resolved(pair, address)
    right = listed(sh, pair, address).split()[2]
    wrong = "02:00:00:00:00:09"
    sh(pair, f"ip neigh replace {address} dev {DEVICE} lladdr {right} nud stale")
    assert resolved(pair, address) == "REACHABLE"
    for state in ("reachable", "permanent"):
        sh(pair, f"ip neigh replace {address} dev {DEVICE} lladdr {wrong} nud {state}")
        assert resolved(pair, address) == state.upper()
        assert wrong in listed(sh, pair, address)
    sh(pair, f"ip neigh replace {address} dev {DEVICE} lladdr {wrong} nud stale")
    assert resolved(pair, address) == "FAILED"
    assert resolved(pair, address) == "REACHABLE", "the next attempt asks all on the link"


@BY_FAMILY
def test_an_attempt_that_failed_is_made_again(pair, pod, sh, family):
    sh(pod, "ip link set galactic0 down")
    assert resolved(pair, POD[family], seconds=5) == "FAILED"
    sh(pod, f"ip link set galactic0 up; ip addr replace {POD[6]}/64 dev galactic0 nodad")
    assert resolved(pair, POD[family]) == "REACHABLE"


def test_no_such_device(host):
    assert asyncio.run(neighbours.resolve(host, ("nowhere", POD[4]))) == "NONE"


async def test_the_node_controller_asks_many_and_reads_them_in_one_go(pair, pod, sh):
    """Devices that are gone, and one without IPv6, do not keep it from the others; others' neighbours are left out."""
    sh(pair, "ip neigh add 10.0.0.9 dev d0 lladdr 02:00:00:00:00:09 nud permanent")
    sh(pair, "sysctl -qw net.ipv6.conf.d0.disable_ipv6=1")
    many = [(DEVICE, ip_address(f"10.1.{n // 250}.{n % 250 + 2}")) for n in range(260)]
    wanted = [("gone", POD[4]), (DEVICE, POD[4]), *many, ("d0", POD[6]), (DEVICE, POD[6])]
    async with LinuxKernel(pair) as kernel:
        assert await kernel.solicit(wanted) == {*wanted} - {("gone", POD[4]), ("d0", POD[6])}
        states = await _settled(kernel)
        assert {device for device, _ in states} == {DEVICE}
        assert {states[DEVICE, address] for address in POD.values()} == {"REACHABLE"}
        # The kernel removes failed entries when there are many, in all namespaces together (gc_thresh1).
        assert {states.get(neighbour, "FAILED") for neighbour in many} == {"FAILED"}
        sh(pod, "ip link set galactic0 arp off; ip addr flush dev galactic0")
        sh(pair, f"ip neigh flush dev {DEVICE}")
        await kernel.solicit([(DEVICE, address) for address in POD.values()])
        states = await _settled(kernel)
        assert {states[DEVICE, address] for address in POD.values()} == {"FAILED"}


async def _settled(kernel):
    """The states when every attempt has ended."""
    deadline = time.monotonic() + 120
    while "INCOMPLETE" in (states := await kernel.neighbours()).values():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    return states
