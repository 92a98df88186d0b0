"""Every false registration of a node is rejected, each with its reason."""

import msgspec
import pytest
from msgspec.structs import replace

from galactic.messages import Endpoint
from galactic.router.rib.path import Attachment, NodeRef, Segment, endpoint_path, node_paths

N1 = NodeRef("default", "n1")
KNOWN = {"ns/a1": Attachment(0x4D2, 1, frozenset({"10.1.1.1/32", "10.9.0.0/16"}), ready=True)}


def test_an_honest_endpoint(topology) -> None:
    endpoint = topology.endpoint("n1", 1, "10.9.0.0/16", "10.1.1.1/32", epoch=7)
    path, rejections = endpoint_path(N1, topology.prefix("n1"), endpoint, KNOWN)
    assert not rejections
    assert path is not None
    assert path.networks == ("10.1.1.1/32", "10.9.0.0/16")
    assert (path.vpc, path.function, path.epoch, path.pending) == (0x4D2, 1, 7, "")
    assert path.sid == endpoint.sid


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param({"vpc": "4d2"}, "InvalidIdentifier", id="vpc-too-short"),
        pytest.param({"vpc": "ffffffffffff"}, "InvalidIdentifier", id="vpc-reserved"),
        pytest.param({"function": "0000"}, "InvalidIdentifier", id="function-reserved"),
        pytest.param({"sid": "10.0.0.1"}, "InvalidIdentifier", id="sid-is-ipv4"),
        pytest.param({"sid": "2001:db8:ff01:200::4d2:1"}, "SidOutsidePrefix", id="another-nodes-sid"),
        pytest.param(
            {"sid": "2001:db8:ff01:101::4d2:1"}, "SidOutsidePrefix", id="inside-prefix-but-not-locator"
        ),
        pytest.param({"sid": "2001:db8:ff01:100::4d3:1"}, "SidMismatch", id="sid-of-another-vpc"),
        pytest.param({"sid": "2001:db8:ff01:100::4d2:2"}, "SidMismatch", id="sid-of-another-function"),
        pytest.param({"epoch": -1}, "EpochInvalid", id="negative-epoch"),
        pytest.param({"epoch": 1 << 62}, "EpochInvalid", id="epoch-without-a-later-one"),
        pytest.param({"attachment": "ns/nobody"}, "AttachmentUnknown", id="no-such-attachment"),
        pytest.param(
            {"vpc": "0000000004d3", "sid": "2001:db8:ff01:100::4d3:1"}, "VpcMismatch", id="foreign-vpc"
        ),
        pytest.param(
            {"function": "0002", "sid": "2001:db8:ff01:100::4d2:2"}, "FunctionMismatch", id="foreign-function"
        ),
        pytest.param({"networks": ("10.1.1.1/32",) * 2000}, "TooManyNetworks", id="too-many-networks"),
    ],
)
def test_lies(topology, change: dict, reason: str) -> None:
    endpoint = msgspec.structs.replace(topology.endpoint("n1", 1, "10.1.1.1/32"), **change)
    path, rejections = endpoint_path(N1, topology.prefix("n1"), endpoint, KNOWN)
    assert path is None
    assert [rejection.reason for rejection in rejections] == [reason]


def test_a_node_without_a_prefix_claims_nothing(topology) -> None:
    path, (rejection,) = endpoint_path(N1, None, topology.endpoint("n1", 1, "10.1.1.1/32"), KNOWN)
    assert path is None
    assert rejection.reason == "NodeUnknown"


def test_networks_are_judged_one_by_one(topology) -> None:
    endpoint = topology.endpoint("n1", 1, "10.1.1.1/32", "10.1.1.2/32", "0.0.0.0/0", "10.9.0.1/16", "x")
    path, rejections = endpoint_path(N1, topology.prefix("n1"), endpoint, KNOWN)
    assert path is not None
    assert path.networks == ("10.1.1.1/32",)
    assert [rejection.reason for rejection in rejections] == [
        "NotEntitled",
        "NotEntitled",
        "HostBits",
        "InvalidNetwork",
    ]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"ready": False}, id="not-ready"),
        pytest.param({"vpc": None}, id="vpc-without-identifier"),
        pytest.param({"function": None}, id="attachment-without-identifier"),
    ],
)
def test_what_is_not_assigned_yet_is_pending(topology, change: dict) -> None:
    known = {"ns/a1": replace(KNOWN["ns/a1"], **change)}
    path, _ = endpoint_path(N1, topology.prefix("n1"), topology.endpoint("n1", 1, "10.1.1.1/32"), known)
    assert path is not None
    assert path.pending == "NotReady"


@pytest.mark.parametrize(
    ("nodes", "pending"),
    [
        pytest.param(None, "", id="an-operator-that-writes-no-carriers"),
        pytest.param({"n1", "n2"}, "", id="carried-here"),
        pytest.param({"n2"}, "NotCarried", id="carried-elsewhere"),
        pytest.param(set(), "NotCarried", id="not-carried"),
    ],
)
def test_a_node_without_a_carrier_installs_nothing_new(topology, nodes, pending) -> None:
    known = {"ns/a1": replace(KNOWN["ns/a1"], nodes=None if nodes is None else frozenset(nodes))}
    path, _ = endpoint_path(N1, topology.prefix("n1"), topology.endpoint("n1", 1, "10.1.1.1/32"), known)
    assert path is not None
    assert path.pending == pending


def test_a_node_that_registers_an_attachment_twice_is_taken_at_its_newest_word(topology) -> None:
    old = topology.endpoint("n1", 1, "10.1.1.1/32", epoch=1)
    new = topology.endpoint("n1", 1, "10.9.0.0/16", epoch=2)
    one, other = (
        node_paths(N1, Segment(topology.prefix("n1"), order), KNOWN) for order in ((old, new), (new, old))
    )
    assert one == other
    (kept,) = one.paths.values()
    assert kept.epoch == 2
    assert [rejection.reason for rejection in one.rejections] == ["Duplicate"]


def test_no_attachments_means_no_check(topology) -> None:
    endpoint: Endpoint = topology.endpoint("n1", 9, "172.16.0.0/12")
    path, rejections = endpoint_path(N1, topology.prefix("n1"), endpoint, None)
    assert path is not None
    assert not rejections
