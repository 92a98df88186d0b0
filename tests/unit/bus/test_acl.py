"""The shipped mosquitto.conf and acl in a real Mosquitto: no client publishes or receives more than it may."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import msgspec
import pytest
from assembling import assembled
from structlog.testing import capture_logs

from galactic.bus import Connected, Delivery, Disconnected
from galactic.bus.limits import Limits
from galactic.bus.paho import PahoBus
from galactic.errors import Unreachable
from galactic.messages import (
    MAX_PAYLOAD,
    Endpoint,
    Entitlement,
    Entitlements,
    NodeEndpoints,
    NodeStatus,
    Topics,
    decode,
    encode,
)
from galactic.names import function_hex, vpc_hex
from galactic.operator.cluster_name import ClusterName
from galactic.operator.entitlements import EntitlementPublisher
from galactic.operator.state import Caches
from galactic.settings import RouterSettings

SHIPPED = Path(__file__).parents[3] / "deploy/mosquitto"
BASE = "galactic/v1"
TOPICS = Topics(BASE)
A, B, ROUTER, OTHER = "default/n1", "default/n2", "galactic-router-0", "galactic-router-1"
OBSERVER, STRANGER, OPERATOR = "galactic-observer", "stranger", "default"
PEOPLE = (A, B, ROUTER, OTHER, OBSERVER, STRANGER, OPERATOR)
HALF = "0.0.0.0/1"
LIST = TOPICS.entitlements("default", 0)


@dataclass
class ShippedBroker:
    """The shipped broker, on free ports and with files in a folder of the test's."""

    ports: dict[str, int]
    certificates: dict[str, object]
    ca: Path

    def settings(self, user: str, *, by: str = "8884") -> RouterSettings:
        more: dict[str, object] = {"mqtt_username": user, "mqtt_password": f"secret of {user}"}
        if by == "8883":
            pair = self.certificates[user]
            more = {"mqtt_cert_file": pair.cert, "mqtt_key_file": pair.key}
        scheme = "wss" if by == "8885" else "mqtts"
        url = f"{scheme}://localhost:{self.ports[by]}"
        return RouterSettings(kubernetes=False, mqtt_url=url, mqtt_ca_file=self.ca, **more)


@pytest.fixture
def broker(mosquitto, authority, tmp_path) -> ShippedBroker:
    servers, clients = authority("servers"), authority("clients-ca")
    pair = servers.issue("broker", hosts=("localhost",))
    (tmp_path / "server.crt").write_bytes(pair.cert.read_bytes())
    (tmp_path / "server.key").write_bytes(pair.key.read_bytes())
    (tmp_path / "acl").write_bytes((SHIPPED / "acl").read_bytes())
    (tmp_path / "passwords").write_text("".join(f"{user}:secret of {user}\n" for user in PEOPLE))
    subprocess.run(["mosquitto_passwd", "-U", tmp_path / "passwords"], check=True)
    config = (SHIPPED / "mosquitto.conf").read_text().replace("/etc/mosquitto", str(tmp_path))
    config = config.replace("/var/lib/mosquitto", str(tmp_path))
    ports = {name: mosquitto.port_of(name) for name in ("8883", "8884", "8885")}
    for name, port in ports.items():
        assert config.count(f"listener {name}\n") == 1
        config = config.replace(f"listener {name}\n", f"listener {port} 127.0.0.1\n")
    mosquitto.start(config=config)
    return ShippedBroker(ports, {user: clients.issue(user) for user in PEOPLE}, servers.cert)


class Client:
    """One that hears what it subscribes to."""

    def __init__(self, bus: PahoBus) -> None:
        self.bus = bus
        self.received: list[Delivery] = []
        self.sessions = self.losses = 0

    async def run(self) -> None:
        async for item in self.bus.deliveries():
            match item:
                case Delivery():
                    self.received.append(item)
                case Connected():
                    self.sessions += 1
                case Disconnected():
                    self.losses += 1


@asynccontextmanager
async def client(
    broker: ShippedBroker, user: str, *, by: str = "8884", name: str = "", will=None
) -> AsyncIterator[Client]:
    async with PahoBus(broker.settings(user, by=by), name or f"c-{user}", will) as bus:
        client = Client(bus)
        task = asyncio.create_task(client.run())
        try:
            async with asyncio.timeout(200):
                while not client.sessions:
                    await asyncio.sleep(0.01)
            yield client
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


_marks = count()


async def synchronize(client: Client, router: Client) -> None:
    """Waits until all messages for the client have arrived: the router's mark comes after them."""
    mark = f"mark {next(_marks)}".encode()
    client.bus.subscribe(TOPICS.leader)
    with suppress(Unreachable):  # refused or not: the broker has handled the client's earlier requests
        await client.bus.publish("settled", b"")
    await router.bus.publish(TOPICS.leader, mark)
    async with asyncio.timeout(200):
        while not any(message.payload == mark for message in client.received):
            await asyncio.sleep(0.01)


HEAD, CHANGES, TABLE = (f"{BASE}/vpcs/0000000004d2/{topic}" for topic in ("head", "changes", "table/0"))


@pytest.mark.parametrize("by", ["8883", "8884", "8885"])
@pytest.mark.parametrize(
    ("user", "may", "may_not"),
    [
        pytest.param(
            A,
            [
                TOPICS.status(*A.split("/")),
                TOPICS.endpoints(*A.split("/")),
                TOPICS.endpoints_shard(*A.split("/"), 0),
                TOPICS.endpoints_shard(*A.split("/"), "head"),
            ],
            [
                TOPICS.endpoints(*B.split("/")),
                TOPICS.status(*B.split("/")),
                TOPICS.endpoints("other", "n1"),
                f"{BASE}/nodes/default/n1/other",
                f"{BASE}/nodes/default/n1/endpoints/0/more",
                TOPICS.endpoints_shard(*B.split("/"), 0),
                LIST,
                f"{BASE}/entitlements/default/n1",
                TOPICS.leader,
                TOPICS.sync("r"),
                HEAD,
                CHANGES,
                TABLE,
                "elsewhere",
            ],
            id="node",
        ),
        pytest.param(
            OPERATOR,
            [
                LIST,
                TOPICS.entitlements("default", 7),
                TOPICS.status(*A.split("/")),
                TOPICS.endpoints(*A.split("/")),
                TOPICS.endpoints_shard(*A.split("/"), 0),
            ],
            [
                TOPICS.entitlements("other", 0),
                f"{BASE}/entitlements/default/n1/0",
                TOPICS.status("other", "n1"),
                TOPICS.endpoints("other", "n1"),
                TOPICS.leader,
                TABLE,
            ],
            id="operator",
        ),
        pytest.param(
            OTHER,
            [TOPICS.leader, TOPICS.sync("r"), HEAD, CHANGES, TABLE],
            [
                TOPICS.endpoints(*A.split("/")),
                TOPICS.status(*A.split("/")),
                LIST,
                f"{BASE}/more",
                "elsewhere",
            ],
            id="router",
        ),
        pytest.param(OBSERVER, [], [TOPICS.leader, HEAD, TOPICS.endpoints(*A.split("/"))], id="observer"),
        pytest.param(STRANGER, [], [TOPICS.leader, HEAD, TOPICS.endpoints(*A.split("/"))], id="stranger"),
    ],
)
async def test_who_may_write(
    by: str, user: str, may: list[str], may_not: list[str], *, broker: ShippedBroker
) -> None:
    """A refused publish fails with one log line, and no client receives it."""
    async with client(broker, OBSERVER) as observer, client(broker, ROUTER, name="seed") as seed:
        await seed.bus.publish(TOPICS.leader, b"0", retain=True)
        observer.bus.subscribe(f"{BASE}/#", "#")
        await synchronize(observer, seed)
        observer.received.clear()
        if user == OBSERVER:
            await publish(observer, may, may_not)
        else:
            async with client(broker, user, by=by) as publisher:
                await publish(publisher, may, may_not)
        await synchronize(observer, seed)
        assert {message.topic for message in observer.received if message.payload == b"1"} == set(may)


async def publish(publisher: Client, may: list[str], may_not: list[str]) -> None:
    for topic in may:
        await publisher.bus.publish(topic, b"1", retain=True)
    for topic in may_not:
        with capture_logs() as logs:
            for _ in range(2):
                with pytest.raises(Unreachable, match="Not authorized"):
                    await publisher.bus.publish(topic, b"1", retain=True)
        assert [line["topic"] for line in logs if line["event"] == "broker refused a request"] == [topic]


@pytest.mark.parametrize(
    ("user", "receives"),
    [
        pytest.param(A, {TOPICS.leader, HEAD, CHANGES, TABLE}, id="node"),
        pytest.param(
            OPERATOR, {TOPICS.leader, HEAD, CHANGES, TABLE, LIST, TOPICS.status(*B.split("/"))}, id="operator"
        ),
        pytest.param(
            OTHER,
            {
                *(TOPICS.leader, TOPICS.sync("r"), HEAD, CHANGES, TABLE),
                *(topic(*B.split("/")) for topic in (TOPICS.status, TOPICS.endpoints)),
                TOPICS.endpoints_shard(*B.split("/"), 0),
                LIST,
            },
            id="router",
        ),
    ],
)
async def test_who_may_receive(user: str, receives: set[str], broker: ShippedBroker) -> None:
    """With any subscription a client receives only its topics, retained or live; a node nothing of other nodes."""
    topics = [TOPICS.leader, TOPICS.sync("r"), HEAD, CHANGES, TABLE, f"{BASE}/vpcs/0000000004d2/other/1"]
    theirs = [TOPICS.status(*B.split("/")), TOPICS.endpoints(*B.split("/"))]
    theirs.append(TOPICS.endpoints_shard(*B.split("/"), 0))
    async with client(broker, ROUTER) as router, client(broker, B) as other:
        for topic in topics:
            await router.bus.publish(topic, b"kept", retain=True)
        for topic in theirs:
            await other.bus.publish(topic, b"kept", retain=True)
        async with client(broker, OPERATOR) as operator:  # a user is one client
            await operator.bus.publish(LIST, b"kept", retain=True)
        async with client(broker, user) as listener:
            listener.bus.subscribe("#", "+/#", f"{BASE}/#", f"{BASE}/nodes/+/+/endpoints", *topics, *theirs)
            await synchronize(listener, router)
            more = {f"{BASE}/vpcs/0000000004d2/other/1"} if user == OTHER else set()
            assert {
                message.topic for message in listener.received if message.payload == b"kept"
            } == receives | more
            for topic in topics:
                await router.bus.publish(topic, b"passing")
            for topic in theirs:
                await other.bus.publish(topic, b"passing")
            if user != OPERATOR:
                async with client(broker, OPERATOR) as operator:
                    await operator.bus.publish(LIST, b"passing")
            await synchronize(listener, router)
            own = {LIST} if user == OPERATOR else set()
            assert {message.topic for message in listener.received if message.payload == b"passing"} == (
                receives | more
            ) - own


async def test_a_node_cannot_throw_another_off(broker: ShippedBroker, until) -> None:
    """A second client of the same identifier ends the first one's session; here the identifier is the user."""
    async with client(broker, B, name="galactic-node-default-n2") as victim:
        async with client(broker, A, name="galactic-node-default-n2") as attacker:
            await attacker.bus.publish(TOPICS.status(*A.split("/")), b"1")
            await victim.bus.publish(TOPICS.status(*B.split("/")), b"1")
        assert (victim.sessions, victim.losses) == (1, 0)
        async with client(broker, B, name="something else"):
            await until(lambda: victim.losses)


async def test_a_last_will_is_pinned_like_everything(broker: ShippedBroker, until) -> None:
    async with client(broker, OBSERVER) as observer, client(broker, ROUTER) as router:
        observer.bus.subscribe(f"{BASE}/nodes/#")
        await synchronize(observer, router)
        async with client(broker, A, will=(TOPICS.status(*A.split("/")), b"own")) as dying:
            dying.bus._client.socket().shutdown(2)
            await until(lambda: any(message.payload == b"own" for message in observer.received))
        async with client(broker, A, will=(TOPICS.status(*B.split("/")), b"forged")) as dying:
            dying.bus._client.socket().shutdown(2)
            await until(lambda: dying.sessions > 1)  # the broker has noticed the end of the first
            await synchronize(observer, router)
    assert not any(message.payload == b"forged" for message in observer.received)


async def test_a_payload_above_the_limit_ends_no_session_of_ours(
    broker: ShippedBroker, until, monkeypatch
) -> None:
    """Mosquitto ends the session of a client that sends one; ours does not send it."""
    topic = TOPICS.endpoints(*A.split("/"))
    async with client(broker, A) as node:
        await node.bus.publish(topic, b"x" * MAX_PAYLOAD)
        with pytest.raises(Unreachable, match="262145 bytes"):
            await node.bus.publish(topic, b"x" * (MAX_PAYLOAD + 1))
        await node.bus.publish(topic, b"x")
        assert (node.sessions, node.losses) == (1, 0)
        monkeypatch.setattr(node.bus, "_limits", Limits(1 << 30))
        with pytest.raises(Unreachable):
            await node.bus.publish(topic, b"x" * (MAX_PAYLOAD + 1))
        await until(lambda: node.losses)


async def test_a_nodes_registration_of_others_is_refused_by_the_router(broker: ShippedBroker, until) -> None:
    """The broker accepts any payload on the node's own topic. The router rejects a SID of another node or VPC, and a
    network that the attachment is not entitled to; the node cannot write the list of entitlements.
    """
    async with client(broker, OPERATOR) as operator:
        await operator.bus.publish(
            LIST, encode(Entitlements(1, 1, (_entry(1, "n1"), _entry(7, "n2")))), retain=True
        )
    settings = broker.settings(ROUTER)
    async with PahoBus(settings, "router") as bus:
        controller = assembled(settings, bus)
        task = asyncio.create_task(controller.run())
        try:
            async with client(broker, A) as one, client(broker, B) as other:
                for node, number in ((one, 1), (other, 2)):
                    status = encode(NodeStatus("online", f"2001:db8:ff01:{number}00::/56"))
                    await node.bus.publish(TOPICS.status("default", f"n{number}"), status, retain=True)
                forged = Entitlements(2, 1, (_entry(1, "n1", HALF), _entry(7, "n1")))
                with pytest.raises(Unreachable, match="Not authorized"):
                    await one.bus.publish(LIST, encode(forged), retain=True)
                own = _endpoint(0x4D2, 7, "2001:db8:ff01:200::4d2:7", "10.1.1.7/32")
                await _register(other, "n2", own)
                await _register(
                    one,
                    "n1",
                    _endpoint(0x4D2, 1, "2001:db8:ff01:100::4d2:1", "10.1.1.1/32", HALF),
                    _endpoint(0x4D2, 7, "2001:db8:ff01:100::4d2:7", "10.1.1.7/32"),
                    msgspec.structs.replace(own, epoch=1 << 50),
                    _endpoint(0x4D2, 2, "2001:db8:ff01:100::4d3:2", "10.9.9.9/32"),
                )
                await until(lambda: controller.idle and len(controller.store.tables.routes(0x4D2)) == 2)
                routes = controller.store.tables.routes(0x4D2)
                assert {network: route.node for network, route in routes.items()} == {
                    "10.1.1.1/32": "n1",
                    "10.1.1.7/32": "n2",
                }
                assert not controller.store.tables.routes(0x4D3)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    counted = {
        reason: controller.registry.get_sample_value("galactic_router_rejections_total", {"reason": reason})
        for reason in ("SidOutsidePrefix", "SidMismatch", "NotEntitled", "NotCarried")
    }
    assert counted == {"SidOutsidePrefix": 1, "SidMismatch": 1, "NotEntitled": 1, "NotCarried": 1}


async def test_the_operators_own_list_reaches_the_router(broker: ShippedBroker, until) -> None:
    """As its program wires it: what an attachment's status has is installed, and nothing else."""
    caches = Caches()

    def connect() -> PahoBus:
        return PahoBus(broker.settings(OPERATOR), "operator")

    publisher = EntitlementPublisher(connect, TOPICS, ClusterName("default"), caches, lambda: 1)
    meta = {"namespace": "ns", "name": "a1", "uid": "1", "resourceVersion": "1"}
    status = {"ready": True, "identifier": "0001", "addresses": ["10.1.1.1/24"]}
    status["configuration"] = {"vpc": vpc_hex(0x4D2), "networks": ["10.1.1.0/24"], "mtu": 1460}
    status["carriers"] = [{"pod": "p", "uid": "2", "node": "n1"}]
    attachment = {"metadata": meta, "spec": {"vpc": {"name": "v"}}, "status": status}
    async with PahoBus(broker.settings(ROUTER), "router") as bus, client(broker, A) as node:
        controller = assembled(broker.settings(ROUTER), bus)
        tasks = [asyncio.create_task(part.run()) for part in (controller, publisher)]
        try:
            online = encode(NodeStatus("online", "2001:db8:ff01:100::/56"))
            await node.bus.publish(TOPICS.status("default", "n1"), online, retain=True)
            await _register(node, "n1", _endpoint(0x4D2, 1, "2001:db8:ff01:100::4d2:1", "10.1.1.1/32", HALF))
            rejected = partial(controller.registry.get_sample_value, "galactic_router_rejections_total")
            await until(
                lambda: rejected({"reason": "AttachmentUnknown"}) or rejected({"reason": "NotListed"})
            )
            assert not controller.store.tables.routes(0x4D2)
            caches.attachments.set(attachment)
            await until(lambda: {*controller.store.tables.routes(0x4D2)} == {"10.1.1.1/32"})
            assert rejected({"reason": "NotEntitled"}) == 1
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_second_cluster_of_the_name_publishes_nothing(broker: ShippedBroker, until) -> None:
    """Both have the one user of that name, so the broker ends the session of one when the other connects."""
    problems: dict[str, str | None] = {}

    def publisher(uid: str, function: int) -> EntitlementPublisher:
        caches = Caches()
        meta = {"namespace": "ns", "name": f"a{function}", "uid": uid, "resourceVersion": "1"}
        caches.attachments.set({"metadata": meta, "spec": {"vpc": {"name": "v"}}, "status": {}})
        name = ClusterName("default", uid, lambda problem: problems.update({uid: problem}))

        def connect() -> PahoBus:
            return PahoBus(broker.settings(OPERATOR), f"operator-{uid}")

        return EntitlementPublisher(connect, TOPICS, name, caches, lambda: 1)

    async with client(broker, ROUTER) as router:
        router.bus.subscribe(TOPICS.entitlements("default", "+"))

        def owners() -> set[str]:
            parts = [event.payload for event in router.received if "/entitlements/" in event.topic]
            return {decode(Entitlements, payload).owner for payload in parts if payload}

        tasks = [asyncio.create_task(publisher("second", 1).run())]
        try:
            await until(owners)
            tasks.append(asyncio.create_task(publisher("first", 2).run()))
            await until(lambda: problems.get("first"))
            assert "default is the name of another cluster" in str(problems["first"])
            assert "kube-system second, here first" in str(problems["first"])
            await asyncio.sleep(2)
            assert owners() == {"second"}
            assert problems["second"] is None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _endpoint(vpc: int, function: int, sid: str, *networks: str) -> Endpoint:
    return Endpoint(vpc_hex(vpc), function_hex(function), f"ns/a{function}", sid, networks, 1)


def _entry(function: int, node: str, *networks: str) -> Entitlement:
    own = (f"10.1.1.{function}/32", *networks)
    return Entitlement(f"ns/a{function}", vpc_hex(0x4D2), function_hex(function), own, (node,), True)


async def _register(node: Client, name: str, *endpoints: Endpoint) -> None:
    await node.bus.publish(
        TOPICS.endpoints("default", name), encode(NodeEndpoints(1, endpoints)), retain=True
    )
