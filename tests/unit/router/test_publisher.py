"""Nothing goes out through a gate that was closed meanwhile."""

import asyncio

from prometheus_client import CollectorRegistry

from galactic.bus.memory import MemoryBroker
from galactic.router.egress.publisher import Publisher
from galactic.router.metrics import RouterMetrics


async def test_who_is_deposed_while_it_waits_for_room_publishes_nothing(until) -> None:
    broker, window = MemoryBroker(), asyncio.Semaphore(1)
    publisher = Publisher(broker.session(), RouterMetrics(CollectorRegistry()))
    publisher.connected(True)
    publisher.set_gate(True)
    await window.acquire()
    waits = asyncio.create_task(publisher.publish("a", b"1", False, window))
    try:
        await until(lambda: window._waiters)
        publisher.set_gate(False)
        window.release()
        await until(lambda: not window._waiters and not window.locked())
        for _ in range(10):
            await asyncio.sleep(0)
        assert broker.published == []
        publisher.set_gate(True)
        await until(waits.done)
        assert broker.published == [("a", b"1", False)]
    finally:
        waits.cancel()
        await asyncio.gather(waits, return_exceptions=True)
