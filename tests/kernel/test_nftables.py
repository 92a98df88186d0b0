"""A table of nftables, and what its fingerprint notices of other programs' changes."""

import asyncio

import pytest

from galactic.linux.nftables import Chain, Nftables, Set, Table, difference

TABLE = "inet galactic-test"
FILLED = Table(
    TABLE,
    {"first": Chain(("ip saddr @closed drop",), "type filter hook forward priority -10")},
    {
        "closed": Set("set", "type ipv4_addr; flags interval;", {"10.0.0.0/8": "", "192.0.2.1": ""}),
        "ways": Set("map", "type ipv4_addr : verdict;", {"192.0.2.2": "accept"}),
        "seen": Set("set", "type ipv4_addr; flags dynamic,timeout; size 16;"),
    },
)


@pytest.fixture
def changed(host):
    """Whether the fingerprint is another one after a command; the table is written first."""

    async def compare(command: str) -> bool:
        nft = Nftables()
        await nft.apply(difference(Table(TABLE), FILLED))
        before = await nft.fingerprint(FILLED)
        await nft.apply(command.format(table=TABLE))
        return await nft.fingerprint(FILLED) != before

    return lambda command: host.run(lambda: asyncio.run(compare(command)))


@pytest.mark.parametrize(
    "command",
    [
        "delete element {table} closed {{ 192.0.2.1 }}",
        "add element {table} closed {{ 192.0.2.9 }}",
        "flush set {table} closed",
        "flush map {table} ways",
        "add rule {table} first accept",
        "flush chain {table} first",
        "delete table {table}",
    ],
)
def test_a_change_is_noticed(changed, command):
    assert changed(command)


@pytest.mark.parametrize(
    "command", ["add element {table} seen {{ 192.0.2.1 timeout 1m }}", "add table inet other"]
)
def test_elements_that_packets_add_and_other_tables_are_none(changed, command):
    assert not changed(command)
