"""The table that keeps packets of VPCs out of the host's reassembly: its devices, and how it is kept."""

import asyncio
from ipaddress import IPv6Network

import pytest
from nft_in_memory import Nft

from galactic import names, srv6
from galactic.errors import Unreachable
from galactic.node.dataplane import fragments
from galactic.node.dataplane.fragments import Fragments, translated
from galactic.node.state.gateways import Exit, Gateway

VPC, FUNCTION = 1234, 0x64

OWN = {f"{names.host_end(VPC, FUNCTION)[:-1]}{end}" for end in "EWI"}


def gateway(node: int, *, snat: bool = True) -> Gateway:
    """With an exit on that node."""
    segment = srv6.sid(IPv6Network(f"2001:db8:ff0{node}:100::/56"), VPC, FUNCTION).address
    exits = (Exit(f"node-{node}", segment, (), True),)
    return Gateway("t/g", VPC, FUNCTION, frozenset({4, 6}), snat, (), (), exits)


async def able():
    return ""


def test_what_a_gateway_translates_is_reassembled():
    assert translated([gateway(1)]) == OWN
    assert translated([gateway(1, snat=False)]) == set()


async def test_the_table_follows_the_gateways_of_this_node(store):
    nft = Nft()
    kept = Fragments(nft, store, able)
    await kept.attempt()
    assert nft.scripts[-1].endswith('iifname "G*" notrack\n'), "before there is any gateway"
    store.set_gateways({VPC: gateway(2)})
    await kept.attempt()
    assert len(nft.scripts) == 1, "another node leads out"
    store.set_gateways({VPC: gateway(1)})
    await kept.attempt()
    added = nft.scripts[-1]
    assert added.startswith("add element inet galactic-fragments reassembled {")
    assert {part.strip('"') for part in added.split("{")[1].strip(" }\n").split(", ")} == OWN
    store.set_gateways({})
    await kept.attempt()
    assert nft.scripts[-1] == added.replace("add", "delete", 1)


async def test_another_programs_change_is_put_back(store):
    nft, repaired = Nft(), []
    kept = Fragments(nft, store, able, lambda: repaired.append(1))
    await kept.attempt()
    await kept.attempt()
    nft.number, nft.changed = nft.number + 1, "by another"
    await kept.attempt()
    assert (len(nft.scripts), len(repaired)) == (2, 1)


async def test_a_change_of_the_store_costs_no_look_at_the_kernel(store, monkeypatch):
    """Neither a listing of the table, nor another trial where the host cannot have it."""
    monkeypatch.setattr(fragments, "ROUND_SECONDS", 3600.0)
    looks, nft = [], Nft()

    async def lacking():
        looks.append("lacking")
        return "there is no program nft"

    monkeypatch.setattr(nft, "generation", lambda: looks.append("generation"))
    for kept, expected in ((Fragments(nft, store, able), []), (Fragments(nft, store, lacking), ["lacking"])):
        looks.clear()
        task = asyncio.create_task(kept.run())
        await asyncio.sleep(0.05)
        before = [look for look in looks if look == "lacking"]
        looks.clear()
        store.set_gateways({VPC: gateway(2)} if not store.gateways.all else {})
        await asyncio.sleep(0.05)
        task.cancel()
        assert (before, looks) == (expected, [])


@pytest.mark.parametrize("lack", ["there is no program nft", ""])
async def test_a_host_without_nftables_goes_on_without(store, capsys, lack):
    class Refusing(Nft):
        async def apply(self, script):
            raise Unreachable("nft", "no such expression")

    async def lacking():
        return lack

    kept = Fragments(Refusing(), store, lacking)
    await kept.attempt()
    await kept.attempt()
    assert capsys.readouterr().out.count("reassembled with the host") == 1
