from ipaddress import ip_network

import pytest
from counting import counted_calls
from hypothesis import given
from hypothesis import strategies as st

from galactic.errors import NotYet
from galactic.operator.addresses import Addresses, Held
from galactic.validation.networks import host


def key(number):
    return "ns", f"a{number}"


def networks(*texts):
    return tuple(map(ip_network, texts))


def claim_of(allocations, holder, of):
    addresses = allocations.allocate(of)
    allocations.claim(holder, [host(address.ip) for address in addresses])
    return [str(address) for address in addresses]


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        pytest.param(
            "10.1.1.0/29",
            [f"10.1.1.{host}/29" for host in (6, 2, 3, 4, 5)],
            id="no-network-gateway-broadcast",
        ),
        pytest.param("10.1.1.0/30", ["10.1.1.2/30"], id="smallest-with-a-gateway"),
        pytest.param("10.1.1.0/31", ["10.1.1.0/31", "10.1.1.1/31"], id="point-to-point"),
        pytest.param("10.1.1.9/32", ["10.1.1.9/32"], id="single"),
        pytest.param("2001:db8::/127", ["2001:db8::/127", "2001:db8::1/127"], id="point-to-point-6"),
    ],
)
def test_all_that_a_network_has_and_no_more(network, expected):
    allocations = Addresses()
    of = networks(network)
    assert [claim_of(allocations, key(number), of)[0] for number in range(len(expected))] == expected
    with pytest.raises(NotYet, match="no free IPv"):
        allocations.allocate(of)


@pytest.mark.parametrize(
    ("network", "first"),
    [
        pytest.param("10.1.1.0/24", "10.1.1.130/24", id="upper-half"),
        pytest.param("10.0.0.0/8", "10.1.0.2/8", id="large"),
        pytest.param("2001:db8::/64", "2001:db8::1:2/64", id="ipv6"),
    ],
)
def test_the_low_addresses_are_left_to_people(network, first):
    assert claim_of(Addresses(), key(1), networks(network)) == [first]


def test_a_named_address_is_not_allocated_while_it_is_named():
    allocations = Addresses()
    of = networks("10.1.1.0/30")
    wanted = networks("10.1.1.2/32")
    allocations.name(wanted)
    allocations.name(wanted)
    with pytest.raises(NotYet):
        allocations.allocate(of)
    allocations.unname(wanted)
    with pytest.raises(NotYet):
        allocations.allocate(of)
    allocations.unname(wanted)
    assert claim_of(allocations, key(1), of) == ["10.1.1.2/30"]
    allocations.name(wanted)
    allocations.release(key(1))
    allocations.unname(wanted)
    assert claim_of(allocations, key(2), of) == ["10.1.1.2/30"]


def test_one_a_family_and_on_to_the_next_network():
    allocations = Addresses()
    of = networks("10.1.1.0/30", "10.1.2.0/30", "2001:db8::/64")
    assert claim_of(allocations, key(1), of) == ["10.1.1.2/30", "2001:db8::1:2/64"]
    assert claim_of(allocations, key(2), of) == ["10.1.2.2/30", "2001:db8::1:3/64"]
    with pytest.raises(NotYet, match="IPv4"):
        allocations.allocate(of)


def test_a_family_without_room_costs_the_other_nothing():
    allocations = Addresses()
    of = networks("10.1.1.4/30", "2001:db8::2/128")
    claim_of(allocations, key(1), of)
    for _ in range(5):
        with pytest.raises(NotYet):
            allocations.allocate(of)
    allocations.release(key(1))
    assert claim_of(allocations, key(2), of) == ["10.1.1.6/30", "2001:db8::2/128"]


def test_a_network_is_held_once_and_by_name():
    allocations = Addresses()
    allocations.claim(key(1), networks("10.1.1.5/32", "192.168.3.0/24"))
    with pytest.raises(Held, match=r"192\.168\.3\.0/24 is held by VPCAttachment ns/a1"):
        allocations.claim(key(2), networks("10.1.1.6/32", "192.168.3.0/24"))
    assert allocations.held_by(key(2)) == frozenset()
    with pytest.raises(Held, match=r"is held by a VPCAttachment of another namespace; choose another$"):
        allocations.claim(("stranger", "a1"), networks("192.168.3.0/24"))
    assert allocations.claim(key(1), networks("10.1.1.5/32"))
    allocations.claim(key(2), networks("10.1.1.6/32", "192.168.3.0/24"))


@given(st.lists(st.tuples(st.sampled_from(["take", "give", "release"]), st.integers(0, 20)), max_size=120))
def test_whatever_the_order_no_address_is_held_twice(steps):
    allocations = Addresses()
    of = networks("10.1.1.0/28")
    addresses = {}
    for what, number in steps:
        holder = key(number)
        try:
            if what == "take" and holder not in addresses:
                addresses[holder] = claim_of(allocations, holder, of)[0]
            elif what == "give":
                address = f"10.1.1.{number % 16}"
                allocations.claim(holder, networks(address))
                addresses[holder] = f"{address}/28"
            elif what == "release":
                allocations.release(holder)
                addresses.pop(holder, None)
        except Held:
            assert f"10.1.1.{number % 16}/28" in [one for other, one in addresses.items() if other != holder]
        except NotYet:
            assert len({*addresses.values(), *(f"10.1.1.{edge}/28" for edge in (0, 1, 15))}) == 16
        assert len(set(addresses.values())) == len(addresses) == len(allocations)


def test_a_large_network_is_handed_out_in_constant_time_to_the_last_address():
    allocations = Addresses()
    of = networks("10.1.0.0/20")
    count = 2**12 - 3

    def steps(first, last):
        with counted_calls() as calls:
            for number in range(first, last):
                claim_of(allocations, key(number), of)
        return calls.total()

    early = steps(0, 1000)
    for number in range(1000, count - 1000):
        claim_of(allocations, key(number), of)
    assert steps(count - 1000, count) < 2 * early
    for number in range(1000, 2000):
        allocations.release(key(number))
    assert steps(1000, 2000) < 2 * early
