"""VPCs on a host that other programs change: what udev, systemd, netplan, docker and IPVS do, and what is left of it
after the node's next rounds. Each with pings and TCP between pods of one node and of two, in both families.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from two_nodes import ADDRESSES, PODS, SPACE, attached, path_of, planned, prefix

from galactic import names, srv6
from galactic.errors import NotYet
from galactic.linux.devices import is_galactic
from galactic.linux.kernel import LinuxKernel
from galactic.linux.objects import change
from galactic.linux.underlay import underlay

pytestmark = pytest.mark.vrf

IPV4, IPV6 = 0, 1
TO = ("3", "2")
"""A pod on the node of pod 1, and one on the other."""


def rounds(net, count=2, *, without=()):
    """The node's rounds on both nodes: what a device takes with it is seen once the device is back."""
    paths = {pod: path_of(namespace) for pod, namespace in net.pods.items()}

    async def write():
        for number, host in net.nodes.items():
            async with LinuxKernel(host) as kernel:
                wanted = planned(number, paths)
                for part in without:
                    getattr(wanted, part).clear()
                kernel._sysctls |= wanted.sysctls.keys()
                for _ in range(count):
                    await kernel.write(change(wanted, await kernel.read()))
                left = change(wanted, await kernel.read())
                assert not left, left

    asyncio.run(write())


def on_nodes(net, command):
    for host in net.nodes.values():
        net.sh(host, command)


def forget_neighbours(net):
    for pod in ("1", *TO):
        net.sh(net.pods[pod], "ip -4 neigh flush dev galactic0; ip -6 neigh flush dev galactic0")


def answered(net, family, pods=TO):
    """The pods that answer pod 1 at once."""
    return {
        pod
        for pod in pods
        if " 0% packet loss" in net.sh(net.pods["1"], f"ping -c1 -W1 {ADDRESSES[pod][family]}", check=False)
    }


def all_answer(net):
    for pod in TO:
        for address in ADDRESSES[pod]:
            assert net.answers("1", address), address
    for family in (4, 6):
        for way in (("1", "3"), ("1", "2"), ("2", "1")):
            assert net.connects(*way, family, 5), (way, family)


def echoes(namespace):
    """The echo requests that a namespace has received, of both families."""
    files = (Path("/proc/thread-self/net/snmp"), Path("/proc/thread-self/net/snmp6"))
    text = namespace.run(lambda: "".join(file.read_text() for file in files))
    rows = [line.split() for line in text.splitlines()]
    header, values = [row for row in rows if row[0] == "Icmp:"]
    six = next(row[1] for row in rows if row[0] == "Icmp6InEchos")
    return int(dict(zip(header, values, strict=True))["InEchos"]), int(six)


@pytest.mark.every_kernel
def test_an_address_that_the_node_has_too(net):
    """docker0's, nodelocaldns', a ClusterIP of IPVS: pods of the VPC are asked, not the node."""
    on_nodes(net, "ip link add docker0 type dummy; ip link set docker0 up")
    taken = [address for pod in TO for address in ADDRESSES[pod]]
    for address in taken:
        on_nodes(net, f"ip address add {address} dev docker0")
    try:
        rounds(net, without=("lookups",))
        before = {pod: echoes(net.pods[pod]) for pod in TO}
        for family in (IPV4, IPV6):
            answered(net, family)
        assert {pod: echoes(net.pods[pod]) for pod in TO} == before, "without the order the node takes them"
        assert not any(net.connects("1", pod, family, 0.5) for pod in TO for family in (4, 6))
        rounds(net)
        for pod in TO:
            for family, address in enumerate(ADDRESSES[pod]):
                count = echoes(net.pods[pod])[family]
                assert net.answers("1", address)
                assert echoes(net.pods[pod])[family] > count, address
                assert net.answers(pod, ADDRESSES["1"][family]), "its own address as a source"
        all_answer(net)
        for host in net.nodes.values():
            for address in taken:
                assert " 0% packet loss" in net.sh(host, f"ping -c1 -W5 {address}")
    finally:
        on_nodes(net, "ip link del docker0")
        rounds(net)


ENDS, VRFS = (f"$(ip -br link | grep -oE '^G[0-9a-zA-Z]{{12}}{letter}')" for letter in "HV")
OF_DEVICES = {
    "ends-down": f"for d in {ENDS}; do ip link set $d down; done",
    "ends-without-a-VRF": f"for d in {ENDS}; do ip link set $d nomaster; done",
    "ends-without-ARP": f"for d in {ENDS}; do ip link set $d arp off; done",
    "ends-in-another-group": f"for d in {ENDS}; do ip link set $d group default; done",
    "ends-without-addresses": (
        f"for d in {ENDS}; do ip link set $d addrgenmode none; ip -6 address flush dev $d;"
        "ip address flush dev $d; done"
    ),
    "VRFs-down": f"for d in {VRFS}; do ip link set $d down; done",
    "VRFs-gone": f"for d in {VRFS}; do ip link del $d; done",
    "loopback-down": "ip link set lo-galactic down",
    "loopback-gone": "ip link del lo-galactic",
    "neighbours": "for d in $(ip -br link | cut -d' ' -f1 | cut -d@ -f1); do ip neigh flush dev $d nud all; done",
    "forwarding": "sysctl -qw net.ipv6.conf.all.forwarding=0 net.ipv4.ip_forward=0",
    "rp_filter": "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 1 > $f; done",
    "seg6": "sysctl -qw net.ipv6.conf.all.seg6_enabled=0 net.vrf.strict_mode=0",
}
"""As by udev, networkd, NetworkManager, keepalived, `sysctl --system`, or by hand."""


@pytest.mark.parametrize(
    "flush",
    [
        *(pytest.param(command, id=name) for name, command in OF_DEVICES.items()),
        pytest.param("ip rule flush; ip -6 rule flush", id="flush"),
        pytest.param(
            "ip rule flush; ip -6 rule flush; ip rule del pref 0; ip rule del pref 0;"
            "ip -6 rule del pref 0; ip -6 rule del pref 0; ip -6 rule del pref 0",
            id="every-rule",
        ),
        pytest.param(
            "ip route flush proto 154 table all; ip -6 route flush proto 154 table all", id="routes"
        ),
        pytest.param(
            "for d in $(ls /proc/sys/net/ipv4/conf | grep '^G'); do ip address flush dev $d; done",
            id="addresses",
        ),
    ],
)
def test_what_a_flush_takes_is_put_back(net, flush):
    rounds(net)
    all_answer(net)
    on_nodes(net, flush)
    rounds(net)
    forget_neighbours(net)
    all_answer(net)


@pytest.mark.parametrize(
    ("setting", "family", "left"),
    [
        pytest.param("ipv4/conf/{}/rp_filter=1", IPV4, {"3"}, id="rp_filter"),
        pytest.param("ipv4/conf/{}/forwarding=0", IPV4, set(), id="forwarding"),
        pytest.param("ipv4/conf/{}/arp_ignore=8", IPV4, set(), id="arp_ignore"),
        pytest.param("ipv6/conf/{}/disable_ipv6=1", IPV6, set(), id="disable_ipv6"),
    ],
)
def test_sysctls_of_every_new_device(net, setting, family, left):
    """systemd-sysctl writes those of `net.ipv4.conf.*` to a device when it appears."""
    rounds(net)
    all_answer(net)
    name, _, value = setting.partition("=")
    for host in net.nodes.values():
        devices = net.sh(host, "ls /proc/sys/net/ipv4/conf").split()
        for device in devices:
            if device.startswith("G"):
                net.sh(host, f"echo {value} > /proc/sys/net/{name.format(device)}")
    forget_neighbours(net)
    assert answered(net, family) == left
    assert not net.connects("1", "2", 6 if family == IPV6 else 4, 0.5)
    for host in net.nodes.values():
        seen = settings_of(host)  # of ``galactic trace``
        assert seen
        for one in seen:
            assert one["text"].startswith(f"net.{name.format(one['device']).replace('/', '.')} is {value}, ")
    rounds(net)
    assert [settings_of(host) for host in net.nodes.values()] == [[], []]
    forget_neighbours(net)
    all_answer(net)


def test_a_flush_of_the_underlay(net):
    """As by netplan, or when systemd-networkd starts: addresses and routes of its interfaces go and come, and routes
    without an interface that it has not made go.
    """
    rounds(net)
    all_answer(net)
    on_nodes(
        net,
        "ip address flush dev eth0; ip route flush dev eth0; ip -6 route flush dev eth0;"
        "ip -6 route flush table main type unreachable",
    )
    for host in net.nodes.values():
        with pytest.raises(NotYet, match="no IPv6 route to"):
            asyncio.run(underlay(SPACE, namespace=host))
    assert not net.connects("1", "2", 4, 0.5)
    rounds(net)
    for number, host in net.nodes.items():
        net.sh(
            host,
            f"ip addr add fd00:{number}::2/64 dev eth0 nodad; ip -6 route add default via fd00:{number}::1",
        )
        assert asyncio.run(underlay(SPACE, namespace=host)).device == "eth0"
        assert "unreachable" in net.sh(host, f"ip -6 route show table main {srv6.locator(prefix(number))}")
    all_answer(net)


@pytest.mark.parametrize(
    "flush",
    [
        pytest.param("ip route flush table all; ip -6 route flush table all", id="every-table"),
        pytest.param(
            "sysctl -qw net.ipv6.conf.all.disable_ipv6=1; sysctl -qw net.ipv6.conf.all.disable_ipv6=0",
            id="disable_ipv6",
        ),
    ],
)
def test_what_also_takes_the_underlay(net, flush):
    """The kernel's own routes to addresses of host ends go as well. The underlay's program makes its own again."""
    rounds(net)
    all_answer(net)
    on_nodes(net, flush)
    for number, host in net.nodes.items():
        net.sh(
            host,
            "for d in lo eth0; do ip link set $d down; ip link set $d up; done;"
            f"ip addr replace fd00:{number}::2/64 dev eth0 nodad;"
            f"ip -6 route replace default via fd00:{number}::1",
        )
    rounds(net, 3)
    forget_neighbours(net)
    all_answer(net)


def test_a_pod_that_takes_its_interface_down_keeps_the_node_busy_in_no_round(net):
    """Without a carrier the host end has all that the plan has, before and after it was down itself."""
    rounds(net)
    try:
        net.sh(net.pods["1"], "ip link set galactic0 down")
        rounds(net, 1)
        on_nodes(net, OF_DEVICES["ends-down"])
        rounds(net, 3)
    finally:
        net.sh(net.pods["1"], "ip link set galactic0 up")
        asyncio.run(attached(net.nodes, {pod: path_of(one) for pod, one in net.pods.items()}))
    rounds(net)
    forget_neighbours(net)
    all_answer(net)


def test_udev_gives_none_of_ours_a_persistent_mac(net):
    """MACAddressPolicy=persistent replaces those that the kernel made up (addr_assign_type 1, NET_ADDR_RANDOM)."""
    rounds(net)
    for host in net.nodes.values():
        listed = net.sh(
            host,
            "unshare -m sh -c 'mount -t sysfs sysfs /sys; cd /sys/class/net; grep . */addr_assign_type'",
        )
        kinds = dict(line.split("/addr_assign_type:") for line in listed.splitlines())
        assert {name for name in kinds if name.startswith("G")}
        assert {name for name, kind in kinds.items() if kind == "1" and is_galactic(name)} == set()


def settings_of(host):
    command = [sys.executable, "-m", "galactic.node.inspection"]
    done = host.run(lambda: subprocess.run(command, text=True, capture_output=True, check=False))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["settings"]


def test_a_mac_that_udev_changes(net):
    rounds(net)
    device = names.host_end(*PODS["1"][1:])
    net.sh(net.nodes[1], f"ip link set {device} address 02:00:00:00:00:99")
    rounds(net)
    all_answer(net)
