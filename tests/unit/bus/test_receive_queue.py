"""The queue to the consumer is bounded, and loses nothing: neither in memory nor over a real connection."""

import asyncio

import pytest

from galactic.bus import Connected, Delivery
from galactic.bus import paho as module
from galactic.bus.paho import PahoBus
from galactic.bus.receive_queue import ReceiveQueue
from galactic.settings import MqttSettings


def _numbered(number: int, size: int = 0) -> Delivery:
    return Delivery(str(number), b"x" * size, retained=False)


@pytest.mark.parametrize(
    ("limits", "size"),
    [
        pytest.param({"most": 10, "most_bytes": 1 << 30}, 0, id="by-number"),
        pytest.param({"most": 1 << 30, "most_bytes": 1000}, 99, id="by-bytes"),
    ],
)
async def test_it_pauses_when_full_and_resumes_at_half(limits: dict, size: int) -> None:
    asked = []
    queue = ReceiveQueue(lambda: asked.append("pause"), lambda: asked.append("resume"), **limits)
    for number in range(10):
        assert asked == []
        queue.put(_numbered(number, size))
    assert asked == ["pause"]
    assert queue.paused
    queue.put(_numbered(10, size))  # a read's worth may come on top
    got = []
    while asked == ["pause"]:
        got.append(await queue.get())
    assert asked == ["pause", "resume"]
    assert len(got) in (6, 7)
    while len(queue):
        got.append(await queue.get())
    assert [item.topic for item in got] == [str(number) for number in range(11)]
    assert asked == ["pause", "resume"]


async def test_a_slow_consumer_makes_the_broker_wait_and_loses_nothing(mosquitto, until, monkeypatch) -> None:
    """20 MiB are on their way; with room for 10 messages the rest stays at the broker until they are taken."""
    monkeypatch.setattr(module, "ReceiveQueue", lambda pause, resume: ReceiveQueue(pause, resume, most=10))
    mosquitto.start(extra="max_queued_messages 100000")
    settings = MqttSettings(mqtt_url=mosquitto.url)
    async with PahoBus(settings, "slow") as slow, PahoBus(settings, "quick") as quick, asyncio.timeout(200):
        arrived = slow.deliveries()
        while await anext(arrived) != Connected():
            pass
        slow.subscribe("t/+")
        await slow.publish("u", b"")
        await until(lambda: quick.connected)
        payload = b"x" * 200_000
        await asyncio.gather(*(quick.publish(f"t/{number}", payload) for number in range(100)))
        await until(lambda: slow._received.paused)
        waiting = len(slow._received)
        assert waiting <= 12
        for _ in range(100):  # the loop runs on, and nothing more is read
            await asyncio.sleep(0)
        assert len(slow._received) == waiting
        got = [await anext(arrived) for _ in range(100)]
        assert [item.topic for item in got] == [f"t/{number}" for number in range(100)]
        assert slow.connected
