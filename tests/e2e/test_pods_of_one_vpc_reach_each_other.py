"""Pods of one VPC reach each other: across nodes and on the same one, over IPv4 and IPv6, and what one terminates."""

from collections.abc import Callable

from story import Tenant

PREFIX_BEHIND_A_POD = """
ip link add inner type dummy
ip link set inner up
ip addr add 192.168.3.1/24 dev inner
exec sleep infinity
"""
VIA_GATE = ({"destination": "192.168.3.0/24", "via": "10.1.1.3"},)


def test_reach(tenants: Callable[..., Tenant]) -> None:
    blue = tenants("blue")
    pods = {"web": "node-1", "api": "node-2", "gate": "node-1"}
    blue.settle(
        {
            name: (node, f"10.1.1.{number}/24", f"2001:10:1:1::{number}/64")
            for number, (name, node) in enumerate(pods.items(), start=1)
        },
        routes=dict.fromkeys(pods, VIA_GATE),
        commands={"gate": PREFIX_BEHIND_A_POD},
    )
    blue.all_reach(
        (
            ("web", "10.1.1.2"),
            ("web", "2001:10:1:1::2"),
            ("api", "10.1.1.1"),
            ("api", "2001:10:1:1::1"),
            ("web", "10.1.1.3"),
            ("web", "2001:10:1:1::3"),
            ("web", "192.168.3.1"),
            ("api", "192.168.3.1"),
        )
    )
