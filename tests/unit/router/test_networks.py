"""A network is parsed once, and what is none is refused with its reason."""

import string
from ipaddress import IPv4Network, IPv6Network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from galactic.errors import Rejected
from galactic.router.rib import networks
from galactic.router.rib.networks import entitled, network


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        pytest.param("10.1.1.2/32", "10.1.1.2/32", id="host"),
        pytest.param("10.1.0.0/16", "10.1.0.0/16", id="network"),
        pytest.param("FD00:0:0::1/128", "fd00::1/128", id="ipv6-is-made-canonical"),
    ],
)
def test_network(text: str, canonical: str) -> None:
    assert network(text) == canonical


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", "InvalidNetwork", id="empty"),
        pytest.param("ten", "InvalidNetwork", id="word"),
        pytest.param("10.1.1.2", "InvalidNetwork", id="address-without-length"),
        pytest.param("10.1.1.0/255.255.255.0", "InvalidNetwork", id="netmask"),
        pytest.param("10.1.1.0/33", "InvalidNetwork", id="too-long"),
        pytest.param("10.1.1.0/²", "InvalidNetwork", id="superscript-digit"),
        pytest.param("10.1.1.0/24/24", "InvalidNetwork", id="two-lengths"),
        pytest.param("fd00::%eth0/128", "InvalidNetwork", id="zone"),
        pytest.param("127.0.0.1/32", "InvalidNetwork", id="loopback"),
        pytest.param("169.254.1.1/32", "InvalidNetwork", id="the-gateway"),
        pytest.param("fe80::1/128", "InvalidNetwork", id="link-local"),
        pytest.param("224.0.0.0/4", "InvalidNetwork", id="multicast"),
        pytest.param("0.0.0.0/32", "InvalidNetwork", id="unspecified"),
        pytest.param("10.1.1.2/0", "HostBits", id="default-with-host-bits"),
        pytest.param("10.1.1.2/24", "HostBits", id="host-bits"),
        pytest.param("fd00::1/64", "HostBits", id="host-bits-ipv6"),
    ],
)
def test_what_is_no_network(text: str, reason: str) -> None:
    with pytest.raises(Rejected) as caught:
        network(text)
    assert caught.value.reason == reason


def test_an_attachment_is_entitled_to_its_addresses_and_terminations() -> None:
    addresses = ("10.1.1.1/24", "fd00::1/64", "nonsense")
    routes = (
        ("192.168.7.0/24", "10.1.1.1"),
        ("2001:db8:7::/48", "FD00::1"),
        ("192.168.8.0/24", "10.1.1.2"),  # another's address: a route of the pod, not announced
        ("192.168.9.0/24", None),
        ("0.0.0.0/0", "10.1.1.1"),
    )
    assert entitled(addresses, routes) == {
        "10.1.1.1/32",
        "fd00::1/128",
        "192.168.7.0/24",
        "2001:db8:7::/48",
        "0.0.0.0/0",
    }


def _v6(number: int, length: int, upper: bool) -> str:
    text = str(IPv6Network((number >> (128 - length) << (128 - length), length)))
    return text.upper() if upper else text


written = st.one_of(
    st.builds(
        lambda number, length: str(IPv4Network((number >> (32 - length) << (32 - length), length))),
        st.integers(0, 2**32 - 1),
        st.integers(1, 32),
    ),
    st.builds(_v6, st.integers(0, 2**128 - 1), st.integers(1, 128), st.booleans()),
    st.builds("{}.{}.{}.{}/{}".format, *(st.integers(0, 300) for _ in range(5))),
    st.text(string.hexdigits + ":./%", max_size=50),
    st.text(max_size=10),
)


@given(written)
@example("::ffff:10.1.1.1/128")
@example("1:2:3:4:5:6:7.8.9.10/128")
@example("1111:2222:3333:4444:5555:6666:123.123.123.123/128")
@example("10.1.1.1/032")
@example("010.1.1.1/32")
@example("10.1.1.1/00000000032")
@example("10.1.1/24")
@example("fe80::/16")
@example("1::0:0:1/128")
@example("1:0:2:3:4:5:6:7/128")
@example("10.1.1.1\0/32")
@example("\udcff/32")
def test_what_a_glance_shows_is_what_a_close_look_shows(text: str) -> None:
    assert answer(network, text) == answer(networks._checked, text)


def answer(function, text: str) -> str:
    try:
        return function(text)
    except Rejected as error:
        return error.reason
