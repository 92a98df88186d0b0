"""The paho adapter against a real Mosquitto on loopback."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from galactic.bus import Connected, Delivery, Disconnected
from galactic.bus.paho import PahoBus
from galactic.errors import Unreachable
from galactic.settings import MqttSettings
from galactic_lab.controlplane.mosquitto import Mosquitto


@pytest.fixture
def broker(mosquitto: Mosquitto) -> Mosquitto:
    mosquitto.start(extra="max_queued_messages 100000")
    return mosquitto


@asynccontextmanager
async def connected(
    broker: Mosquitto, name: str, **more: object
) -> AsyncIterator[tuple[PahoBus, AsyncIterator]]:
    bus = PahoBus(MqttSettings(mqtt_url=broker.url), name, **more)
    async with bus:
        deliveries = bus.deliveries()
        await soon(session(deliveries))
        yield bus, deliveries


async def session(deliveries: AsyncIterator) -> None:
    """Until there is one; Mosquitto may not listen yet."""
    while await anext(deliveries) != Connected():
        pass


async def soon(awaitable: object) -> object:
    async with asyncio.timeout(200):
        return await awaitable


async def test_a_retained_message_reaches_a_later_subscriber(broker: Mosquitto) -> None:
    async with connected(broker, "a") as (a, _), connected(broker, "b") as (b, at_b):
        await soon(a.publish("t/kept", b"1", retain=True))
        b.subscribe("t/+")
        assert await soon(anext(at_b)) == Delivery("t/kept", b"1", retained=True)
        await soon(a.publish("t/passing", b"2"))
        assert await soon(anext(at_b)) == Delivery("t/passing", b"2", retained=False)
        b.unsubscribe("t/+")
        b.subscribe("u")
        await soon(b.publish("v", b""))  # the broker has handled what b asked for before
        await soon(a.publish("t/unheard", b"3"))
        await soon(a.publish("u", b"4"))
        assert await soon(anext(at_b)) == Delivery("u", b"4", retained=False)


async def test_subscriptions_outlive_the_broker(broker: Mosquitto) -> None:
    async with connected(broker, "a") as (a, at_a):
        a.subscribe("t")
        broker.kill()
        assert isinstance(await soon(anext(at_a)), Disconnected)
        with pytest.raises(Unreachable):
            await a.publish("t", b"lost")
        broker.start(extra="max_queued_messages 100000")
        await soon(session(at_a))
        await soon(a.publish("t", b"after"))
        assert await soon(anext(at_a)) == Delivery("t", b"after", retained=False)


async def test_the_last_will_speaks_for_a_client_that_died(broker: Mosquitto) -> None:
    async with connected(broker, "watcher") as (watcher, seen):
        watcher.subscribe("will")
        async with connected(broker, "dying", will=("will", b"gone")) as (dying, _):
            dying._client.socket().shutdown(socket.SHUT_RDWR)
            assert await soon(anext(seen)) == Delivery("will", b"gone", retained=False)


async def test_it_ends_even_if_the_connection_is_lost_at_that_very_moment(broker: Mosquitto) -> None:
    for _ in range(20):
        async with asyncio.timeout(200), connected(broker, "a") as (bus, arrived):
            bus._client.socket().shutdown(socket.SHUT_RDWR)
            await anext(arrived)


async def test_many_publishes_are_all_confirmed_and_all_arrive(broker: Mosquitto) -> None:
    async with connected(broker, "a") as (a, _), connected(broker, "b") as (b, at_b):
        b.subscribe("n/#")
        await soon(asyncio.gather(*(a.publish(f"n/{number}", b"x") for number in range(3000))))
        arrived = [await soon(anext(at_b)) for _ in range(3000)]
        assert {delivery.topic for delivery in arrived} == {f"n/{number}" for number in range(3000)}


async def test_a_wrong_password_is_retried_and_logged(mosquitto: Mosquitto) -> None:
    mosquitto.start(config=f"listener {mosquitto.port} 127.0.0.1\nallow_anonymous false\n")
    with capture_logs() as logs:
        async with PahoBus(MqttSettings(mqtt_url=mosquitto.url, mqtt_username="nobody"), "a") as bus:
            async with asyncio.timeout(200):
                while sum("authorized" in line.get("error", "") for line in logs) < 2:
                    await asyncio.sleep(0.05)
            assert not bus.connected
            with pytest.raises(Unreachable):
                await bus.publish("t", b"")
