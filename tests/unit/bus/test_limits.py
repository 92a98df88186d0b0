"""Limits that a broker announces: the client obeys, or refuses with a message. With a real Mosquitto where it can."""

import asyncio
from types import SimpleNamespace

import pytest
from assembling import inbox_of
from prometheus_client import CollectorRegistry

from galactic.bus import Connected, Disconnected
from galactic.bus.limits import ENVELOPE, WINDOW, Limits, UnsuitableBroker, limits
from galactic.bus.metrics import BusMetrics
from galactic.bus.paho import PahoBus
from galactic.errors import Unreachable
from galactic.messages import MAX_PAYLOAD, MIN_PAYLOAD, Endpoint, NodeEndpoints, NodeStatus, Topics, encode
from galactic.node.mqtt.registration import Registration
from galactic.node.mqtt.session import NodeTopics
from galactic.router.rib.path import NodeRef
from galactic.router.rib.store import Store
from galactic.settings import MqttSettings

TOPICS = Topics("galactic/v1")
OWN = NodeTopics(TOPICS, "default", "node-1")
SMALL = 110_000


@pytest.mark.parametrize(
    ("announced", "expected"),
    [
        pytest.param({}, Limits(MAX_PAYLOAD, WINDOW), id="nothing"),
        pytest.param({"MaximumPacketSize": 1 << 20, "ReceiveMaximum": 1000}, Limits(), id="more-than-needed"),
        pytest.param({"MaximumPacketSize": SMALL}, Limits(SMALL - ENVELOPE, WINDOW), id="packet"),
        pytest.param({"ReceiveMaximum": 20}, Limits(MAX_PAYLOAD, 20), id="receive-maximum"),
        pytest.param(
            {"ServerKeepAlive": 30, "MaximumQoS": 1, "RetainAvailable": 1}, Limits(), id="no-obstacle"
        ),
    ],
)
def test_limits_are_obeyed(announced, expected):
    assert limits(SimpleNamespace(**announced)) == expected


@pytest.mark.parametrize(
    ("announced", "sentence"),
    [
        pytest.param(
            {"MaximumPacketSize": MIN_PAYLOAD}, "raise the broker's maximum packet size", id="packet"
        ),
        pytest.param({"RetainAvailable": 0}, "enable retained messages", id="retain"),
        pytest.param({"MaximumQoS": 0}, "maximum QoS is 0", id="qos"),
        pytest.param({"WildcardSubscriptionAvailable": 0}, "no wildcard subscriptions", id="wildcards"),
    ],
)
def test_a_broker_that_cannot_serve_is_refused(announced, sentence):
    with pytest.raises(UnsuitableBroker, match=sentence):
        limits(SimpleNamespace(**announced))


async def connected(bus: PahoBus) -> None:
    async for event in bus.deliveries():
        if event == Connected():
            return


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        pytest.param("max_packet_size 20000", "packets of at most 20000 bytes", id="packet"),
        pytest.param("retain_available false", "retains no messages", id="retain"),
        pytest.param("max_qos 0", "maximum QoS is 0", id="qos"),
    ],
)
async def test_a_session_with_an_unsuitable_mosquitto_is_refused_in_words(mosquitto, extra, sentence):
    """The sentence is what the condition BrokerConnected gets, and the reason is counted."""
    mosquitto.start(extra=extra)
    metrics = BusMetrics(CollectorRegistry())
    async with (
        PahoBus(MqttSettings(mqtt_url=mosquitto.url), "n", metrics=metrics) as bus,
        asyncio.timeout(100),
    ):
        event = await anext(bus.deliveries())
        assert isinstance(event, Disconnected)
        assert sentence in event.reason
        assert not bus.connected
        assert metrics.failures.labels("BrokerLimits")._value.get() >= 1


async def test_a_small_receive_maximum_loses_no_publish(mosquitto):
    mosquitto.start(extra="max_inflight_messages 2")
    async with PahoBus(MqttSettings(mqtt_url=mosquitto.url), "n") as bus, asyncio.timeout(100):
        await connected(bus)
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, len(bus._inflight._publishes))
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        await asyncio.gather(*(bus.publish(f"t/{number}", b"x" * 1000) for number in range(500)))
        watching.cancel()
        assert most <= 2


def endpoint(number: int) -> Endpoint:
    networks = (f"10.{number >> 8}.{number & 255}.1/32",)
    sid = f"2001:db8:ff01:100:0:4d2:0:{number:x}"
    return Endpoint("0000000004d2", f"{number:04x}", f"team/pod-{number}", sid, networks, 1)


@pytest.fixture
def store() -> Store:
    return Store(checked=False)


async def test_a_node_with_thousands_of_endpoints_registers_at_a_broker_of_small_packets(
    mosquitto, store, until
):
    """Its registration has half a megabyte; the broker takes 110,000 bytes a packet, and a router gets all of it."""
    mosquitto.start(extra=f"max_packet_size {SMALL}\nmax_inflight_messages 2")
    node_ref, settings = NodeRef("default", "node-1"), MqttSettings(mqtt_url=mosquitto.url)
    pods = [endpoint(number) for number in range(1, 3001)]
    async with PahoBus(settings, "node") as node, PahoBus(settings, "router") as bus, asyncio.timeout(200):
        await connected(node)
        whole = NodeEndpoints(1, tuple(pods))
        with pytest.raises(Unreachable, match=f"{SMALL - ENVELOPE} at the most"):
            await node.publish(OWN.endpoints, encode(whole), retain=True)
        inbox = inbox_of(bus, TOPICS, store, CollectorRegistry())
        running = asyncio.create_task(inbox.run())
        registration = Registration()

        async def register(value: NodeEndpoints) -> int:
            parts = registration.parts(value, node.largest)
            for part in parts:
                await node.publish(OWN.part(part), part.payload, retain=True)
                registration.confirmed(part)
            await until(lambda: {*store.nodes.endpoints(node_ref)} == {*value.endpoints})
            return len(parts)

        try:
            await node.publish(
                OWN.status, encode(NodeStatus("online", "2001:db8:ff01:100::/56")), retain=True
            )
            assert await register(whole) > 5
            pods[1500:1501] = []
            assert await register(NodeEndpoints(2, tuple(pods))) == 2, "one shard and the head"
            assert await register(NodeEndpoints(3, tuple(pods[:10]))) > 5
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
