"""Calls for each difference of the selected objects, with a copy of them (``Informer``) or without (``Follower``).

Subscribers get the current object, never the kind of event (client-go's SharedInformer).
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from galactic.kube.api import Api, Event, Key, Object, key_of
from galactic.kube.reflector import Reflector, Selection


class Follower:
    """Remembers of each object the resource version only. ``changed(key, new)``: None for an object that was deleted.

    ``run``, ``synced`` and ``connected`` are a Reflector's. ``listed`` is called after each complete list.
    """

    def __init__(
        self,
        api: Api,
        selection: Selection,
        changed: Callable[[Key, Object | None], None],
        connection: Callable[[bool], None] | None = None,
        listed: Callable[[], None] | None = None,
    ) -> None:
        self._changed, self._listed = changed, listed
        self._versions: dict[Key, str] = {}
        self._gone: set[Key] = set()  # not in the list under way, so far
        self._reflector = Reflector(api, selection, self, connection)
        self.synced = self._reflector.synced

    @property
    def connected(self) -> bool:
        return self._reflector.connected

    async def run(self) -> None:
        await self._reflector.run()

    def begin(self) -> None:
        self._gone = set(self._versions)

    def set_back(self) -> None:
        self._versions = dict.fromkeys(self._versions, "")

    def add(self, objects: Sequence[Object]) -> None:
        for item in objects:
            key = key_of(item)
            self._gone.discard(key)
            self._set(key, item)

    def end(self) -> None:
        for key in self._gone:
            self._set(key, None)
        self._gone = set()
        if self._listed:
            self._listed()

    def event(self, event: Event) -> None:
        self._set(key_of(event.object), None if event.type == "DELETED" else event.object)

    def _set(self, key: Key, new: Object | None) -> None:
        old = self._versions.pop(key, None)
        version = None
        if new is not None:
            version = self._versions[key] = str(new["metadata"].get("resourceVersion") or "")
        if old is None or version is None or old != version:
            self._changed(key, new)


class Changed(Protocol):
    """Called for every object that was added, changed (``new``) or deleted (``new`` is None)."""

    def __call__(self, key: Key, old: Object | None, new: Object | None) -> None: ...


class Informer:
    """The selected objects as the API server last reported them.

    ``run``, ``synced`` and ``connected`` are a Reflector's. ``listed`` is called after each complete list. ``keep``
    gives the part of an object that is remembered and that ``changed`` gets.
    """

    def __init__(
        self,
        api: Api,
        selection: Selection,
        changed: Changed | None = None,
        *,
        connection: Callable[[bool], None] | None = None,
        keep: Callable[[Object], Object] | None = None,
        listed: Callable[[], None] | None = None,
    ) -> None:
        self._changed, self._keep = changed, keep
        self.objects: dict[Key, Object] = {}
        self._follower = Follower(api, selection, self._set, connection, listed)
        self.synced = self._follower.synced

    @property
    def connected(self) -> bool:
        return self._follower.connected

    async def run(self) -> None:
        await self._follower.run()

    def _set(self, key: Key, new: Object | None) -> None:
        old = self.objects.pop(key, None)
        if new is not None:
            new = self.objects[key] = self._keep(new) if self._keep else new
        if self._changed:
            self._changed(key, old, new)
