"""List, then watch, for ever: a sink that follows the objects of one resource, level-triggered (client-go's Reflector).

The reflector lists in pages with selectors and watches from there. It lists again when the resource version expired
(410), when the stream is silent for too long, and after every failure, with jittered back-off. Objects reach the sink
a few at a time, so that a long list stops neither leases nor messages, and is never in memory as a whole.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from galactic.backoff import Backoff
from galactic.errors import GalacticError, Unreachable
from galactic.kube.api import WATCH_SECONDS, Api, Event, Expired, Object
from galactic.kube.resources import Resource

log = structlog.get_logger(__name__)
BACKOFF_SECONDS: Final = (0.2, 10.0)
"""The shortest and the longest pause after a failure."""
TURN: Final = 50
"""Objects that the sink gets before other tasks have their turn."""
ANY_VERSION: Final = "0"
"""As the least resource version of a list: any that the API server has in memory."""
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


async def in_turns(objects: Sequence[Object]) -> AsyncIterator[Sequence[Object]]:
    """The objects, TURN at a time; other tasks have their turn after each part."""
    for start in range(0, len(objects), TURN):
        yield objects[start : start + TURN]
        await asyncio.sleep(0)


class Sink(Protocol):
    """Receives lists and events."""

    def begin(self) -> None:
        """A list is about to be requested. One that failed before its end counts for nothing but its objects."""

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
        self._newest = ANY_VERSION
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
                    self._newest = ANY_VERSION
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
            least=self._newest if selection.cached else "",
        ):
            version = of_page
            self._report(True)
            async for part in in_turns(objects):
                self._sink.add(part)
        self._newest = version or ANY_VERSION
        self._sink.end()
        self.synced.set()
        return version

    async def _watch(self, version: str, backoff: Backoff) -> None:
        """Never returns. The back-off starts over once the watch has brought something."""
        selection = self._selection
        while True:
            try:
                # The server ends a watch after WATCH_SECONDS; one that stays silent for longer has stalled.
                async with asyncio.timeout(WATCH_SECONDS + 60):
                    async for event in self._api.watch(
                        selection.resource,
                        version,
                        selection.namespace,
                        fields=selection.fields,
                        labels=selection.labels,
                    ):
                        self._newest = version = event.object["metadata"]["resourceVersion"]
                        backoff.succeeded()
                        if event.type != "BOOKMARK":
                            self._sink.event(event)
            except TimeoutError:
                raise Unreachable("kube-apiserver", "the watch stalled") from None

    def _report(self, connected: bool) -> None:
        self.connected = connected
        if self._connection:
            self._connection(connected)
