"""The router as one coroutine: starts its inputs, waits for the first view, then starts everything else."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Protocol

from galactic.messages import Route
from galactic.router.commits import Commits
from galactic.router.egress.fanout import Fanout
from galactic.router.leader.leadership import Leadership
from galactic.router.rib.networks import Network
from galactic.router.startup import Startup


class Part(Protocol):
    """Works for ever."""

    def run(self) -> Coroutine[None, None, None]: ...


class Router:
    """A router's tables, as it would be asked for them: by ``galactic-router-inspect``, and by tests."""

    def __init__(self, commits: Commits, leadership: Leadership, fanout: Fanout) -> None:
        self.commits, self.leadership, self.fanout = commits, leadership, fanout
        self.store = commits.store

    @property
    def term(self) -> int:
        """The term in which this router leads; 0: it stands by."""
        return self.leadership.term

    @property
    def vpcs(self) -> frozenset[int]:
        """Those that there may be a table of."""
        return self.fanout.vpcs if self.leadership.leads else self.store.tables.vpcs

    def table(self, vpc: int) -> tuple[int, Mapping[Network, Route]]:
        """Revision and routes of a VPC: as they are published, or (revision 0) as a standby would."""
        return self.fanout.advertised(vpc) if self.leadership.leads else (0, self.store.tables.routes(vpc))

    @property
    def idle(self) -> bool:
        """Whether this router leads, and everything it knows is published, packed and confirmed."""
        return self.leadership.leads and self.commits.idle and self.fanout.idle


class Controller:
    """Runs one router."""

    def __init__(
        self, router: Router, startup: Startup, inputs: Sequence[Part], workers: Sequence[Part]
    ) -> None:
        self.router, self._startup = router, startup
        self.inputs, self.workers = inputs, workers

    async def run(self) -> None:
        """Routes for ever."""
        async with asyncio.TaskGroup() as tasks:
            for part in self.inputs:
                tasks.create_task(part.run(), name=type(part).__name__)
            await self._startup.complete()
            for part in self.workers:
                tasks.create_task(part.run(), name=type(part).__name__)
            await self.router.commits.run(self.router.leadership)
