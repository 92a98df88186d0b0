"""What the broker retains of the router's own topics, read once a session and whenever it is asked for."""

import asyncio
from collections.abc import Callable, Iterable, Iterator

import structlog

from galactic.bus import Bus
from galactic.messages import Topics
from galactic.names import vpc_hex
from galactic.router.egress.retained import Retained
from galactic.router.ingress.barrier import ResyncBarrier

log = structlog.get_logger(__name__)


class SnapshotReader:
    """``view`` is told of all that is retained, when everything that arrived with it is dealt with."""

    def __init__(
        self,
        bus: Bus,
        topics: Topics,
        asking: ResyncBarrier,
        *,
        view: Callable[[Retained], None],
        nodes: Callable[[Retained], Iterable[str]],
    ) -> None:
        """``nodes``: topics of nodes that must exist, as what is retained is about them, and that were not heard."""
        self._bus, self._topics, self._asking, self._view, self._nodes = bus, topics, asking, view, nodes
        self._own = (topics.leader, topics.head("+"), topics.table("+", "+"))
        self._found: Retained | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """A session began."""
        self.end()
        self._found = Retained()
        self._bus.subscribe(*self._own)
        self._task = asyncio.create_task(self._read(self._found), name="retained")

    def again(self) -> None:
        """Reads it once more; without a session that happens when there is one."""
        if self._bus.connected:
            self._bus.unsubscribe(*self._own)
            self.begin()

    def end(self) -> None:
        """The session is over."""
        if self._task is not None:
            self._task.cancel()

    def take(self, parts: tuple[str, ...], payload: bytes) -> None:
        """A message on a router's topic (its levels below the base). Raises Rejected."""
        if self._found is not None and parts[2:] != ("changes",):
            self._found.take(parts, payload)

    async def _read(self, found: Retained) -> None:
        await self._asking.answered()
        asked: set[str] = set()
        while fresh := {topic for topic in self._missing(found) if topic not in asked}:
            log.info("the broker left out retained messages, asking for them", count=len(fresh))
            asked |= fresh
            await self._asking.ask(fresh)
        self._found = None
        self._view(found)

    def _missing(self, found: Retained) -> Iterator[str]:
        for vpc, number in found.missing():
            text = vpc_hex(vpc)
            yield self._topics.head(text) if number is None else self._topics.table(text, number)
        yield from self._nodes(found)
