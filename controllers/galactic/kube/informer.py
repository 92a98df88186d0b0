"""List, then watch, for ever: a copy of one resource that follows the API server, level-triggered, whatever happens.

It lists in pages with selectors, watches from there, lists again when the version expired (410), when the stream
stays silent for too long, and after every failure (with jittered back-off). Subscribers see the current object, never
the kind of event.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog

from galactic.errors import GalacticError, Unreachable
from galactic.kube.api import Event, Expired, Object
from galactic.kube.client import WATCH_SECONDS, Kube
from galactic.kube.resources import Resource

log = structlog.get_logger(__name__)
BACKOFF_SECONDS: Final = (0.2, 10.0)
ANY_VERSION: Final = "0"
"""As the least resource version of a list: whatever the API server has in memory."""
AHEAD: Final = "Too large resource version"
"""What the API server answers when it has been set back to an older state, or does not catch up."""

Key = tuple[str, str]
"""(namespace, name); the namespace is empty for cluster-scoped objects."""


class Changed(Protocol):
    """Told of every object that came, changed (``new``) or went (``new`` is None)."""

    def __call__(self, key: Key, old: Object | None, new: Object | None) -> None: ...


def key_of(thing: Object) -> Key:
    """Where the object is kept: (namespace, name)."""
    return thing["metadata"].get("namespace", ""), thing["metadata"]["name"]


class Reflector:
    """Keeps a store equal to the objects of one resource (narrowed by selectors).

    ``begin`` is called before each list is asked for, ``replace`` with all there is, ``seen`` with each event of a
    watch. ``run`` never returns by itself. ``synced`` is set after the first complete list. ``connected`` says whether
    the API server answered last time. ``cached``: for what runs on every node. Lists are then what the API server has
    in memory, never older than what was seen before, and may lag a little: the watch makes up for it.
    """

    def __init__(
        self,
        kube: Kube,
        resource: Resource,
        replace: Callable[[Sequence[Object]], None],
        seen: Callable[[Event], None],
        *,
        begin: Callable[[], None] | None = None,
        namespace: str | None = None,
        fields: str = "",
        labels: str = "",
        connection: Callable[[bool], None] | None = None,
        cached: bool = False,
    ) -> None:
        self._kube, self._resource = kube, resource
        self._cached, self._newest = cached, ANY_VERSION
        self._replace, self._seen, self._begin = replace, seen, begin
        self._namespace, self._fields, self._labels = namespace, fields, labels
        self._connection = connection
        self.synced = asyncio.Event()
        self.connected = False

    async def run(self) -> None:
        backoff, longest = BACKOFF_SECONDS
        while True:
            try:
                version = await self._list()
                backoff = BACKOFF_SECONDS[0]
                await self._watch(version)
            except Expired:
                continue
            except GalacticError as error:
                self._report(False)
                if AHEAD in str(error):
                    self._newest = ANY_VERSION
                level = log.warning if isinstance(error, Unreachable) else log.error
                level("watch failed, listing again", resource=self._resource.plural, error=str(error))
                await asyncio.sleep(backoff * random.uniform(0.5, 1.5))
                backoff = min(backoff * 2, longest)

    async def _list(self) -> str:
        if self._begin:
            self._begin()
        least = self._newest if self._cached else ""
        items, version = await self._kube.list(
            self._resource, self._namespace, fields=self._fields, labels=self._labels, least=least
        )
        self._newest = version or ANY_VERSION
        self._report(True)
        self._replace(items)
        self.synced.set()
        return version

    async def _watch(self, version: str) -> None:
        while True:
            try:
                # The server ends a watch after WATCH_SECONDS; one that stays silent for longer has stalled.
                async with asyncio.timeout(WATCH_SECONDS + 60):
                    async for event in self._kube.watch(
                        self._resource, version, self._namespace, fields=self._fields, labels=self._labels
                    ):
                        self._newest = version = event.object["metadata"]["resourceVersion"]
                        if event.type != "BOOKMARK":
                            self._seen(event)
            except TimeoutError:
                raise Unreachable("kube-apiserver", "the watch stalled") from None

    def _report(self, connected: bool) -> None:
        self.connected = connected
        if self._connection:
            self._connection(connected)


class Informer:
    """The objects of one resource (narrowed by selectors) as the API server last told of them.

    ``run``, ``synced`` and ``connected`` are a Reflector's. ``keep`` says what of an object is remembered and told.
    """

    def __init__(
        self,
        kube: Kube,
        resource: Resource,
        changed: Changed | None = None,
        *,
        namespace: str | None = None,
        fields: str = "",
        labels: str = "",
        connection: Callable[[bool], None] | None = None,
        keep: Callable[[Object], Object] | None = None,
        cached: bool = False,
    ) -> None:
        self._changed, self._keep = changed, keep
        self.objects: dict[Key, Object] = {}
        self._reflector = Reflector(
            kube,
            resource,
            self._replace,
            self._seen,
            namespace=namespace,
            fields=fields,
            labels=labels,
            connection=connection,
            cached=cached,
        )
        self.synced = self._reflector.synced

    @property
    def connected(self) -> bool:
        return self._reflector.connected

    async def run(self) -> None:
        await self._reflector.run()

    def _replace(self, items: Sequence[Object]) -> None:
        listed = {key_of(item): item for item in items}
        for key in [key for key in self.objects if key not in listed]:
            self._set(key, None)
        for key, item in listed.items():
            self._set(key, item)

    def _seen(self, event: Event) -> None:
        self._set(key_of(event.object), None if event.type == "DELETED" else event.object)

    def _set(self, key: Key, new: Object | None) -> None:
        old = self.objects.pop(key, None)
        if new is not None:
            new = self._keep(new) if self._keep else new
            self.objects[key] = new
        if self._changed and (old is None or new is None or _version(old) != _version(new)):
            self._changed(key, old, new)


def _version(thing: Object) -> str | None:
    version = thing["metadata"].get("resourceVersion")
    return str(version) if version else None
