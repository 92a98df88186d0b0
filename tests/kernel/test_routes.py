"""Routes written by packed messages are in the kernel, and are read back as what they were."""

import itertools
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import pytest

from galactic.linux.objects import (
    UNREACHABLE_METRIC,
    Direct,
    Encap,
    EndDT46,
    Other,
    Unreachable,
    Via,
    route_key,
)
from galactic.linux.routes import RouteSocket, deletions, settings

SEGMENT = IPv6Address("2001:db8:ff02:100::1:2").packed
KINDS = {
    "unreachable": (Unreachable(), Unreachable()),
    "direct": (Direct("d0"), Direct("d0")),
    "direct-other": (Direct("d1"), Direct("d1")),
    "via": (Via("d0", IPv4Address("169.254.1.1").packed), Via("d0", IPv6Address("fe80::1").packed)),
    "via-other": (Via("d0", IPv4Address("169.254.1.2").packed), Via("d0", IPv6Address("fe80::2").packed)),
    "encap": (Encap("d0", SEGMENT, "encap"),) * 2,
    "encap.red": (Encap("d0", SEGMENT, "encap.red"),) * 2,
}
KEY4, KEY6 = route_key(101, IPv4Network("10.9.0.0/24")), route_key(101, IPv6Network("2001:10:9::/64"))


@pytest.fixture
def routes(host):
    made = RouteSocket(host)
    yield made
    made.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_read_back_as_written(routes, kind):
    wanted = dict(zip((KEY4, KEY6), KINDS[kind], strict=True))
    assert await routes.write(settings(wanted)) == {}
    assert await routes.dump() == wanted
    assert await routes.write(deletions(wanted)) == {}
    assert await routes.dump() == {}


async def test_any_kind_replaces_any_other_and_there_is_one_route_afterwards(host, routes, sh):
    for before, after in itertools.permutations(KINDS, 2):
        await routes.write(settings(dict(zip((KEY4, KEY6), KINDS[before], strict=True))))
        wanted = dict(zip((KEY4, KEY6), KINDS[after], strict=True))
        assert await routes.write(settings(wanted)) == {}
        assert await routes.dump() == wanted, (before, after)
        for family in ("-4", "-6"):
            listed = sh(host, f"ip {family} -o route show table 101 proto 154").splitlines()
            assert len(listed) == 1, (before, after, listed)


async def test_metrics_keep_routes_apart(routes):
    default = {
        route_key(101, IPv4Network("0.0.0.0/0")): Direct("d0"),
        route_key(101, IPv6Network("::/0")): Direct("d0"),
    }
    last = {
        route_key(101, IPv4Network("0.0.0.0/0"), UNREACHABLE_METRIC): Unreachable(),
        route_key(101, IPv6Network("::/0"), UNREACHABLE_METRIC): Unreachable(),
    }
    assert await routes.write(settings(default | last)) == {}
    assert await routes.dump() == default | last
    await routes.write(deletions(default))
    await routes.write(deletions(default))  # gone already: it must not take the other one for it
    assert await routes.dump() == last


async def test_errors_in_the_middle_of_a_burst_find_their_routes(routes):
    good = {route_key(101, IPv4Network((0x0A090000 + i, 32))): Direct("d0") for i in range(250)}
    bad = {
        route_key(101, IPv6Network("2001:db8::/64")): EndDT46("d0", 101),  # not a VRF
        route_key(101, IPv4Network("10.8.0.0/24")): Direct("d9"),  # no such device
        route_key(101, IPv4Network("10.8.1.0/24")): Via("d0", b"\xff\xff\xff\xff"),  # broadcast
    }
    items = list(good.items())
    mixed = dict(items[:50]) | dict(list(bad.items())[:2]) | dict(items[50:]) | bad  # the last one fails
    failures = await routes.write(settings(mixed))
    assert failures.keys() == bad.keys()
    assert failures[route_key(101, IPv4Network("10.8.0.0/24"))] == "there is no device d9"
    assert await routes.dump() == good


async def test_what_is_gone_is_deleted_without_complaint(routes, host, sh):
    wanted = {KEY4: Direct("d0"), KEY6: Direct("d1")}
    await routes.write(settings(wanted))
    sh(host, "ip link del d0")
    assert await routes.write(deletions(wanted)) == {}


async def test_only_our_protocol_counts(routes, host, sh):
    sh(
        host,
        "ip route add 10.7.0.0/24 dev d0 table 101; ip route add 10.7.1.0/24 dev d0 table 101 proto bird",
    )
    assert await routes.dump() == {}
    await routes.write(deletions({route_key(101, IPv4Network("10.7.1.0/24")): Direct("d0")}))
    assert len(sh(host, "ip route show table 101").splitlines()) == 2


async def test_a_strange_route_of_our_protocol_is_seen_and_goes(routes, host, sh):
    sh(host, "ip route add blackhole 10.7.0.0/24 table 101 proto 154")
    sh(
        host,
        "ip -6 route add 2001:10:7::/64 table 101 proto 154 nexthop via fe80::1 dev d0 nexthop via fe80::2 dev d0",
    )
    found = await routes.dump()
    assert found == {
        route_key(101, ip_network("10.7.0.0/24")): Other(),
        route_key(101, ip_network("2001:10:7::/64")): Other(),
    }
    await routes.write(settings({key: Direct("d0") for key in found}))
    assert set((await routes.dump()).values()) == {Direct("d0")}
    sh(host, "ip route add blackhole 10.7.1.0/24 table 101 proto 154")
    await routes.write(deletions(await routes.dump()))
    assert await routes.dump() == {}


async def test_dumps_can_be_narrowed(routes):
    keys = {table: route_key(table, IPv4Network("10.7.0.0/24")) for table in (101, 102)}
    await routes.write(settings({keys[101]: Direct("d0"), keys[102]: Direct("d1")}))
    assert await routes.dump(table=101) == {keys[101]: Direct("d0")}
    assert await routes.dump(device=routes.index("d1")) == {keys[102]: Direct("d1")}
    assert await routes.dump(table=999) == {}


async def test_twenty_thousand_routes_come_and_go(routes):
    segments = [IPv6Address(int.from_bytes(SEGMENT) + i).packed for i in range(200)]
    wanted = {
        route_key(
            101, (IPv4Network if i % 2 else IPv6Network)((0x0A000000 + i, 32 if i % 2 else 128))
        ): Encap("d0", segments[i % 200], "encap.red")
        for i in range(20_000)
    }
    assert await routes.write(settings(wanted)) == {}
    assert await routes.dump() == wanted
    assert await routes.write(deletions(wanted)) == {}
    assert await routes.dump() == {}
