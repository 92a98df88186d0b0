"""Which VPCs are peered: both name each other, and no addresses are shared."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galactic.validation.peering import Side, candidates, consenting, contested, in_force, overlap

A, B, C, D = "10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "10.2.9.0/24"
SIX = "2001:db8:1::/48"


def side(networks, *peers):
    return Side(tuple(map(ip_network, networks)), peers)


@pytest.mark.parametrize(
    ("vpcs", "expected"),
    [
        pytest.param({"a": side([A], "b"), "b": side([B], "a")}, {("a", "b")}, id="both-name-each-other"),
        pytest.param({"a": side([A], "b"), "b": side([B])}, set(), id="one-does-not"),
        pytest.param({"a": side([A], "b")}, set(), id="one-does-not-exist"),
        pytest.param(
            {"a": side([A], "b"), "b": side([B], "c"), "c": side([C], "b")}, {("b", "c")}, id="half"
        ),
        pytest.param({"a": side([A], "a")}, set(), id="itself"),
        pytest.param(
            {"a": side([A, SIX], "b"), "b": side([B, SIX], "a")}, set(), id="share-one-of-two-networks"
        ),
        pytest.param({"a": side([A], "b"), "b": side([SIX], "a")}, {("a", "b")}, id="other-families"),
        pytest.param(
            {"a": side([A], "b"), "b": side([B], "a", "c"), "c": side([C], "b")},
            {("a", "b"), ("b", "c")},
            id="not-transitive",
        ),
        pytest.param(
            {"a": side([A], "b", "d"), "b": side([B], "a"), "d": side([D], "a")},
            set(),
            id="two-peers-share-addresses-and-neither-wins",
        ),
        pytest.param(
            {"a": side([A], "b", "d"), "b": side([B], "a"), "d": side([D])},
            {("a", "b")},
            id="one-that-does-not-name-it-back-takes-nothing-away",
        ),
        pytest.param(
            {"a": side([A], "b", "c"), "b": side([B], "a"), "c": side([A], "a")},
            {("a", "b")},
            id="one-that-overlaps-the-vpc-itself-takes-nothing-away",
        ),
    ],
)
def test_in_force(vpcs, expected) -> None:
    pairs = {(key, peer) for key in vpcs for peer in in_force(key, vpcs.get)}
    assert pairs == expected | {(peer, key) for key, peer in expected}


def test_the_reasons_name_the_networks() -> None:
    vpcs = {"a": side([A], "b", "d"), "b": side([B], "a"), "d": side([D], "a")}
    assert [*consenting("a", vpcs.get)] == [*candidates("a", vpcs.get)] == ["b", "d"]
    assert contested("a", "b", vpcs.get) == ("d", (ip_network(B), ip_network(D)))
    assert contested("b", "a", vpcs.get) is None
    assert overlap((ip_network(A),), (ip_network(B),)) is None


NAMES = "abcd"
some_vpcs = st.fixed_dictionaries(
    {},
    optional={
        name: st.builds(
            side,
            st.lists(st.sampled_from([A, B, C, D, SIX]), min_size=1, max_size=2, unique=True),
            *[st.sampled_from(NAMES)] * 2,
        )
        for name in NAMES
    },
)


@given(some_vpcs)
def test_both_sides_agree_and_no_table_has_two_routes_to_an_address(vpcs) -> None:
    for key in vpcs:
        peers = in_force(key, vpcs.get)
        assert all(key in in_force(peer, vpcs.get) for peer in peers)
        around = [vpcs[one].networks for one in (key, *dict.fromkeys(peers))]
        for number, networks in enumerate(around):
            assert all(overlap(networks, others) is None for others in around[number + 1 :])
