"""The router against a Mosquitto whose queue is too small for what it is sent."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from assembling import assembled

from galactic.bus import Connected, Delivery
from galactic.bus.paho import PahoBus
from galactic.messages import Changes, Route, decode, digest
from galactic.router.controller import Router
from galactic.router.ingress import subscriptions
from galactic.router.ingress.damping import SUPPRESS_SECONDS, FloodDamping
from galactic.settings import RouterSettings

VPC = "galactic/v1/vpcs/0000000004d2"
PATIENCE_SECONDS = 120


@asynccontextmanager
async def router(url: str, replica: str = "r") -> AsyncIterator[Router]:
    settings = RouterSettings(kubernetes=False, require_entitlements=False, mqtt_url=url)
    async with PahoBus(settings, f"galactic-router-{replica}") as bus:
        controller = assembled(settings, bus, replica=replica)
        task = asyncio.create_task(controller.run())
        try:
            yield controller
        finally:
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            assert isinstance(outcome, asyncio.CancelledError), outcome


class Listener:
    """Hears everything below a filter."""

    MARK = "mark"

    def __init__(self, bus: PahoBus, pattern: str) -> None:
        self.bus, self.pattern = bus, pattern
        self.received: list[Delivery] = []
        self.marks: set[bytes] = set()
        self.sessions = 0

    async def run(self) -> None:
        self.bus.subscribe(self.pattern, self.MARK)
        async for item in self.bus.deliveries():
            if isinstance(item, Delivery) and item.topic == self.MARK:
                self.marks.add(item.payload)
            elif isinstance(item, Delivery):
                self.received.append(item)
            self.sessions += isinstance(item, Connected)

    async def caught_up(self) -> None:
        """Waits until all messages that the broker has confirmed are received: it keeps their order."""
        mark = f"{len(self.marks)}".encode()
        while mark not in self.marks:  # a queue that is full drops it
            await self.bus.publish(self.MARK, mark)
            await asyncio.sleep(0.01)

    def changes(self) -> list[Changes]:
        return [decode(Changes, item.payload) for item in self.received if item.topic.endswith("/changes")]


@asynccontextmanager
async def listener(
    url: str, pattern: str = "galactic/v1/#", name: str = "listener"
) -> AsyncIterator[Listener]:
    async with PahoBus(RouterSettings(mqtt_url=url), name) as bus:
        listener = Listener(bus, pattern)
        task = asyncio.create_task(listener.run())
        try:
            yield listener
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def publish_retained(bus: PahoBus, *messages: tuple[str, bytes]) -> None:
    for topic, payload in messages:
        await bus.publish(topic, payload, retain=True)


def networks(retained: dict[str, str]) -> list[str] | None:
    """The table that a joining node would accept; None: it does not add up."""
    if not retained:
        return []
    try:
        head = json.loads(retained[f"{VPC}/head"])
        shards = [json.loads(retained[f"{VPC}/table/{number}"]) for number in range(head["shards"])]
    except KeyError:
        return None
    routes = [route for shard in shards for route in shard["routes"]]
    decoded = [Route(**{**route, "segments": tuple(route["segments"])}) for route in routes]
    adds_up = (head["count"], head["digest"]) == (len(routes), digest(decoded))
    return (
        sorted(route["network"] for route in routes) if adds_up and len(retained) == 1 + len(shards) else None
    )


async def retains(mosquitto, controller: Router, expected: list[str]) -> None:
    """Until it is what the broker retains. A session of the router's may begin later than ours, and set it right."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        retained: list[str] | None = None
        while retained != expected or not controller.idle:
            retained = networks(await asyncio.to_thread(mosquitto.retained))


async def test_a_table_larger_than_the_brokers_queue(topology, mosquitto, until) -> None:
    """A default Mosquitto drops what does not fit into its queue of 1,000; here it is 8, for 20 shards and 2 nodes."""
    mosquitto.start(extra="max_queued_messages 8\nmax_inflight_messages 4")
    async with listener(mosquitto.url, f"{VPC}/changes") as client:
        async with router(mosquitto.url) as controller:
            await until(lambda: client.sessions and controller.idle)
            many = [topology.endpoint("n1", 1, *(f"10.1.{n >> 8}.{n & 255}/32" for n in range(1, 1001)))]
            many += [
                topology.endpoint(
                    "n1", 1 + part, *(f"10.{1 + part}.{n >> 8}.{n & 255}/32" for n in range(1, 1001))
                )
                for part in range(1, 5)
            ]
            for topic, payload in (topology.status("n1"), topology.endpoints("n1", 1, *many)):
                await client.bus.publish(topic, payload, retain=True)
            await until(lambda: controller.idle and len(controller.store.tables.routes(0x4D2)) == 5000)
        await client.caught_up()
        before = len(client.received)
        async with router(mosquitto.url, "second") as controller:
            await until(lambda: controller.idle)
            assert len(controller.store.tables.routes(0x4D2)) == 5000
            await asyncio.sleep(1)  # for what it might do then
        await client.caught_up()
        assert len(client.received) == before, (
            "a message that the broker dropped in the replay was taken for absent"
        )


async def test_a_flood_at_a_broker_with_default_limits_loses_nothing(
    topology, mosquitto, until, monkeypatch
) -> None:
    """Its queue of 1,000 may overflow and drop messages of other nodes; all arrive in the end.

    The router's clock stands still: all messages are of one second.
    """
    monkeypatch.setattr(subscriptions, "QUIET_SECONDS", 0.5)
    now = [1000.0]
    monkeypatch.setattr("galactic.router.__main__.FloodDamping", lambda: FloodDamping(lambda: now[0]))
    mosquitto.start()
    async with (
        listener(mosquitto.url) as client,
        listener(mosquitto.url, "none", "flood") as flood,
        router(mosquitto.url) as controller,
    ):

        def figure(name: str, **labels: str) -> float:
            return controller.registry.get_sample_value(f"galactic_router_{name}", labels) or 0.0

        def listens_to_all() -> bool:
            return controller.bus._filters.keys() >= {
                f"galactic/v1/nodes/+/+/{kind}" for kind in subscriptions.KINDS
            }

        await until(lambda: client.sessions and flood.sessions and controller.idle)
        for number in range(1, 6):
            await publish_retained(
                client.bus, topology.status(f"n{number}"), topology.endpoints(f"n{number}", 1)
            )
        last = 2000
        shouting = asyncio.gather(
            *(
                publish_retained(
                    flood.bus,
                    topology.endpoints("n1", number, topology.endpoint("n1", 1, f"10.9.{number % 9}.1/32")),
                )
                for number in range(1, last + 1)
            )
        )
        for number in range(2, 6):
            await publish_retained(
                client.bus,
                topology.endpoints(
                    f"n{number}", 2, topology.endpoint(f"n{number}", number, f"10.1.1.{number}/32")
                ),
            )
        await shouting
        final = topology.endpoints("n1", last + 1, topology.endpoint("n1", 1, "10.1.1.1/32"))
        await publish_retained(flood.bus, final)
        expected = {f"10.1.1.{number}/32" for number in range(1, 6)}
        await until(lambda: {*controller.store.tables.routes(0x4D2)} == expected and controller.idle)
        assert figure("floods_total", cluster="default", node="n1") == 1
        assert figure("topics_aside") == 1
        assert not listens_to_all()
        now[0] += 4 * SUPPRESS_SECONDS[0]
        await until(lambda: figure("topics_aside") == 0 and listens_to_all())
        await retains(mosquitto, controller, sorted(expected))
