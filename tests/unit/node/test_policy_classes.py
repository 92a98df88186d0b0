"""Rules as classes of addresses: the same decision as reading the rules one by one, in any mixture."""

import itertools
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galactic.node.policies.classes import classes
from galactic.node.policies.rules import Allow

NETWORKS = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.0.0.0/24",
            "10.0.0.128/25",
            "10.0.0.7/32",
            "255.255.255.255/32",
            "::/0",
            "fd00::/64",
            "fd00::7/128",
            "ffff::/16",
        ),
    )
)
ADDRESSES = tuple(
    map(
        ip_address,
        (
            "0.0.0.0",
            "9.255.255.255",
            "10.0.0.0",
            "10.0.0.7",
            "10.0.0.127",
            "10.0.0.128",
            "10.0.0.255",
            "10.0.1.0",
            "11.0.0.0",
            "255.255.255.255",
            "::",
            "fd00::6",
            "fd00::7",
            "fd00:0:0:1::",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ),
    )
)
PORTS = st.none() | st.lists(
    st.tuples(st.sampled_from((6, 17, 132)), st.integers(1, 12), st.integers(0, 6)).map(
        lambda port: (port[0], port[1], port[1] + port[2])
    ),
    min_size=1,
    max_size=3,
).map(tuple)


@st.composite
def blocks(draw):
    network = draw(st.sampled_from(NETWORKS))
    inner = [one for one in NETWORKS if one.version == network.version and one.subnet_of(network)]
    return network, tuple(draw(st.lists(st.sampled_from(inner), max_size=2)))


RULES = st.builds(
    Allow,
    anyone=st.booleans(),
    groups=st.frozensets(st.sampled_from("ab")),
    blocks=st.lists(blocks(), max_size=3).map(tuple),
    ports=PORTS,
)


def one_by_one(allowed, groups, address, protocol, port):
    def meant(rule):
        return (
            rule.anyone
            or any(address in groups.get(group, ()) for group in rule.groups)
            or any(
                address in network and not any(address in one for one in excepted)
                for network, excepted in rule.blocks
            )
        )

    return any(
        meant(rule)
        and (
            rule.ports is None
            or any(kind == protocol and first <= port <= last for kind, first, last in rule.ports)
        )
        for rule in allowed
    )


@given(
    st.lists(RULES, max_size=4),
    st.dictionaries(st.sampled_from("ab"), st.frozensets(st.sampled_from(ADDRESSES)), max_size=2),
    st.sampled_from(ADDRESSES),
    st.sampled_from((1, 6, 17, 132)),
    st.integers(0, 20),
)
def test_a_class_decides_as_its_rules_do(allowed, groups, address, protocol, port):
    access = classes(allowed, groups).access(address)
    may = access is None or any(kind == protocol and first <= port <= last for kind, first, last in access)
    assert may == one_by_one(allowed, groups, address, protocol, port)


@given(st.lists(RULES, max_size=4))
def test_ranges_do_not_overlap_and_ports_are_merged(allowed):
    found = classes(allowed, {})
    for ranges in found.ranges.values():
        assert all(one[1] < two[0] for one, two in itertools.pairwise(ranges))
        for _, _, access in ranges:
            assert access is None or all(
                one[0] != two[0] or one[2] + 1 < two[1] for one, two in itertools.pairwise(access)
            )


@pytest.mark.parametrize(
    ("rules", "peers"),
    [pytest.param(1, 1000, id="a-rule"), pytest.param(100, 1000, id="a-hundred-rules")],
)
def test_an_address_has_one_entry_however_many_rules_there_are(rules, peers):
    """So a packet's cost is two look-ups."""
    group = frozenset(ip_address(f"10.0.{number // 256}.{number % 256}") for number in range(peers))
    allowed = [
        Allow(groups=frozenset({"all"}), ports=((6, 1 + 2 * number, 1 + 2 * number),))
        for number in range(rules)
    ]
    found = classes(allowed, {"all": group})
    assert len(found.single) == peers
    assert len(set(found.single.values())) == 1
    assert found.rest == ()


MEMBER = ip_address("10.0.0.7")
IN_GROUP = Allow(groups=frozenset("a"), ports=((6, 1, 1),))


@pytest.mark.parametrize(
    ("other", "access"),
    [
        pytest.param(Allow(anyone=True, ports=((6, 3, 4),)), ((6, 1, 1), (6, 3, 4)), id="anyone"),
        pytest.param(Allow(anyone=True, ports=((6, 2, 4),)), ((6, 1, 4),), id="anyone-next-to-it"),
        pytest.param(
            Allow(blocks=((ip_network("10.0.0.0/24"), ()),), ports=((17, 5, 5),)),
            ((6, 1, 1), (17, 5, 5)),
            id="its-block",
        ),
        pytest.param(
            Allow(blocks=((ip_network("10.0.0.0/24"), (ip_network("10.0.0.7/32"),)),), ports=((17, 5, 5),)),
            ((6, 1, 1),),
            id="out-of-its-block",
        ),
        pytest.param(Allow(blocks=((ip_network("10.0.0.0/24"), ()),)), None, id="a-block-that-may-all"),
    ],
)
def test_a_member_of_a_group_has_what_others_have_too(other, access):
    found = classes([IN_GROUP, other], {"a": frozenset({MEMBER})})
    assert found.single[MEMBER] == access
    both = classes([other, IN_GROUP], {"a": frozenset({MEMBER})})
    assert both.single == found.single
