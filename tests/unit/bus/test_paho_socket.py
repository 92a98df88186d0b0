"""Writes to the socket: packets whole or not at all, no recursion into paho, and a limit to waiting."""

import asyncio
from types import SimpleNamespace

import pytest

from galactic.bus import Connected, Delivery
from galactic.bus import inflight as module
from galactic.bus.paho import PahoBus
from galactic.bus.websocket import Frames
from galactic.errors import Unreachable
from galactic.settings import MqttSettings


class Socket:
    """Takes so many bytes, and then none until it is drained."""

    def __init__(self, room: int) -> None:
        self.room, self.sent = room, bytearray()

    def send(self, some: bytes) -> int:
        if not self.room:
            raise BlockingIOError
        sent = min(self.room, len(some))
        self.sent += some[:sent]
        self.room -= sent
        return sent


def web(socket: Socket) -> SimpleNamespace:
    """As paho's WebSocket: it keeps the unsent rest of a frame, and returns 0 meanwhile."""

    def send(packet: bytes) -> int:
        if not connection._sendbuffer:
            connection._sendbuffer = bytearray(b"<" + packet + b">")
        sent = socket.send(connection._sendbuffer)
        connection._sendbuffer = connection._sendbuffer[sent:]
        return 0 if connection._sendbuffer else len(packet)

    connection = SimpleNamespace(_socket=socket, _sendbuffer=bytearray(), send=send)
    return connection


@pytest.mark.parametrize("room", range(12))
def test_a_websocket_that_is_full_loses_and_spoils_no_packet(room: int) -> None:
    socket = Socket(room)
    connection = web(socket)
    frames = Frames(connection)
    packets, refused = [b"one", b"two", b"three"], 0
    for packet in packets:
        while True:
            try:
                assert connection.send(packet) == len(packet)
                break
            except BlockingIOError:  # paho keeps the packet and comes back when there is room
                refused += 1
                socket.room += 4
    while frames.send_rest():
        socket.room += 1
    assert bytes(socket.sent) == b"<one><two><three>"
    assert refused or room >= len(b"<one><two>")


@pytest.mark.parametrize("own", [True, False])
async def test_what_one_publishes_oneself_comes_back_where_it_is_asked_for(mosquitto, *, own: bool) -> None:
    mosquitto.start()
    async with (
        PahoBus(MqttSettings(mqtt_url=mosquitto.url), "a") as bus,
        PahoBus(MqttSettings(mqtt_url=mosquitto.url), "b") as other,
        asyncio.timeout(200),
    ):
        arrived, connected = bus.deliveries(), other.deliveries()
        while await anext(arrived) != Connected() or not bus.connected:
            pass
        while await anext(connected) != Connected():
            pass
        bus.subscribe("t", own=own)
        await bus.publish("t", b"own")
        await other.publish("t", b"another's")
        message = await anext(arrived)
        assert message == Delivery("t", b"own" if own else b"another's", retained=False)
        assert not bus.echoes


async def test_a_publish_without_a_confirmation_is_given_up(mosquitto, monkeypatch) -> None:
    monkeypatch.setattr(module, "PUBACK_SECONDS", 0.5)
    mosquitto.start()
    async with PahoBus(MqttSettings(mqtt_url=mosquitto.url), "a") as bus, asyncio.timeout(200):
        arrived = bus.deliveries()
        while await anext(arrived) != Connected():
            pass
        bus._client.on_publish = None
        with pytest.raises(Unreachable, match="no PUBACK"):
            await bus.publish("t", b"1")
        assert bus.connected
