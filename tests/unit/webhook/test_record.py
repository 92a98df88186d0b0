"""The webhook's record of an attachment: its fields, and its size."""

import gc
import tracemalloc
from typing import Any

import pytest

from galactic.crds.vpcattachment import VpcAttachment
from galactic.kube.memory import MemoryApi
from galactic.kube.resources import VPC_ATTACHMENTS
from galactic.validation.networks import unpacked
from galactic.webhook.cluster import Cluster
from galactic.webhook.record import State, record

ATTACHMENTS = 500
LARGEST = 1200
"""Bytes of one attachment with two addresses, indexes included; a model and the object itself had 29,000."""


def document(number: int, **status: Any) -> dict[str, Any]:
    """As operator and router write it."""
    addresses = [f"10.0.{number >> 8}.{number & 255}/16", f"fd00::{number:x}/64"]
    conditions = [
        {"type": kind, "status": "True", "reason": kind, "message": "as an operator writes it"}
        for kind in ("Ready", "Accepted", "Granted", "Attached", "Routed")
    ]
    endpoint = {"node": "node-1", "sid": f"2001:db8::{number:x}", "networks": addresses, "epoch": number}
    return {
        "metadata": {"name": f"a{number}", "namespace": "net", "uid": f"{number:036x}", "generation": 2},
        "spec": {"vpc": {"name": "blue"}},
        "status": {
            "ready": True,
            "vpc": "net/blue",
            "addresses": addresses,
            "carriers": [{"pod": f"p{number}", "uid": f"{number:036x}", "node": "node-1"}],
            "configuration": {"vpc": "0000000004d2", "networks": ["10.0.0.0/16", "fd00::/64"]},
            "conditions": conditions,
            "endpoint": endpoint,
            "observedGeneration": 2,
        }
        | status,
    }


REFUSED = {"type": "Accepted", "status": "False", "reason": "Held", "message": "taken"}
WAITING = {"type": "Ready", "status": "False", "reason": "Held", "message": "taken"}


@pytest.mark.parametrize(
    ("status", "state"),
    [
        pytest.param({}, State(True, True, "as an operator writes it"), id="ready"),
        pytest.param({"ready": False, "conditions": []}, State(False, False, ""), id="new"),
        pytest.param(
            {"ready": False, "conditions": [REFUSED, WAITING]}, State(False, True, "taken"), id="refused"
        ),
        pytest.param(
            {"ready": False, "conditions": [REFUSED, WAITING], "observedGeneration": 1},
            State(False, False, "taken"),
            id="refused-before-it-was-changed",
        ),
    ],
)
def test_a_pod_waits_until_the_present_specification_is_decided(status: dict[str, Any], state: State) -> None:
    assert record(VpcAttachment.model_validate(document(1, **status))).state == state


@pytest.mark.parametrize(
    ("spec", "status", "addresses", "others"),
    [
        pytest.param({}, {}, ["10.0.0.1/32", "fd00::1/128"], [], id="allocated"),
        pytest.param(
            {
                "interface": {"addresses": ["10.0.9.9/16"]},
                "routes": [
                    {"destination": "192.168.0.0/24", "via": "10.0.9.9"},
                    {"destination": "172.16.0.0/12", "via": "10.0.0.1"},
                ],
            },
            {},
            ["10.0.0.1/32", "fd00::1/128", "10.0.9.9/32"],
            ["192.168.0.0/24"],
            id="requested-and-a-termination",
        ),
        pytest.param(
            {"interface": {"addresses": ["10.0.9.9/16"]}},
            {"conditions": [REFUSED]},
            ["10.0.0.1/32", "fd00::1/128"],
            [],
            id="refused",
        ),
        pytest.param(
            {"interface": {"addresses": ["no address"]}}, {"addresses": ["neither"]}, [], [], id="malformed"
        ),
    ],
)
def test_it_has_every_network_that_leads_to_the_attachment(
    spec: dict[str, Any], status: dict[str, Any], addresses: list[str], others: list[str]
) -> None:
    written = document(1, **status)
    written["spec"] |= spec
    made = record(VpcAttachment.model_validate(written))
    assert [str(unpacked(network)) for network in made.addresses] == addresses
    assert [str(unpacked(network)) for network in made.networks[made.hosts :]] == others


def test_it_is_small() -> None:
    cluster = Cluster(MemoryApi())
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(ATTACHMENTS):
            cluster.changed(VPC_ATTACHMENTS, ("net", f"a{number}"), document(number))
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / ATTACHMENTS < LARGEST
