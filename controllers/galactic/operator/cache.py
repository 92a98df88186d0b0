"""A cache of one kind: the objects that the API server has, parsed once."""

import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from typing import Any, Final, Generic, TypeVar

import msgspec

from galactic.kube.api import Key, Object, key_of
from galactic.kube.reflector import Selection

T = TypeVar("T")
REMOVED: Final = 10_000
"""Deleted objects that are remembered, because a late answer about one may still arrive."""


class Cache(Generic[T]):
    """The selected objects of one kind. ``changed(key, old, new)`` is called for every difference, None for absent.

    ``name``: the kind's name in metrics and logs.
    """

    def __init__(self, selection: Selection, read: Callable[[Object], T], name: str = "") -> None:
        self.selection = selection
        self.name = name or selection.resource.kind
        self.changed: Callable[[Key, T | None, T | None], None] = lambda *_: None
        self._read = read
        self._objects: dict[Key, tuple[str, str, Any]] = {}  # uid, resource version, what is stored
        self._clock = 0
        self._touched: dict[Key, int] = {}
        self._removed: OrderedDict[str, tuple[str, int]] = (
            OrderedDict()
        )  # uid → its last version, the clock then

    def _stored(self, item: Object, value: T) -> Any:  # noqa: ARG002
        """The part of the object that is kept, from which ``_value`` makes the value again."""
        return value

    def _value(self, stored: Any) -> T:
        value: T = stored
        return value

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._objects)

    @property
    def clock(self) -> int:
        """Rises with every change. A list replaces the entries that are older than its request."""
        return self._clock

    def __contains__(self, key: object) -> bool:
        return key in self._objects

    def keys(self) -> AbstractSet[Key]:
        return self._objects.keys()

    def changed_since(self, clock: int) -> list[Key]:
        """The objects that were set later; all of them since -1."""
        return [key for key, touched in self._touched.items() if touched > clock]

    def get(self, key: Key) -> T | None:
        entry = self._objects.get(key)
        return self._value(entry[2]) if entry else None

    def items(self) -> Iterator[tuple[Key, T]]:
        return ((key, self._value(entry[2])) for key, entry in self._objects.items())

    def touched(self, key: Key) -> int:
        """The clock's value when the object last changed; 0 for none."""
        return self._touched.get(key, 0)

    def set(self, item: Object) -> None:
        """The object as it is now. An older version is ignored: an answer to a request may arrive after the watch has
        delivered later events, the deletion included.
        """
        key, meta = key_of(item), item["metadata"]
        uid, version = meta.get("uid", ""), meta.get("resourceVersion", "")
        if (end := self._removed.get(uid)) and not _newer(version, end[0]):
            return
        entry = self._objects.get(key)
        if entry and entry[0] == uid and not _newer(version, entry[1]):
            return
        self._set(key, uid, version, item)

    def set_listed(self, item: Object, since: int) -> None:
        """The object as it is in a list that was requested at ``since``.

        What has not changed here since then is replaced whatever its version: a restored API server has older ones.
        """
        key, meta = key_of(item), item["metadata"]
        uid, version = meta.get("uid", ""), meta.get("resourceVersion", "")
        end, entry = self._removed.get(uid), self._objects.get(key)
        if (end and end[1] > since) or (entry and self._touched[key] > since):
            self.set(item)
        elif entry is None or entry[:2] != (uid, version):
            self._removed.pop(uid, None)
            self._set(key, uid, version, item)

    def forget_versions(self) -> None:
        """The API server has older data than before: an equal version may be another state of the object."""
        self._objects = {key: (uid, "", value) for key, (uid, _, value) in self._objects.items()}
        self._removed.clear()

    def remove(self, key: Key, uid: str = "", version: str = "") -> None:
        """The object was deleted, with that resource version; a namesake with another UID stays."""
        if uid and version:
            self._removed[uid] = version, self._clock + 1
            if len(self._removed) > REMOVED:
                self._removed.popitem(last=False)
        entry = self._objects.get(key)
        if entry and uid in ("", entry[0]):
            self._put(key, None)

    def retain(self, listed: AbstractSet[Key], since: int) -> int:
        """A list requested at ``since`` had these objects, which were set. The number of deletions that the watch had
        missed.
        """
        deleted = [key for key in self._objects if key not in listed and self._touched[key] <= since]
        for key in deleted:
            self._put(key, None)
        return len(deleted)

    def _set(self, key: Key, uid: str, version: str, item: Object) -> None:
        value = self._read(item)
        self._put(key, (uid, version, self._stored(item, value)), value)

    def _put(self, key: Key, entry: tuple[str, str, Any] | None, value: T | None = None) -> None:
        old = self._objects.pop(key, None)
        self._clock += 1
        if entry is None:
            self._touched.pop(key, None)
        else:
            self._objects[key] = entry
            self._touched[key] = self._clock
        self.changed(key, self._value(old[2]) if old else None, value)


class PackedCache(Cache[T]):
    """The same for kinds with as many objects as there are pods. ``keep``: the part of the object that ``read`` needs.

    That part is kept compressed. A model of it is twenty times as large, and read again in 20 µs.
    """

    def __init__(
        self, selection: Selection, read: Callable[[Object], T], keep: Callable[[Object], Object]
    ) -> None:
        super().__init__(selection, read)
        self._keep = keep

    def _set(self, key: Key, uid: str, version: str, item: Object) -> None:
        # What subscribers get of an object has no more of it than what is kept.
        super()._set(key, uid, version, self._keep(item))

    def _stored(self, item: Object, value: T) -> Any:  # noqa: ARG002
        return zlib.compress(msgspec.msgpack.encode(item), level=1)

    def _value(self, stored: Any) -> T:
        return self._read(msgspec.msgpack.decode(zlib.decompress(stored)))


def _newer(version: str, than: str) -> bool:
    """Resource versions of an object are growing numbers. Where they are not numbers, any other one is newer."""
    if version.isdigit() and than.isdigit():
        return int(version) > int(than)
    return version != than or not version
