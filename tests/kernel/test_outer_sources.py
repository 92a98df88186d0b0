"""Routes to other nodes with an outer source of their own (SEG6_IPTUNNEL_SRC, Linux 7.3)."""

import asyncio
import os
import re
from ipaddress import IPv4Network, IPv6Address, IPv6Network

import pytest

from galactic.linux.objects import LOOPBACK_DEVICE, Encap, Tunnel, encap_key, packed
from galactic.linux.preflight import preflight
from galactic.linux.routes import RouteSocket

pytestmark = pytest.mark.every_kernel

TABLE = 101
SEGMENT = IPv6Address("2001:db8:ff02:100::1:2").packed
KEYS = tuple(
    encap_key(TABLE, packed(network), SEGMENT)
    for network in (IPv4Network("10.9.0.0/24"), IPv6Network("2001:10:9::/64"))
)
NONE = Tunnel("encap.red")
ONE, TWO = (Tunnel("encap.red", IPv6Address(f"2001:db8:ff01:{n}00::1").packed) for n in (1, 2))
SOURCED = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) >= (7, 3)


@pytest.fixture
def routes(host, sh):
    sh(host, f"ip link add {LOOPBACK_DEVICE} type veth peer name far; ip link set {LOOPBACK_DEVICE} up")
    made = RouteSocket(host)
    yield made
    made.close()


async def same(routes, tunnel):
    """For each route whether its outer source is the tunnel's."""
    seen = []
    others = await routes.dump(
        tunnel=tunnel, sink=lambda table, network, metric, segment, same: seen.append((segment, same))
    )
    assert others == {}
    assert {segment for segment, _ in seen} <= {SEGMENT}
    return [same for _, same in seen]


def test_the_preflight_knows_whether_the_kernel_keeps_them(host):
    assert host.run(lambda: asyncio.run(preflight())).sourced == SOURCED


@pytest.mark.parametrize("before", [NONE, ONE, TWO], ids=["none", "one", "two"])
@pytest.mark.parametrize("after", [NONE, ONE, TWO], ids=["none", "one", "two"])
async def test_another_source_replaces_the_route_in_its_place(routes, host, sh, before, after):
    if not SOURCED:
        before = after = NONE
    assert await routes.write_encaps(before, ((key, SEGMENT, False) for key in KEYS)) == {}
    assert await same(routes, before) == [True, True]
    assert await same(routes, after) == [before == after] * 2
    assert await routes.write_encaps(after, ((key, SEGMENT, False) for key in KEYS)) == {}
    assert await same(routes, after) == [True, True]
    assert set((await routes.dump()).values()) == {Encap(LOOPBACK_DEVICE, SEGMENT, "encap.red")}
    for family in ("-4", "-6"):
        assert len(sh(host, f"ip {family} -o route show table {TABLE} proto 154").splitlines()) == 1
    assert await routes.write_encaps(before, ((key, SEGMENT, True) for key in KEYS)) == {}
    assert await routes.dump() == {}
