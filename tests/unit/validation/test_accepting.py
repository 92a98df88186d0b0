"""Which of a VPC's networks an attachment accepts."""

from ipaddress import ip_network

import pytest

from galactic.validation.accepting import accepted, declined


@pytest.mark.parametrize(
    ("networks", "within", "routes", "others"),
    [
        pytest.param("10.1.0.0/16", "10.1.0.0/16", "10.1.0.0/16", "", id="equal"),
        pytest.param("10.1.0.0/16", "10.0.0.0/8", "10.1.0.0/16", "", id="inside"),
        pytest.param("10.0.0.0/8", "10.1.0.0/16", "10.1.0.0/16", "10.0.0.0/8", id="grown"),
        pytest.param("10.1.0.0/16 10.96.0.0/12", "10.1.0.0/16", "10.1.0.0/16", "10.96.0.0/12", id="another"),
        pytest.param("10.1.0.0/24", "10.1.0.0/25 10.1.0.128/25", "10.1.0.0/24", "", id="halves"),
        pytest.param("10.1.0.0/16", "10.1.2.0/24 10.1.2.128/25", "10.1.2.0/24", "10.1.0.0/16", id="nested"),
        pytest.param("10.1.0.0/16 fd00::/64", "0.0.0.0/0", "10.1.0.0/16", "fd00::/64", id="a-family"),
        pytest.param("10.1.0.0/16 fd00::/64", "0.0.0.0/0 ::/0", "10.1.0.0/16 fd00::/64", "", id="all"),
        pytest.param("10.1.0.0/16", "", "", "10.1.0.0/16", id="none"),
    ],
)
def test_parts(networks: str, within: str, routes: str, others: str) -> None:
    given, limits = ([ip_network(text) for text in texts.split()] for texts in (networks, within))
    assert [str(network) for network in accepted(given, limits)] == routes.split()
    assert [str(network) for network in declined(given, limits)] == others.split()
