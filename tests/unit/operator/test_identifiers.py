import pytest
from hypothesis import given
from hypothesis import strategies as st

from galactic.errors import NotYet
from galactic.names import FUNCTION_MAX, VPC_MAX
from galactic.operator.identifiers import Identifiers, functions, vpc_identifiers


def key(number):
    return "ns", f"a{number}"


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=200))
def test_no_two_holders_have_one_number_whatever_the_order(steps):
    pool = functions()
    live = {}
    for requested, number in steps:
        if requested:
            live[key(number)] = pool.allocate(key(number), f"uid-{number}")
        else:
            assert pool.release(key(number)) == live.pop(key(number), None)
        assert len(set(live.values())) == len(live) == len(pool)
        assert all(0 < one < FUNCTION_MAX for one in live.values())
        assert all(pool.of(holder) == one for holder, one in live.items())


def test_all_65534_can_be_had_and_not_one_more():
    pool = functions()
    had = {pool.allocate(key(number), str(number)) for number in range(FUNCTION_MAX - 1)}
    assert had == set(range(1, FUNCTION_MAX))
    with pytest.raises(NotYet, match="65534"):
        pool.allocate(key("more"), "more")
    pool.release(key(7))
    pool.allocate(key("more"), "more")


def test_a_released_number_rests():
    pool = functions()
    first = pool.allocate(key(1), "same-seed")
    pool.release(key(1))
    assert pool.allocate(key(2), "same-seed") != first


def test_a_claim_is_kept_and_refused_to_others():
    pool = vpc_identifiers()
    assert pool.claim(key(1), 1234)
    assert pool.claim(key(1), 1234)
    assert not pool.claim(key(2), 1234)
    assert pool.claim(key(1), 1235)
    assert pool.claim(key(2), 1234)
    assert pool.holder(1235) == key(1)


@pytest.mark.parametrize("number", [0, VPC_MAX, VPC_MAX + 1, -1])
def test_reserved_numbers_cannot_be_claimed(number):
    with pytest.raises(ValueError, match="reserved"):
        vpc_identifiers().claim(key(1), number)


def test_random_identifiers_stay_in_range_and_collisions_are_drawn_again():
    draws = iter([5, 5, 5, 6])
    pool = Identifiers(VPC_MAX, lambda _seed: draws, "VPC identifier")
    assert pool.allocate(key(1), "") == 5
    assert pool.allocate(key(2), "") == 6
