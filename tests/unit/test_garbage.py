"""Full collections look at young objects, and once an hour at everything."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from galactic.garbage import WHOLE_SECONDS, set_survivors_aside


class Node:
    """In a cycle with itself."""

    def __init__(self) -> None:
        self.own = self


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Iterator[Clock]:
    made, thresholds = Clock(), gc.get_threshold()
    callback = set_survivors_aside(made)
    yield made
    gc.callbacks.remove(callback)
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def test_survivors_are_scanned_once_an_hour(clock: Clock) -> None:
    old, kept = Node(), [Node() for _ in range(100)]
    seen = weakref.ref(old)
    before = gc.get_freeze_count()
    gc.collect()
    assert gc.get_freeze_count() >= before + len(kept), "survivors are set aside"
    del old
    gc.collect()
    assert seen() is not None, "it was looked at again"
    clock.now += WHOLE_SECONDS
    gc.collect()
    assert seen() is None
    assert gc.get_freeze_count() > len(kept), "the others are set aside again"


def test_none_looks_at_much(clock: Clock) -> None:
    """As while ten thousand objects are listed."""
    kept: list[dict[int, list[int]]] = []
    scanned: list[int] = []

    def collecting(phase: str, about: dict[str, int]) -> None:
        if phase == "start" and about["generation"] == 2:
            scanned.append(len(kept) - sum(scanned))

    gc.callbacks.append(collecting)
    for number in range(200_000):
        kept.append({number: [number]})  # noqa: PERF401 - its length is looked at meanwhile
    gc.callbacks.remove(collecting)
    assert len(scanned) > 5
    assert max(scanned) < len(kept) / 5


def test_what_dies_young_is_freed_at_any_time(clock: Clock) -> None:
    seen = weakref.ref(Node())
    gc.collect()
    assert seen() is None


def test_reference_counts_free_what_is_set_aside(clock: Clock) -> None:
    class Leaf:
        pass

    leaf = Leaf()
    seen = weakref.ref(leaf)
    gc.collect()
    del leaf
    assert seen() is None
