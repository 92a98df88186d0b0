"""The kernel adapter: read(write(x)) is x, failures are named, and pods are reached through their namespaces."""

import asyncio
import gc
import os
import re
import socket
import struct
import subprocess
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network
from pathlib import Path

import pytest
from counting import counted_calls

from galactic.errors import NotYet, Rejected, Unreachable
from galactic.linux.events import EVERYTHING, Changed, Events
from galactic.linux.kernel import LinuxKernel
from galactic.linux.namespace import Namespace
from galactic.linux.objects import MAIN_TABLE, Direct, Link, Objects, Rule, Via, change, route_key
from galactic.linux.preflight import preflight
from galactic.linux.underlay import Underlay, underlay
from galactic.node.dataplane.plan import POD_METRIC

HOST, OTHER = "G000000001001H", "G000000001002H"
MAC = "02:9a:00:00:00:01"
SPACE = IPv6Network("2001:db8:ff00::/40")


@pytest.fixture
async def kernel(host):
    async with LinuxKernel(host) as made:
        yield made


@pytest.fixture
def pod():
    """A pod's namespace, and a path to it."""
    with Namespace.fresh() as namespace:
        yield namespace, f"/proc/{os.getpid()}/fd/{namespace._fd}"


def plan(path, peer="galactic0"):
    objects = Objects()
    objects.links[HOST] = Link("veth", mtu=1400, peer=(path, peer), mac=MAC)
    objects.addresses[HOST, ip_interface("169.254.1.1/32")] = False
    objects.addresses[HOST, ip_interface("fe80::1/64")] = False
    objects.routes[route_key(101, IPv4Network("10.1.1.2/32"))] = Direct(HOST)
    objects.routes[route_key(101, IPv6Network("2001:10:1:1::2/128"))] = Direct(HOST)
    objects.rules[Rule(999, SPACE, MAIN_TABLE)] = None
    objects.sysctls["net/ipv6/conf/all/forwarding"] = "1"
    objects.sysctls |= {  # exist once the device does
        f"net/ipv4/conf/{HOST}/rp_filter": "0",
        f"net/ipv6/conf/{HOST}/disable_ipv6": "0",
        f"net/ipv6/conf/{HOST}/accept_ra": "0",
    }
    return objects


def opened() -> Counter[str]:
    """The number of open files of this process, by their target."""
    found: Counter[str] = Counter()
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that the folder was read with
            found[str(path.readlink())] += 1
    return found


@contextmanager
def nothing_stays():
    """Files opened and threads started within are closed and ended afterwards."""
    gc.collect()
    files, threads = opened(), set(threading.enumerate())
    yield
    left = [*(opened() - files), *(set(threading.enumerate()) - threads)]
    assert not left, left


@pytest.fixture
def tools(sh, until):
    return sh, until


async def apply(kernel, wanted):
    await kernel.write(change(wanted, await kernel.read()))


async def test_read_is_what_was_written(kernel, pod):
    wanted = plan(pod[1])
    await apply(kernel, wanted)
    actual = await kernel.read()
    assert not change(wanted, actual)
    assert {name: link._replace(ifindex=0) for name, link in actual.links.items()} == {
        HOST: Link("veth", mtu=1400, mac=MAC)
    }
    for part in ("addresses", "routes", "rules", "sysctls"):
        assert getattr(actual, part) == getattr(wanted, part)


async def test_everything_goes_again_and_nothing_else(kernel, pod, host, sh):
    before = sh(host, "ip -o link; ip -6 rule; ip route show table all proto 154")
    await apply(kernel, plan(pod[1]))
    await apply(kernel, Objects())
    assert sh(host, "ip -o link; ip -6 rule; ip route show table all proto 154") == before


async def test_both_ends_of_a_veth_get_a_new_mtu(kernel, pod, host, sh):
    await apply(kernel, plan(pod[1]))
    smaller = plan(pod[1])
    smaller.links[HOST] = smaller.links[HOST]._replace(mtu=1300)
    await apply(kernel, smaller)
    assert " mtu 1300 " in sh(host, f"ip -o link show {HOST}")
    assert " mtu 1300 " in sh(pod[0], "ip -o link show galactic0")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(f"ip link set {HOST} down", id="device-down"),
        pytest.param(f"ip link set {HOST} arp off", id="no-ARP"),
        pytest.param(f"ip link set {HOST} multicast off", id="no-multicast"),
        pytest.param(f"ip link set {HOST} group default", id="another-group"),
        pytest.param("ip route flush table local", id="own-routes"),
        pytest.param("ip -6 route flush table local", id="own-routes-of-IPv6"),
        pytest.param(f"ip link del {HOST}", id="device-gone"),
        pytest.param(f"ip link set {HOST} mtu 1300", id="mtu"),
        pytest.param(f"ip addr del 169.254.1.1/32 dev {HOST}", id="address-gone"),
        pytest.param(f"ip addr add 10.66.0.1/24 dev {HOST}", id="address-too-much"),
        pytest.param("ip -6 rule del pref 999", id="rule-gone"),
        pytest.param("ip route flush table 101; ip -6 route flush table 101", id="routes-gone"),
        pytest.param("ip route replace 10.1.1.2/32 dev d0 table 101 proto 154", id="route-elsewhere"),
        pytest.param("sysctl -qw net.ipv6.conf.all.forwarding=0", id="sysctl"),
        pytest.param(f"sysctl -qw net.ipv4.conf.{HOST}.rp_filter=1", id="sysctl-of-a-device"),
        pytest.param(f"sysctl -qw net.ipv6.conf.{HOST}.disable_ipv6=1", id="ipv6-off"),
        pytest.param(f"sysctl -qw net.ipv6.conf.{HOST}.accept_ra=2", id="accept-ra"),
        pytest.param(f"ip link set {HOST} address 02:00:00:00:00:99", id="mac"),
        pytest.param(
            f"ip link add {OTHER} type veth peer name x; ip link set {OTHER} up", id="device-too-much"
        ),
    ],
)
async def test_damage_is_seen_and_mended(kernel, pod, host, tools, damage):
    sh, until = tools
    wanted = plan(pod[1])
    await apply(kernel, wanted)
    until(lambda: local_routes(sh, host))  # one that the kernel makes afterwards would mend the damage itself
    sh(host, damage)
    assert change(wanted, await kernel.read())
    for _ in range(2):  # what a device takes with it is seen when the device is back
        await apply(kernel, wanted)
    left = change(wanted, await kernel.read())
    assert not left, left


def local_routes(sh, host):
    """Whether the kernel made the local routes to all IPv6 addresses of the host end, which it does a moment later."""
    addresses = sh(host, f"ip -6 -o address show dev {HOST}").splitlines()
    return len(sh(host, f"ip -6 route show table local type local dev {HOST}").splitlines()) == len(addresses)


async def test_udev_leaves_the_mac_of_a_host_end_alone(kernel, pod, host, sh):
    """MACAddressPolicy= of systemd.link(5) replaces those that the kernel drew (NET_ADDR_RANDOM, 1)."""

    def origin(device):
        return sh(
            host, f"unshare -m sh -c 'mount -t sysfs s /sys && cat /sys/class/net/{device}/addr_assign_type'"
        )

    await apply(kernel, plan(pod[1]))
    assert origin("d0").strip() == "1"
    assert origin(HOST).strip() == "3"  # NET_ADDR_SET


def advertise(pod):
    """A router advertisement of a lifetime of 1,800 s (RFC 4861 §4.2), from the pod's link-local address."""
    with pod.run(lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)) as made:
        index = pod.run(lambda: socket.if_nametoindex("galactic0"))
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        made.sendto(struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0), ("ff02::1", 0, 0, index))


@pytest.mark.every_kernel
async def test_a_pod_is_no_router_of_its_node(kernel, pod, tools):
    """Where another program lets host ends accept router advertisements (`net.ipv6.conf.*.accept_ra=2`)."""
    (inside, path), host, (sh, until) = pod, kernel._namespace, tools
    await apply(kernel, plan(path))
    await kernel.write_pod(path, change(of_pod(*BOTH), Objects()))
    until(lambda: " scope link" in sh(inside, "ip -6 -o address show dev galactic0 -tentative"))

    def accepted():
        advertise(inside)
        return "proto ra" in sh(host, "ip -6 route show default")

    sh(host, f"sysctl -qw net.ipv6.conf.{HOST}.accept_ra=2")
    until(accepted)
    await apply(kernel, plan(path))
    sh(host, "ip -6 route flush proto ra")
    assert not any(accepted() for _ in range(20))


async def test_names_that_are_not_ours_are_left_alone(kernel, host, sh):
    sh(host, "ip link add Gateway type veth peer name x; ip addr add 10.5.0.1/24 dev Gateway")
    assert await kernel.read() == Objects()
    await apply(kernel, Objects())
    assert "Gateway" in sh(host, "ip -o link")


async def test_a_pod_is_written_and_read(kernel, pod):
    _, path = pod
    await apply(kernel, plan(path))
    wanted = Objects()
    wanted.addresses["galactic0", ip_interface("10.1.1.2/24")] = True
    wanted.addresses["galactic0", ip_interface("2001:10:1:1::2/64")] = True
    gateway4, gateway6 = ip_interface("169.254.1.1").ip.packed, ip_interface("fe80::1").ip.packed
    wanted.routes[route_key(MAIN_TABLE, ip_network("169.254.1.1/32"))] = Direct("galactic0")
    wanted.routes[route_key(MAIN_TABLE, ip_network("10.1.1.0/24"))] = Via("galactic0", gateway4)
    wanted.routes[route_key(MAIN_TABLE, ip_network("2001:10:1:1::/64"))] = Via("galactic0", gateway6)
    assert await kernel.read_pod(path, "galactic0") == Objects()
    await kernel.write_pod(path, change(wanted, Objects()))
    assert await kernel.read_pod(path, "galactic0") == wanted
    less = Objects(addresses=dict(list(wanted.addresses.items())[:1]))
    await kernel.write_pod(path, change(less, wanted))
    assert await kernel.read_pod(path, "galactic0") == less


def of_pod(*addresses):
    """A pod's objects with these addresses."""
    wanted = Objects()
    for address in addresses:
        wanted.addresses["galactic0", ip_interface(address)] = True
    gateway4, gateway6 = ip_interface("169.254.1.1").ip.packed, ip_interface("fe80::1").ip.packed
    wanted.routes[route_key(MAIN_TABLE, ip_network("169.254.1.1/32"), POD_METRIC)] = Direct("galactic0")
    wanted.routes[route_key(MAIN_TABLE, ip_network("10.1.0.0/16"), POD_METRIC)] = Via("galactic0", gateway4)
    wanted.routes[route_key(MAIN_TABLE, ip_network("2001:10:1::/48"), POD_METRIC)] = Via(
        "galactic0", gateway6
    )
    return wanted


BOTH = ("10.1.1.2/24", "2001:10:1:1::2/64")
FAR = ("10.1.77.1", "2001:10:1:77::1")


@pytest.mark.every_kernel
@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(("10.1.1.3/24", "2001:10:1:1::3/64"), id="same-subnet"),
        pytest.param(("10.1.9.3/24", "2001:10:1:9::3/64"), id="other-subnet"),
        pytest.param(("10.1.1.2/25", "2001:10:1:1::2/64"), id="other-length"),
        pytest.param((*BOTH, "10.1.1.3/24"), id="one-more"),
    ],
)
@pytest.mark.parametrize("promoting", [0, 1])
async def test_routes_stay_when_a_pods_addresses_change(kernel, pod, tools, changed, promoting):
    """The kernel deletes a subnet's other addresses with the first, and all routes with the last one of IPv4. A packet
    every 10 ms: of each change one may be lost, the answer to an address that is gone.
    """
    (inside, path), host, (sh, until) = pod, kernel._namespace, tools
    sh(
        inside,
        f"sysctl -qw net.ipv4.conf.all.promote_secondaries=0 net.ipv4.conf.default.promote_secondaries={promoting}",
    )
    await apply(kernel, plan(path))
    for far in FAR:
        sh(host, f"ip address add {far} dev lo")
    sh(
        host,
        "ip link set lo up; ip route add 10.1.0.0/16 dev "
        + HOST
        + "; ip -6 route add 2001:10:1::/48 dev "
        + HOST,
    )
    before = of_pod(*BOTH)
    await kernel.write_pod(path, change(before, Objects()))
    for far in FAR:
        until(lambda far=far: " 0% packet loss" in sh(inside, f"ping -c 1 -W 1 {far}", check=False))
    pings = [
        inside.run(
            lambda far=far: subprocess.Popen(
                ["ping", "-q", "-i", "0.01", "-c", "100", far], stdout=subprocess.PIPE, text=True
            )
        )
        for far in FAR
    ]
    await asyncio.sleep(0.2)
    present = before
    steps = (of_pod(*changed), before, of_pod(*changed))
    for step in steps:
        await kernel.write_pod(path, change(step, present))
        assert await kernel.read_pod(path, "galactic0") == step
        present = step
    for ping in pings:
        printed = ping.communicate(timeout=120)[0]
        sent, received = map(int, re.search(r"(\d+) packets transmitted, (\d+) received", printed).groups())
        assert sent - received <= len(steps), printed


@pytest.mark.every_kernel
async def test_what_a_pod_gives_itself_is_its_own(kernel, pod, sh):
    """A VIP, as keepalived adds them, of both families: not read, so neither drift nor removed."""
    inside, path = pod
    await apply(kernel, plan(path))
    wanted = of_pod(*BOTH)
    await kernel.write_pod(path, change(wanted, Objects()))
    vips = "10.1.1.77/32", "2001:10:1:1::77/128"
    for vip in vips:
        sh(inside, f"ip address add {vip} dev galactic0")
    assert await kernel.read_pod(path, "galactic0") == wanted
    less = of_pod("10.1.1.3/24")
    await kernel.write_pod(path, change(less, wanted))
    assert await kernel.read_pod(path, "galactic0") == less
    listed = sh(inside, "ip -br address show dev galactic0").split()
    assert {*vips, "10.1.1.3/24"} <= {*listed}
    assert not {*BOTH} & {*listed}


async def test_addresses_of_an_earlier_version_are_ours(kernel, pod, sh):
    """They have no origin, but no prefix route either."""
    inside, path = pod
    await apply(kernel, plan(path))
    sh(inside, "ip link set galactic0 up; ip address add 10.1.1.2/24 dev galactic0 noprefixroute")
    assert (await kernel.read_pod(path, "galactic0")).addresses == {
        ("galactic0", ip_interface("10.1.1.2/24")): True
    }


async def test_ipv6_is_enabled_on_our_interface_of_a_pod(kernel, pod, sh, until):
    """As a container runtime or securityContext.sysctls leave it; other interfaces stay as they are."""
    inside, path = pod
    sh(inside, "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")
    await apply(kernel, plan(path))
    sh(inside, "ip link add eth0 type veth peer name eth9")
    wanted = of_pod(*BOTH)
    await kernel.write_pod(path, change(wanted, Objects()))
    assert await kernel.read_pod(path, "galactic0") == wanted
    assert sh(
        inside, "sysctl -n net.ipv6.conf.eth0.disable_ipv6 net.ipv6.conf.galactic0.disable_ipv6"
    ).split() == ["1", "0"]
    until(lambda: " 0% packet loss" in sh(inside, "ping -c 1 -W 1 fe80::1%galactic0", check=False))


OTHERS = (
    "default via 10.0.9.1 dev eth0",
    "10.96.0.0/12 via 10.0.9.1 dev eth0",
    "10.98.0.0/16 via 10.0.9.1 dev eth0 metric 2154",
    "-6 default via fd00:9::1 dev eth0 metric 1024",
    "-6 fd00:96::/48 via fd00:9::1 dev eth0 metric 1024",
    "-6 fd00:98::/48 via fd00:9::1 dev eth0 metric 2154",
)
"""Routes of a pod's default network: of any metric, the one of Galactic's routes too."""
SAME = ("10.96.0.0/12", "10.97.0.0/16", "fd00:96::/48", "fd00:97::/48")
TAKEN = ("10.98.0.0/16", "fd00:98::/48")


@pytest.mark.parametrize("first", ["theirs", "ours"])
async def test_routes_of_others_in_a_pod_stay(kernel, pod, sh, first):
    """Whichever was first, and whatever is added, changed and withdrawn; also where another has a route's key."""
    inside, path = pod

    def added():
        sh(
            inside,
            "; ".join(f"ip {'-6 ' * (r[:2] == '-6')}route add {r.removeprefix('-6 ')}" for r in OTHERS),
        )

    def others():
        listed = (sh(inside, f"ip {family} -o route show table main dev eth0") for family in ("-4", "-6"))
        return sorted(
            line.strip() for text in listed for line in text.splitlines() if "proto 154" not in line
        )

    def wanted(*networks):
        return attached([ip_network(network) for network in networks])

    await apply(kernel, plan(path))
    sh(
        inside,
        "ip link set lo up; ip link add eth0 type veth peer name eth9; ip link set eth9 up; ip link set eth0 up;"
        "ip addr add 10.0.9.2/24 dev eth0; ip -6 addr add fd00:9::2/64 dev eth0 nodad",
    )
    steps = [wanted(*SAME), wanted(*SAME, "10.99.0.0/16"), wanted("10.96.0.0/12"), wanted(*SAME), wanted()]
    if first == "ours":
        await kernel.write_pod(path, change(steps[-2], Objects()))
        added()
    else:
        added()
    before = others()
    assert len(before) >= len(OTHERS)
    for step in steps:
        await kernel.write_pod(path, change(step, await kernel.read_pod(path, "galactic0")))
        assert await kernel.read_pod(path, "galactic0") == step
        assert others() == before
    for network in TAKEN:
        with pytest.raises(Unreachable, match="a route of another program has its destination and metric"):
            await kernel.write_pod(path, change(wanted(network), await kernel.read_pod(path, "galactic0")))
        assert others() == before
        left = await kernel.read_pod(path, "galactic0")
        await kernel.write_pod(path, change(wanted(), left))
        assert others() == before


async def test_a_route_of_ours_in_a_pod_is_replaced(kernel, pod):
    """By one of another gateway, whose key is the same; and one of no metric, as earlier versions made, by one with."""
    _, path = pod
    await apply(kernel, plan(path))
    first, second = ("169.254.1.1", "fe80::1"), ("169.254.1.7", "fe80::7")
    for gateways, metric in ((first, 0), (first, POD_METRIC), (second, POD_METRIC), (second, 0)):
        step = attached([ip_network("10.97.0.0/16"), ip_network("fd00:97::/48")], gateways, metric)
        actual = await kernel.read_pod(path, "galactic0")
        await kernel.write_pod(path, change(step, actual))
        assert await kernel.read_pod(path, "galactic0") == step


def attached(networks, gateways=("169.254.1.1", "fe80::1"), metric=POD_METRIC):
    """A pod's objects as the node's plan has them."""
    objects = Objects()
    objects.addresses["galactic0", ip_interface("10.1.1.2/24")] = True
    objects.addresses["galactic0", ip_interface("2001:10:1:1::2/64")] = True
    four, six = (ip_interface(gateway).ip.packed for gateway in gateways)
    for network in networks:
        via = Via("galactic0", four if network.version == 4 else six)
        objects.routes[route_key(MAIN_TABLE, network, metric)] = via
    return objects


async def test_a_pod_that_is_gone(kernel, tmp_path):
    file = tmp_path / "netns"
    assert await kernel.read_pod(str(file), "galactic0") is None
    file.touch()  # what is left of a namespace's mount point
    assert await kernel.read_pod(str(file), "galactic0") is None
    with pytest.raises(Unreachable, match="not a network namespace"):
        await kernel.write_pod(str(file), change(plan(""), Objects()))


async def test_no_device_in_a_pod(kernel, pod):
    assert await kernel.read_pod(pod[1], "galactic0") is None


async def test_nothing_stays_open_of_a_pod(kernel, pod):
    """A socket that is left inside keeps the pod's namespace, and so its veth, for as long as we run."""
    _, path = pod
    gone = change(Objects(addresses={("nobody", ip_interface("10.9.9.9/32")): True}), Objects())
    with nothing_stays():
        for _ in range(3):
            assert await kernel.read_pod(path, "galactic0") is None
            with pytest.raises(Unreachable):
                await kernel.write_pod(path, gone)


async def test_an_interface_name_that_the_pod_has_already(kernel, pod, host, sh):
    inside, path = pod
    sh(inside, "ip link add galactic0 type veth peer name x")
    with pytest.raises(Rejected, match="galactic0") as caught:
        await apply(kernel, plan(path))
    assert caught.value.reason == "InterfaceTaken"
    assert HOST not in sh(host, "ip -o link")
    assert (await kernel.read()).rules  # what did not depend on it is there


async def test_failures_name_their_objects(kernel):
    wanted = Objects()
    wanted.addresses[OTHER, ip_interface("10.0.0.9/32")] = False
    wanted.routes[route_key(7, ip_network("10.6.0.0/24"))] = Direct("nowhere")
    wanted.routes[route_key(7, ip_network("10.6.1.0/24"))] = Direct("d0")
    wanted.sysctls["net/ipv4/no/such"] = "1"
    with pytest.raises(Unreachable) as caught:
        await kernel.write(change(wanted, Objects()))
    for name in (f"address 10.0.0.9/32 of {OTHER}", "route 10.6.0.0/24 table 7", "sysctl net/ipv4/no/such"):
        assert name in str(caught.value)
    assert route_key(7, ip_network("10.6.1.0/24")) in (await kernel.read()).routes


async def test_writing_one_route_reads_no_table(kernel):
    """One route among 50,000 costs what one route alone does."""

    async def steps():
        one = change(Objects(routes={route_key(102, ip_network("10.200.0.0/24")): Direct("d0")}), Objects())
        with counted_calls() as calls:
            for _ in range(3):
                await kernel.write(one)
        return calls.total()

    alone = await steps()
    many = {route_key(101, IPv4Network((0x0A000000 + i, 32))): Direct("d0") for i in range(50_000)}
    await kernel.write(change(Objects(routes=many), Objects()))
    assert await steps() < 2 * alone


async def test_nothing_stays_open(host, pod):
    with nothing_stays():
        for _ in range(5):
            async with LinuxKernel(host) as kernel:
                await apply(kernel, plan(pod[1]))
                await kernel.read_pod(pod[1], "galactic0")
                await apply(kernel, Objects())


async def reported(events, sh, host):
    """All changes reported up to now. Changes a sysctl as a marker: earlier events come before it."""
    setting = "net.ipv4.conf.default.rp_filter"
    sh(host, f"sysctl -qw {setting}={int(sh(host, f'sysctl -n {setting}')) ^ 1}")
    found = Changed(0)
    while Changed.SYSCTLS not in found:
        async with asyncio.timeout(120):
            found |= await anext(events)
    return found & ~Changed.SYSCTLS


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        pytest.param("ip route add 10.8.0.0/24 dev d0 proto 154", Changed.ROUTES, id="our-route-added"),
        pytest.param("ip -6 route del 2001:10:9::/64 table 101", Changed.ROUTES, id="our-route-deleted"),
        pytest.param("ip route add 10.8.0.0/24 dev d0 proto bird", Changed(0), id="foreign-route"),
        pytest.param(f"ip link add {OTHER} type veth peer name x", Changed.LINKS, id="our-device"),
        pytest.param("ip link add foreign type veth peer name x", Changed(0), id="foreign-device"),
        pytest.param("ip addr add 10.8.0.1/24 dev d1", Changed(0), id="foreign-address"),
        pytest.param(
            "ip -6 rule add pref 7 to 2001:db8::/32 lookup main protocol 154", Changed.RULES, id="our-rule"
        ),
        pytest.param("ip -6 rule add pref 7 to 2001:db8::/32 lookup main", Changed(0), id="foreign-rule"),
        pytest.param("ip rule add pref 7 from 10.8.0.0/24 lookup main", Changed(0), id="foreign-rule-v4"),
        pytest.param("ip rule del pref 0", Changed.RULES, id="local-rule-v4"),
        pytest.param("ip -6 rule flush", Changed.RULES, id="main-rule-v6"),
        pytest.param("ip rule add pref 9 l3mdev", Changed.RULES, id="rule-of-vrfs"),
    ],
)
async def test_events_report_changes_by_other_programs(kernel, host, sh, command, expected):
    await kernel.write(
        change(Objects(routes={route_key(101, ip_network("2001:10:9::/64")): Direct("d0")}), Objects())
    )
    with Events(host, own_port=kernel.port) as events:
        await kernel.write(
            change(Objects(routes={route_key(5, ip_network("10.9.0.0/24")): Direct("d0")}), Objects())
        )
        assert await reported(events, sh, host) == Changed(0)  # that was us
        sh(host, command)
        assert await reported(events, sh, host) == expected


async def test_an_event_for_an_address_of_ours(kernel, host, sh):
    sh(host, f"ip link add {OTHER} type veth peer name x")
    with Events(host, own_port=kernel.port) as events:
        sh(host, f"ip addr add 10.8.0.1/32 dev {OTHER}")
        assert await reported(events, sh, host) == Changed.ADDRESSES


async def test_too_many_events_mean_a_full_resync(kernel, host, sh, tmp_path):
    routes = "".join(
        f"route add 10.{i // 250}.{i % 250}.0/24 dev d0 table 7 proto 154\n" for i in range(20_000)
    )
    with Events(host, own_port=kernel.port) as events:
        batch = tmp_path / "batch"
        batch.write_text(routes)
        sh(host, f"ip -batch {batch}")
        async with asyncio.timeout(120):
            assert await anext(events) == EVERYTHING
        assert await reported(events, sh, host) == Changed(0)


async def test_the_underlay_is_where_the_space_is_routed(host, sh):
    sh(
        host,
        "ip link set d0 mtu 1442; ip -6 route add default via fd00::2; ip -6 addr add fd01::1/64 dev d1 nodad",
    )
    assert await underlay(SPACE, namespace=host) == Underlay("d0", 1442)
    sh(host, f"ip -6 route add {SPACE} via fd01::2")
    assert await underlay(SPACE, namespace=host) == Underlay("d1", 1500, others=("d0",))
    assert await underlay(None, namespace=host) == Underlay("d0", 1442)
    assert await underlay(SPACE, device="d0", namespace=host) == Underlay("d0", 1442, others=("d1",))


async def test_no_underlay(host):
    with pytest.raises(NotYet, match="2001:db8:ff00::/40"):
        await underlay(SPACE, namespace=host)
    with pytest.raises(Rejected, match="nope"):
        await underlay(SPACE, device="nope", namespace=host)


def test_preflight_leaves_nothing_behind(host, has_vrf):
    """In a namespace of its own."""

    def inside():
        before = socket.if_nameindex()
        found = asyncio.run(preflight())
        assert socket.if_nameindex() == before
        return found

    with nothing_stays():
        result = host.run(inside)
    findings = {finding.name: finding.ok for finding in result.findings}
    assert findings["VRF"] is findings["EndDT46"] is findings["StrictMode"] is has_vrf
    assert findings["Veth"] is findings["PolicyRules"] is findings["Encapsulation"] is True
    assert (result.encap == "encap.red") is findings["ReducedEncapsulation"]
