"""Metrics of traffic: by name, bounded, gone with their attachments; and the messages with it."""

from ipaddress import ip_interface

import pytest
from prometheus_client import CollectorRegistry

from galactic.bus.memory import MemoryBroker
from galactic.errors import Unreachable
from galactic.linux.drop_counters import Drops
from galactic.linux.link_counters import LinkCounters
from galactic.messages import MIN_PAYLOAD, NodeUsage, Topics, decode
from galactic.names import vpc_hex
from galactic.node.dataplane.counter_reader import node_drops
from galactic.node.metrics import Metrics
from galactic.node.mqtt.session import NodeTopics
from galactic.node.mqtt.usage import AGAIN_SECONDS, TENTH, UsagePublisher
from galactic.node.state.attachment import Attachment
from galactic.node.state.usage import Instance, UsageCounters, UsageRecord
from galactic.node.traffic_metrics import Series, TrafficSeries, traffic_series

BLUE, RED = 1234, 1235
NAMES = {BLUE: "team-a/blue", RED: "team-b/red"}


def attachment(function: int, vpc: int = BLUE, name: str = "") -> Attachment:
    address = ip_interface(f"10.1.{function // 250}.{function % 250}/16")
    text = name or f"team-a/a{function}"
    return Attachment(vpc, function, text, "c", "/n", "galactic0", (address,), epoch=function)


def usage(*attachments: Attachment, **counted: int) -> UsageCounters:
    made = UsageCounters("l", "b", fresh=False)
    for one in attachments:
        made.records[Instance(one.vpc, one.function, one.epoch)] = UsageRecord(
            one.name, LinkCounters(**counted)
        )
        made.vpcs[one.vpc] = LinkCounters(**counted)
    return made


def exposed(current: TrafficSeries) -> dict[tuple[str, ...], float]:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.traffic.current = lambda: current
    return {
        (sample.name.removeprefix("galactic_node_"), *sample.labels.values()): sample.value
        for family in metrics.traffic.collect()
        for sample in family.samples
    }


def test_an_attachment_and_its_vpc_have_bytes_packets_and_drops_by_name() -> None:
    one = attachment(1)
    made = usage(
        one,
        sent_bytes=10,
        sent_packets=1,
        received_bytes=20,
        received_packets=2,
        no_route=3,
        too_big=4,
        policy=5,
    )
    found = exposed(traffic_series(made, {one.key: one}, NAMES, 10))
    attached, vpc = ("team-a/blue", "team-a", "a1"), ("team-a/blue",)
    for kind, labels in (("attachment", attached), ("vpc", vpc)):
        assert found[f"{kind}_bytes_total", *labels, "sent"] == 10
        assert found[f"{kind}_bytes_total", *labels, "received"] == 20
        assert found[f"{kind}_packets_total", *labels, "received"] == 2
        drops = {
            reason: found[f"{kind}_dropped_packets_total", *labels, reason] for reason in ("no_route", "mtu")
        }
        assert drops == {"no_route": 3, "mtu": 4}
        assert found[f"{kind}_dropped_packets_total", *labels, "policy"] == 5


def test_what_leaves_and_comes_in_by_a_gateway_has_its_name() -> None:
    counters = LinkCounters(sent_bytes=10, sent_packets=1, received_bytes=20, received_packets=2)
    found = exposed(TrafficSeries(gateways=[Series(("blue", "way"), counters)]))
    assert found["gateway_bytes_total", "blue", "way", "out"] == 10
    assert found["gateway_bytes_total", "blue", "way", "in"] == 20
    assert found["gateway_packets_total", "blue", "way", "out"] == 1
    assert found["gateway_packets_total", "blue", "way", "in"] == 2


def test_connections_that_a_gateway_had_no_room_for_have_its_name() -> None:
    found = exposed(TrafficSeries(refused={("blue", "way"): 7}))
    assert found["gateway_refused_packets_total", "blue", "way"] == 7


def test_no_label_is_an_identifier() -> None:
    one = attachment(1)
    current = traffic_series(usage(one), {one.key: one}, NAMES, 10)
    assert not [labels for labels in exposed(current) if vpc_hex(BLUE) in " ".join(labels)]


def test_series_are_bounded_and_what_is_left_out_is_counted() -> None:
    many = [attachment(number) for number in range(1, 6)]
    unnamed = attachment(9, vpc=77)
    here = {one.key: one for one in (*many, unnamed)}
    found = exposed(traffic_series(usage(*many, unnamed), here, NAMES, 2))
    shown = {labels[3] for labels in found if labels[0] == "attachment_bytes_total"}
    assert shown == {"a1", "a2"}, "those that came first"
    assert found["attachments_without_series", "limit"] == 3
    assert found["attachments_without_series", "unnamed"] == 1
    assert found["vpc_bytes_total", "team-a/blue", "sent"] == 0
    assert not [labels for labels in found if labels[0] == "vpc_bytes_total" and labels[1] != "team-a/blue"]


def test_the_series_of_an_attachment_that_went_are_gone() -> None:
    one, other = attachment(1), attachment(2)
    made = usage(one, other)
    found = exposed(traffic_series(made, {other.key: other}, NAMES, 10))
    assert {labels[3] for labels in found if labels[0] == "attachment_bytes_total"} == {"a2"}


def test_two_attachments_of_one_name_are_no_series_twice() -> None:
    one, other = attachment(1, name="team-a/x"), attachment(2, name="team-a/x")
    current = traffic_series(usage(one, other), {one.key: one, other.key: other}, NAMES, 10)
    assert len(current.attachments) == 1


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("packets from pods whose source is not an address of that pod", "forged_source"),
        ("packets from pods to the node itself, except ICMP", "node_service"),
        ("packets from pods to 2001:db8:ff00::/40", "srv6_space"),
    ],
)
def test_drops_of_the_packet_filter_are_the_nodes_by_reason(what: str, reason: str) -> None:
    rule = Drops("nft", 6, "GALACTIC-PREROUTING", 1, what, True, True, 3, 99)
    assert node_drops([rule, rule], None) == {(reason, 6): 6}
    assert node_drops([], 8) == {("no_route", 4): 8}
    assert exposed(TrafficSeries(node_drops={(reason, 6): 6}))["dropped_packets_total", reason, "IPv6"] == 6


# -- messages ----------------------------------------------------------------------------------------------------------

OWN = NodeTopics(Topics("galactic/v1"), "default", "node-1")


class Published:
    """A bus that keeps, or refuses, what is published."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, NodeUsage]] = []
        self.connected, self.refuses = True, False

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        if self.refuses:
            raise Unreachable("broker", "not authorized")
        assert len(payload) <= MIN_PAYLOAD
        assert not retain
        self.messages.append((topic, decode(NodeUsage, payload)))


async def test_a_message_has_all_sums_and_long_ended_ones_are_in_every_tenth() -> None:
    bus, now = Published(), [0.0]
    made = usage(attachment(1), attachment(2), sent_bytes=9)
    made.records[Instance(BLUE, 2, 2)].ended = 0.0
    publisher = UsagePublisher(bus, OWN, made, 60.0, lambda: now[0])  # type: ignore[arg-type]
    await publisher.publish()
    now[0] = AGAIN_SECONDS
    for _ in range(TENTH):
        await publisher.publish()
    assert [len(message.entries) for _, message in bus.messages] == [2, *[1] * (TENTH - 1), 2]
    topic, message = bus.messages[0]
    assert topic == "galactic/v1/nodes/default/node-1/usage/0"
    entry = message.entries[0]
    assert (message.ledger, entry.vpc, entry.function, entry.attachment) == (
        "l",
        vpc_hex(BLUE),
        "0001",
        "team-a/a1",
    )
    assert (entry.epoch, entry.sent_bytes) == (1, 9)


async def test_more_than_one_message_has_room_for_are_several() -> None:
    bus = Published()
    made = usage(*(attachment(number, name=f"team-a/{'x' * 200}-{number}") for number in range(1, 500)))
    await UsagePublisher(bus, OWN, made, 60.0, lambda: 0.0).publish()  # type: ignore[arg-type]
    assert len(bus.messages) > 1
    assert sum(len(message.entries) for _, message in bus.messages) == 499
    assert len({topic for topic, _ in bus.messages}) == len(bus.messages)


async def test_a_broker_that_refuses_or_is_away_is_no_failure() -> None:
    bus = Published()
    publisher = UsagePublisher(bus, OWN, usage(attachment(1)), 60.0, lambda: 0.0)  # type: ignore[arg-type]
    bus.refuses = True
    await publisher.publish()
    assert publisher.problem
    bus.refuses = False
    await publisher.publish()
    assert publisher.problem is None
    bus.connected = False
    await publisher.publish()
    assert len(bus.messages) == 1


async def test_the_interval_0_publishes_nothing() -> None:
    broker = MemoryBroker()
    await UsagePublisher(broker.session(), OWN, usage(attachment(1)), 0.0, lambda: 0.0).run()
