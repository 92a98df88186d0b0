"""Two versions side by side: today's code reads yesterday's bytes, and yesterday's decoder reads today's."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yesterday
from hypothesis import given, settings
from hypothesis import strategies as st

from galactic import messages
from galactic.diff import Diff
from galactic.errors import Rejected
from galactic.messages import (
    Changes,
    Head,
    Message,
    Shard,
)
from galactic.names import parse_vpc
from galactic.node.mqtt.replica import TableReplica
from galactic.node.state import checkpoint
from galactic.node.state.checkpoint import Checkpoint, NodeFile
from galactic.router.egress.adj_rib_out import AdjRibOut
from galactic.router.egress.retained import Retained
from galactic.router.rib.networks import Network

HERE = Path(__file__).parent / "yesterday"
KINDS = {name: getattr(messages, earlier.__name__) for name, earlier in yesterday.KINDS.items()}
kind = yesterday.kind_of
LINES = [line.split(" ", 1) for line in (HERE / "mqtt.txt").read_text().splitlines()]
PUBLISHED = [(topic, payload.encode()) for topic, payload in LINES]
RECORD = next(HERE.glob("*-*.json"))


def plain(message: object) -> dict[str, object]:
    """All fields but the schema."""
    fields = json.loads(msgspec.json.encode(message))
    fields.pop("schema", None)
    return fields


def known(value: Any, earlier: Any) -> Any:
    """The value without the fields that were added since."""
    if isinstance(earlier, dict):
        return {name: known(value[name], part) for name, part in earlier.items()}
    if isinstance(earlier, list):
        return [known(*pair) for pair in zip(value, earlier, strict=True)]
    return value


def reader(messages_: list[tuple[str, bytes]]) -> TableReplica:
    """A node that reads these, in their order."""
    table = TableReplica(0xC0DE, "default", 0.0)
    for topic, payload in messages_:
        match topic.split("/"):
            case ("vpcs", _, "head"):
                table.receive_head(messages.decode(Head, payload), 0.0)
            case ("vpcs", _, "table", number):
                table.receive_shard(int(number), messages.decode(Shard, payload), 0.0)
            case ("vpcs", _, "changes"):
                table.receive_changes(messages.decode(Changes, payload), 0.0)
    return table


def test_there_are_bytes_of_every_kind() -> None:
    assert {kind(topic) for topic, _ in PUBLISHED} == set(KINDS) == set(yesterday.KINDS)


@pytest.mark.parametrize(("topic", "payload"), PUBLISHED)
def test_payloads_mean_the_same_to_both(topic: str, payload: bytes) -> None:
    before = yesterday.read(kind(topic), payload)
    now = messages.decode(KINDS[kind(topic)], payload)
    earlier = plain(before)
    assert known(plain(now), earlier) == earlier
    assert now.schema == 1
    again = messages.encode(now)
    assert b'"schema":1' in again
    assert yesterday.read(kind(topic), again) == before


def test_a_node_follows_a_table_of_yesterdays_router() -> None:
    table = reader(PUBLISHED)
    assert table.settled
    assert len(table.routes) == 6


def test_a_table_of_todays_router_adds_up_for_yesterdays_node() -> None:
    shard = next(messages.decode(Shard, payload) for topic, payload in PUBLISHED if kind(topic) == "table")
    rib = AdjRibOut(0xC0DE)
    rib.put(Diff({Network(route.network): route for route in shard.routes}, frozenset()), 7)
    (change,) = rib.changes(7)
    pack = rib.pack()
    assert pack
    assert pack.head
    read = yesterday.read("changes", messages.encode(change))
    parts = [yesterday.read("table", messages.encode(part)) for part in pack.shards.values()]
    head = yesterday.read("head", messages.encode(pack.head))
    routes = [route for part in parts for route in part.routes]
    assert {route.network for route in read.set} == {route.network for route in routes}
    assert (head.digest, head.count) == (yesterday.digest(routes), len(routes))


def test_a_router_takes_over_yesterdays_table_and_publishes_nothing_again() -> None:
    retained = Retained()
    for topic, payload in PUBLISHED:
        if topic.startswith(("vpcs", "router")) and kind(topic) != "changes":
            retained.add(tuple(topic.split("/")), payload)
    (vpc,) = retained.tables
    assert vpc == parse_vpc("00000000c0de")
    assert retained.tables[vpc].whole
    assert not [*retained.missing()]
    rib = AdjRibOut(vpc, retained.tables[vpc])
    assert rib.idle
    assert rib.pack() is None


# -- a newer sender ----------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=4,
)
NAMES = st.from_regex(r"new_[a-z]{1,6}", fullmatch=True)


def extended(value: object, draw) -> object:
    """The same JSON; each object in it has more fields, before and after those that are known."""
    match value:
        case dict():
            more = draw(st.dictionaries(NAMES, VALUES, min_size=1, max_size=2))
            items = [(key, extended(inner, draw)) for key, inner in value.items()]
            return dict(draw(st.permutations([*items, *more.items()])))
        case list():
            return [extended(inner, draw) for inner in value]
    return value


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_fields_of_a_newer_version_change_nothing(data: st.DataObject) -> None:
    """No message, no digest, and no table."""
    newer = [
        (topic, json.dumps(extended(json.loads(payload), data.draw)).encode()) for topic, payload in PUBLISHED
    ]
    for (topic, payload), (_, more) in zip(PUBLISHED, newer, strict=True):
        assert messages.decode(KINDS[kind(topic)], more) == messages.decode(KINDS[kind(topic)], payload)
        assert yesterday.read(kind(topic), more) == yesterday.read(kind(topic), payload)
    table = reader(newer)
    assert table.settled
    assert table.routes == reader(PUBLISHED).routes
    retained = Retained()
    for topic, payload in newer:
        if kind(topic) in ("head", "table"):
            retained.add(tuple(topic.split("/")), payload)
    assert all(AdjRibOut(vpc, known).idle for vpc, known in retained.tables.items())


@pytest.mark.parametrize("name", sorted(KINDS))
@pytest.mark.parametrize(
    "more",
    [
        pytest.param({}, id="decodable"),
        pytest.param(
            {"endpoints": {}, "routes": 7, "revision": "x", "id": 1, "attachments": {}}, id="other-types"
        ),
    ],
)
def test_a_later_schema_is_refused_as_a_whole(name: str, more: dict[str, object]) -> None:
    payload = next(payload for topic, payload in PUBLISHED if kind(topic) == name)
    later = json.dumps({**json.loads(payload), **more, "schema": messages.UNDERSTOOD + 1}).encode()
    with pytest.raises(Rejected, match="upgrade this program") as caught:
        messages.decode(KINDS[name], later)
    assert caught.value.reason == "NewerSchema"


def test_a_later_schema_leaves_what_is_in_force() -> None:
    table, retained = reader(PUBLISHED), Retained()
    for topic, payload in PUBLISHED:
        if kind(topic) in ("head", "table"):
            retained.add(tuple(topic.split("/")), payload)
            later = json.dumps(
                {**json.loads(payload), "schema": messages.UNDERSTOOD + 1, "revision": 2**60}
            ).encode()
            with pytest.raises(Rejected):
                retained.add(tuple(topic.split("/")), later)
    assert table.settled
    (known,) = retained.tables.values()
    assert known.refused, "a router that leads overwrites it"


# -- records -----------------------------------------------------------------------------------------------------------


def test_records_mean_the_same_to_both(tmp_path: Path) -> None:
    before = msgspec.json.decode(RECORD.read_bytes(), type=yesterday.AttachmentFile)
    attachment = checkpoint.decode(RECORD.read_bytes())
    again = checkpoint.encode(attachment)
    assert b'"schema":1' in again
    assert msgspec.json.decode(again, type=yesterday.AttachmentFile) == before
    written = Checkpoint(tmp_path)
    written.prepare()
    written.put_node(NodeFile("2001:db8:ff01:100::/56", 7))
    node = msgspec.json.decode((tmp_path / "node.json").read_bytes(), type=yesterday.NodeFile)
    assert (node.prefix, node.clock) == ("2001:db8:ff01:100::/56", 7)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_fields_of_a_newer_record_change_nothing(data: st.DataObject) -> None:
    newer = json.dumps(extended(json.loads(RECORD.read_bytes()), data.draw)).encode()
    assert checkpoint.decode(newer) == checkpoint.decode(RECORD.read_bytes())
    before = msgspec.json.decode(RECORD.read_bytes(), type=yesterday.AttachmentFile)
    assert msgspec.json.decode(newer, type=yesterday.AttachmentFile) == before


def test_what_yesterdays_node_left_is_read_and_a_later_schema_is_set_aside(tmp_path: Path) -> None:
    records = Checkpoint(tmp_path)
    records.prepare()
    (tmp_path / "node.json").write_bytes((HERE / "node.json").read_bytes())
    folder = tmp_path / "attachments"
    (folder / RECORD.name).write_bytes(RECORD.read_bytes())
    later = {
        **json.loads(RECORD.read_bytes()),
        "function": "0001",
        "schema": checkpoint.UNDERSTOOD + 1,
    }
    (folder / "00000000c0de-0001.json").write_text(json.dumps(later))
    assert [*records.attachments()] == [(0xC0DE, 0xD69A)]
    assert (folder / "00000000c0de-0001.unreadable").exists()
    assert records.node().prefix == "2001:db8:ff01:100::/56"
    (tmp_path / "node.json").write_text('{"schema":99,"prefix":{}}')
    assert records.node() == NodeFile()


def test_each_message_has_a_schema() -> None:
    assert {*Message.__args__} >= {*KINDS.values()}
    assert all(issubclass(one, messages.Versioned) for one in Message.__args__)
