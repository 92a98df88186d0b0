"""The scripts between two tables: their order, and that they are as small as the change."""

import pytest

from galactic.linux.nftables import Chain, Present, Set, Table, difference, rewrite

NAME = "inet galactic-test"
HOOK = "type filter hook forward priority -10"


def made(chains=(), peers=(), **sets):
    base = {"packets": Chain(("oifname vmap @ways",), HOOK), "a": Chain(("ip saddr vmap @peers", "drop"))}
    maps = {
        "ways": Set("map", "type ifname : verdict;", {'"G1"': "goto a"}),
        "peers": Set("map", "type ipv4_addr : verdict;", dict(peers)),
        "flows": Set("set", "type ipv4_addr; flags dynamic,timeout; size 9;"),
    }
    return Table(NAME, base | dict(chains), maps | sets)


EMPTY = Table(NAME)
WHOLE = made(peers={"10.0.0.1": "return"})


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        pytest.param(EMPTY, EMPTY, [], id="nothing"),
        pytest.param(WHOLE, WHOLE, [], id="equal"),
        pytest.param(WHOLE, EMPTY, [f"delete table {NAME}"], id="without-chains-there-is-no-table"),
        pytest.param(
            EMPTY,
            WHOLE,
            [
                f"add table {NAME}",
                f"add chain {NAME} packets {{ {HOOK}; policy accept; }}",
                f"add chain {NAME} a",
                f"add map {NAME} ways {{ type ifname : verdict; }}",
                f"add map {NAME} peers {{ type ipv4_addr : verdict; }}",
                f"add set {NAME} flows {{ type ipv4_addr; flags dynamic,timeout; size 9; }}",
                f"add rule {NAME} packets oifname vmap @ways",
                f"add rule {NAME} a ip saddr vmap @peers",
                f"add rule {NAME} a drop",
                f'add element {NAME} ways {{ "G1" : goto a }}',
                f"add element {NAME} peers {{ 10.0.0.1 : return }}",
            ],
            id="chains-before-the-maps-that-lead-to-them",
        ),
        pytest.param(
            WHOLE,
            made(peers={"10.0.0.1": "return", "10.0.0.2": "return"}),
            [f"add element {NAME} peers {{ 10.0.0.2 : return }}"],
            id="one-peer-more-is-one-element",
        ),
        pytest.param(
            WHOLE,
            made(peers={"10.0.0.1": "drop"}),
            [
                f"delete element {NAME} peers {{ 10.0.0.1 }}",
                f"add element {NAME} peers {{ 10.0.0.1 : drop }}",
            ],
            id="another-verdict",
        ),
        pytest.param(
            made({"b": Chain(("accept",))}, {"10.0.0.1": "goto b"}),
            made(peers={"10.0.0.1": "return"}),
            [
                f"flush chain {NAME} b",
                f"delete element {NAME} peers {{ 10.0.0.1 }}",
                f"add element {NAME} peers {{ 10.0.0.1 : return }}",
                f"delete chain {NAME} b",
            ],
            id="a-chain-goes-after-what-leads-to-it",
        ),
        pytest.param(
            made(
                {"b": Chain(("ip saddr @more drop",))},
                (),
                more=Set("set", "type ipv4_addr;", {"10.0.0.9": ""}),
            ),
            made(),
            [f"flush chain {NAME} b", f"delete chain {NAME} b", f"delete set {NAME} more"],
            id="a-set-goes-after-the-rules-that-name-it",
        ),
        pytest.param(
            WHOLE,
            made({"a": Chain(("drop",))}, {"10.0.0.1": "return"}),
            [f"flush chain {NAME} a", f"add rule {NAME} a drop"],
            id="other-rules-of-a-chain",
        ),
    ],
)
def test_a_script_is_as_large_as_its_change(before, after, lines):
    assert difference(before, after).splitlines() == lines


def test_a_rewrite_keeps_what_rules_filled():
    present = Present(
        True, frozenset({"packets", "a", "old"}), {"ways": "map", "flows": "set", "stale": "map"}
    )
    lines = rewrite(present, WHOLE).splitlines()
    assert not [line for line in lines if " flows" in line]
    assert lines.index(f"flush map {NAME} ways") < lines.index(f'add element {NAME} ways {{ "G1" : goto a }}')
    assert {f"flush chain {NAME} {name}" for name in ("packets", "a", "old")} <= set(lines)
    assert lines[-2:] == [f"delete chain {NAME} old", f"delete map {NAME} stale"]
    assert f"add map {NAME} peers {{ type ipv4_addr : verdict; }}" in lines
    assert not [line for line in lines if line.startswith(f"add table {NAME}")]
