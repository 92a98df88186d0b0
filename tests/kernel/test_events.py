"""The kernel's notifications of sysctls, and those that are passed on."""

import asyncio

import pytest

from galactic.linux.events import Changed, Events


async def next_of(events):
    async with asyncio.timeout(120):
        return await anext(events)


@pytest.mark.parametrize(
    "setting",
    [
        "net.ipv4.conf.all.forwarding",
        "net.ipv6.conf.all.forwarding",
        "net.ipv6.conf.default.forwarding",
        "net.ipv4.conf.default.rp_filter",
    ],
)
async def test_a_changed_sysctl_is_reported(host, sh, setting):
    before = int(sh(host, f"sysctl -n {setting}"))
    with Events(host) as events:
        sh(host, f"sysctl -qw {setting}={int(not before)}")
        assert Changed.SYSCTLS in await next_of(events)


async def test_devices_of_others_are_not_reported(host, sh):
    """Nor writes without a change. The address at the end is the only change that is reported."""
    sh(host, "sysctl -qw net.ipv6.conf.all.forwarding=1; ip link add G000000001001H type veth peer name x")
    with Events(host) as events:
        sh(
            host,
            "sysctl -qw net.ipv6.conf.all.forwarding=1; ip link add e0 type veth peer name e1; ip link set e0 up;"
            "sysctl -qw net.ipv4.conf.e0.rp_filter=1; ip addr add 10.9.9.9/32 dev G000000001001H",
        )
        assert await next_of(events) == Changed.ADDRESSES
