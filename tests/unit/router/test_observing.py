"""Metrics and logs of a router, and numbers in messages that it refuses."""

import asyncio
import time

import pytest
from structlog.testing import capture_logs
from test_controller import CHANGES, HEAD, SHARD, publish_retained, router

from galactic.bus.memory import MemoryBroker
from galactic.messages import Changes, Head, Leader, Shard, decode, digest, encode
from galactic.router.egress.revisions import AHEAD, milliseconds
from galactic.router.ingress.rejection_log import RejectionLog
from galactic.router.log_throttle import LogThrottle
from galactic.router.rib.path import NodeRef, Rejection

VPC = "0000000004d2"
LEADER = "galactic/v1/router/leader"
HOSTILE = [
    pytest.param((1 << 63) - 1, id="2^63-1"),
    pytest.param(1 << 62, id="2^62"),
    pytest.param(-1, id="below-0"),
]


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


def figure(controller, name: str, **labels: str) -> float | None:
    return controller.registry.get_sample_value(f"galactic_router_{name}", labels)


def attach(topology, broker, *networks: str, sequence: int = 1) -> None:
    endpoints = [topology.endpoint("n1", number, network) for number, network in enumerate(networks, 1)]
    publish_retained(broker, topology.status("n1"), topology.endpoints("n1", sequence, *endpoints))


# -- numbers above any real revision -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", HOSTILE)
async def test_a_hostile_retained_table_does_not_move_the_revision(
    topology, broker, until, number: int
) -> None:
    publish_retained(
        broker, (HEAD, encode(Head(number, 0, digest([]), 1))), (SHARD, encode(Shard(number, 1, ())))
    )
    publish_retained(broker, ("galactic/v1/vpcs/0000000004d3/head", encode(Head(number, 0, digest([]), 0))))
    async with router(broker) as controller:
        attach(topology, broker, "10.1.1.1/32")
        await until(lambda: controller.idle and len(controller.store.tables.routes(0x4D2)) == 1)
        revision = decode(Head, broker.retained[HEAD]).revision
        assert 0 < revision <= milliseconds()
        assert decode(Shard, broker.retained[SHARD]).revision <= milliseconds()
        assert not [topic for topic in broker.retained if "4d3" in topic], (
            "what belongs to no table is cleared"
        )
        assert figure(controller, "rejections_total", reason="RevisionInvalid") >= 3


@pytest.mark.parametrize("number", HOSTILE)
async def test_nor_does_one_that_is_written_over_it(topology, broker, until, number: int) -> None:
    async with router(broker) as controller:
        attach(topology, broker, "10.1.1.1/32")
        await until(lambda: controller.idle and HEAD in broker.retained)
        head = decode(Head, broker.retained[HEAD])
        publish_retained(broker, (HEAD, encode(Head(number, 9, digest([]), 1))))
        broker.publish(CHANGES, encode(Changes(number, head.revision)), retain=False)
        await until(lambda: controller.idle and decode(Head, broker.retained[HEAD]).count == 1)
        attach(topology, broker, "10.1.1.2/32", sequence=2)
        await until(lambda: controller.idle and "10.1.1.2/32" in controller.store.tables.routes(0x4D2))
        await until(lambda: controller.idle)
        assert head.revision < decode(Head, broker.retained[HEAD]).revision <= milliseconds()
        assert figure(controller, "rejections_total", reason="RevisionInvalid") == 2


async def test_a_clock_that_is_ahead_by_less_is_followed(topology, broker, until) -> None:
    ahead = milliseconds() + AHEAD // 2
    publish_retained(
        broker, (HEAD, encode(Head(ahead, 0, digest([]), 1))), (SHARD, encode(Shard(ahead, 1, ())))
    )
    async with router(broker) as controller:
        attach(topology, broker, "10.1.1.1/32")
        await until(lambda: controller.idle and len(controller.store.tables.routes(0x4D2)) == 1)
        assert decode(Head, broker.retained[HEAD]).revision > ahead


@pytest.mark.parametrize("term", HOSTILE)
async def test_an_impossible_term_deposes_no_leader(topology, broker, until, term: int) -> None:
    publish_retained(broker, (LEADER, encode(Leader("somebody", term))))
    async with router(broker) as controller:
        await until(lambda: controller.idle)
        assert decode(Leader, broker.retained[LEADER]).id == "r"
        publish_retained(broker, (LEADER, encode(Leader("somebody", term))))
        await until(lambda: decode(Leader, broker.retained[LEADER]).id == "r")
        attach(topology, broker, "10.1.1.1/32")
        await until(lambda: controller.idle and HEAD in broker.retained)
        assert decode(Leader, broker.retained[LEADER]).term <= milliseconds()


# -- figures -----------------------------------------------------------------------------------------------------------


async def test_revisions_are_there_after_a_restart(topology, broker, until) -> None:
    async with router(broker) as controller:
        attach(topology, broker, "10.1.1.1/32")
        await until(lambda: controller.idle and HEAD in broker.retained)
    revision = decode(Head, broker.retained[HEAD]).revision
    async with router(broker, "second") as controller:
        await until(lambda: controller.idle)
        assert figure(controller, "revision", vpc=VPC) == revision


async def test_how_long_a_change_has_been_waiting(topology, broker, until) -> None:
    async with router(broker) as controller:
        await until(lambda: controller.idle)
        assert figure(controller, "oldest_change_seconds") == 0
        assert figure(controller, "last_publish_timestamp_seconds") == pytest.approx(time.time(), abs=3600)
        free, publish = asyncio.Event(), controller.bus.publish

        async def slow(topic: str, payload: bytes, *, retain: bool = False) -> None:
            if topic == CHANGES:
                await free.wait()
            await publish(topic, payload, retain=retain)

        controller.bus.publish = slow
        attach(topology, broker, "10.1.1.1/32")
        await until(lambda: (figure(controller, "oldest_change_seconds") or 0) > 0)
        free.set()
        await until(lambda: controller.idle)
        assert figure(controller, "oldest_change_seconds") == 0


# -- log lines ---------------------------------------------------------------------------------------------------------


async def test_every_change_is_there_for_who_looks_for_it(topology, broker, until, caplog) -> None:
    caplog.set_level("DEBUG", "galactic.router.egress.fanout")
    with capture_logs() as logs:
        async with router(broker) as controller:
            attach(topology, broker, "10.1.1.1/32", "10.1.1.2/32")
            await until(lambda: controller.idle and len(controller.store.tables.routes(0x4D2)) == 2)
            attach(topology, broker, "10.1.1.1/32", sequence=2)
            await until(lambda: controller.idle and len(controller.store.tables.routes(0x4D2)) == 1)
            attach(topology, broker, *(f"10.1.2.{number}/32" for number in range(150)), sequence=3)
            await until(lambda: controller.idle and len(controller.store.tables.routes(0x4D2)) == 150)
            publish_retained(broker, topology.endpoints("n1", 4))
            await until(lambda: controller.idle and not controller.store.tables.routes(0x4D2))
    lines = [line for line in logs if line["event"] == "change"]
    assert [(line["vpc"], line["set"], line["delete"], line["log_level"]) for line in lines] == [
        (VPC, 2, 0, "debug"),
        (VPC, 0, 1, "debug"),
        (VPC, 150, 1, "debug"),
    ]
    assert lines[1]["previous"] == lines[0]["revision"]
    (line,) = [line for line in logs if line["event"] == "many routes are withdrawn"]
    assert (line["delete"], line["left"], line["log_level"]) == (150, 0, "info")


async def test_a_dropped_message_is_logged_once(topology, broker, until) -> None:
    with capture_logs() as logs:
        async with router(broker) as controller:
            await until(lambda: controller.idle)
            for node in ("n1", "n1", "n1", "n2"):
                broker.publish(f"galactic/v1/nodes/default/{node}/endpoints", b"{", retain=False)
            await until(lambda: figure(controller, "rejections_total", reason="Undecodable") == 4)
    lines = [line for line in logs if line["event"] == "message dropped"]
    assert [line["topic"].split("/")[-2] for line in lines] == ["n1", "n2"]
    assert all((line["reason"], line["log_level"]) == ("Undecodable", "warning") for line in lines)


async def test_a_writer_on_a_routers_topic_is_logged_once(topology, broker, until) -> None:
    with capture_logs() as logs:
        async with router(broker) as controller:
            attach(topology, broker, "10.1.1.1/32")
            await until(lambda: controller.idle and HEAD in broker.retained)
            for _ in range(3):
                broker.publish(HEAD, b"nonsense", True)
            await until(lambda: figure(controller, "foreign_messages_total") == 3)
    assert [line["topic"] for line in logs if "another writer" in line["event"]] == [HEAD]


def test_a_rejection_is_logged_once_with_its_cluster() -> None:
    log = RejectionLog()
    one, other = NodeRef("c1", "n1"), NodeRef("c2", "n1")
    payloads = [
        Rejection(one, "ns/a", "NotEntitled", "first"),
        Rejection(one, "ns/a", "NotEntitled", "second"),
        Rejection(one, "ns/a", "SidMismatch", "third"),
        Rejection(other, "ns/a", "NotEntitled", "fourth"),
        Rejection(one, "ns/a", "StaleEpoch", "fifth"),
    ]
    with capture_logs() as logs:
        log.note(payloads)
        log.note(payloads)
    assert [(line["cluster"], line["error"], line["log_level"]) for line in logs] == [
        ("c1", "first", "warning"),
        ("c1", "third", "warning"),
        ("c2", "fourth", "warning"),
        ("c1", "fifth", "info"),
    ]


def test_repeats_count_the_lines_that_were_left_out() -> None:
    now = 0.0
    repeats = LogThrottle(60, most=2, clock=lambda: now)
    assert [repeats.count("a") for _ in range(5)] == [1, 0, 0, 0, 0]
    assert repeats.count("b") == 1
    now = 60.0
    assert repeats.count("a") == 5
    assert [repeats.count("c"), repeats.count("b")] == [1, 1], "the oldest entry was forgotten"
    assert len(repeats._logged) == 2
