"""Pauses grow, stay below their bound and begin again after success."""

from galactic.backoff import Backoff


def test_each_pause_is_twice_the_one_before_up_to_the_longest() -> None:
    backoff = Backoff(0.5, 3.0, spread=0)
    assert [backoff.pause() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_after_success_it_begins_again() -> None:
    backoff = Backoff(0.5, 3.0, spread=0)
    backoff.pause()
    backoff.pause()
    backoff.succeeded()
    assert backoff.pause() == 0.5


def test_pauses_are_spread_around_their_length() -> None:
    pauses = {Backoff(1.0, 1.0).pause() for _ in range(200)}
    assert len(pauses) > 1
    assert all(0.5 <= pause <= 1.5 for pause in pauses)


def test_a_thousand_failures_are_no_overflow() -> None:
    backoff = Backoff(0.1, 5.0, spread=0)
    assert [backoff.pause() for _ in range(2000)][-1] == 5.0
