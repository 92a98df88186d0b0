"""A router's work while it leads: it starts from the tables in force, then publishes and reports."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import structlog

from galactic.router.commits import Commits
from galactic.router.egress.change_log import ChangeLog
from galactic.router.egress.fanout import Fanout
from galactic.router.egress.retained import Retained
from galactic.router.leader.installation import Installation
from galactic.router.rib.vpc_tables import Commit

log = structlog.get_logger(__name__)


class Follower(Protocol):
    """Records the tables of a leading router: in Kubernetes, in the database or in the log."""

    def lead(self, term: int) -> None:
        """The router leads from now on, in that term."""

    def resign(self) -> None:
        """The router leads no more."""

    def committed(self, commit: Commit) -> None:
        """The tables changed. Never waits."""


class Writer(Protocol):
    """Works while the router leads."""

    def run(self) -> Coroutine[None, None, None]: ...


class Reign:
    """The work of a leading router; ``Leadership`` begins and ends it."""

    def __init__(
        self,
        commits: Commits,
        installation: Installation,
        fanout: Fanout,
        followers: Sequence[Follower],
        writers: Sequence[Writer],
    ) -> None:
        self._commits, self._installation, self._fanout = commits, installation, fanout
        self._followers, self._writers = followers, writers
        self._changes = ChangeLog()

    @asynccontextmanager
    async def adopted(self, retained: Retained) -> AsyncIterator[None]:
        """From the tables of the previous leader to those that follow from the nodes' registrations.

        Messages are handled meanwhile, but nothing is published, and nothing else is committed before the context ends.
        """
        async with self._commits.lock:
            adopted = self._fanout.adopt(retained, self._changes)
            unpublished = await self._installation.install(adopted)
            self._fanout.enqueue(unpublished)
            changed = sum(map(len, unpublished.values()))
            async for commit in self._commits.settled():
                tables = commit.tables
                self._fanout.enqueue(tables)
                changed += sum(map(len, tables.values()))
            self._changes = ChangeLog()
            log.info(
                "tables adopted", vpcs=len(adopted.keys() | self._commits.store.tables.vpcs), changed=changed
            )
            yield

    def begin(self, term: int) -> None:
        """Commits are published and recorded from now on."""
        for follower in self._followers:
            follower.lead(term)

    async def lead(self) -> None:
        """Publishes and reports until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._fanout.run(), name="fanout")
            for writer in self._writers:
                tasks.create_task(writer.run(), name=type(writer).__name__)

    def end(self) -> None:
        """Another router leads, or none."""
        for follower in self._followers:
            follower.resign()

    def committed(self, commit: Commit) -> None:
        """The tables changed."""
        self._fanout.enqueue(commit.tables, more=commit.more)
        for follower in self._followers:
            follower.committed(commit)

    # -- messages about tables ---------------------------------------------------------------------------------------

    def overheard(self, parts: tuple[str, ...], payload: bytes) -> None:
        """A standby received a message of the leader. Raises Rejected."""
        self._changes.add(parts, payload)

    def received(self, parts: tuple[str, ...], payload: bytes) -> None:
        """The leader receives a message of its own, or another writer's, which it overwrites. Raises Rejected."""
        self._fanout.received(parts, payload)

    def compare(self, retained: Retained) -> None:
        """The broker retains this: the leader publishes again what differs."""
        self._fanout.compare(retained)
