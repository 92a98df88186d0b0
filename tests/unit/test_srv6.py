from ipaddress import IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galactic import srv6
from galactic.errors import Rejected
from galactic.names import FUNCTION_MAX, VPC_MAX

PREFIX = IPv6Network("2001:db8:ff01:100::/56")


def test_check_values():
    assert srv6.loopback(PREFIX) == IPv6Address("2001:db8:ff01:100:ffff:ffff:ffff:ffff")
    assert srv6.locator(PREFIX) == IPv6Network("2001:db8:ff01:100::/64")
    assert srv6.sid(PREFIX, 1234, 42).address == IPv6Address("2001:db8:ff01:100:0000:0000:04d2:002a")
    assert str(srv6.sid(PREFIX, 1234, 42)) == "2001:db8:ff01:100::4d2:2a"


@given(st.integers(1, VPC_MAX - 1), st.integers(1, FUNCTION_MAX - 1))
def test_sid_there_and_back(vpc, function):
    segment = srv6.sid(PREFIX, vpc, function)
    assert srv6.parse_sid(str(segment)) == segment
    assert (segment.vpc, segment.function) == (vpc, function)
    assert srv6.owns(PREFIX, segment)
    assert segment.address in srv6.locator(PREFIX)
    assert segment.address != srv6.loopback(PREFIX)


def test_a_sid_of_another_node_is_not_owned():
    other = IPv6Network("2001:db8:ff01:200::/56")
    assert not srv6.owns(PREFIX, srv6.sid(other, 1234, 42))


@pytest.mark.parametrize(
    ("vpc", "function"),
    [(0, 1), (VPC_MAX, 1), (VPC_MAX + 1, 1), (-1, 1), (1, 0), (1, FUNCTION_MAX), (1, FUNCTION_MAX + 1)],
)
def test_reserved_numbers_make_no_sid(vpc, function):
    with pytest.raises(ValueError, match="identifier"):
        srv6.sid(PREFIX, vpc, function)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("10.0.0.1", id="ipv4"),
        pytest.param("", id="empty"),
        pytest.param("2001:db8:ff01:100::", id="vpc-and-function-zero"),
        pytest.param("2001:db8:ff01:100::1", id="vpc-zero"),
        pytest.param("2001:db8:ff01:100::1:0", id="function-zero"),
        pytest.param("2001:db8:ff01:100:ffff:ffff:ffff:ffff", id="loopback"),
        pytest.param("2001:db8:ff01:100:ffff:ffff:ffff:1", id="vpc-all-ones"),
        pytest.param("2001:db8:ff01:100::1:ffff", id="function-all-ones"),
        pytest.param("2001:db8::/64", id="network"),
    ],
)
def test_not_a_sid(text):
    with pytest.raises(Rejected, match="not a SID"):
        srv6.parse_sid(text)


@pytest.mark.parametrize("text", ["2001:db8:ff01::/48", "2001:db8:ff01:100::/56", "2001:db8:ff01:101::/64"])
def test_prefix(text):
    assert str(srv6.parse_prefix(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "2001:db8:ff00::/47",
        "2001:db8:ff01:100::/65",
        "2001:db8:ff01:1::/56",
        "10.0.0.0/8",
        "",
        "2001:db8::1::/64",
    ],
)
def test_not_a_prefix(text):
    with pytest.raises(Rejected, match=r"spec\.prefix"):
        srv6.parse_prefix(text)
