"""Connecting again and again, each time at a moment of its own; and to a broker that has nothing newer than 3.1.1."""

import asyncio
import random
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from galactic.backoff import Backoff
from galactic.bus import Connected, Delivery, Disconnected
from galactic.bus import paho as module
from galactic.bus.paho import BACKOFF_SECONDS, PahoBus
from galactic.settings import MqttSettings
from galactic_lab.controlplane.mosquitto import Mosquitto


def test_pauses_double_and_no_two_clients_agree() -> None:
    random.seed(1)
    shortest, longest = BACKOFF_SECONDS
    clients = [
        [backoff.pause() for _ in range(12)] for backoff in (Backoff(*BACKOFF_SECONDS) for _ in range(200))
    ]
    for number, pair in enumerate(zip(*clients, strict=True)):
        base = min(shortest * 2**number, longest)
        assert 0.5 * base <= min(pair) < 0.6 * base
        assert 1.4 * base < max(pair) <= 1.5 * base
        assert len({*pair}) == len(pair)


async def test_it_begins_again_with_short_pauses_after_a_session(mosquitto, monkeypatch) -> None:
    received: list[int] = []

    class Counted(Backoff):
        def pause(self) -> float:
            super().pause()
            received.append(self._failures - 1)
            return 0.01

    monkeypatch.setattr(module, "Backoff", Counted)
    async with PahoBus(MqttSettings(mqtt_url=mosquitto.url), "a") as bus, asyncio.timeout(200):
        arrived = bus.deliveries()
        while max(received, default=0) < 3:
            await asyncio.sleep(0.01)
        mosquitto.start()
        while await anext(arrived) != Connected():
            pass
        del received[:]
        mosquitto.kill()
        assert isinstance(await anext(arrived), Disconnected)
        while not received:
            await asyncio.sleep(0.01)
        assert received[0] == 0


# -- MQTT 3.1.1 --------------------------------------------------------------------------------------------------------


async def _packet(reader: asyncio.StreamReader) -> bytes:
    """One MQTT packet as it came; of at most 16 KiB."""
    head = await reader.readexactly(2)
    length = head[1] & 127
    if head[1] & 128:
        more = await reader.readexactly(1)
        head, length = head + more, length + (more[0] << 7)
    return head + await reader.readexactly(length)


@asynccontextmanager
async def older(broker: Mosquitto) -> AsyncIterator[tuple[str, list[int]]]:
    """The URL of the same broker as one that has no MQTT 5 (3.1.1 §3.1.2.2), and the versions it was asked for."""
    asked: list[int] = []
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        connect = await _packet(reader)
        version = connect[connect.index(b"MQTT") + 4]
        asked.append(version)
        if version != 4:
            writer.write(bytes.fromhex("20020001"))
            await writer.drain()
            writer.close()
            return
        from_, to = await asyncio.open_connection("127.0.0.1", broker.port)
        to.write(connect)
        await asyncio.gather(_pipe(reader, to), _pipe(from_, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while some := await reader.read(1 << 16):
        writer.write(some)
        await writer.drain()
    writer.close()


async def test_an_older_broker_is_spoken_to_in_its_version(mosquitto) -> None:
    mosquitto.start()
    async with (
        older(mosquitto) as (url, asked),
        PahoBus(MqttSettings(mqtt_url=url), "a") as bus,
        asyncio.timeout(200),
    ):
        arrived = bus.deliveries()
        assert await anext(arrived) == Connected()
        await bus.publish("t/1", b"kept", retain=True)
        bus.subscribe("t/+", replay=False)  # it cannot say so
        assert await anext(arrived) == Delivery("t/1", b"kept", retained=True)
        await bus.publish("t/2", b"now")
        assert await anext(arrived) == Delivery("t/2", b"now", retained=False)
        assert asked == [5, 4]


async def test_a_newer_broker_sends_what_is_retained_only_where_that_is_asked_for(mosquitto) -> None:
    mosquitto.start()
    async with PahoBus(MqttSettings(mqtt_url=mosquitto.url), "a") as bus, asyncio.timeout(200):
        arrived = bus.deliveries()
        while await anext(arrived) != Connected():
            pass
        await bus.publish("t/1", b"kept", retain=True)
        bus.subscribe("t/+", replay=False)
        bus.subscribe("u")
        await bus.publish("u", b"after")
        assert await anext(arrived) == Delivery("u", b"after", retained=False)


async def test_more_filters_than_one_packet_may_have(mosquitto, monkeypatch) -> None:
    monkeypatch.setattr(module, "FILTERS", 10)
    mosquitto.start()
    async with PahoBus(MqttSettings(mqtt_url=mosquitto.url), "a") as bus, asyncio.timeout(200):
        arrived = bus.deliveries()
        topics = [f"t/{number}" for number in range(25)]
        bus.subscribe(*topics)
        while await anext(arrived) != Connected():
            pass
        for topic in topics:
            await bus.publish(topic, b"1")
            assert (await anext(arrived)).topic == topic
        bus.unsubscribe(*topics[1:])
        for topic in topics[::-1]:
            await bus.publish(topic, b"2")
        assert (await anext(arrived)).topic == topics[0]


@pytest.fixture
def passwords(tmp_path: Path) -> Path:
    path = tmp_path / "passwords"
    path.write_text("u:right\n")
    subprocess.run(["mosquitto_passwd", "-U", path], check=True)
    return path


@pytest.mark.parametrize(
    ("user", "password"), [pytest.param("u", "wrong", id="password"), pytest.param("v", "right", id="user")]
)
async def test_a_wrong_password_at_an_older_broker(mosquitto, passwords, *, user: str, password: str) -> None:
    """The client logs the reason and the remedy at each attempt, and tries no protocol version that does not exist."""
    mosquitto.start(
        config=f"listener {mosquitto.port} 127.0.0.1\nallow_anonymous false\npassword_file {passwords}\n"
    )
    settings = MqttSettings(mqtt_username=user, mqtt_password=password)
    with capture_logs() as logs:
        async with older(mosquitto) as (url, asked):
            settings = settings.model_copy(update={"mqtt_url": url})
            async with PahoBus(settings, "a") as bus, asyncio.timeout(200):
                while len(_refusals(logs)) < 3:
                    await asyncio.sleep(0.01)
                assert not bus.connected
    lines = _refusals(logs)
    assert {line["reason"] for line in lines} <= {"BadCredentials", "NotAuthorized"}
    assert all("mqtt_username" in line["error"] for line in lines)
    assert asked[0] == 5
    assert {*asked[1:]} == {4}
    assert password not in repr(logs)


def _refusals(logs: list) -> list:
    return [line for line in logs if line["event"] == "broker unreachable"]
