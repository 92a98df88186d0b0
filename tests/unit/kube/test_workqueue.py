import asyncio

import pytest

from galactic.kube.workqueue import WorkQueue


async def test_order_once_each_and_what_is_urgent_first():
    queue = WorkQueue(first=lambda item: item.startswith("!"))
    for item in ("a", "b", "a", "!c"):
        queue.add(item)
    assert [await queue.get() for _ in range(3)] == ["!c", "a", "b"]


async def test_marked_while_worked_on_comes_again_but_not_twice_at_a_time():
    queue = WorkQueue()
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.get(), 0.01)
    queue.done("a")
    assert await queue.get() == "a"
    queue.done("a")
    assert len(queue) == 0


async def test_failures_back_off_and_success_forgives():
    queue = WorkQueue()
    delays = []
    for _ in range(4):
        queue.add("a")
        await queue.get()
        delays.append(queue.failed("a"))
    assert delays == sorted(delays)
    assert delays[-1] > delays[0]
    queue.add("a")
    await queue.get()
    queue.done("a")
    queue.add("a")
    await queue.get()
    assert queue.failed("a") == delays[0]
    queue.close()


async def test_later_marks_are_one_and_the_earlier_counts():
    queue = WorkQueue()
    queue.add("a", 60)
    queue.add("a", 0.001)
    queue.add("a", 30)
    assert len(queue) == 1
    assert await asyncio.wait_for(queue.get(), 59) == "a"
    queue.done("a")
    assert len(queue) == 0
