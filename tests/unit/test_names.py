import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galactic import names
from galactic.errors import Rejected


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (9, "9"),
        (10, "a"),
        (35, "z"),
        (36, "A"),
        (61, "Z"),
        (62, "10"),
        (1234, "jU"),
        (42, "G"),
        (0xFFFFFFFFFFFF, "1hVwxnaA7"),
        (0xFFFF, "h31"),
    ],
)
def test_base62(number, text):
    assert names.base62(number) == text
    assert names.from_base62(text) == number


@given(st.integers(0, 2**64))
def test_base62_there_and_back(number):
    assert names.from_base62(names.base62(number)) == number
    assert names.from_base62("00" + names.base62(number)) == number


@pytest.mark.parametrize("text", ["", "-", "a b", "ü", "1_0"])
def test_not_base62(text):
    with pytest.raises(Rejected, match="base62"):
        names.from_base62(text)


def test_base62_has_no_negative_numbers():
    with pytest.raises(ValueError, match="negative"):
        names.base62(-1)


@pytest.mark.parametrize(
    ("parse", "text", "number"),
    [
        (names.parse_vpc, "0000000004d2", 1234),
        (names.parse_vpc, "fffffffffffe", 2**48 - 2),
        (names.parse_function, "002a", 42),
        (names.parse_function, "fffe", 65534),
    ],
)
def test_hex(parse, text, number):
    assert parse(text) == number
    assert (names.vpc_hex if len(text) == 12 else names.function_hex)(number) == text


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        pytest.param(names.parse_vpc, "000000000000", id="vpc-zero"),
        pytest.param(names.parse_vpc, "ffffffffffff", id="vpc-all-ones"),
        pytest.param(names.parse_vpc, "4d2", id="vpc-short"),
        pytest.param(names.parse_vpc, "0000000004D2", id="vpc-upper-case"),
        pytest.param(names.parse_vpc, "00000000 4d2", id="vpc-space"),
        pytest.param(names.parse_vpc, "0x00000004d2", id="vpc-prefix"),
        pytest.param(names.parse_vpc, "+00000000123", id="vpc-sign"),
        pytest.param(names.parse_vpc, "0000_0004d2f", id="vpc-underscore"),
        pytest.param(names.parse_function, "0000", id="function-zero"),
        pytest.param(names.parse_function, "ffff", id="function-all-ones"),
        pytest.param(names.parse_function, "0002a", id="function-long"),
    ],
)
def test_not_hex(parse, text):
    with pytest.raises(Rejected):
        parse(text)


def test_interface_names():
    assert names.vrf(1234) == "G0000000jU000V"
    assert names.host_end(1234, 42) == "G0000000jU00GH"
    assert len(names.host_end(names.VPC_MAX, names.FUNCTION_MAX)) <= 15


@given(st.integers(0, names.VPC_MAX), st.integers(0, names.FUNCTION_MAX))
def test_interface_names_there_and_back(vpc, function):
    assert names.parse_interface(names.host_end(vpc, function)) == (vpc, function, "H")
    assert names.parse_interface(names.vrf(vpc)) == (vpc, 0, "V")


@pytest.mark.parametrize(
    "name",
    [
        "eth0",
        "lo-galactic",
        "",
        "G0000000jU000X",
        "g0000000jU000V",
        "G0000000jU00V",
        "GZZZZZZZZZ000V",
        "G0000000-U000V",
    ],
)
def test_interfaces_of_others(name):
    assert names.parse_interface(name) is None


@pytest.mark.parametrize("name", ["node-1", "n" * 63], ids=["short", "just"])
def test_a_name_that_fits_is_its_own_label_value(name):
    assert names.label_value(name) == name


def test_longer_names_become_valid_and_distinct_label_values():
    values = {names.label_value(f"{'a-.' * 30}{last}") for last in range(100)}
    assert len(values) == 100
    assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?", value) for value in values)
