"""The index of prefixes against a look at all of them."""

from ipaddress import IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galactic.kube.api import Key
from galactic.operator.prefixes import PrefixIndex

BASE = 0x20010DB8FF000000 << 64
KEYS = [("", f"n{number}") for number in range(8)]


@st.composite
def prefixes(draw: st.DrawFn) -> IPv6Network:
    """Of two neighbouring /48s, many of which overlap."""
    length = draw(st.integers(48, 64))
    number = draw(st.sampled_from([0, 1, 2, 3, 255, 256, (1 << (length - 47)) - 1]))
    return IPv6Network((BASE + (number % (1 << (length - 47)) << (128 - length)), length))


def first_free(
    held: dict[Key, IPv6Network], pool: IPv6Network, length: int, cursor: int
) -> IPv6Network | None:
    candidates = [*pool.subnets(new_prefix=length)]
    ordered = [network for network in candidates if int(network.network_address) >= cursor]
    ordered += [network for network in candidates if int(network.network_address) < cursor]
    return next(
        (network for network in ordered if not any(network.overlaps(other) for other in held.values())), None
    )


@given(
    st.lists(st.tuples(st.sampled_from(KEYS), prefixes() | st.none()), max_size=12),
    prefixes(),
    st.integers(52, 56),
    st.integers(0, 15),
)
def test_overlapping_and_free(
    steps: list[tuple[Key, IPv6Network | None]], asked: IPv6Network, length: int, start: int
) -> None:
    index, held = PrefixIndex(), dict[Key, IPv6Network]()
    for key, prefix in steps:
        index.set(key, prefix)
        held.pop(key, None)
        if prefix is not None:
            held[key] = prefix
    found = [*index.overlapping(asked)]
    assert sorted(found) == sorted(key for key, prefix in held.items() if prefix.overlaps(asked))
    assert {key: index.get(key) for key in KEYS} == {key: held.get(key) for key in KEYS}
    pool = IPv6Network((BASE, 48))
    cursor = BASE + (start << (128 - length))
    assert index.free(pool, length, cursor) == first_free(held, pool, length, cursor)


@pytest.mark.parametrize("nodes", [1, 5_000])
def test_a_large_pool_costs_no_look_at_all_prefixes(nodes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, index = IPv6Network((BASE, 48)), PrefixIndex()
    for number in range(nodes):
        index.set(("", f"n{number}"), IPv6Network((BASE + (number << 64), 64)))
    compared = 0

    def overlaps(_self: IPv6Network, _other: IPv6Network) -> bool:
        nonlocal compared
        compared += 1
        return False

    monkeypatch.setattr(IPv6Network, "overlaps", overlaps)
    asked = IPv6Network((BASE + (nodes - 1 << 64), 64))
    assert [*index.overlapping(asked)] == [("", f"n{nodes - 1}")]
    assert index.free(pool, 64, 0) == IPv6Network((BASE + (nodes << 64), 64))
    assert compared == 0
