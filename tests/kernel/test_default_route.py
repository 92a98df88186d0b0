"""A pod that terminates 0.0.0.0/0 and ::/0, by the plan of two nodes: the others reach through it what has no longer
prefix, if they ask for it, and keep the default route of their own network, in any order of changes.
"""

import asyncio
import os
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import IPv6Network, ip_interface, ip_network

import pytest

from galactic import srv6
from galactic.linux.kernel import LinuxKernel
from galactic.linux.namespace import Namespace
from galactic.linux.objects import Objects, change, encap_key, packed
from galactic.node.dataplane import plan
from galactic.node.dataplane.parts import union
from galactic.node.state.attachment import Attachment, Termination

pytestmark = pytest.mark.vrf

VPC, TABLE = 1234, 1000001234
BLOCK = IPv6Network("2001:db8:ff00::/40")
PREFIXES = {node: IPv6Network(f"2001:db8:ff0{node}:100::/56") for node in (1, 2)}
EVERYTHING = (ip_network("0.0.0.0/0"), ip_network("::/0"))
ELSEWHERE = ("198.51.100.7", "2001:db8:7::7")
OWN_DEFAULT = "ip route add default via 10.244.0.1 dev eth0; ip -6 route add default via fd77::1 dev eth0"


def attachment(number, space):
    addresses = (ip_interface(f"10.1.1.{number}/24"), ip_interface(f"2001:10:1:1::{number}/64"))
    path = f"/proc/{os.getpid()}/fd/{space._fd}"
    networks = tuple(address.network for address in addresses)
    return Attachment(VPC, number, f"t/{number}", "c", path, "galactic0", addresses, networks=networks)


async def write_node(node, number, pods, remote):
    """The whole plan of a node; ``remote``: function → networks on the other."""
    facts = plan.Host(PREFIXES[number], BLOCK, "eth0")
    parts = [plan.host(facts), plan.vpc(VPC, TABLE)]
    parts += [plan.attached(facts, TABLE, pod, lambda _: True) for pod in pods]
    kernel = LinuxKernel(node)
    try:
        await kernel.write(change(union(parts), Objects()))
        for function, networks in remote.items():
            segment = srv6.sid(PREFIXES[3 - number], VPC, function).address.packed
            jobs = [(encap_key(TABLE, packed(one), segment), segment, False) for one in networks]
            await kernel.write_encaps("encap.red", jobs)
    finally:
        kernel.close()


async def write_pod(node, before, after):
    """The pod's routes as they change from one attachment to another; None: there was none, or there is none."""
    kernel = LinuxKernel(node)
    try:
        objects = [plan.pod(one) if one else Objects() for one in (after, before)]
        await kernel.write_pod((after or before).netns, change(*objects))
    finally:
        kernel.close()


@pytest.fixture
def world(sh):
    """(nodes, pods, attachments): pod 1 on node 1; on node 2 pod 2, and 3, which terminates everything."""
    with ExitStack() as stack:
        nodes = {number: stack.enter_context(Namespace.fresh()) for number in (1, 2)}
        pods = {number: stack.enter_context(Namespace.fresh()) for number in (1, 2, 3)}
        for space in (*nodes.values(), *pods.values()):
            sh(space, "ip link set lo up; sysctl -qw net.ipv6.conf.default.accept_dad=0")
        sh(
            nodes[1],
            "ip link add eth0 type veth peer name peer9;"
            f"ip link set peer9 netns /proc/{os.getpid()}/fd/{nodes[2]._fd} name eth0; ip link set eth0 up",
        )
        sh(nodes[2], "ip link set eth0 up")
        for number, far in ((1, 2), (2, 1)):
            sh(
                nodes[number],
                f"ip addr add fd00::{number}/64 dev eth0 nodad; ip -6 route add {PREFIXES[far]} via fd00::{far}",
            )
        for space in pods.values():
            sh(
                space,
                "ip link add eth0 type dummy; ip link set eth0 up; ip addr add 10.244.0.2/24 dev eth0;"
                "ip addr add fd77::2/64 dev eth0 nodad",
            )
        attachments = {number: attachment(number, space) for number, space in pods.items()}
        gate = attachments[3]
        vias = [address.ip for address in gate.addresses]
        terminations = tuple(Termination(*pair) for pair in zip(EVERYTHING, vias, strict=True))
        attachments[3] = replace(gate, terminations=terminations)
        hosts = {
            number: [ip_network(address.ip) for address in one.addresses]
            for number, one in attachments.items()
        }
        asyncio.run(write_node(nodes[1], 1, [attachments[1]], {2: hosts[2], 3: [*hosts[3], *EVERYTHING]}))
        asyncio.run(write_node(nodes[2], 2, [attachments[2], attachments[3]], {1: hosts[1]}))
        sh(
            pods[3],
            "ip link add inner type dummy; ip link set inner up; ip addr add 198.51.100.7/32 dev inner;"
            "ip addr add 2001:db8:7::7/128 dev inner nodad",
        )
        asyncio.run(write_pod(nodes[2], None, attachments[3]))
        yield nodes, pods, attachments


def reached(sh, pod, *addresses):
    """Those that answer; all are asked at the same time."""
    asking = "".join(
        f"(ping -n -c2 -i0.2 -W1 {address} | grep -q ' 0 received' || echo {address}) & "
        for address in addresses
    )
    return set(sh(pod, f"{asking} wait").split())


def defaults(sh, pod):
    """The default routes of the pod's own network."""
    shown = sh(pod, "ip route show default; ip -6 route show default")
    return sorted(line for line in shown.splitlines() if "dev eth0" in line)


@pytest.mark.parametrize("number", [1, 2], ids=["another-node", "the-same-node"])
@pytest.mark.parametrize("first", ["own", "ours"])
def test_a_default_route_by_the_vpc_is_asked_for(sh, world, number, first):
    nodes, pods, attachments = world
    node, pod = nodes[number], pods[number]
    plain, asking = attachments[number], replace(attachments[number], routes=EVERYTHING)
    if first == "own":
        sh(pod, OWN_DEFAULT)
    asyncio.run(write_pod(node, None, plain))
    if first == "ours":
        sh(pod, OWN_DEFAULT)
    before = defaults(sh, pod)
    assert len(before) == 2
    assert reached(sh, pod, *ELSEWHERE) == set(), "it has not asked"
    asyncio.run(write_pod(node, plain, asking))
    assert reached(sh, pod, *ELSEWHERE) == set(ELSEWHERE)
    assert defaults(sh, pod) == before
    asyncio.run(write_pod(node, asking, plain))
    assert reached(sh, pod, *ELSEWHERE, "10.1.1.3") == {"10.1.1.3"}
    assert defaults(sh, pod) == before
    asyncio.run(write_pod(node, plain, asking))
    asyncio.run(write_pod(node, asking, None))
    assert defaults(sh, pod) == before
