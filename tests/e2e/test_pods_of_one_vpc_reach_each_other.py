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
    blue.make_vpc()
    for number, name in enumerate(("web", "api", "gate"), start=1):
        blue.attach(name, f"10.1.1.{number}/24", f"2001:10:1:1::{number}/64", routes=VIA_GATE)
    blue.pod("web", "node-1")
    blue.pod("api", "node-2")
    blue.pod("gate", "node-1", command=PREFIX_BEHIND_A_POD)
    for pod, address in (
        ("web", "10.1.1.2"),
        ("web", "2001:10:1:1::2"),
        ("api", "10.1.1.1"),
        ("api", "2001:10:1:1::1"),
        ("web", "10.1.1.3"),
        ("web", "2001:10:1:1::3"),
        ("web", "192.168.3.1"),
        ("api", "192.168.3.1"),
    ):
        blue.reaches(pod, address)
