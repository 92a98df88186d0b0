"""Transactions of other programs: those are reported that may concern Galactic's tables and chains."""

import asyncio

import pytest

from galactic.linux.nft_events import NftEvents, Transaction

pytestmark = pytest.mark.every_kernel

OURS = (
    "nft add table inet galactic-policy; nft add chain inet galactic-policy c;"
    "nft add table inet galactic-gateways; nft add chain inet galactic-gateways c;"
    "nft add table inet galactic-fragments;"
    "iptables-nft -t raw -N GALACTIC-PREROUTING; iptables-nft -t raw -A PREROUTING -j GALACTIC-PREROUTING;"
)


async def next_of(events):
    async with asyncio.timeout(120):
        return await anext(events)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        pytest.param("nft flush ruleset", set(Transaction), id="flush-ruleset"),
        pytest.param("nft delete table inet galactic-policy", {Transaction.POLICIES}, id="policies"),
        pytest.param(
            "nft add rule inet galactic-gateways c drop", {Transaction.GATEWAYS}, id="a-rule-of-gateways"
        ),
        pytest.param("nft delete table inet galactic-fragments", {Transaction.FRAGMENTS}, id="fragments"),
        pytest.param("iptables-nft -t raw -F", {Transaction.CHAINS}, id="iptables-F"),
        pytest.param("iptables-nft -t raw -D PREROUTING 1", {Transaction.CHAINS}, id="the-jump"),
        pytest.param("iptables-nft -t raw -I PREROUTING -j ACCEPT", {Transaction.CHAINS}, id="ahead-of-it"),
    ],
)
async def test_what_may_concern_galactic_is_reported(host, sh, command, expected):
    sh(host, OURS)
    with NftEvents(host) as events:
        sh(host, command)
        seen = Transaction(0)
        while set(seen) != expected:
            seen |= await next_of(events)
            assert set(seen) <= expected


async def test_other_tables_are_not(host, sh):
    sh(host, OURS)
    with NftEvents(host) as events:
        sh(
            host,
            "nft add table ip kube-proxy; nft 'add chain ip kube-proxy services';"
            "nft 'add rule ip kube-proxy services ip daddr 10.0.0.1 drop'; nft delete table ip kube-proxy;"
            "iptables-nft -t nat -N KUBE-SERVICES; nft delete table inet galactic-policy",
        )
        assert await next_of(events) == Transaction.POLICIES
