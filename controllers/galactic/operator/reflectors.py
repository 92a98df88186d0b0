"""Attachments, definitions and Pods into the caches: there may be tens of thousands of them.

kopf has no label selectors, keeps a task and a queue for each object, and spends 2 ms of processor time on an event
(docs/design/watching.md).
"""

from collections.abc import Sequence
from typing import Any

from galactic.kube.api import Api, Event, Key, Object, key_of
from galactic.kube.reflector import Reflector
from galactic.operator.state import Cache, Caches


class CacheReflector:
    """Keeps one cache equal to the API server's objects: ``run`` never returns by itself."""

    def __init__(self, api: Api, cache: Cache[Any]) -> None:
        self._cache, self._since = cache, 0
        self._listed: set[Key] = set()
        self._reflector = Reflector(api, cache.selection, self)

    async def run(self) -> None:
        await self._reflector.run()

    def begin(self) -> None:
        self._since, self._listed = self._cache.clock, set()

    def add(self, objects: Sequence[Object]) -> None:
        for item in objects:
            self._listed.add(key_of(item))
            self._cache.set(item)

    def end(self) -> None:
        self._cache.retain(self._listed, self._since)
        self._listed = set()

    def event(self, event: Event) -> None:
        if event.type == "DELETED":
            meta = event.object["metadata"]
            self._cache.remove(key_of(event.object), meta.get("uid", ""), meta.get("resourceVersion", ""))
        else:
            self._cache.set(event.object)


def reflectors(api: Api, caches: Caches) -> tuple[CacheReflector, ...]:
    """One for each kind that kopf does not watch."""
    return tuple(CacheReflector(api, cache) for cache in caches.reflected)
