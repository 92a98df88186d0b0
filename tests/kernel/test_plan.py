"""The whole plan on two nodes, made by the kernel adapter: who reaches whom, and that it reads back as it was written.

Two VPCs with the same addresses; two pods of VPC 1 on node 1, one of them terminating 192.168.3.0/24.
"""

import os
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_interface, ip_network
from pathlib import Path

import pytest

from galactic import names, srv6
from galactic.linux.kernel import LinuxKernel
from galactic.linux.namespace import Namespace
from galactic.linux.objects import (
    LOOPBACK_DEVICE,
    MAIN_TABLE,
    UNREACHABLE_METRIC,
    Direct,
    Encap,
    EndDT46,
    Link,
    Objects,
    Rule,
    Unreachable,
    Via,
    change,
    route_key,
)

SPACE = IPv6Network("2001:db8:ff00::/40")
GATEWAYS = (ip_interface("169.254.1.1/32"), ip_interface("fe80::1/64"))
GUEST = "galactic0"


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod: its node, VPC and function (which is the last part of its addresses, too)."""

    node: int
    vpc: int
    function: int

    @property
    def sid(self) -> IPv6Address:
        return srv6.sid(prefix(self.node), self.vpc, self.function).address

    @property
    def addresses(self) -> tuple[str, str]:
        return f"10.1.1.{self.function}/24", f"2001:10:1:1::{self.function}/64"


def prefix(node: int) -> IPv6Network:
    return IPv6Network(f"2001:db8:ff0{node}:100::/56")


def host(node: int) -> Objects:
    plan = Objects()
    plan.links[LOOPBACK_DEVICE] = Link("dummy")
    plan.addresses[LOOPBACK_DEVICE, ip_interface(f"{srv6.loopback(prefix(node))}/128")] = False
    plan.routes[route_key(MAIN_TABLE, srv6.locator(prefix(node)))] = Unreachable()
    plan.rules[Rule(999, SPACE, MAIN_TABLE)] = None
    plan.sysctls["net/vrf/strict_mode"] = "1"
    for device in ("all", "default", "eth0", LOOPBACK_DEVICE):
        plan.sysctls |= {
            f"net/ipv4/conf/{device}/forwarding": "1",
            f"net/ipv4/conf/{device}/rp_filter": "0",
            f"net/ipv6/conf/{device}/forwarding": "1",
            f"net/ipv6/conf/{device}/accept_ra": "0",
            f"net/ipv6/conf/{device}/seg6_enabled": "1" if device == "all" else "0",
        }
    return plan


def node(number: int, paths: dict[Pod, str], mode: str) -> Objects:
    """Everything on one node: its own pods attached, routes to all others', the termination."""
    plan = host(number)
    for vpc in sorted({pod.vpc for pod in paths if pod.node == number}):
        table = 100 + vpc
        plan.links[names.vrf(vpc)] = Link("vrf", table=table)
        for default in ("0.0.0.0/0", "::/0"):
            plan.routes[route_key(table, ip_network(default), UNREACHABLE_METRIC)] = Unreachable()
        for pod, path in paths.items():
            if pod.vpc == vpc:
                _pod(plan, number, pod, path=path, mode=mode)
    return plan


def _pod(plan: Objects, node: int, pod: Pod, *, path: str, mode: str) -> None:
    table = 100 + pod.vpc
    device = names.host_end(pod.vpc, pod.function)
    hosts = [ip_network(ip_interface(address).ip) for address in pod.addresses]
    terminates = (pod.vpc, pod.function) == (1, 3)
    behind = ip_network("192.168.3.0/24")
    if pod.node != node:
        target = Encap(LOOPBACK_DEVICE, pod.sid.packed, mode)
        for network in (*hosts, *([behind] if terminates else [])):
            plan.routes[route_key(table, network)] = target
        return
    plan.links[device] = Link("veth", master=names.vrf(pod.vpc), mtu=1400, peer=(path, GUEST))
    for gateway in GATEWAYS:
        plan.addresses[device, gateway] = False
    for network in hosts:
        plan.routes[route_key(table, network)] = Direct(device)
    if terminates:
        gateway = ip_interface(pod.addresses[0]).ip.packed
        plan.routes[route_key(table, behind)] = Via(device, gateway)
    sid = IPv6Network((pod.sid, 128))
    plan.routes[route_key(MAIN_TABLE, sid)] = EndDT46(names.vrf(pod.vpc), table)


def guest(pod: Pod) -> Objects:
    """The objects inside a pod."""
    plan = Objects()
    for address in pod.addresses:
        plan.addresses[GUEST, ip_interface(address)] = True
    four, six = (gateway.ip.packed for gateway in GATEWAYS)
    plan.routes[route_key(MAIN_TABLE, IPv4Network("169.254.1.1/32"))] = Direct(GUEST)
    plan.routes[route_key(MAIN_TABLE, IPv4Network("10.1.1.0/24"))] = Via(GUEST, four)
    plan.routes[route_key(MAIN_TABLE, IPv6Network("2001:10:1:1::/64"))] = Via(GUEST, six)
    if (pod.vpc, pod.function) != (1, 3):
        plan.routes[route_key(MAIN_TABLE, IPv4Network("192.168.3.0/24"))] = Via(GUEST, four)
    return plan


PODS = (Pod(1, 1, 1), Pod(1, 1, 3), Pod(2, 1, 2), Pod(1, 2, 1), Pod(2, 2, 2))
FABRIC = (
    "ip link set lo up; sysctl -qw net.ipv6.conf.all.forwarding=1;"
    "for n in 1 2; do ip link add e$n type veth peer name eth0 netns $(eval echo \\$node$n);"
    "ip addr add fd00:$n::1/64 dev e$n nodad; ip link set dev e$n up;"
    "ip -6 route add 2001:db8:ff0$n:100::/56 via fd00:$n::2; done"
)
UNDERLAY = (
    "ip link set lo up; ip addr add fd00:{n}::2/64 dev eth0 nodad; ip link set dev eth0 up;"
    "ip -6 route add default via fd00:{n}::1"
)


def path_of(namespace):
    return f"/proc/{os.getpid()}/fd/{namespace._fd}"


@pytest.fixture
async def nodes(sh):
    """(kernels by node number, pods' namespaces, fabric's namespace)."""
    with ExitStack() as stack:
        fabric, *hosts = (stack.enter_context(Namespace.fresh()) for _ in range(3))
        paths = " ".join(f"node{n}={path_of(host)}" for n, host in enumerate(hosts, 1))
        sh(fabric, f"{paths}; {FABRIC}")
        for n, host in enumerate(hosts, 1):
            sh(host, UNDERLAY.format(n=n))
        pods = {pod: stack.enter_context(Namespace.fresh()) for pod in PODS}
        for namespace in pods.values():
            sh(namespace, "ip link set lo up")
        async with AsyncExitStack() as kernels:
            yield (
                {n: await kernels.enter_async_context(LinuxKernel(host)) for n, host in enumerate(hosts, 1)},
                pods,
                fabric,
            )


async def build(kernels, pods, mode):
    paths = {pod: path_of(namespace) for pod, namespace in pods.items()}
    for number, kernel in kernels.items():
        wanted = node(number, paths, mode)
        await kernel.write(change(wanted, await kernel.read()))
        left = change(wanted, await kernel.read())
        assert not left, left
    for pod, path in paths.items():
        kernel = kernels[pod.node]
        await kernel.write_pod(path, change(guest(pod), await kernel.read_pod(path, GUEST)))
        assert await kernel.read_pod(path, GUEST) == guest(pod)


REACH = {
    ("1-1", "10.1.1.2"): "1-2",  # across nodes
    ("1-1", "2001:10:1:1::2"): "1-2",
    ("1-1", "10.1.1.3"): "1-3",  # on the same node
    ("1-1", "2001:10:1:1::3"): "1-3",
    ("1-2", "192.168.3.1"): "1-3",  # a terminated prefix
    ("1-1", "192.168.3.1"): "1-3",
    ("2-1", "10.1.1.2"): "2-2",  # its own 10.1.1.2, not that of VPC 1
    ("2-1", "10.1.1.3"): "",  # VPC 2 has no such pod, whatever VPC 1 has
    ("1-1", "fd00:1::2"): "",  # nothing leaks into the main table
}
LAST = {"1-1": ("10.1.1.3", "1-3"), "2-1": ("10.1.1.2", "2-2")}
"""By source: what it reaches for certain."""


@pytest.mark.every_kernel
@pytest.mark.vrf
@pytest.mark.parametrize("mode", ["encap.red", "encap"])
async def test_who_reaches_whom(nodes, sh, until, mode):
    kernels, pods, _ = nodes
    await build(kernels, pods, mode)
    by_name = {f"{pod.vpc}-{pod.function}": namespace for pod, namespace in pods.items()}
    sh(
        by_name["1-3"],
        "ip link add inner type dummy; ip link set inner up; ip addr add 192.168.3.1/24 dev inner",
    )

    def received(name):
        """Echo requests that a pod has received, of both families."""
        files = (Path("/proc/thread-self/net/snmp"), Path("/proc/thread-self/net/snmp6"))
        text = by_name[name].run(lambda: "".join(file.read_text() for file in files))
        rows = [line.split() for line in text.splitlines()]
        header, values = [row for row in rows if row[0] == "Icmp:"]
        six = next(row[1] for row in rows if row[0] == "Icmp6InEchos")
        return int(dict(zip(header, values, strict=True))["InEchos"]) + int(six)

    def answers(source, address):
        return " 0% packet loss" in sh(by_name[source], f"ping -c1 -W1 {address}", check=False)

    for (source, address), name in REACH.items():
        before = {name: received(name) for name in by_name}
        expected = name or LAST[source][1]
        if name:
            until(lambda source=source, address=address: answers(source, address))
        else:
            assert not answers(source, address), address
            # What comes after it on the same way has arrived: so would it have.
            until(lambda source=source: answers(source, LAST[source][0]))
        got = {name for name in by_name if received(name) > before[name]}
        assert got == {expected}, (source, address)


@pytest.mark.vrf
async def test_a_pod_that_goes_takes_nothing_of_the_others(nodes, sh):
    kernels, pods, _ = nodes
    await build(kernels, pods, "encap.red")
    paths = {pod: path_of(namespace) for pod, namespace in pods.items() if pod != Pod(1, 2, 1)}
    before = await kernels[1].read()
    wanted = node(1, paths, "encap.red")
    gone = change(wanted, before)
    assert {names.vrf(2), names.host_end(2, 1)} == set(gone.links.delete)
    await kernels[1].write(gone)
    assert not change(wanted, await kernels[1].read())
    await kernels[1].write(change(Objects(), await kernels[1].read()))
    left = await kernels[1].read()
    assert [left.links, left.addresses, left.routes, left.rules] == [{}, {}, {}, {}]


@pytest.mark.vrf
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("ip link del G000000001000V", id="vrf-gone"),
        pytest.param("ip link set G000000001001H nomaster", id="released-from-vrf"),
        pytest.param("ip link del lo-galactic", id="loopback-gone"),
        pytest.param("ip -6 route del 2001:db8:ff01:100::1:1", id="sid-gone"),
        pytest.param("sysctl -qw net.vrf.strict_mode=0", id="strict-mode-off"),
    ],
)
async def test_damage_is_mended_in_two_rounds(nodes, sh, damage):
    """Objects that went with a device are found missing once the device is back."""
    kernels, pods, _ = nodes
    await build(kernels, pods, "encap.red")
    paths = {pod: path_of(namespace) for pod, namespace in pods.items()}
    wanted = node(1, paths, "encap.red")
    sh(kernels[1]._namespace, damage)
    assert change(wanted, await kernels[1].read())
    for _ in range(2):
        await kernels[1].write(change(wanted, await kernels[1].read()))
    left = change(wanted, await kernels[1].read())
    assert not left, left
