"""The router with a database: what it writes, what it starts from, and that it waits for nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import psycopg
import pytest
from assembling import assembled
from database_world import endpoint, prefix, rows

from galactic.backoff import Backoff
from galactic.bus.memory import MemoryBroker
from galactic.errors import Unreachable
from galactic.messages import (
    Changes,
    NodeEndpoints,
    NodeStatus,
    NodeUsage,
    Topics,
    UsageEntry,
    decode,
    encode,
)
from galactic.router import startup
from galactic.router.controller import Router
from galactic.router.database import lock, usage
from galactic.router.database.history_writer import HistoryWriter
from galactic.router.database.lock import AdvisoryLock
from galactic.router.leader.election import LockElection
from galactic.settings import RouterSettings

TOPICS = Topics("galactic/v1")
CHANGES = TOPICS.changes("0000000004d2")


@asynccontextmanager
async def router(broker: MemoryBroker, url: str, replica: str = "r") -> AsyncIterator[Router]:
    settings = RouterSettings(kubernetes=False, require_entitlements=False, database_url=url)
    controller = assembled(settings, broker.session(), replica=replica)
    controller.history = controller.part(HistoryWriter)
    controller.history._backoff = Backoff(0.02, 0.2)
    task = asyncio.create_task(controller.run())
    try:
        yield controller
    finally:
        task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(outcome, asyncio.CancelledError), outcome


def register(broker: MemoryBroker, node: int, sequence: int, *endpoints: object) -> None:
    status = NodeStatus("online", str(prefix(node)), "1")
    broker.publish(TOPICS.status("default", f"n{node}"), encode(status), True)
    broker.publish(TOPICS.endpoints("default", f"n{node}"), encode(NodeEndpoints(sequence, endpoints)), True)


def changes(broker: MemoryBroker) -> list[tuple[list[str], list[str]]]:
    messages = [decode(Changes, payload) for topic, payload, _ in broker.published if topic == CHANGES]
    return [
        (sorted(f"{route.network}@{route.node}" for route in message.set), list(message.delete))
        for message in messages
    ]


async def test_an_empty_broker_and_a_full_database(url, until) -> None:
    broker = MemoryBroker()
    async with router(broker, url) as controller:
        register(broker, 1, 1, endpoint(1, 1, "10.1.1.1/32"))
        register(broker, 2, 1, endpoint(2, 2, "10.1.1.2/32", epoch=5))
        await until(
            lambda: (
                len(controller.store.tables.routes(0x4D2)) == 2
                and controller.idle
                and controller.history.idle
            )
        )
    empty = MemoryBroker()
    async with router(empty, url, "second") as controller:
        await until(lambda: controller.idle and controller.history.idle)
        assert changes(empty) == [(["10.1.1.1/32@n1", "10.1.1.2/32@n2"], [])]
        rival = endpoint(3, 3, "10.1.1.1/32", epoch=1)  # older than the holder's word, and yet later here
        register(empty, 3, 1, rival)
        register(empty, 2, 2, endpoint(2, 2, "10.1.1.9/32", epoch=6))
        await until(
            lambda: (
                controller.idle
                and "10.1.1.9/32" in controller.store.tables.routes(0x4D2)
                and controller.history.idle
            )
        )
        assert controller.store.tables.routes(0x4D2)["10.1.1.1/32"].node == "n1", (
            "who holds a network keeps it"
        )
        assert changes(empty)[1:] == [(["10.1.1.9/32@n2"], ["10.1.1.2/32"])]
    assert rows(url, "SELECT network::text FROM galactic.period WHERE NOT upper_inf(during)") == [
        ("10.1.1.2/32",)
    ]


async def test_retained_tables_win_over_the_database(url, until) -> None:
    broker = MemoryBroker()
    async with router(broker, url) as controller:
        register(broker, 1, 1, endpoint(1, 1, "10.1.1.1/32"))
        await until(
            lambda: controller.idle and controller.history.idle and controller.store.tables.routes(0x4D2)
        )
    broker.publish(TOPICS.endpoints("default", "n1"), encode(NodeEndpoints(2, ())), True)
    async with router(broker, url, "second") as controller:
        await until(lambda: controller.idle and controller.history.idle)
        assert not controller.store.tables.routes(0x4D2), (
            "what a node withdrew meanwhile does not come back from the database"
        )


async def test_the_database_has_a_higher_term_than_the_broker(url, until) -> None:
    """As after a broker was set back, or lost everything, while the clock is behind what it was."""
    broker = MemoryBroker()
    async with router(broker, url) as controller:
        await until(lambda: controller.idle and controller.history.idle)
        ahead = controller.term + 3_600_000
        with psycopg.connect(url) as connection:
            connection.execute("UPDATE galactic.writer SET term = %s, leader = 'z'", (ahead,))
        register(broker, 1, 1, endpoint(1, 1, "10.1.1.1/32"))
        await until(
            lambda: controller.idle and controller.history.idle and controller.store.tables.routes(0x4D2)
        )
        assert controller.term > ahead
        assert rows(url, "SELECT term, leader FROM galactic.writer") == [(controller.term, "r")]
        assert rows(url, "SELECT network::text FROM galactic.period") == [("10.1.1.1/32",)]
        last = controller.term
    async with router(MemoryBroker(), url, "second") as controller:
        await until(lambda: controller.idle and controller.history.idle)
        assert controller.term == last + 1, "it starts above what is recorded"


async def test_routing_continues_without_postgres(own_server, until) -> None:
    broker, url = MemoryBroker(), own_server.url()
    async with router(broker, url) as controller:
        await until(lambda: controller.idle and controller.history.idle)
        own_server.pause()
        register(broker, 1, 1, endpoint(1, 1, "10.1.1.1/32"))
        await until(lambda: changes(broker))
        own_server.resume()
        await until(lambda: controller.history.idle)
        own_server.kill()
        register(broker, 1, 2, endpoint(1, 1, "10.1.1.2/32", epoch=2))
        await until(lambda: len(changes(broker)) == 2)
        await until(lambda: "postgres" in controller.health.problems)
        own_server.start()
        await until(lambda: controller.history.idle and not controller.health.problems)
    query = "SELECT network::text, upper_inf(during), began_exactly FROM galactic.period ORDER BY id"
    assert rows(url, query) == [("10.1.1.1/32", False, True), ("10.1.1.2/32", True, True)]


async def test_an_empty_broker_and_no_database(monkeypatch: pytest.MonkeyPatch, until) -> None:
    monkeypatch.setattr(startup, "RESTORE_SECONDS", 0.3)
    broker = MemoryBroker()
    async with router(broker, "postgresql://galactic@127.0.0.1:1/x") as controller:
        register(broker, 1, 1, endpoint(1, 1, "10.1.1.1/32"))
        await until(lambda: changes(broker))
        assert "postgres" in controller.health.problems


class Candidate:
    """One for the lock, that notes when it leads."""

    def __init__(self, url: str) -> None:
        self.led = 0
        self.leads = False
        self.task = asyncio.create_task(AdvisoryLock(url).run(self._lead))

    async def _lead(self) -> None:
        self.leads, self.led = True, self.led + 1
        try:
            await asyncio.Event().wait()
        finally:
            self.leads = False


async def test_the_lock_passes_to_the_next_router(server, monkeypatch: pytest.MonkeyPatch, until) -> None:
    """Advisory locks are a database's own: no other test uses the one named postgres with this key."""
    monkeypatch.setattr(lock, "ANSWER_SECONDS", 3600.0)  # none of them is frozen, however long it is held up
    monkeypatch.setattr(lock, "_OPTIONS", "-c idle_session_timeout=0")
    first = Candidate(server.url())
    await until(lambda: first.leads)
    second = Candidate(server.url())
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'galactic-router lock'"
    await until(lambda: rows(server.url(), waiting) == [(2,)])
    assert not second.leads
    first.task.cancel()
    await until(lambda: second.leads)
    await asyncio.gather(first.task, return_exceptions=True)
    rows(
        server.url(),
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'galactic-router lock'",
    )
    with pytest.raises(Unreachable):
        await second.task
    assert not second.leads


async def test_a_frozen_holder_loses_the_lock(server, monkeypatch: pytest.MonkeyPatch, until) -> None:
    """The server ends a session without traffic, and the next gets the lock."""
    monkeypatch.setattr(lock, "ANSWER_SECONDS", 3600.0)  # so that it is not the holder who gives up
    frozen = AdvisoryLock(server.url(), key=99)
    alive = asyncio.Event()

    async def mine(_: object) -> bool:
        await alive.wait()  # as in a stopped process
        return True

    frozen._owned = mine
    locked, next_one = asyncio.Event(), asyncio.Event()
    # A candidate that is slower than the server's time-out begins again.
    election = asyncio.create_task(LockElection(frozen, retry=0.1).run(lambda _: locked.set()))
    await locked.wait()
    other = AdvisoryLock(server.url(), key=99)
    waiting = asyncio.create_task(LockElection(other, retry=0.1).run(lambda _: next_one.set()))
    try:
        await until(next_one.is_set)
        assert not election.done()
    finally:
        alive.set()
        for task in (election, waiting):
            task.cancel()
        await asyncio.gather(election, waiting, return_exceptions=True)


async def test_a_standalone_router_records_what_nodes_send(
    url, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node's message as it publishes it, again and again: the usage is there once, over two routers."""
    monkeypatch.setattr(usage, "WRITE_SECONDS", 0.01)
    broker = MemoryBroker()
    entry = UsageEntry("0000000004d2", "0001", "ns/a1", 1, 60, 1000, 10, 2000, 20)
    message = encode(NodeUsage("ledger", (entry,)))
    totals = "SELECT attachment, seconds, sent_bytes, received_packets FROM galactic.usage"
    for replica in ("r", "second"):
        async with router(broker, url, replica) as controller:
            register(broker, 1, 1, endpoint(1, 1, "10.1.1.1/32"))
            await until(
                lambda: controller.idle and controller.history.idle and controller.store.tables.routes(0x4D2)
            )

            def recorded() -> bool:
                broker.publish(TOPICS.usage("default", "n1", 0), message, False)
                return rows(url, totals) == [("ns/a1", 60, 1000, 20)]

            await until(recorded)
            other = msgspec.structs.replace(entry, attachment="ns/a9", function="0009")
            broker.publish(TOPICS.usage("default", "n1", 1), encode(NodeUsage("ledger", (other,))), False)
    assert rows(url, totals) == [("ns/a1", 60, 1000, 20)]
