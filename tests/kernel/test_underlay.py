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
    ],
)
async def test_the_underlay(host, sh, setup, device, expected):
    sh(host, setup)
    assert await underlay(SPACE, device=device, namespace=host) == expected


async def test_no_route_is_waited_for(host):
    with pytest.raises(NotYet, match="no IPv6 route to 2001:db8:ff00::/40"):
        await underlay(SPACE, namespace=host)


async def test_an_interface_that_is_not_there_is_refused(host):
    with pytest.raises(Rejected, match="there is no interface 'eth7'"):
        await underlay(SPACE, device="eth7", namespace=host)
