"""Desired minus actual."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galactic.diff import diff

mappings = st.dictionaries(st.text("abc", max_size=2), st.integers(0, 3))


@given(desired=mappings, actual=mappings)
def test_applying_the_difference_gives_what_is_desired(
    desired: dict[str, int], actual: dict[str, int]
) -> None:
    change = diff(desired, actual)
    for key in change.delete:
        del actual[key]
    assert actual | change.set == desired


@given(desired=mappings, actual=mappings)
def test_nothing_is_changed_that_is_right(desired: dict[str, int], actual: dict[str, int]) -> None:
    change = diff(desired, actual)
    assert all(actual.get(key) != value for key, value in change.set.items())
    assert not change.set.keys() & change.delete.keys()


@pytest.mark.parametrize(
    ("desired", "actual", "changes"),
    [
        pytest.param({}, {}, 0, id="nothing"),
        pytest.param({"a": 1}, {"a": 1}, 0, id="equal"),
        pytest.param({"a": None}, {}, 1, id="a-missing-none-counts"),
        pytest.param({"a": 1, "b": 2}, {"b": 3, "c": 4}, 3, id="one-of-each"),
    ],
)
def test_size(desired: dict[str, int], actual: dict[str, int], changes: int) -> None:
    change = diff(desired, actual)
    assert len(change) == changes
    assert bool(change) == bool(changes)
