"""Attachments, definitions and Pods into the caches: there may be tens of thousands of them.

kopf has no label selectors, keeps a task and a queue for each object, and spends 2 ms of processor time on an event
(docs/design/watching.md).
"""

from collections.abc import Callable, Sequence
from typing import Any

from galactic.kube.api import Api, Event, Key, Object, key_of
from galactic.kube.reflector import Reflector
from galactic.operator.cache import Cache
from galactic.operator.state import Caches


class CacheReflector:
    """Keeps one cache equal to the API server's objects: ``run`` never returns by itself.

    ``set_back`` is called when the API server has older data than before.
    """

    def __init__(self, api: Api, cache: Cache[Any], set_back: Callable[[], None] = lambda: None) -> None:
        self._cache, self._since = cache, 0
        self._on_set_back = set_back
        self._listed: set[Key] = set()
        self._reflector = Reflector(api, cache.selection, self)

    async def run(self) -> None:
        await self._reflector.run()

    def begin(self) -> None:
        self._since, self._listed = self._cache.clock, set()

    def set_back(self) -> None:
        self._cache.forget_versions()
        self._on_set_back()

    def add(self, objects: Sequence[Object]) -> None:
        for item in objects:
            self._listed.add(key_of(item))
            self._cache.set_listed(item, self._since)

    def end(self) -> None:
        self._cache.retain(self._listed, self._since)
        self._listed = set()

    def event(self, event: Event) -> None:
        if event.type == "DELETED":
            meta = event.object["metadata"]
            self._cache.remove(key_of(event.object), meta.get("uid", ""), meta.get("resourceVersion", ""))
        else:
            self._cache.set(event.object)


def reflectors(api: Api, caches: Caches, set_back: Callable[[], None]) -> tuple[CacheReflector, ...]:
    """One for each kind that kopf does not watch. ``set_back``: the API server has older data than before."""
    return tuple(CacheReflector(api, cache, set_back) for cache in caches.reflected)
