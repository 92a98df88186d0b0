"""The order of policy rules: what a list of rules does, and the steps from it to the order that is wanted."""

from ipaddress import IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galactic.linux.fib_rules import LOCAL, MAIN, VRF, PolicyRule, order, steps, underlay_first
from galactic.linux.objects import LookupOrder

BLOCK = IPv6Network("2001:db8:ff00::/40")
EARLIER = IPv6Network("2001:db8:aa00::/40")
KERNELS_OWN = [LOCAL, PolicyRule(1000, l3mdev=True), MAIN, PolicyRule(32767, 253)]
TO_BLOCK = PolicyRule(999, 254, BLOCK)
FIRST = underlay_first(BLOCK)
FOREIGN_LOCAL = PolicyRule(100, 255)


def done(rules, step):
    """The list as the kernel makes it: a new rule behind those of its priority, the first that is like it deleted."""
    rules = list(rules)
    if step.add:
        place = next((n for n, rule in enumerate(rules) if rule.priority > step.rule.priority), len(rules))
        rules.insert(place, step.rule)
    else:
        rules.remove(step.rule)
    return rules


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        pytest.param(KERNELS_OWN, None, id="kernels-own"),
        pytest.param([VRF, LOCAL, MAIN], LookupOrder(), id="in-order"),
        pytest.param([LOCAL, VRF, MAIN], LookupOrder(vrf_first=False), id="local-first"),
        pytest.param([VRF, FOREIGN_LOCAL, MAIN], LookupOrder(), id="local-of-others"),
        pytest.param([VRF, MAIN], LookupOrder(vrf_first=False), id="no-local"),
        pytest.param([VRF, LOCAL], LookupOrder(main=False), id="no-main"),
        pytest.param([VRF, LOCAL, PolicyRule(7, 254, BLOCK)], LookupOrder(main=False), id="main-for-some"),
        pytest.param([FIRST, VRF, LOCAL, TO_BLOCK, MAIN], LookupOrder(block=BLOCK), id="block"),
        pytest.param([VRF, FIRST, LOCAL, TO_BLOCK, MAIN], LookupOrder(), id="block-behind"),
        pytest.param([FIRST, LOCAL, MAIN], LookupOrder(vrf_first=False, block=BLOCK), id="vrf-rule-gone"),
        pytest.param([], None, id="empty"),
    ],
)
def test_what_rules_do(rules, expected):
    assert order(rules) == expected


RULES = (
    *(LOCAL, FOREIGN_LOCAL, PolicyRule(32765, 255), VRF, FIRST, underlay_first(EARLIER), MAIN, TO_BLOCK),
    *(PolicyRule(1000, l3mdev=True), PolicyRule(512, 7), PolicyRule(0, 9)),
)
ANY = st.lists(st.sampled_from(RULES), max_size=12).map(
    lambda rules: sorted(rules, key=lambda rule: rule.priority)
)
WANTED = st.sampled_from([LookupOrder(), LookupOrder(block=BLOCK)])


@given(ANY, WANTED)
def test_the_steps_lead_there_and_never_past_local(rules, wanted):
    before = any(rule.table == 255 for rule in rules)
    good = order(rules) == wanted
    at = rules
    for step in steps(rules, wanted):
        at = done(at, step)
        assert not before or any(rule.table == 255 for rule in at), "no rule to local"
        got = order(at)
        assert not good or (got and got.vrf_first and got.block == wanted.block), (
            "an order that was right is lost"
        )
    assert order(at) == wanted
    assert sum(rule.table == 255 and rule.priority != 0 for rule in at) == sum(
        rule.table == 255 and rule.priority != 0 for rule in rules
    )


@given(ANY)
def test_back_to_none_of_ours(rules):
    at = rules
    for step in steps(rules, None):
        at = done(at, step)
    assert order(at) is None
    assert any(rule.table == 255 for rule in at)


@given(WANTED)
def test_there_and_back_is_as_before(wanted):
    at = KERNELS_OWN
    for step in steps(at, wanted):
        at = done(at, step)
    for step in steps(at, None):
        at = done(at, step)
    assert at == KERNELS_OWN


def test_rules_in_words():
    assert [str(step.rule) for step in steps(KERNELS_OWN, LookupOrder(block=BLOCK))] == [
        "pref 0 l3mdev to 2001:db8:ff00::/40 goto 999",
        "pref 0 l3mdev",
        "pref 0 lookup local",
        "pref 0 lookup local",
    ]
