"""Two peered VPCs by packets: on one node by the node's own SIDs, and across nodes; and nothing else by them."""

import asyncio
from contextlib import ExitStack
from ipaddress import ip_interface, ip_network

import pytest
import two_nodes
from two_nodes import ADDRESSES, SPACE, Net, from_pod, path_of, payload, prefix, udp

from galactic import srv6
from galactic.linux.kernel import LinuxKernel
from galactic.linux.namespace import Namespace
from galactic.linux.objects import LOOPBACK_DEVICE, Encap, Objects, change, route_key
from galactic.node.dataplane import plan
from galactic.node.state.attachment import Attachment

pytestmark = [pytest.mark.vrf, pytest.mark.every_kernel]

VPC = 3
"""Peered with VPC 1. VPC 2 is peered with none."""
NETWORKS = (ip_network("10.3.1.0/24"), ip_network("2001:10:3:1::/64"))
PODS = {"a": (1, 1), "b": (2, 2)}
"""Name → (node, function) of the pods of VPC 3."""
OWN = ("1", "2")
"""Pods of VPC 1, on node 1 and node 2."""
BOTH = [(pod, peer) for pod in OWN for peer in PODS]


def attachment(pod: str, path: str) -> Attachment:
    _, function = PODS[pod]
    addresses = tuple(
        ip_interface(f"{address}/{bits}") for address, bits in zip(ADDRESSES[pod], (24, 64), strict=True)
    )
    return Attachment(
        VPC, function, f"t/{pod}", pod, path, "galactic0", addresses, (*NETWORKS, *two_nodes.NETWORKS)
    )


def way(node: int, vpc: int, function: int) -> Encap:
    return Encap(LOOPBACK_DEVICE, srv6.sid(prefix(node), vpc, function).address.packed, "encap.red")


def planned(node: int, paths: dict[str, str]) -> Objects:
    """The plan of a node that hosts both VPCs, with the routes of each in the other's table."""
    whole = two_nodes.planned(node, {pod: path for pod, path in paths.items() if pod not in PODS})
    facts, table = plan.Host(prefix(node), SPACE, "eth0"), plan.FIRST_TABLE + VPC
    parts = [plan.vpc(VPC, table)]
    for pod, (at, function) in PODS.items():
        attached = attachment(pod, paths[pod])
        if at == node:
            parts.append(plan.attached(facts, table, attached, lambda _: True))
        tables = (plan.FIRST_TABLE + 1, *((table,) if at != node else ()))
        ways = {
            route_key(one, network): way(at, VPC, function)
            for one in tables
            for network in attached.announces
        }
        parts.append(Objects(routes=ways))
    for pod in OWN:
        at, vpc, function = two_nodes.PODS[pod]
        announced = two_nodes.attachment(pod, paths[pod]).announces
        parts.append(
            Objects(routes={route_key(table, network): way(at, vpc, function) for network in announced})
        )
    for part in parts:
        for kind in ("links", "addresses", "routes", "rules", "sysctls", "lookups"):
            getattr(whole, kind).update(getattr(part, kind))
    return whole


@pytest.fixture(scope="module")
def net(sh, vrfs) -> Net:
    ADDRESSES.update(
        {pod: (f"10.3.1.{function}", f"2001:10:3:1::{function}") for pod, (_, function) in PODS.items()}
    )
    with ExitStack() as stack:
        net = stack.enter_context(two_nodes.two_nodes(sh))
        for pod in PODS:
            net.pods[pod] = stack.enter_context(Namespace.fresh())
            sh(net.pods[pod], "ip link set lo up")
        asyncio.run(peered(net, {pod: path_of(namespace) for pod, namespace in net.pods.items()}))
        net.protect()
        yield net


async def peered(net: Net, paths: dict[str, str]) -> None:
    for number, host in net.nodes.items():
        async with LinuxKernel(host) as kernel:
            await kernel.write(change(planned(number, paths), await kernel.read()))
            for pod, (at, _) in PODS.items():
                if at == number:
                    wanted = plan.pod(attachment(pod, paths[pod]))
                    await kernel.write_pod(
                        paths[pod], change(wanted, await kernel.read_pod(paths[pod], "galactic0"))
                    )
    for pod in OWN:
        for network in NETWORKS:
            family, gateway = ("-4", plan.GATEWAY4) if network.version == 4 else ("-6", plan.GATEWAY6)
            net.sh(net.pods[pod], f"ip {family} route add {network} via {gateway} dev galactic0 metric 2154")


@pytest.mark.parametrize(("pod", "peer"), BOTH)
@pytest.mark.parametrize("family", [4, 6])
def test_pods_of_both_reach_each_other(net: Net, pod: str, peer: str, family: int) -> None:
    assert net.answers(pod, ADDRESSES[peer][family == 6])
    assert net.answers(peer, ADDRESSES[pod][family == 6])
    assert net.connects(pod, peer, family, 20)
    assert net.connects(peer, pod, family, 20)


def test_a_large_packet_goes_by_the_nodes_own_sid(net: Net) -> None:
    """As large as the interface allows: on one node nothing on the way is smaller."""
    for address, size in zip(ADDRESSES["a"], (1460 - 28, 1460 - 48), strict=True):
        assert " 0% packet loss" in net.sh(
            net.pods["1"], f"ping -c1 -W20 -M do -s {size} {address}", check=False
        )


def test_neither_is_left_by_a_forged_source(net: Net) -> None:
    """A pod of VPC 1 writes to VPC 3 from its own address, and from none else: of VPC 3, or of no pod."""
    forged = {
        f"{source} to {peer}": udp(source, ADDRESSES[peer][":" in source], payload())
        for peer in PODS
        for source in ("10.3.1.2", "10.3.1.9", "10.1.1.2", "192.0.2.1", "2001:10:3:1::2", "2001:10:1:1::2")
    }
    assert from_pod(net, "1", forged, at=net.pods["a"], to="a") == set()
    assert from_pod(net, "1", forged, at=net.pods["b"], to="b") == set()


@pytest.mark.parametrize("peer", PODS)
def test_a_third_vpc_is_not_concerned(net: Net, peer: str) -> None:
    """It has the addresses of VPC 1. What its pods send to those of VPC 3 goes nowhere, on one node as across nodes."""
    for pod in ("8", "7"):
        for family, address in enumerate(ADDRESSES[peer]):
            gateway = plan.GATEWAY6 if family else plan.GATEWAY4
            net.sh(
                net.pods[pod], f"ip -{6 if family else 4} route replace {address} via {gateway} dev galactic0"
            )
            assert "100% packet loss" in net.sh(net.pods[pod], f"ping -c2 -W1 {address}", check=False)
