"""The reference plan of two nodes and two VPCs, as objects: the same as docs and by-hand scripts make with ip(8)."""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_interface, ip_network

from galactic import names, srv6
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
    route_key,
)

SPACE = IPv6Network("2001:db8:ff00::/40")
GATEWAYS = (ip_interface("169.254.1.1/32"), ip_interface("fe80::1/64"))
GUEST = "galactic0"


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod: its node, VPC and function (also the last part of its addresses), and where its namespace is."""

    node: int
    vpc: int
    function: int

    @property
    def namespace(self) -> str:
        return f"p{self.vpc}-{self.function}"

    @property
    def path(self) -> str:
        return f"/run/netns/{self.namespace}"

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
            f"net/ipv6/conf/{device}/seg6_enabled": "1",
        }
    return plan


def node(number: int, pods: list[Pod], mode: str = "encap.red") -> Objects:
    """Everything on one node: its own pods attached, routes to all others', pod (1, 1, 3)'s termination."""
    plan = host(number)
    for vpc in sorted({pod.vpc for pod in pods if pod.node == number}):
        table = 100 + vpc
        plan.links[names.vrf(vpc)] = Link("vrf", table=table)
        for default in ("0.0.0.0/0", "::/0"):
            plan.routes[route_key(table, ip_network(default), UNREACHABLE_METRIC)] = Unreachable()
        for pod in pods:
            if pod.vpc == vpc:
                _pod(plan, number, table, pod, mode)
    return plan


def _pod(plan: Objects, node: int, table: int, pod: Pod, mode: str) -> None:
    device = names.host_end(pod.vpc, pod.function)
    hosts = [ip_network(ip_interface(address).ip) for address in pod.addresses]
    terminates = (pod.vpc, pod.function) == (1, 3)
    behind = ip_network("192.168.3.0/24")
    if pod.node != node:
        target = Encap(LOOPBACK_DEVICE, pod.sid.packed, mode)
        for network in (*hosts, *([behind] if terminates else [])):
            plan.routes[route_key(table, network)] = target
        return
    plan.links[device] = Link("veth", master=names.vrf(pod.vpc), mtu=1400, peer=(pod.path, GUEST))
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
    """What is inside a pod."""
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
