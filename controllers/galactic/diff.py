"""Desired minus actual: the only way anything is ever changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Diff(Generic[K, V]):
    """What turns ``actual`` into ``desired``: ``set`` what is missing or different, ``delete`` what is too much."""

    set: dict[K, V]
    delete: dict[K, V]  # key → the value that is there now

    def __bool__(self) -> bool:
        return bool(self.set or self.delete)

    def __len__(self) -> int:
        return len(self.set) + len(self.delete)


def diff(desired: Mapping[K, V], actual: Mapping[K, V]) -> Diff[K, V]:
    """The difference of two mappings, in time linear in both. Order follows ``desired`` and ``actual``."""
    missing = object()
    return Diff(
        set={key: value for key, value in desired.items() if actual.get(key, missing) != value},
        delete={key: value for key, value in actual.items() if key not in desired},
    )
