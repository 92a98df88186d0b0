"""A copy of the selected objects, and calls for each difference (client-go's SharedInformer).

Subscribers get the current object, never the kind of event.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from galactic.kube.api import Api, Event, Key, Object, key_of
from galactic.kube.reflector import Reflector, Selection


class Changed(Protocol):
    """Called for every object that was added, changed (``new``) or deleted (``new`` is None)."""

    def __call__(self, key: Key, old: Object | None, new: Object | None) -> None: ...


class Informer:
    """The selected objects as the API server last reported them.

    ``run``, ``synced`` and ``connected`` are a Reflector's. ``keep`` gives the part of an object that is remembered and
    that ``changed`` gets.
    """

    def __init__(
        self,
        api: Api,
        selection: Selection,
        changed: Changed | None = None,
        *,
        connection: Callable[[bool], None] | None = None,
        keep: Callable[[Object], Object] | None = None,
    ) -> None:
        self._changed, self._keep = changed, keep
        self.objects: dict[Key, Object] = {}
        self._reflector = Reflector(api, selection, self, connection)
        self.synced = self._reflector.synced

    @property
    def connected(self) -> bool:
        return self._reflector.connected

    async def run(self) -> None:
        await self._reflector.run()

    def begin(self) -> None:
        """Nothing to prepare: a list replaces all that is known."""

    def replace(self, objects: Sequence[Object]) -> None:
        listed = {key_of(item): item for item in objects}
        for key in [key for key in self.objects if key not in listed]:
            self._set(key, None)
        for key, item in listed.items():
            self._set(key, item)

    def event(self, event: Event) -> None:
        self._set(key_of(event.object), None if event.type == "DELETED" else event.object)

    def _set(self, key: Key, new: Object | None) -> None:
        old = self.objects.pop(key, None)
        if new is not None:
            new = self._keep(new) if self._keep else new
            self.objects[key] = new
        if self._changed and (old is None or new is None or _version(old) != _version(new)):
            self._changed(key, old, new)


def _version(item: Object) -> str | None:
    version = item["metadata"].get("resourceVersion")
    return str(version) if version else None
