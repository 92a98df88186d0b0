"""The kernel's tables of neighbours are full, in both families: pods of VPCs are reached all the same.

A table is one for all network namespaces of a kernel, and has 1024 entries that count (``gc_thresh3``). So this fills
those of the kernel that it runs in, and runs in guests alone. Pod 9, of another VPC, sends ARP requests and neighbour
solicitations from made-up sources. Each has another MAC each time, so that no entry is old enough to be collected.
"""

import itertools
import socket
import struct
import threading
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest
from two_nodes import ADDRESSES, PODS, attached, checksum, path_of, patiently, two_nodes

from galactic import names
from galactic.linux import kept_neighbours, neighbours
from galactic.linux.kernel import LinuxKernel
from galactic.node.dataplane import plan

pytestmark = pytest.mark.vrf

BY_FAMILY = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
SOURCES = 1200
TABLES = {4: "arp_cache", 6: "ndisc_cache"}
"""Below /proc/net/stat of the initial network namespace."""


@pytest.fixture(autouse=True)
def _in_a_guest():
    """A machine's own tables are left alone."""
    if "User Mode Linux" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("fills tables that the machine needs: test_in_guest.py runs this in guests")


@pytest.fixture
def net(sh):
    """Nodes and pods of its own."""
    with two_nodes(sh) as net:
        net.protect()
        yield net


def refused(family: int) -> int:
    """Neighbours that a full table had no room for, ever: ``table_fulls``."""
    head, *processors = Path(f"/proc/net/stat/{TABLES[family]}").read_text().splitlines()
    column = head.split().index("table_fulls")
    return sum(int(line.split()[column], 16) for line in processors)


@contextmanager
def flooded(net):
    """From the time when both tables are full."""
    _, vpc, function = PODS["9"]
    host_end = bytes.fromhex(plan.mac(names.host_end(vpc, function)).replace(":", ""))
    ended = threading.Event()

    def opened():
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        made.bind(("galactic0", 0))
        return made

    def flood():
        for number in itertools.count():
            for source in range(SOURCES):
                mac = struct.pack("!BBI", 2, number & 0xFF, source)
                sending.send(host_end + mac + b"\x08\x06" + request(mac, source))
                sending.send(host_end + mac + b"\x86\xdd" + solicitation(mac, source))
                if ended.is_set():
                    return

    before = {family: refused(family) for family in TABLES}
    with net.pods["9"].run(opened) as sending:
        flooding = threading.Thread(target=flood)
        flooding.start()
        try:
            for _ in patiently():
                if all(refused(family) > count for family, count in before.items()):
                    break
            else:
                raise AssertionError("the tables are not full")
            yield
        finally:
            ended.set()
            flooding.join()


def request(mac: bytes, source: int) -> bytes:
    """An ARP request for the gateway (RFC 826)."""
    sender = (IPv4Address("10.66.0.1") + source).packed
    return struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + sender + bytes(6) + plan.GATEWAY4.packed


def solicitation(mac: bytes, source: int) -> bytes:
    """A neighbour solicitation for the gateway, with the source's link-layer address (RFC 4861 §4.3)."""
    sender, gateway = (IPv6Address("fe80::66:0") + source).packed, plan.GATEWAY6.packed
    message = struct.pack("!BBHI", 135, 0, 0, 0) + gateway + b"\x01\x01" + mac
    sum_ = checksum(sender + gateway + struct.pack("!II", len(message), 58) + message)
    message = message[:2] + struct.pack("!H", sum_) + message[4:]
    return struct.pack("!IHBB", 0x60000000, len(message), 58, 255) + sender + gateway + message


def ends(net):
    """(pod, namespace, device) of both ends of each attachment."""
    for pod, (node, vpc, function) in PODS.items():
        yield pod, net.nodes[node], names.host_end(vpc, function)
        yield pod, net.pods[pod], "galactic0"


async def unresolved(net, *, kept: bool) -> None:
    """The kernel knows no neighbour of a VPC. ``kept``: the plan's entries are there, as after an ADD."""
    for _, space, device in ends(net):
        entries = list(await kept_neighbours.kept(space, device.__eq__))
        assert entries
        for family in "46":
            net.sh(space, f"ip -{family} neigh flush dev {device}")
        assert not await kept_neighbours.keep(space, entries if kept else (), () if kept else entries)


def once(net, pod: str, address: str) -> bool:
    return " 0% packet loss" in net.sh(net.pods[pod], f"ping -c1 -W2 {address}", check=False)


def in_time(net, pod: str, address: str) -> bool:
    """Answered in the end: a kernel doubts an entry with a wrong MAC for some ten seconds before it solicits it."""
    return any(once(net, pod, address) for _ in patiently())


@BY_FAMILY
async def test_without_these_entries_no_pod_is_reached(net, family):
    """The attack: if this fails, a kernel is not affected."""
    await unresolved(net, kept=False)
    with flooded(net):
        assert not any(once(net, "1", ADDRESSES["3"][family == 6]) for _ in range(3))


@BY_FAMILY
async def test_a_pod_reaches_another_on_its_node(net, family):
    await unresolved(net, kept=True)
    with flooded(net):
        before = refused(family)
        assert once(net, "1", ADDRESSES["3"][family == 6])
        assert once(net, "3", ADDRESSES["1"][family == 6])
        for _ in patiently():
            if refused(family) > before:
                return


@BY_FAMILY
async def test_the_states_of_the_pods_are_still_found_out(net, family):
    """As the condition ``Neighbours`` and ``galactic trace`` do: silence and answers are still distinguished."""
    await unresolved(net, kept=True)
    _, vpc, function = PODS["1"]
    device, address = names.host_end(vpc, function), ip_address(ADDRESSES["1"][family == 6])
    with flooded(net):
        async with LinuxKernel(net.nodes[1]) as kernel:
            assert await kernel.solicit([(device, address)]) == {(device, address)}
            for _ in patiently():
                if (await kernel.neighbours())[device, address] == "REACHABLE":
                    break
        assert await neighbours.resolve(net.nodes[1], (device, address)) == "REACHABLE"
        assert (device, address) in await kept_neighbours.kept(net.nodes[1], device.__eq__), (
            "asking keeps it kept"
        )
        net.sh(net.pods["1"], "ip addr flush dev galactic0 scope global")
        net.sh(net.nodes[1], f"ip neigh change {address} dev {device} nud stale extern_learn")
        assert await neighbours.resolve(net.nodes[1], (device, address), seconds=30) == "FAILED"


@BY_FAMILY
async def test_a_pod_that_is_attached_meanwhile(net, family):
    _, vpc, function = PODS["3"]
    with flooded(net):
        net.sh(net.nodes[1], f"ip link delete {names.host_end(vpc, function)}")
        paths = {pod: path_of(space) for pod, space in net.pods.items()}
        await attached({1: net.nodes[1]}, paths)
        assert in_time(net, "1", ADDRESSES["3"][family == 6])


@BY_FAMILY
async def test_a_mac_that_the_pod_changes_is_followed(net, family):
    """As keepalived and bridges to virtual machines do: a permanent entry would stay at the old one."""
    with flooded(net):
        assert once(net, "1", ADDRESSES["3"][family == 6])
        net.sh(net.pods["3"], "ip link set galactic0 address 02:00:00:00:33:33")
        paths = {pod: path_of(space) for pod, space in net.pods.items()}
        await attached({1: net.nodes[1]}, paths)  # the kernel forgot the pod's own entries and IPv6 addresses
        assert in_time(net, "3", ADDRESSES["1"][family == 6])
        assert in_time(net, "1", ADDRESSES["3"][family == 6])


async def test_next_hops_of_the_underlay_are_kept_while_they_answer(net):
    node, hop = net.nodes[1], ("eth0", ip_address("fd00:1::1"))
    assert await neighbours.resolve(node, hop) == "REACHABLE"
    link_local = ip_address(
        net.sh(net.fabric, "ip -6 -o addr show dev e1 scope link").split()[3].split("/")[0]
    )
    net.sh(net.fabric, f"ping -c1 -W5 -I e1 {node_link_local(net)}")
    net.sh(node, "ip neigh add fd00:1::99 dev eth0 lladdr 02:00:00:00:00:99 nud stale")
    assert await kept_neighbours.keep_next_hops(node, ("eth0",))
    kept = await kept_neighbours.kept(node, "eth0".__eq__)
    assert {hop, ("eth0", link_local)} <= set(kept), "other addresses of the same neighbour as well"
    assert ("eth0", ip_address("ff02::1:ff00:1")) in kept, "by which it is solicited"
    assert ("eth0", ip_address("fd00:1::99")) not in kept, "nobody has asked that one"
    assert not await kept_neighbours.keep_next_hops(node, ("eth0",))
    assert "lladdr" in net.sh(node, "ip neigh show fd00:1::1 dev eth0"), "its MAC stays"
    with flooded(net):
        assert once(net, "1", ADDRESSES["2"][1])
    net.sh(net.fabric, "ip link set e1 down; ip link set e1 up")
    net.sh(
        node,
        "ip -6 neigh change fd00:1::1 dev eth0 lladdr 02:00:00:00:00:77 nud failed extern_learn",
        check=False,
    )
    await kept_neighbours.keep_next_hops(node, ("eth0",))
    assert hop not in await kept_neighbours.kept(node, "eth0".__eq__), "what failed is given back"
    async with LinuxKernel(node) as kernel:
        await kernel.release_next_hops()
    assert not await kept_neighbours.kept(node, lambda _: True)


def node_link_local(net) -> str:
    return net.sh(net.nodes[1], "ip -6 -o addr show dev eth0 scope link").split()[3].split("/")[0]
