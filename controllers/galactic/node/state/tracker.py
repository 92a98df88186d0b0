"""Desired and actual state of many keys as their difference (after Felix's ``deltatracker``)."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")
Delta = tuple[K, V | None, V | None]
"""A key to write, its actual value and its desired one. None: no value."""


class DeltaTracker(Generic[K, V]):
    """The kernel's values: the desired value of every key, except for the keys that are pending.

    ``desired`` is the lookup of the desired value, None where no object is desired. A key that is in place costs
    neither memory nor time: both follow the number of pending keys.
    """

    def __init__(self, desired: Callable[[K], V | None]) -> None:
        self._desired = desired
        self._actual: dict[K, V | None] = {}  # of the pending keys

    def __len__(self) -> int:
        """The number of pending keys."""
        return len(self._actual)

    def actual(self, key: K) -> V | None:
        """The kernel's value of the key."""
        return self._actual[key] if key in self._actual else self._desired(key)

    def changing(self, key: K, before: V | None) -> None:
        """The desired value of the key changes now; ``before`` is the one that it had. The kernel keeps what it has."""
        if key not in self._actual:
            self._actual[key] = before

    def observe(self, key: K, actual: V | None) -> None:
        """The kernel was read: it has ``actual`` for the key. This overrides what was known."""
        if actual == self._desired(key):
            self._actual.pop(key, None)
        else:
            self._actual[key] = actual

    def resync(self, actual: Mapping[K, V], desired: Iterable[K]) -> None:
        """The kernel was read: it has exactly ``actual``. ``desired``: every key with a desired value."""
        lookup = self._desired
        self._actual = {key: value for key, value in actual.items() if lookup(key) != value}
        self._actual |= {key: None for key in desired if key not in actual}

    def drain(self) -> Mapping[K, V | None]:
        """The pending keys with their actual values. None is pending afterwards: the caller resyncs."""
        drained, self._actual = self._actual, {}
        return drained

    def deltas(self) -> Iterator[Delta[K, V]]:
        """The pending keys whose values differ. A key counts as written once it was yielded.

        Desired values may change between two deltas: the next one has its newest, and a key that changes again after
        it was yielded is pending again. A write that fails calls for a resync.
        """
        lookup = self._desired
        for key in list(self._actual):
            if key in self._actual:
                actual, desired = self._actual.pop(key), lookup(key)
                if actual != desired:
                    yield key, actual, desired
        if not self._actual:
            self._actual = {}  # a dict keeps the memory of its removed keys
