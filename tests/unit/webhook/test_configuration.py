"""The webhook configurations of the chart: the webhook enters its CAs, and changes nothing else."""

import copy
from typing import Any

import pytest

from galactic.webhook.configuration import Address, trusting, trusts

CAS = b"CAS"
BUNDLE = "Q0FT"


def stored(*bundles: str) -> dict[str, Any]:
    """As the API server gives it, with these CAs in its webhooks."""
    return {
        "metadata": {"name": "galactic-admission", "resourceVersion": "7"},
        "webhooks": [
            {
                "name": f"{number}.galactic.datumapis.com",
                "failurePolicy": "Ignore",
                "clientConfig": {"service": {"name": "s"}} | ({"caBundle": bundle} if bundle else {}),
            }
            for number, bundle in enumerate(bundles)
        ],
    }


@pytest.mark.parametrize("bundles", [("", ""), (BUNDLE, ""), ("T1RIRVI=", "T1RIRVI=")])
def test_every_webhook_gets_the_cas_and_nothing_else_changes(bundles: tuple[str, ...]) -> None:
    before = stored(*bundles)
    original = copy.deepcopy(before)
    assert trusting(before, CAS) == stored(BUNDLE, BUNDLE), "resourceVersion and failurePolicy included"
    assert before == original


def test_cas_that_are_there_are_not_written_again() -> None:
    assert trusting(stored(BUNDLE, BUNDLE), CAS) is None


@pytest.mark.parametrize(("bundles", "trusted"), [(("", BUNDLE), False), ((BUNDLE, "T1RIRVI="), True)])
def test_it_is_trusted_where_every_webhook_has_cas(bundles: tuple[str, ...], trusted: bool) -> None:
    assert trusts(stored(*bundles)) == trusted


@pytest.mark.parametrize(
    ("address", "names"),
    [
        pytest.param(
            Address("galactic-system", "galactic-webhook"),
            ("galactic-webhook.galactic-system.svc", "galactic-webhook.galactic-system.svc.cluster.local"),
            id="service",
        ),
        pytest.param(Address("n", "s", "https://[fd00::1]:9443"), ("fd00::1",), id="ipv6-url"),
        pytest.param(Address("n", "s", "https://hooks.example:9443/"), ("hooks.example",), id="named-url"),
    ],
)
def test_the_certificate_has_the_names_of_the_address(address: Address, names: tuple[str, ...]) -> None:
    assert address.names == names
