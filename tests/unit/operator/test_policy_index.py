"""Which attachments rules select, which addresses groups have, and that a change makes dirty what it concerns."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galactic.operator.policies.index import Member, PolicyIndex, Rules
from galactic.operator.policies.policyslices import base, group_specs, shards
from galactic.validation.policies import AllowRule, Policy, Selected, canonical

VPC = ("net", "vpc")
ALL = canonical({}, "")


def app(name):
    return canonical({"matchLabels": {"app": name}}, "")


def rules(name="blue/deny", *, vpc=VPC, selector=ALL, ingress=(), egress=None, role="Policy"):
    namespace, _, _ = name.partition("/")
    return Rules(vpc, namespace, role, name, Policy(selector, ingress, egress))


def member(name, address="10.0.0.1", vpc=VPC):
    return Member(vpc, {"app": name}, (address,))


def peers(*selected):
    return (AllowRule(tuple(selected)),)


def key(one):
    return tuple(one.source.split("/"))


@pytest.fixture
def index():
    made = PolicyIndex()
    made.set_namespace("blue", {"team": "blue"})
    made.set_namespace("green", {"team": "green"})
    return made


@pytest.mark.parametrize(
    ("one", "selected"),
    [
        pytest.param(rules(), {("blue", "a"), ("blue", "b")}, id="its-own-namespace"),
        pytest.param(rules(selector=app("a")), {("blue", "a")}, id="by-label"),
        pytest.param(rules(vpc=("net", "other")), {("blue", "x")}, id="its-vpc-alone"),
        pytest.param(
            rules("net/vpc", role="Floor"),
            {("blue", "a"), ("blue", "b"), ("green", "a")},
            id="a-floor-is-about-other-namespaces",
        ),
    ],
)
def test_selected(index, one, selected):
    for namespace, name, vpc in (
        ("blue", "a", VPC),
        ("blue", "b", VPC),
        ("blue", "x", ("net", "other")),
        ("green", "a", VPC),
        ("net", "a", VPC),
    ):
        index.set_member((namespace, name), member(name, vpc=vpc))
    index.drain()
    index.set_rules(("k", "k", 0) if one.role == "Floor" else key(one), one)
    assert index.selected(one.name) == selected
    dirty = index.drain()
    assert dirty.attachments == selected
    assert one.name in dirty.slices
    for attachment in selected:
        assert index.rules_of(attachment) == (one.name,)


def test_groups(index):
    own, both = Selected(app("a")), Selected(app("a"), canonical({"matchLabels": {"team": "green"}}, ""))
    one = rules(ingress=peers(own, both))
    for number, (namespace, name) in enumerate((("blue", "a"), ("blue", "b"), ("green", "a"), ("net", "a"))):
        index.set_member((namespace, name), member(name, f"10.0.0.{number}"))
    index.set_rules(key(one), one)
    found = {tuple(index.group(group.name)[1]) for group in one.groups}
    assert found == {("10.0.0.0",), ("10.0.0.2",)}
    index.drain()
    index.set_namespace("green", {"team": "red"})
    (dirty,) = index.drain().slices
    assert index.group(dirty)[1] == []


def test_a_change_concerns_nothing_else(index):
    one = rules(ingress=peers(Selected(app("a"))))
    index.set_rules(key(one), one)
    for number in range(9):
        index.set_member(("blue", f"b{number}"), member("b", f"10.0.0.{number}"))
    index.drain()
    index.set_member(("green", "c"), member("c", "10.0.0.77"))
    assert index.drain() == index.drain()
    index.set_member(("blue", "a"), member("a", "10.0.0.99"))
    dirty = index.drain()
    assert dirty.attachments == {("blue", "a")}
    assert [name for name in dirty.slices if name.startswith("group-")] == sorted(dirty.slices)


def test_other_rules_keep_their_name_and_other_selections_do_not():
    first = rules(ingress=peers(Selected(app("a"))))
    assert rules(ingress=()).name == first.name
    for other in (rules(selector=app("a")), rules(egress=()), rules(ingress=None, egress=())):
        assert other.name != first.name


def test_rules_that_go_leave_nothing(index):
    one, two = (
        rules(ingress=peers(Selected(app("a")))),
        rules("blue/second", ingress=peers(Selected(app("a")))),
    )
    index.set_member(("blue", "a"), member("a"))
    (group,) = one.groups
    index.set_rules(key(one), one)
    index.set_rules(key(two), two)
    index.set_rules(key(one), None)
    assert index.group(group.name)[1] == ["10.0.0.1"]
    assert index.rules_of(("blue", "a")) == (two.name,)
    index.set_rules(key(two), None)
    assert index.group(group.name) is None
    assert index.names() == set()
    assert index.rules_of(("blue", "a")) == ()
    assert {one.name, two.name, group.name} <= index.drain().slices


def test_changed_rules_replace_their_groups(index):
    first, second = rules(ingress=peers(Selected(app("a")))), rules(ingress=peers(Selected(app("b"))))
    index.set_rules(key(first), first)
    index.set_rules(key(second), second)
    assert index.names() == {second.name, *(group.name for group in second.groups)}


def test_equal_entries_of_a_vpc_have_one_slice(index):
    one = rules("net/vpc", role="Floor")
    index.set_member(("blue", "a"), member("a"))
    for number in range(2):
        index.set_rules(("net", "vpc", number), one)
    index.set_rules(("net", "vpc", 1), None)
    assert index.rules_of(("blue", "a")) == (one.name,)
    index.set_rules(("net", "vpc", 0), None)
    assert index.rules_of(("blue", "a")) == ()


NAMES = st.sampled_from("abc")
SPACES = st.sampled_from(("blue", "green", "net"))
RULES = st.builds(
    lambda space, name, selector, peer: rules(f"{space}/{name}", selector=selector, ingress=peers(peer)),
    SPACES,
    NAMES,
    st.sampled_from((ALL, app("a"), app("b"))),
    st.builds(
        Selected,
        st.sampled_from((ALL, app("a"))),
        st.sampled_from((None, ALL, canonical({"matchLabels": {"team": "green"}}, ""))),
    ),
)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("member"), SPACES, NAMES, st.none() | NAMES),
        st.tuples(st.just("namespace"), SPACES, st.sampled_from(("green", "red"))),
        st.tuples(st.just("rules"), RULES),
        st.tuples(st.just("none"), SPACES, NAMES),
    ),
    max_size=25,
)


@settings(max_examples=200)
@given(CHANGES)
def test_any_order_of_changes_leads_to_the_same(changes):
    """The index is a function of the last states: a new one made from them is the same."""
    index, members, namespaces, wanted = PolicyIndex(), {}, {}, {}
    for number, (kind, *values) in enumerate(changes):
        if kind == "member":
            space, name, label = values
            state = None if label is None else member(label, f"10.0.0.{number}")
            members[space, name] = state
            index.set_member((space, name), state)
        elif kind == "namespace":
            namespaces[values[0]] = {"team": values[1]}
            index.set_namespace(values[0], {"team": values[1]})
        elif kind == "rules":
            wanted[key(values[0])] = values[0]
            index.set_rules(key(values[0]), values[0])
        else:
            wanted.pop(tuple(values), None)
            index.set_rules(tuple(values), None)
    fresh = PolicyIndex()
    for name, labels in namespaces.items():
        fresh.set_namespace(name, labels)
    for name, one in wanted.items():
        fresh.set_rules(name, one)
    for name, state in members.items():
        fresh.set_member(name, state)
    assert index.names() == fresh.names()
    for name in fresh.names():
        assert index.group(name) == fresh.group(name)
        assert index.selected(name) == fresh.selected(name)
    for name in members:
        assert index.rules_of(name) == fresh.rules_of(name)


@pytest.mark.parametrize(
    ("addresses", "present", "count"),
    [(0, 0, 1), (512, 0, 1), (513, 1, 2), (5000, 0, 16), (300, 2, 2), (200, 2, 1), (0, 8, 1)],
)
def test_the_number_of_slices(addresses, present, count):
    assert shards(addresses, present) == count


def test_an_address_enters_its_new_slice_before_it_leaves_the_old(index):
    one = rules(ingress=peers(Selected(ALL)))
    (group,) = one.groups
    addresses = [f"10.0.{number // 256}.{number % 256}" for number in range(600)]
    few = group_specs(group, addresses[:500], "0" * 12, 0)
    assert list(few) == [f"{group.name}-0"]
    many = group_specs(group, addresses, "0" * 12, 1)
    assert list(many) == [f"{group.name}-1", f"{group.name}-0"]
    again = group_specs(group, addresses[:100], "0" * 12, 2)
    assert list(again) == [f"{group.name}-0"]
    assert sorted(address for spec in many.values() for address in spec["addresses"]) == sorted(addresses)
    assert {base(name) for name in many} == {group.name}


def test_peers_of_a_vpc_are_in_its_groups(index):
    """Both ways, as long as the peering is in force."""
    near, far = ("net", "vpc"), ("green", "other")
    one = rules(ingress=peers(Selected(ALL, canonical({"matchLabels": {"team": "green"}}, ""))))
    index.set_rules(key(one), one)
    (group,) = one.groups
    index.set_member(("green", "a"), member("a", "10.9.0.1", far))
    assert index.group(group.name)[1] == []
    index.set_peers(near, frozenset({far}))
    index.set_peers(far, frozenset({near}))
    assert index.group(group.name)[1] == ["10.9.0.1"]
    index.set_member(("green", "b"), member("b", "10.9.0.2", far))
    assert index.group(group.name)[1] == ["10.9.0.1", "10.9.0.2"]
    index.set_namespace("green", {})
    assert index.group(group.name)[1] == []
    index.set_namespace("green", {"team": "green"})
    index.set_peers(near, frozenset())
    index.set_peers(far, frozenset())
    assert index.group(group.name)[1] == []
