"""Makes this network namespace a node with one pod, by the node controller's plan.

``plan.py {"number", "netns", "rules", "peers"}``: see ``worlds``.
"""

import asyncio
import json
import sys
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_interface, ip_network

from worlds import PODS

from galactic import srv6
from galactic.linux.firewall import firewall, install
from galactic.linux.kernel import LinuxKernel
from galactic.linux.nftables import Nftables, Table, difference
from galactic.linux.objects import Objects, change, encap_key, packed
from galactic.names import host_end
from galactic.node.dataplane import plan
from galactic.node.dataplane.parts import union
from galactic.node.policies.rules import Allow, Rules
from galactic.node.policies.ruleset import table
from galactic.node.state.attachment import Attachment

VPC, TABLE = 1234, 1000001234
BLOCK = IPv6Network("2001:db8:ff00::/40")


async def main() -> None:
    given = json.loads(sys.argv[1])
    number, far = given["number"], 3 - given["number"]
    prefixes = {number: IPv6Network(f"2001:db8:ff0{number}:100::/56") for number in (1, 2)}
    addresses = tuple(
        ip_interface(f"{PODS[family][number]}/{length}") for family, length in ((4, 24), (6, 64))
    )
    networks = tuple(address.network for address in addresses)
    pod = Attachment(
        VPC, number, f"bench/{number}", "c", given["netns"], "galactic0", addresses, networks=networks
    )
    facts = plan.Host(prefixes[number], BLOCK, "eth0")
    parts = plan.host(facts), plan.vpc(VPC, TABLE), plan.attached(facts, TABLE, pod, lambda _: True)
    segment = srv6.sid(prefixes[far], VPC, far).address.packed
    remote = [packed(ip_network(PODS[family][far])) for family in (4, 6)]
    async with LinuxKernel() as kernel:
        await kernel.write(change(union(parts), Objects()))
        await kernel.write_pod(pod.netns, change(plan.pod(pod), Objects()))
        jobs = [(encap_key(TABLE, network, segment), segment, False) for network in remote]
        await kernel.write_encaps("encap.red", jobs)
    locator, loopback = srv6.locator(prefixes[number]), srv6.loopback(prefixes[number])
    await install(firewall(BLOCK, locator, loopback, ("eth0",)))
    if given["rules"]:
        device = host_end(VPC, number)
        wanted = table({device: [rules(given["rules"])]}, {"peers": group(given["peers"])})
        await Nftables().apply(difference(Table(wanted.name), wanted))


def rules(count: int) -> Rules:
    """Both directions, with a port more in each rule; the last ones let the measurements pass."""
    allowed = tuple(
        Allow(groups=frozenset({"peers"}), ports=((6, 10_000 + 2 * number, 10_000 + 2 * number),))
        for number in range(count - 1)
    )
    allowed += (Allow(groups=frozenset({"peers"})),)
    return Rules("policy-bench", False, allowed, allowed)


def group(count: int) -> frozenset[IPv4Address | IPv6Address]:
    """Both pods, and other addresses of their networks."""
    pods = [ip_address(address) for addresses in PODS.values() for address in addresses.values()]
    others = [IPv4Address(0x0A020000 + number) for number in range(count - 1)]
    return frozenset((*pods, *others))


asyncio.run(main())
