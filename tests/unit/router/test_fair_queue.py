"""Shares with a clock of the test's own: a flood costs its sender time, and the others nothing."""

import pytest
from clockwork import SetClock
from hypothesis import given
from hypothesis import strategies as st

from galactic.errors import Rejected
from galactic.router.ingress.fair_queue import FairQueue, Share, Turn
from galactic.router.rib.path import NodeRef

FLOOD, OTHER = NodeRef("default", "flood"), NodeRef("default", "other")
SHARE = Share(messages=10, messages_saved=20, bytes=1000, bytes_saved=2000)


@pytest.fixture
def clock() -> SetClock:
    return SetClock(1000.0)


@pytest.fixture
def turns(clock) -> FairQueue:
    return FairQueue(clock, share=SHARE)


def drain(turns: FairQueue) -> list[Turn]:
    return list(iter(turns.next_turn, None))


def test_a_flood_gets_its_share_and_the_newest_is_not_lost(turns, clock) -> None:
    """1,000 messages a second for 10 s: what was saved up, and then 10 a second; afterwards the last one."""
    drained = []
    for number in range(10_000):
        turns.put(FLOOD, "endpoints", str(number).encode())
        drained += drain(turns)
        assert len(turns) <= 1
        clock.now += 0.001
    assert 110 <= len(drained) <= 130
    clock.now += turns.seconds_to_next()
    (last,) = drain(turns)
    assert last == Turn(FLOOD, "endpoints", b"9999")
    assert turns.seconds_to_next() is None


def test_the_others_are_served_at_once_during_a_flood(turns, clock) -> None:
    for number in range(1000):
        turns.put(FLOOD, "endpoints", b"x")
        if number % 100 == 99:
            turns.put(OTHER, "endpoints", str(number).encode())
            assert Turn(OTHER, "endpoints", str(number).encode()) in drain(turns)
        else:
            drain(turns)
        clock.now += 0.001


def test_bytes_count_as_well(turns, clock) -> None:
    """Two large messages are paid for afterwards; the third waits until they are."""
    for _ in range(3):
        turns.put(FLOOD, "endpoints", b"x" * 1500)
        drain(turns)
    assert len(turns) == 1
    assert turns.seconds_to_next() == pytest.approx(1.001)
    clock.now += turns.seconds_to_next()
    assert len(drain(turns)) == 1


def test_turns_go_round(turns) -> None:
    """A node's second message waits until every other node's first is handled."""
    for node in (FLOOD, OTHER):
        turns.put(node, "status", b"")
        turns.put(node, "endpoints", b"")
    assert [(turn.node, turn.kind) for turn in drain(turns)] == [
        (FLOOD, "status"),
        (OTHER, "status"),
        (FLOOD, "endpoints"),
        (OTHER, "endpoints"),
    ]


def test_what_is_replaced_counts_only_when_the_share_is_the_reason(turns) -> None:
    assert turns.put(FLOOD, "endpoints", b"1")
    assert turns.put(FLOOD, "endpoints", b"2"), "it waited for the router, and so does not count"
    for number in range(SHARE.messages_saved + 1):
        turns.put(FLOOD, "endpoints", str(number).encode())
        drain(turns)
    assert not turns.put(FLOOD, "endpoints", b"x")


def test_there_is_room_for_so_much_and_no_more(clock) -> None:
    turns = FairQueue(clock, share=SHARE, waiting_bytes=100)
    turns.put(FLOOD, "endpoints", b"x" * 60)
    with pytest.raises(Rejected) as caught:
        turns.put(OTHER, "endpoints", b"x" * 60)
    assert caught.value.reason == "Overloaded"
    turns.put(FLOOD, "endpoints", b"x" * 100)
    with pytest.raises(Rejected):
        turns.put(FLOOD, "endpoints", b"x" * 101)
    turns.put(FLOOD, "endpoints", b"x" * 10)
    turns.put(OTHER, "endpoints", b"x" * 60)
    assert [len(turn.payload) for turn in drain(turns)] == [10, 60]
    turns.put(OTHER, "endpoints", b"x" * 100)


def test_a_mark_waits_for_all_that_was_before_it_and_not_for_more(turns, clock) -> None:
    reached = []
    turns.after(lambda: reached.append("empty"))
    turns.turn_over()
    assert reached == ["empty"]
    for _ in range(SHARE.messages_saved + 1):
        turns.put(FLOOD, "endpoints", b"x")
        drain(turns)
    turns.put(OTHER, "endpoints", b"y")
    turns.after(lambda: reached.append("both"))
    drain(turns)
    turns.turn_over()
    assert reached == ["empty"], "one is still waiting for its share"
    turns.put(FLOOD, "endpoints", b"newer")
    turns.put(OTHER, "status", b"later")
    clock.now += 1
    while turns.next_turn().node != FLOOD:
        turns.turn_over()
    turns.turn_over()
    assert reached == ["empty", "both"]


def test_a_node_that_was_silent_is_forgotten(turns, clock) -> None:
    for number in range(999):
        turns.put(NodeRef("default", f"n{number}"), "status", b"")
    drain(turns)
    clock.now += 1000
    turns.put(OTHER, "status", b"")
    assert len(turns._lanes) == 1


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["status", "endpoints"]), st.integers(0, 3000)),
        max_size=200,
    )
)
def test_whatever_comes_the_newest_of_each_topic_is_what_remains(arrivals) -> None:
    """Also: nothing is taken out of order within a topic, and the room is given back."""
    clock = SetClock(1000.0)
    turns = FairQueue(clock, share=SHARE, waiting_bytes=1 << 20)
    drained: dict[tuple[NodeRef, str], list[bytes]] = {}
    newest: dict[tuple[NodeRef, str], bytes] = {}
    for number, (node, kind, size) in enumerate(arrivals):
        peer = NodeRef("default", f"n{node}")
        newest[peer, kind] = str(number).encode() + b"x" * size
        turns.put(peer, kind, newest[peer, kind])
        clock.now += 0.01
        if size % 3 == 0 and (turn := turns.next_turn()):
            drained.setdefault(turn[:2], []).append(turn.payload)
    while (pause := turns.seconds_to_next()) is not None:
        clock.now += pause
        for turn in drain(turns):
            drained.setdefault(turn[:2], []).append(turn.payload)
    assert {key: payloads[-1] for key, payloads in drained.items()} == newest
    assert all(
        [int(payload.rstrip(b"x")) for payload in payloads]
        == sorted(int(payload.rstrip(b"x")) for payload in payloads)
        for payloads in drained.values()
    )
    assert turns._room == 1 << 20
