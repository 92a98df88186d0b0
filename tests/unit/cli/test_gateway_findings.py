"""Gateways that lead nothing out, or by fewer nodes than asked, are findings, and attachments that ask for a way out
that nothing gives; the status and the picture have each gateway with its nodes and addresses.
"""

from typing import Any

import pytest
from states import condition, snapshot
from test_way_out import HELD, cluster

from galactic.cli.findings import NOTE, PROBLEM, findings
from galactic.cli.graph import picture
from galactic.cli.status import screen, summary
from galactic.cli.vpcs import described

EVERYTHING = [{"destination": "0.0.0.0/0"}]


def found(objects: Any) -> list[tuple[str, str, str]]:
    return [(one.severity, one.about, one.reason) for one in findings(snapshot(objects))]


def test_a_gateway_in_order_is_no_finding() -> None:
    objects = cluster()
    objects["VPCAttachment web"]["spec"]["routes"] = EVERYTHING
    assert [one for one in found(objects) if "node-3" not in one[1]] == []


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        pytest.param(
            [condition("Accepted", "False", "AddressInUse"), condition("Ready", "False", "AddressInUse")],
            (PROBLEM, "VPCGateway blue/way", "AddressInUse"),
            id="not-accepted",
        ),
        pytest.param(
            [condition("Accepted", "True"), condition("Ready", "False", "NoNodes")],
            (PROBLEM, "VPCGateway blue/way", "NoNodes"),
            id="not-ready",
        ),
        pytest.param(
            [
                condition("Accepted", "True"),
                condition("Ready", "True"),
                condition("Redundant", "False", "FewerNodes"),
            ],
            (NOTE, "VPCGateway blue/way", "FewerNodes"),
            id="not-redundant",
        ),
        pytest.param(
            [
                condition("Accepted", "True"),
                condition("Ready", "True"),
                condition("Published", "False", "NoReadyPod"),
                condition("Redundant", "True"),
            ],
            (NOTE, "VPCGateway blue/way", "NoReadyPod"),
            id="a-published-port-without-pods",
        ),
        pytest.param([], (PROBLEM, "VPCGateway blue/way", "Unseen"), id="not-reconciled"),
    ],
)
def test_a_gateway_that_lacks_something(conditions: Any, expected: tuple[str, str, str]) -> None:
    objects = cluster()
    objects["VPCGateway way"]["status"]["conditions"] = conditions
    objects["VPCGateway way"]["metadata"]["creationTimestamp"] = "2027-01-15T07:00:00Z"
    assert [one for one in found(objects) if one[1].startswith("VPCGateway")] == [expected]


@pytest.mark.parametrize(
    ("routes", "others", "asks"),
    [
        pytest.param(EVERYTHING, [], True, id="everything"),
        pytest.param([{"destination": "198.51.100.0/24"}], [], True, id="a-part"),
        pytest.param([{"destination": "0.0.0.0/0", "via": "10.1.1.2"}], [], False, id="by-a-pod"),
        pytest.param([{"destination": "10.1.1.0/28"}], [], False, id="inside-the-vpc"),
        pytest.param(
            EVERYTHING, [{"destination": "0.0.0.0/0", "via": "10.1.1.2"}], False, id="terminated-by-a-pod"
        ),
        pytest.param(
            EVERYTHING, [{"destination": "0.0.0.0/0", "via": "10.1.1.1"}], True, id="sent-on-by-a-pod"
        ),
    ],
)
def test_attachments_that_ask_where_nothing_leads_out(routes: Any, others: Any, asks: bool) -> None:
    objects = cluster()
    del objects["VPCGateway way"]
    objects["VPCAttachment web"]["spec"]["routes"] = routes
    objects["VPCAttachment api"]["spec"]["routes"] = others
    about = [one for one in found(objects) if one[2] == "NoWayOut"]
    assert about == ([(NOTE, "VPCAttachment blue/web", "NoWayOut")] if asks else [])


def test_the_status_has_each_gateway() -> None:
    objects = cluster()
    objects["VPCGateway way"]["status"]["nodes"][1]["ready"] = False
    seen = snapshot(objects)
    (gateway,) = summary(seen, [])["gateways"]
    assert gateway["vpc"] == "blue/blue"
    assert [(one["node"], one["addresses"], one["ready"]) for one in gateway["nodes"]] == [
        ("node-2", [HELD[2]], True),
        ("node-3", [HELD[3]], False),
    ]
    lines = [" ".join(line.split()) for line in screen(seen, [], everything=False)]
    expected = "blue/way blue/blue not redundant IPv4 node-2 203.0.113.2; node-3 (not ready) 203.0.113.3"
    assert expected in lines
    assert described(seen, "blue/blue")["gateway"] == "blue/way"


def test_the_picture_has_each_node_of_a_gateway() -> None:
    objects = cluster()
    objects["VPCGateway way"]["status"]["nodes"][1]["ready"] = False
    cells = picture(snapshot(objects)).cells
    (dot,) = cells["blue/blue", "node-3"]
    assert (dot.label, dot.fine) == ("way ↗ 203.0.113.3", False)
    assert [one.label for one in cells["blue/blue", "node-2"]] == ["api 10.1.1.2", "way ↗ 203.0.113.2"]
