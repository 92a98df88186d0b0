"""Desired minus actual state, as every change is computed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Diff(Generic[K, V]):
    """The changes that turn ``actual`` into ``desired``: ``set`` has missing and different values, ``delete`` surplus
    ones.
    """

    set: dict[K, V]
    delete: dict[K, V]  # key → the present value

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
