"""Events of the kernel: how often they are acted on, and what a failure does."""

import asyncio

from structlog.testing import capture_logs

from galactic.errors import Unreachable
from galactic.node.dataplane import events
from galactic.node.dataplane.events import Paced, follow


async def test_a_burst_is_one_call_and_one_more():
    calls = []
    paced = Paced(lambda: calls.append(1), 0.05)
    for _ in range(100):
        paced()
    assert len(calls) == 1, "the first at once"
    async with asyncio.timeout(60):
        while len(calls) < 2:
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.2)
    assert len(calls) == 2, "none is lost, none is made up"
    paced()
    assert len(calls) == 3


async def test_a_kernel_without_events_is_logged_once(monkeypatch):
    monkeypatch.setattr(events, "BACKOFF_SECONDS", (0.001, 0.001))
    tried = []

    async def none():
        tried.append(1)
        raise Unreachable("nf_tables", "Protocol not supported")
        yield 1

    with capture_logs() as logs:
        task = asyncio.create_task(follow(none, tried.append))
        async with asyncio.timeout(60):
            while len(tried) < 5:
                await asyncio.sleep(0.001)
        task.cancel()
    assert [entry["event"] for entry in logs] == ["no events from the kernel, trying again"]
