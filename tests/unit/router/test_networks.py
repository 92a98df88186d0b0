"""A network is parsed once, and what is none is refused with its reason."""

import pytest

from galactic.errors import Rejected
from galactic.router.networks import entitled, network


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
        pytest.param("0.0.0.0/0", "DefaultRoute", id="default"),
        pytest.param("::/0", "DefaultRoute", id="default-ipv6"),
        pytest.param("10.1.1.2/0", "DefaultRoute", id="default-with-host-bits"),
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
        ("192.168.8.0/24", "10.1.1.2"),  # somebody else's address: a route of the pod's, nothing to announce
        ("192.168.9.0/24", None),
        ("0.0.0.0/0", "10.1.1.1"),
    )
    assert entitled(addresses, routes) == {
        "10.1.1.1/32",
        "fd00::1/128",
        "192.168.7.0/24",
        "2001:db8:7::/48",
    }
