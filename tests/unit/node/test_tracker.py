"""The delta tracker against a model that keeps every desired and every actual value."""

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galactic.node.state.tracker import DeltaTracker

KEYS = st.integers(1, 5)
VALUES = st.none() | st.sampled_from("abc")


class Model:
    """The same keys, tracked and kept the slow way."""

    def __init__(self):
        self.desired, self.kernel = {}, {}
        self.tracker = DeltaTracker(self.desired.get)
        self.deltas = iter(())

    def set(self, key, value):
        self.tracker.changing(key, self.desired.get(key))
        put(self.desired, key, value)

    def meddle(self, key, value):
        """Another program writes, and the kernel notifies."""
        put(self.kernel, key, value)
        self.tracker.observe(key, value)

    def begin(self):
        """A pass over what is pending, once the one before is over."""
        self.write(None)
        self.deltas = self.tracker.deltas()

    def write(self, count):
        for key, actual, desired in islice(self.deltas, count):
            assert actual == self.kernel.get(key)
            assert desired == self.desired.get(key) != actual
            put(self.kernel, key, desired)

    def resync(self, kernel):
        self.write(None)
        self.kernel = dict(kernel)
        self.tracker.resync(kernel, self.desired)

    def lose(self, kernel):
        """Nothing is known of the kernel until it is read, key by key."""
        self.write(None)
        self.tracker.drain()
        self.kernel = dict(kernel)
        for key in self.desired.keys() | kernel.keys():
            self.tracker.observe(key, kernel.get(key))

    def check(self):
        keys = self.desired.keys() | self.kernel.keys()
        assert {key: self.tracker.actual(key) for key in keys} == {key: self.kernel.get(key) for key in keys}
        different = [key for key in keys if self.desired.get(key) != self.kernel.get(key)]
        assert len(self.tracker) >= len(different)


def put(mapping, key, value):
    if value is None:
        mapping.pop(key, None)
    else:
        mapping[key] = value


KERNELS = st.dictionaries(KEYS, st.sampled_from("abc"))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just(Model.set), KEYS, VALUES),
        st.tuples(st.just(Model.meddle), KEYS, VALUES),
        st.tuples(st.just(Model.begin)),
        st.tuples(st.just(Model.write), st.integers(1, 3)),
        st.tuples(st.just(Model.resync), KERNELS),
        st.tuples(st.just(Model.lose), KERNELS),
    ),
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_it_knows_the_kernel_whatever_changes_in_whatever_order(steps):
    """Also while a pass writes: the desired values change between two deltas."""
    model = Model()
    for step, *arguments in steps:
        step(model, *arguments)
        model.check()
    model.begin()
    model.write(None)
    assert model.kernel == model.desired
    assert not len(model.tracker)


def test_a_change_that_is_taken_back_is_not_written():
    desired = {1: "a"}
    tracker = DeltaTracker(desired.get)
    tracker.changing(1, "a")
    desired[1] = "b"
    tracker.changing(1, "b")
    desired[1] = "a"
    assert not list(tracker.deltas())


@pytest.mark.parametrize("keys", [pytest.param(1_000, id="few"), pytest.param(100_000, id="many")])
def test_only_what_changed_is_pending(keys):
    desired = dict.fromkeys(range(keys), "a")
    tracker = DeltaTracker(desired.get)
    tracker.resync(dict(desired), desired)
    assert not len(tracker)
    tracker.changing(7, "a")
    desired[7] = "b"
    assert list(tracker.deltas()) == [(7, "a", "b")]
