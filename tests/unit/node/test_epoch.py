from itertools import count, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galactic.node.state.epoch import HIGHEST, Clock


@pytest.mark.parametrize(
    ("now", "last", "seen", "expected"),
    [
        pytest.param(100, 0, (), 100, id="own-clock-leads"),
        pytest.param(100, 100, (), 101, id="clock-stands-still"),
        pytest.param(100, 500, (), 501, id="clock-was-set-back"),
        pytest.param(100, 0, (900, 300), 901, id="a-dead-node-had-a-fast-clock"),
        pytest.param(100, 0, (HIGHEST,), HIGHEST, id="never-beyond-int64"),
    ],
)
def test_take(now, last, seen, expected):
    assert Clock(lambda: now, last).take(*seen) == expected


@given(st.lists(st.integers(0, 10_000), min_size=2), st.lists(st.integers(0, 10_000)))
def test_numbers_only_grow_whatever_the_clock_does(clock, seen):
    readings = iter(clock)
    made = Clock(lambda: next(readings))
    epochs = [made.take(*seen[:position]) for position in range(len(clock))]
    assert all(earlier < later for earlier, later in pairwise(epochs))
    assert all(
        number > max(seen[:position], default=-1) for number, position in zip(epochs, count(), strict=False)
    )
