"""The payloads and topics of MQTT."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galactic import messages
from galactic.errors import Rejected
from galactic.messages import (
    Changes,
    Entitlement,
    Entitlements,
    Head,
    Leader,
    Message,
    NodeEndpoints,
    NodeStatus,
    PeeringVpc,
    Route,
    Shard,
    Topics,
)

SID = "2001:db8:ff01:100:0:4d2:0:2a"
ROUTE = Route("10.1.1.1/32", (SID,), "default", "node-1", "002a", 7)
ENDPOINT = messages.Endpoint("0000000004d2", "002a", "team/web", SID, ("10.1.1.1/32", "192.168.3.0/24"), 7)

routes = st.builds(
    Route,
    network=st.text("0123456789./", max_size=8),
    segments=st.tuples(st.text("ab:", max_size=4)),
    cluster=st.just("default"),
    node=st.text("n12", max_size=2),
    function=st.just("002a"),
    epoch=st.integers(0, 2**63 - 1),
)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        pytest.param(
            NodeStatus("online", "2001:db8:ff01:100::/56", "1.0"),
            '{"state":"online","prefix":"2001:db8:ff01:100::/56","version":"1.0"}',
            id="status",
        ),
        pytest.param(
            NodeEndpoints(3, (ENDPOINT,)),
            '{"sequence":3,"endpoints":[{"vpc":"0000000004d2","function":"002a","attachment":"team/web",'
            f'"sid":"{SID}","networks":["10.1.1.1/32","192.168.3.0/24"],"epoch":7}}]}}',
            id="endpoints",
        ),
        pytest.param(
            Entitlements(
                7,
                1,
                (
                    Entitlement(
                        "team/web", "0000000004d2", "002a", ("10.1.1.1/32",), ("n1",), True, "team/blue"
                    ),
                ),
                "6d5b1a3e",
                (PeeringVpc("team/blue", "0000000004d2", ("10.1.1.0/24",), ("0000000004d3",)),),
            ),
            '{"generation":7,"of":1,"attachments":[{"attachment":"team/web","vpc":"0000000004d2","function":"002a",'
            '"networks":["10.1.1.1/32"],"nodes":["n1"],"ready":true,"vpc_name":"team/blue"}],"owner":"6d5b1a3e",'
            '"vpcs":[{"name":"team/blue","vpc":"0000000004d2","networks":["10.1.1.0/24"],"peers":["0000000004d3"]}]}',
            id="entitlements",
        ),
        pytest.param(
            messages.NodeUsage(
                "3f", (messages.UsageEntry("0000000004d2", "002a", "team/web", 7, 60, 1000, 10, 2000, 20),)
            ),
            '{"ledger":"3f","entries":[{"vpc":"0000000004d2","function":"002a","attachment":"team/web","epoch":7,'
            '"seconds":60,"sent_bytes":1000,"sent_packets":10,"received_bytes":2000,"received_packets":20}]}',
            id="usage",
        ),
        pytest.param(Leader("router-1", 4, "6d5b"), '{"id":"router-1","term":4,"owner":"6d5b"}', id="leader"),
        pytest.param(
            Changes(9, 8, (ROUTE,), ("10.1.1.9/32",)),
            f'{{"revision":9,"previous":8,"set":[{{"network":"10.1.1.1/32","segments":["{SID}"],'
            '"cluster":"default","node":"node-1","function":"002a","epoch":7}],"delete":["10.1.1.9/32"]}',
            id="changes",
        ),
        pytest.param(Shard(9, 1, ()), '{"revision":9,"of":1,"routes":[]}', id="shard"),
        pytest.param(Head(9, 1, "00ff", 1), '{"revision":9,"count":1,"digest":"00ff","shards":1}', id="head"),
    ],
)
def test_payloads_are_those_of_the_contract(message: Message, text: str) -> None:
    with_schema = f'{text[:-1]},"schema":1}}'
    assert messages.encode(message).decode() == with_schema
    for payload in (text, with_schema):  # versions before the schema wrote none
        assert messages.decode(type(message), payload.encode()) == message


def test_unknown_fields_of_a_newer_sender_are_ignored() -> None:
    assert messages.decode(Leader, b'{"id":"a","term":1,"since":"today"}') == Leader("a", 1)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        pytest.param(b"", "Undecodable", id="empty"),
        pytest.param(b"{", "Undecodable", id="cut-off"),
        pytest.param(b"\xff\xfe", "Undecodable", id="not-utf-8"),
        pytest.param(b"[]", "Undecodable", id="a-list"),
        pytest.param(b'{"sequence":"1","endpoints":[]}', "Undecodable", id="number-as-text"),
        pytest.param(b'{"sequence":1}', "Undecodable", id="field-missing"),
        pytest.param(b'{"sequence":1,"endpoints":[null]}', "Undecodable", id="null-endpoint"),
        pytest.param(b"[" * 100_000, "Undecodable", id="deep"),
        pytest.param(b" " * (messages.MAX_PAYLOAD + 1), "Oversized", id="oversized"),
    ],
)
def test_what_cannot_be_decoded_is_rejected_with_a_reason(payload: bytes, reason: str) -> None:
    with pytest.raises(Rejected) as caught:
        messages.decode(NodeEndpoints, payload)
    assert caught.value.reason == reason


@given(st.binary(max_size=300))
def test_no_payload_raises_anything_else(payload: bytes) -> None:
    for kind in (NodeStatus, NodeEndpoints, Entitlements, Leader, Changes, Shard, Head):
        try:
            messages.decode(kind, payload)
        except Rejected:
            continue


@given(st.lists(routes, max_size=6), st.randoms())
def test_digest_is_independent_of_order_and_adjustable(table: list[Route], random: object) -> None:
    shuffled = list(table)
    random.shuffle(shuffled)
    assert messages.digest(shuffled) == messages.digest(table)
    if table:
        rest = sum(map(messages.weight, table[1:]))
        assert messages.digest_of(rest + messages.weight(table[0])) == messages.digest(table)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(Route("10.1.1.2/32", (SID,), "default", "node-1", "002a", 7), id="network"),
        pytest.param(Route("10.1.1.1/32", ("::1",), "default", "node-1", "002a", 7), id="segment"),
        pytest.param(Route("10.1.1.1/32", (SID,), "default", "node-1", "002a", 8), id="epoch"),
    ],
)
def test_digest_differs_by_table(other: Route) -> None:
    assert messages.digest([ROUTE]) != messages.digest([other])
    assert len(messages.digest([])) == 16


def test_topics() -> None:
    topics = Topics("galactic/v1")
    assert topics.endpoints("default", "node-1") == "galactic/v1/nodes/default/node-1/endpoints"
    assert topics.table("0000000004d2", 3) == "galactic/v1/vpcs/0000000004d2/table/3"
    assert topics.parts(topics.head("0000000004d2")) == ("vpcs", "0000000004d2", "head")
    assert topics.parts("galactic/v2/router/leader") == ()


def test_json_is_plain() -> None:
    assert json.loads(messages.encode(Shard(1, 1, (ROUTE,))))["routes"][0]["segments"] == [SID]
