"""Which interface is the underlay, and what of it stands in the way."""

from ipaddress import IPv6Address, IPv6Network

import pytest

from galactic.errors import NotYet, Rejected
from galactic.linux.underlay import Underlay, underlay

SPACE = IPv6Network("2001:db8:ff00::/40")


@pytest.mark.parametrize(
    ("setup", "device", "expected"),
    [
        pytest.param(
            "ip -6 route add default via fd00::2 dev d0", "", Underlay("d0", 1500), id="default-route"
        ),
        pytest.param(
            "ip -6 route add 2001:db8:ff00::/40 dev d1", "", Underlay("d1", 1500), id="route-to-the-space"
        ),
        pytest.param("ip link set d0 mtu 9000", "d0", Underlay("d0", 9000), id="as-asked-for"),
        pytest.param(
            "ip addr add 2001:db8:ff01::7/64 dev d0 nodad; ip addr add 2001:db8:9::1/64 dev d0 nodad",
            "d0",
            Underlay("d0", 1500, (IPv6Address("2001:db8:ff01::7"),)),
            id="address-inside-the-space",
        ),
        pytest.param(
            "ip -6 route add default via fd00::2 dev d0; ip -6 route add 2001:db8:ff02:100::/56 dev d1 metric 5000",
            "",
            Underlay("d0", 1500, others=("d1",)),
            id="another-node-by-another-interface",
        ),
        pytest.param(
            "ip -6 route add 2001:db8:ff00::/40 nexthop via fd00::2 dev d0 nexthop via fe80::2 dev d1",
            "d0",
            Underlay("d0", 1500, others=("d1",)),
            id="several-next-hops",
        ),
        pytest.param(
            "ip nexthop add id 1 via fe80::2 dev d0; ip nexthop add id 2 via fe80::2 dev d1;"
            "ip nexthop add id 3 group 1/2; ip -6 route add 2001:db8:ff00::/40 nhid 3",
            "d1",
            Underlay("d1", 1500, others=("d0",)),
            id="a-group-of-next-hops",
        ),
        pytest.param(
            "ip link set d0 mtu 9000; ip link set d1 mtu 1600;"
            "ip -6 route add 2001:db8:ff00::/40 nexthop via fd00::2 dev d0 nexthop via fe80::2 dev d1",
            "d0",
            Underlay("d0", 1600, others=("d1",)),
            id="the-smallest-mtu-of-several-next-hops",
        ),
        pytest.param(
            "ip link set d0 mtu 9000; ip -6 route add 2001:db8:ff00::/40 dev d0; ip -6 route add default dev d1",
            "",
            Underlay("d0", 9000, others=("d1",)),
            id="another-route-counts-for-no-mtu",
        ),
        pytest.param(
            "ip -6 route add 2001:db8:ff00::/40 dev d0; ip -6 route add 2001:db8:fe00::/40 dev d1;"
            "ip -6 route add unreachable 2001:db8:ff01::/48; ip -6 route add 2001:db8:ff01:100::1 dev d1 proto 154",
            "",
            Underlay("d0", 1500),
            id="routes-elsewhere-and-ones-of-our-own",
        ),
    ],
)
async def test_the_underlay(host, sh, setup, device, expected):
    sh(host, setup)
    assert await underlay(SPACE, device=device, namespace=host) == expected


@pytest.mark.vrf
async def test_a_bond_is_one_interface(host, sh):
    sh(
        host,
        "ip link add b0 type bond mode active-backup; ip link set b0 mtu 1400;"
        "ip link set d0 down; ip link set d0 master b0; ip link set b0 up; ip -6 addr add fd03::1/64 dev b0 nodad;"
        "ip -6 route add default via fd03::2 dev b0",
    )
    assert await underlay(SPACE, namespace=host) == Underlay("b0", 1400)


async def test_no_route_is_waited_for(host):
    with pytest.raises(NotYet, match="no IPv6 route to 2001:db8:ff00::/40"):
        await underlay(SPACE, namespace=host)


async def test_an_interface_that_is_not_there_is_refused(host):
    with pytest.raises(Rejected, match="there is no interface 'eth7'"):
        await underlay(SPACE, device="eth7", namespace=host)


async def test_a_link_whose_routes_are_away_is_an_uplink_until_it_is_gone(host, sh):
    sh(
        host,
        "ip link add d2 type veth peer name d3; ip link set d3 up; ip link set d2 up;"
        "ip -6 route add default via fd00::2 dev d0; ip -6 route add default via fe80::2 dev d2 metric 9",
    )
    found = await underlay(SPACE, device="d0", namespace=host)
    assert found.uplinks == ("d0", "d2")
    sh(host, "ip -6 route flush dev d2")
    found = await underlay(SPACE, device="d0", known=found.uplinks, namespace=host)
    assert found.uplinks == ("d0", "d2")
    sh(host, "ip link del d2")
    found = await underlay(SPACE, device="d0", known=found.uplinks, namespace=host)
    assert found.uplinks == ("d0",)
