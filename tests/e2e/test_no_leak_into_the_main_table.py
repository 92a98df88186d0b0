"""Destinations outside a VPC are unreachable from its pods, which get an ICMP error: not one packet leaves the node,
whatever the node itself could reach.
"""

from collections.abc import Callable, Iterator

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from story import Tenant, eventually
from wired import Wire, marked

from galactic import names
from galactic_lab.cluster import Lab

API_SERVER = "fd00:ffff::1"
ELSEWHERE = {
    "api-server": IPv6(src="2001:10:1:1::1", dst=API_SERVER),
    "another-node": IPv6(src="2001:10:1:1::1", dst="fd00:2::2"),
    "the-world-6": IPv6(src="2001:10:1:1::1", dst="2001:db8:99::1"),
    "the-world": IP(src="10.1.1.1", dst="198.51.100.1"),
    "pod-network": IP(src="10.1.1.1", dst="10.244.1.77"),
    "in-the-vpc-but-nobodys": IP(src="10.1.1.1", dst="10.1.1.77"),
    "in-the-vpc-but-nobodys-6": IPv6(src="2001:10:1:1::1", dst="2001:10:1:1::77"),
}


@pytest.fixture
def default_route(lab: Lab) -> Iterator[None]:
    """node-1 has a pod network of IPv4 like other clusters', and an IPv4 default route through it to the fabric."""
    member = lab.state.node("node-1").namespace
    made = (
        f"ip -n {member} link add podnet type veth peer name podnet-1 netns {lab.state.fabric} && "
        f"ip -n {lab.state.fabric} link set podnet-1 up && "
        f"ip -n {member} address add 10.244.1.1/24 dev podnet && ip -n {member} link set podnet up && "
        f"ip -n {member} neighbour add 10.244.1.77 lladdr 02:00:00:00:00:77 dev podnet nud permanent && "
        f"ip -n {member} route add default via 10.244.1.77 dev podnet"
    )
    lab.run("kernel", ["sh", "-c", made])
    yield
    lab.run("kernel", ["ip", "-n", member, "link", "delete", "podnet"])


@pytest.mark.usefixtures("default_route")
def test_unreachable(tenants: Callable[..., Tenant], lab: Lab) -> None:
    blue = tenants("blue")
    blue.settle(
        {
            "one": ("node-1", "10.1.1.1/24", "2001:10:1:1::1/64"),
            "two": ("node-2", "10.1.1.2/24", "2001:10:1:1::2/64"),
        }
    )
    blue.all_reach((("one", "10.1.1.2"), ("one", "2001:10:1:1::2")))
    wire = Wire(lab)
    one = wire.port(blue, "one", "node-1")
    listen = {
        "one": {"netns": wire.pod(blue, "one")},
        "two": {"netns": wire.pod(blue, "two")},
        "fabric": {"netns": wire.node("fabric")},
    }
    packets = [(one, packet / marked(name)) for name, packet in ELSEWHERE.items()]
    permitted = {
        "permitted": IP(src="10.1.1.1", dst="10.1.1.2"),
        "permitted-6": IPv6(src="2001:10:1:1::1", dst="2001:10:1:1::2"),
    }
    packets += [(one, packet / marked(name)) for name, packet in permitted.items()]
    arrivals = [(where, mark) for where in ("two", "fabric") for mark in permitted]

    arrived = wire.exchange(packets, listen, arrivals)
    assert arrived.at("fabric") == set(permitted)
    # The gateway answers with an error that quotes the packet; kernels limit how often.
    elsewhere = [(one, packet / marked(name)) for name, packet in ELSEWHERE.items()]
    wire.exchange(elsewhere, listen, [("one", name) for name in ELSEWHERE], again=True)

    # The VRF's own default is what keeps them in. (Its controller would put it back while the packets pass.)
    vrf = names.vrf(int(lab.get("vpc", "-n", blue.namespace, "vpc")["status"]["identifier"], 16))
    removals = tuple(
        (wire.node("node-1"), f"ip {family} route delete unreachable default vrf {vrf} metric 4278198272")
        for family in ("-4", "-6")
    )
    before = lab.exec("node-1", ["sh", "-c", f"ip route show vrf {vrf}; ip -6 route show vrf {vrf}"])
    lab.hold("node-1")
    try:
        leaked = wire.exchange(packets, listen, arrivals, first=removals)
    finally:
        lab.release("node-1")
    assert {"api-server", "another-node", "the-world-6", "the-world", "pod-network"} <= leaked.at("fabric")
    eventually(
        "the defaults are back",
        lambda: (
            lab.exec("node-1", ["sh", "-c", f"ip route show vrf {vrf}; ip -6 route show vrf {vrf}"]) == before
        ),
    )
    assert wire.exchange(packets, listen, arrivals).at("fabric") == set(permitted)
