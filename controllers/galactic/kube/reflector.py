"""List, then watch, for ever: a sink that follows the objects of one resource, level-triggered (client-go's Reflector).

The reflector lists in pages with selectors and watches from there. It lists again when the resource version expired
(410), when the stream is silent for too long, and after every failure, with jittered back-off. Objects reach the sink
a few at a time, so that a long list stops neither leases nor messages, and is never in memory as a whole.

A list is the truth, whatever its resource version: after a restoration of etcd the numbers begin again at lower ones.
An API server accepts a watch from a version that it has not reached, and sends nothing until it has, bookmarks
included.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import structlog

from galactic.backoff import Backoff
from galactic.errors import GalacticError, Unreachable
from galactic.kube.api import WATCH_SECONDS, Api, Event, Expired, Object
from galactic.kube.resources import Resource

log = structlog.get_logger(__name__)
T = TypeVar("T")
BACKOFF_SECONDS: Final = (0.2, 10.0)
"""The shortest and the longest pause after a failure."""
TURN: Final = 50
"""Objects that the sink gets before other tasks have their turn."""
ANY_VERSION: Final = "0"
"""As the least resource version of a list: any that the API server has in memory."""
SILENT_SECONDS: Final = 150.0
"""An API server that sends bookmarks sends one a minute. Where it sent none for this time, the watch has stalled."""
AHEAD: Final = "Too large resource version"
"""The answer of an API server that was set back to an older state, or does not catch up."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The objects of one resource, narrowed by namespace and selectors.

    ``cached``: lists are answered from the API server's memory, never older than what was seen before, and may lag a
    little, which the watch makes up for. For clients that run on every node.
    """

    resource: Resource
    namespace: str | None = None
    fields: str = ""
    labels: str = ""
    cached: bool = False


async def in_turns(objects: Sequence[T]) -> AsyncIterator[Sequence[T]]:
    """The objects, TURN at a time; other tasks have their turn after each part."""
    for start in range(0, len(objects), TURN):
        yield objects[start : start + TURN]
        await asyncio.sleep(0)


class Sink(Protocol):
    """Receives lists and events."""

    def begin(self) -> None:
        """A list is about to be requested. One that failed before its end counts for nothing but its objects."""

    def set_back(self) -> None:
        """The list that arrives now is of an API server with older data: equal versions may be different objects."""

    def add(self, objects: Sequence[Object]) -> None:
        """These are some of the list's objects."""

    def end(self) -> None:
        """The list is complete: objects that were not in it are gone."""

    def event(self, event: Event) -> None:
        """An object was added, modified or deleted."""


class Reflector:
    """Keeps the sink equal to the selected objects. ``run`` never returns by itself.

    ``synced`` is set after the first complete list. ``connected``: whether the API server answered the last request;
    ``connection`` is called with that after each.
    """

    def __init__(
        self, api: Api, selection: Selection, sink: Sink, connection: Callable[[bool], None] | None = None
    ) -> None:
        self._api, self._selection, self._sink = api, selection, sink
        self._connection = connection
        self._newest = self._least = ANY_VERSION
        self._bookmarks = False  # whether this API server sends them
        self.synced = asyncio.Event()
        self.connected = False

    async def run(self) -> None:
        backoff = Backoff(*BACKOFF_SECONDS)
        while True:
            try:
                version = await self._list()
                await self._watch(version, backoff)
            except Expired as error:
                # An API server that forgets at once would be asked for everything, by all clients, without end.
                log.info(
                    "watch expired, listing again", resource=self._selection.resource.plural, error=str(error)
                )
                await asyncio.sleep(backoff.pause())
            except GalacticError as error:
                self._report(False)
                if AHEAD in str(error):
                    self._least = ANY_VERSION
                level = log.warning if isinstance(error, Unreachable) else log.error
                level(
                    "watch failed, listing again", resource=self._selection.resource.plural, error=str(error)
                )
                await asyncio.sleep(backoff.pause())

    async def _list(self) -> str:
        self._sink.begin()
        selection = self._selection
        version = ""
        async for objects, of_page in self._api.pages(
            selection.resource,
            selection.namespace,
            fields=selection.fields,
            labels=selection.labels,
            least=self._least if selection.cached else "",
        ):
            if not version and _before(of_page, self._newest):
                log.warning("the API server has older data than before", resource=selection.resource.plural)
                self._sink.set_back()
            version = of_page
            self._report(True)
            async for part in in_turns(objects):
                self._sink.add(part)
        self._newest = self._least = version or ANY_VERSION
        self._sink.end()
        self.synced.set()
        return version

    async def _watch(self, version: str, backoff: Backoff) -> None:
        """Never returns. The back-off starts over once the watch has brought something."""
        selection, loop = self._selection, asyncio.get_running_loop()
        deadline = loop.time() + SILENT_SECONDS  # of the next event or bookmark, over all streams
        while True:
            try:
                # The server ends a watch after WATCH_SECONDS; one that stays silent for longer has stalled.
                end = deadline if self._bookmarks else loop.time() + WATCH_SECONDS + 60
                async with asyncio.timeout_at(end) as patience:
                    async for event in self._api.watch(
                        selection.resource,
                        version,
                        selection.namespace,
                        fields=selection.fields,
                        labels=selection.labels,
                    ):
                        self._newest = self._least = version = event.object["metadata"]["resourceVersion"]
                        backoff.succeeded()
                        deadline = loop.time() + SILENT_SECONDS
                        if event.type == "BOOKMARK":
                            self._bookmarks = True
                        else:
                            self._sink.event(event)
                        if self._bookmarks:
                            patience.reschedule(deadline)
            except TimeoutError:
                raise Unreachable("kube-apiserver", "the watch stalled") from None

    def _report(self, connected: bool) -> None:
        self.connected = connected
        if self._connection:
            self._connection(connected)


def _before(version: str, newest: str) -> bool:
    """Whether an API server that answers with ``version`` has older data than the one that gave ``newest``."""
    return version.isdigit() and newest.isdigit() and int(version) < int(newest)
