"""The router in Kubernetes: objects in, ``status.endpoint``, conditions and Events out, and when nothing may happen."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from assembling import assembled

from galactic.bus.memory import MemoryBroker
from galactic.errors import GalacticError, Rejected, Unreachable
from galactic.kube import reflector
from galactic.kube.api import Object
from galactic.kube.memory import MemoryApi
from galactic.kube.resources import EVENTS, NODE_SEGMENTS, NODES, VPC_ATTACHMENTS, VPCS, Resource
from galactic.messages import Changes, Head, decode
from galactic.router.kubernetes import attachment_events, status_writer
from galactic.router.kubernetes.reflectors import Reflectors
from galactic.router.rib.path import EPOCH_MAX
from galactic.settings import RouterSettings

CHANGES = "galactic/v1/vpcs/0000000004d2/changes"
HEAD = "galactic/v1/vpcs/0000000004d2/head"


class Cluster(MemoryApi):
    """An API server with two attachments of one VPC, and nodes. ``up``: it answers.

    ``refused``: attachments whose next patch is refused, once for each time they are named.
    """

    def __init__(self, topology) -> None:
        super().__init__()
        self.topology, self.up, self.fail = topology, True, self._failure
        self.refused: list[str] = []
        self.set(
            VPCS, "blue", "ns", spec={"networks": ["10.1.0.0/16"]}, status={"identifier": "0000000004d2"}
        )
        self.attach(1, "10.1.1.1/24")
        self.attach(2, "10.1.1.2/24")
        for node in ("n1", "n2", "n3"):
            self.segment(node)

    def _failure(self, verb: str, _resource: Resource, name: str) -> GalacticError | None:
        if not self.up:
            return Unreachable("kube-apiserver", "away")
        if verb == "patch" and name in self.refused:
            self.refused.remove(name)
            return Rejected(f"{name} is forbidden: RBAC: clusterrole not found", reason="Forbidden")
        return None

    def set(self, resource: Resource, name: str, namespace: str = "", **content: object) -> None:
        """Makes the object, or replaces these parts of it."""
        if (stored := self.stored(resource, name, namespace)) is None:
            self.put(resource, {"metadata": {"name": name}, **content}, namespace)
        else:
            self.store(resource, {**stored, **content})

    def stop(self) -> None:
        self.up = False
        self.restart()

    def status(self, name: str) -> Object:
        stored = self.stored(VPC_ATTACHMENTS, name, "ns")
        assert stored
        return stored.get("status", {})

    @property
    def events(self) -> list[Object]:
        return list(self.all(EVENTS))

    @property
    def recorded(self) -> list[str]:
        """The attachments of successful patches."""
        return [name for _, name, _ in self.patches]

    def attach(self, function: int, *addresses: str, ready: bool = True, vpc: str = "blue") -> None:
        spec = {"vpc": {"name": vpc}, "interface": {"addresses": list(addresses)}}
        spec["routes"] = [{"destination": f"192.168.{function}.0/24", "via": addresses[0].split("/")[0]}]
        name = f"a{function}"
        old = (self.stored(VPC_ATTACHMENTS, name, "ns") or {}).get("status", {})
        status = {**old, "ready": ready, "vpc": "ns/blue", "identifier": f"{function:04x}"}
        self.set(VPC_ATTACHMENTS, name, "ns", spec=spec, status=status)

    def segment(self, node: str, sequence: int = 0, *endpoints) -> None:
        registered = [
            {
                "vpc": endpoint.vpc,
                "function": endpoint.function,
                "attachment": endpoint.attachment,
                "sid": endpoint.sid,
                "networks": list(endpoint.networks),
                "epoch": endpoint.epoch,
                "containerID": "c",
            }
            for endpoint in endpoints
        ]
        status = {"sequence": sequence, "endpoints": registered}
        self.set(NODE_SEGMENTS, node, spec={"prefix": str(self.topology.prefix(node))}, status=status)


@pytest.fixture
def cluster(topology, monkeypatch) -> Cluster:
    monkeypatch.setattr(reflector, "BACKOFF_SECONDS", (0.01, 0.02))
    return Cluster(topology)


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@asynccontextmanager
async def router(broker: MemoryBroker, api: MemoryApi, replica: str = "r"):
    controller = assembled(RouterSettings(), broker.session(), api, replica=replica)
    task = asyncio.create_task(controller.run())
    try:
        yield controller
    finally:
        task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(outcome, asyncio.CancelledError), outcome


def changes(broker: MemoryBroker) -> list[tuple[list[str], list[str]]]:
    messages = [decode(Changes, payload) for topic, payload, _ in broker.published if topic == CHANGES]
    return [
        ([f"{route.network}@{route.node}" for route in message.set], list(message.delete))
        for message in messages
    ]


def publish_retained(broker: MemoryBroker, message: tuple[str, bytes]) -> None:
    broker.publish(*message, True)


async def test_a_registration_over_mqtt_is_announced_and_recorded(topology, cluster, broker, until) -> None:
    async with router(broker, cluster) as controller:
        await until(lambda: controller.idle)
        one = topology.endpoint("n1", 1, "10.1.1.1/32", "192.168.1.0/24", epoch=5)
        publish_retained(broker, topology.endpoints("n1", 1, one))
        await until(lambda: changes(broker) == [(["10.1.1.1/32@n1", "192.168.1.0/24@n1"], [])])
        await until(lambda: "endpoint" in cluster.status("a1") and HEAD in broker.retained)
        recorded = cluster.status("a1")["endpoint"]
        assert recorded["revision"] == decode(Head, broker.retained[HEAD]).revision
        assert recorded.pop("since").endswith("Z")
        del recorded["revision"]
        assert recorded == {
            "cluster": "default",
            "node": "n1",
            "sid": one.sid,
            "networks": ["10.1.1.1/32", "192.168.1.0/24"],
            "epoch": 5,
        }
        cluster.segment("n1", 1, one)  # the same, durably, and later
        await asyncio.sleep(0.1)
        assert len(changes(broker)) == 1
        assert len(cluster.patches) == 1, "recorded again although nothing changed"

        cluster.segment("n1", 2)  # only Kubernetes has that it left
        await until(lambda: changes(broker)[1:] == [([], ["10.1.1.1/32", "192.168.1.0/24"])])
        await until(lambda: "endpoint" not in cluster.status("a1"))


async def test_a_move_is_recorded_with_its_node_and_a_new_since(topology, cluster, broker, until) -> None:
    async with router(broker, cluster):
        cluster.segment("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32", epoch=5))
        await until(lambda: cluster.status("a1").get("endpoint", {}).get("node") == "n1")
        publish_retained(
            broker, topology.endpoints("n2", 1, topology.endpoint("n2", 1, "10.1.1.1/32", epoch=6))
        )
        await until(lambda: cluster.status("a1").get("endpoint", {}).get("node") == "n2")
        cluster.segment("n1", 2)
        await asyncio.sleep(0.1)
        assert cluster.status("a1")["endpoint"]["node"] == "n2"
        assert changes(broker) == [(["10.1.1.1/32@n1"], []), (["10.1.1.1/32@n2"], [])]


async def test_false_registrations_become_events_and_not_too_many(
    topology, cluster, broker, until, monkeypatch
) -> None:
    monkeypatch.setattr(attachment_events, "MOMENT_SECONDS", 0.1)
    async with router(broker, cluster):
        for sequence in range(1, 30):
            stolen = topology.endpoint("n1", 1, "10.1.1.2/32", "0.0.0.0/33", epoch=sequence)
            publish_retained(broker, topology.endpoints("n1", sequence, stolen))
            await asyncio.sleep(0.005)
        await until(lambda: len(cluster.events) == 2)
        await asyncio.sleep(0.3)
        assert {event["reason"] for event in cluster.events} == {"NotEntitled", "InvalidNetwork"}
        assert len(cluster.events) == 2
        (one, _) = cluster.events
        assert one["involvedObject"] | {"uid": "", "resourceVersion": ""} == {
            "apiVersion": "galactic.datumapis.com/v1alpha",
            "kind": "VPCAttachment",
            "namespace": "ns",
            "name": "a1",
            "uid": "",
            "resourceVersion": "",
        }
        assert "n1" in one["message"]
        assert changes(broker) == []


async def test_a_node_that_is_a_moment_behind_a_change_is_not_accused(
    topology, cluster, broker, until, monkeypatch
) -> None:
    """One attachment's address is changed, and its node follows; another node keeps announcing a foreign address."""
    monkeypatch.setattr(attachment_events, "MOMENT_SECONDS", 0.4)
    monkeypatch.setattr(attachment_events, "REPEAT_SECONDS", 0.2)

    def register(sequence: int, *lasts: int) -> None:
        endpoints = (
            topology.endpoint("n1", number, f"10.1.1.{last}/32", epoch=9)
            for number, last in enumerate(lasts, start=1)
        )
        publish_retained(broker, topology.endpoints("n1", sequence, *endpoints))

    def rejected(controller) -> float | None:
        labels = {"reason": "NotEntitled"}
        return controller.registry.get_sample_value("galactic_router_rejected_endpoints", labels)

    async with router(broker, cluster) as controller:
        register(1, 7, 8)  # as both were before their attachments were changed
        await until(lambda: rejected(controller) == 2)
        register(2, 1, 8)
        await until(lambda: rejected(controller) == 1)
        await until(lambda: len(cluster.events) >= 2)
        assert {(event["reason"], event["involvedObject"]["name"]) for event in cluster.events} == {
            ("NotEntitled", "a2")
        }
        register(3, 1, 2)
        await until(lambda: rejected(controller) == 0)
        await asyncio.sleep(0.3)
        count = len(cluster.events)
        await asyncio.sleep(0.5)
        assert len(cluster.events) == count, "it is not repeated when it has ended"


def uncarried(controller) -> float | None:
    return controller.registry.get_sample_value("galactic_router_uncarried_paths")


async def test_a_node_without_a_carrier_becomes_an_event_if_that_lasts(
    topology, cluster, broker, until, monkeypatch
) -> None:
    monkeypatch.setattr(attachment_events, "LAG_SECONDS", 0.2)
    carrier = lambda name, node: {"pod": name, "uid": name, "node": node}  # noqa: E731
    for name in ("a1", "a2"):
        carriers = [carrier(name, "n3")]
        cluster.set(VPC_ATTACHMENTS, name, "ns", status={**cluster.status(name), "carriers": carriers})
    async with router(broker, cluster) as controller:
        both = (topology.endpoint("n1", number, f"10.1.1.{number}/32", epoch=9) for number in (1, 2))
        publish_retained(broker, topology.endpoints("n1", 1, *both))
        await until(lambda: uncarried(controller) == 2)
        late = [carrier("a2", "n1")]
        cluster.set(VPC_ATTACHMENTS, "a2", "ns", status={**cluster.status("a2"), "carriers": late})
        await until(lambda: uncarried(controller) == 1)
        await until(lambda: cluster.events)
        await asyncio.sleep(0.3)
        (one,) = cluster.events
        assert (one["reason"], one["involvedObject"]["name"]) == ("NotCarried", "a1")
        assert one["message"].startswith("node n1: no pod on this node carries")


async def test_a_conflict_is_a_condition_that_others_conditions_survive(
    topology, cluster, broker, until
) -> None:
    cluster.attach(2, "10.1.1.2/24", "10.1.1.1/24")
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "Ready",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    cluster.set(VPC_ATTACHMENTS, "a2", "ns", status={**cluster.status("a2"), "conditions": [ready]})
    async with router(broker, cluster):
        publish_retained(
            broker, topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32", epoch=9))
        )
        await until(lambda: len(changes(broker)) == 1)
        publish_retained(
            broker,
            topology.endpoints("n2", 1, topology.endpoint("n2", 2, "10.1.1.1/32", "10.1.1.2/32", epoch=3)),
        )
        await until(lambda: cluster.status("a2").get("conditions", [])[1:])
        others, conflict = cluster.status("a2")["conditions"]
        assert others == ready
        assert (conflict["type"], conflict["status"], conflict["reason"]) == (
            "Conflict",
            "True",
            "NetworkInUse",
        )
        assert "10.1.1.1/32 is held by ns/a1 on node n1" in conflict["message"]
        assert cluster.status("a2")["endpoint"]["networks"] == ["10.1.1.2/32"]
        await until(lambda: [event["reason"] for event in cluster.events] == ["Conflict"])

        publish_retained(broker, topology.endpoints("n1", 2))  # the holder leaves
        await until(lambda: cluster.status("a2")["conditions"][1]["status"] == "False")
        assert cluster.status("a2")["endpoint"]["networks"] == ["10.1.1.1/32", "10.1.1.2/32"]
        assert changes(broker)[-1] == (["10.1.1.1/32@n2"], [])


async def test_a_conflict_of_an_attachment_without_an_endpoint_is_the_operators(
    topology, cluster, broker, until
) -> None:
    """Two that write one condition would undo each other for ever."""
    given = {
        "type": "Conflict",
        "status": "True",
        "reason": "Conflict",
        "message": "10.1.1.2 is ns/a1's",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    cluster.set(VPC_ATTACHMENTS, "a2", "ns", status={**cluster.status("a2"), "conditions": [given]})
    async with router(broker, cluster) as controller:
        cluster.segment("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32"))
        await until(
            lambda: "endpoint" in cluster.status("a1") and not controller.part(Reflectors)._observer._queue
        )
        assert cluster.recorded == ["a1"]
        cluster.segment(
            "n2", 1, topology.endpoint("n2", 2, "10.1.1.2/32")
        )  # and from then on it is the router's
        await until(lambda: "endpoint" in cluster.status("a2"))
        assert [condition["reason"] for condition in cluster.status("a2")["conditions"]] == ["NoConflict"]
        cluster.segment("n2", 2)
        await until(lambda: "endpoint" not in cluster.status("a2"))
        cluster.set(VPC_ATTACHMENTS, "a2", "ns", status={**cluster.status("a2"), "conditions": [given]})
        cluster.segment("n1", 2)
        await until(
            lambda: (
                "endpoint" not in cluster.status("a1") and not controller.part(Reflectors)._observer._queue
            )
        )
        assert cluster.status("a2")["conditions"] == [given]


async def test_nothing_is_withdrawn_before_the_lists_are_in(topology, cluster, broker, until) -> None:
    async with router(broker, cluster) as controller:
        cluster.segment("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32"))
        await until(lambda: controller.idle and HEAD in broker.retained)
    before, count = dict(broker.retained), len(broker.published)
    cluster.stop()
    async with router(broker, cluster) as controller:
        await asyncio.sleep(0.3)
        assert not controller.idle
        assert dict(broker.retained) == before
        cluster.up = True
        await until(lambda: controller.idle)
        await asyncio.sleep(0.7)
    assert not [topic for topic, _, _ in broker.published[count:] if "/vpcs/" in topic]


async def test_an_api_server_that_goes_away_withdraws_nothing_and_recording_catches_up(
    topology, cluster, broker, until
) -> None:
    async with router(broker, cluster) as controller:
        cluster.segment("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32"))
        await until(lambda: "endpoint" in cluster.status("a1") and controller.idle)
        cluster.stop()
        publish_retained(broker, topology.endpoints("n2", 1, topology.endpoint("n2", 2, "10.1.1.2/32")))
        await until(lambda: changes(broker)[-1] == (["10.1.1.2/32@n2"], []))  # the fast path does not need it
        await asyncio.sleep(0.3)
        assert len(changes(broker)) == 2
        cluster.up = True
        await until(lambda: cluster.status("a2").get("endpoint", {}).get("node") == "n2")


async def test_what_an_api_server_refuses_is_tried_again_and_keeps_no_other_waiting(
    topology, cluster, broker, until, monkeypatch
) -> None:
    monkeypatch.setattr(status_writer, "AT_ONCE", 1)
    cluster.refused = ["a1"] * 3
    async with router(broker, cluster):
        both = (topology.endpoint("n1", 1, "10.1.1.1/32"), topology.endpoint("n1", 2, "10.1.1.2/32"))
        cluster.segment("n1", 1, *both)
        await until(lambda: all("endpoint" in cluster.status(name) for name in ("a1", "a2")))
    assert cluster.recorded == ["a2", "a1"]


async def test_a_node_whose_segment_is_deleted_while_the_watch_is_down_is_gone(
    topology, cluster, broker, until
) -> None:
    async with router(broker, cluster) as controller:
        cluster.segment("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32"))
        await until(lambda: "endpoint" in cluster.status("a1") and controller.idle)
        cluster.stop()
        await asyncio.sleep(0.1)
        del cluster.objects["nodesegments", "", "n1"]
        cluster.up = True
        await until(lambda: changes(broker)[-1] == ([], ["10.1.1.1/32"]))
        await until(lambda: "endpoint" not in cluster.status("a1"))


async def test_a_segment_from_after_the_horizon_is_rejected_and_counted(
    topology, cluster, broker, until
) -> None:
    async with router(broker, cluster) as controller:
        cluster.segment("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32"))
        await until(lambda: changes(broker) == [(["10.1.1.1/32@n1"], [])])
        cluster.segment("n1", EPOCH_MAX)

        def rejected() -> float | None:
            labels = {"reason": "SequenceInFuture"}
            return controller.registry.get_sample_value("galactic_router_rejections_total", labels)

        await until(lambda: rejected() == 1)
        assert list(controller.store.tables.routes(0x4D2)) == ["10.1.1.1/32"]
        cluster.segment("n1", 2)
        await until(lambda: changes(broker)[-1] == ([], ["10.1.1.1/32"]))


async def test_a_deleted_node_loses_its_routes_at_once_and_has_them_again_when_it_is_back(
    topology, cluster, broker, until
) -> None:
    cluster.set(NODES, "n1")
    async with router(broker, cluster) as controller:
        cluster.segment("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32"))
        cluster.segment("n2", 1, topology.endpoint("n2", 2, "10.1.1.2/32"))  # a host that never had a Node
        await until(lambda: controller.idle and len(controller.store.tables.routes(0x4D2)) == 2)
        cluster.remove(NODES, "n1")
        await until(lambda: changes(broker)[-1] == ([], ["10.1.1.1/32"]))
        # Its messages do not count: there has to be a Node object.
        publish_retained(
            broker, topology.endpoints("n1", 2, topology.endpoint("n1", 1, "10.1.1.1/32", epoch=2))
        )
        cluster.segment("n1", 2, topology.endpoint("n1", 1, "10.1.1.1/32", epoch=2))
        await until(
            lambda: controller.idle and list(controller.store.tables.routes(0x4D2)) == ["10.1.1.2/32"]
        )
        cluster.set(NODES, "n1")
        await until(lambda: changes(broker)[-1] == (["10.1.1.1/32@n1"], []))


async def test_a_segment_that_is_made_again_after_it_and_its_node_were_deleted_needs_no_node(
    topology, cluster, broker, until
) -> None:
    """A machine leaves the cluster and goes on as a host outside of it."""
    endpoint = topology.endpoint("n1", 1, "10.1.1.1/32")
    cluster.set(NODES, "n1")
    async with router(broker, cluster) as controller:
        cluster.segment("n1", 1, endpoint)
        await until(lambda: controller.idle and controller.store.tables.routes(0x4D2))
        cluster.remove(NODES, "n1")
        await until(lambda: controller.idle and not controller.store.tables.routes(0x4D2))
        cluster.segment("n1", 2, endpoint)  # which still lists it
        cluster.remove(NODE_SEGMENTS, "n1")
        cluster.segment("n1", 3, endpoint)
        await until(lambda: changes(broker)[-1] == (["10.1.1.1/32@n1"], []))


async def test_a_node_deleted_while_no_router_ran_is_found_by_the_owner_of_its_segment(
    topology, cluster, broker, until
) -> None:
    cluster.segment("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32"))
    owned = {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "uid-n1"}]}
    cluster.stored(NODE_SEGMENTS, "n1")["metadata"] |= owned
    cluster.set(NODES, "n1")
    async with router(broker, cluster) as controller:
        await until(lambda: controller.idle and HEAD in broker.retained)
    del cluster.objects["nodes", "", "n1"]
    async with router(broker, cluster) as controller:
        await until(lambda: controller.idle and HEAD not in broker.retained)


async def test_the_recorded_revision_is_that_of_the_change(topology, cluster, broker, until) -> None:
    """Also when changes wait for one that is under way, and share a message."""
    async with router(broker, cluster) as controller:
        publish_retained(broker, topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32")))
        await until(lambda: controller.idle and "endpoint" in cluster.status("a1"))
        free, publish = asyncio.Event(), controller.bus.publish

        async def slow(topic: str, payload: bytes, *, retain: bool = False) -> None:
            if topic == CHANGES:
                await free.wait()
            await publish(topic, payload, retain=retain)

        controller.bus.publish = slow
        publish_retained(
            broker, topology.endpoints("n1", 2, topology.endpoint("n1", 1, "10.1.1.1/32", epoch=2))
        )
        await until(lambda: cluster.status("a1")["endpoint"]["epoch"] == 2)
        publish_retained(broker, topology.endpoints("n2", 1, topology.endpoint("n2", 2, "10.1.1.2/32")))
        await until(lambda: "endpoint" in cluster.status("a2"))
        free.set()
        await until(lambda: controller.idle)
        last = [decode(Changes, payload) for topic, payload, _ in broker.published if topic == CHANGES][-1]
        assert [route.network for route in last.set] == ["10.1.1.2/32"]
        assert cluster.status("a2")["endpoint"]["revision"] == last.revision


async def test_who_holds_a_network_survives_an_emptied_broker_in_the_status(
    topology, cluster, broker, until
) -> None:
    cluster.attach(2, "10.1.1.2/24", "10.1.1.1/24")
    async with router(broker, cluster) as controller:
        publish_retained(
            broker, topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32", epoch=9))
        )
        await until(lambda: "endpoint" in cluster.status("a1"))
        cluster.segment("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32", epoch=9))
        cluster.segment("n2", 1, topology.endpoint("n2", 2, "10.1.1.1/32", epoch=3))
        await until(lambda: controller.idle and cluster.status("a2").get("conditions"))
    fresh = MemoryBroker()
    async with router(fresh, cluster) as controller:
        await until(lambda: controller.idle and HEAD in fresh.retained)
    assert changes(fresh) == [(["10.1.1.1/32@n1"], [])]


async def test_an_attachment_that_loses_its_readiness_keeps_its_routes(
    topology, cluster, broker, until
) -> None:
    async with router(broker, cluster) as controller:
        cluster.segment("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32"))
        await until(lambda: len(changes(broker)) == 1)
        cluster.attach(1, "10.1.1.1/24", ready=False)
        await asyncio.sleep(0.2)
        assert controller.idle
        assert len(changes(broker)) == 1
        cluster.remove(VPC_ATTACHMENTS, "a1", "ns")
        await until(lambda: changes(broker)[1:] == [([], ["10.1.1.1/32"])])


async def test_an_attachment_that_becomes_ready_later_comes_then(topology, cluster, broker, until) -> None:
    cluster.attach(1, "10.1.1.1/24", ready=False)
    async with router(broker, cluster) as controller:
        await until(lambda: controller.idle)
        publish_retained(broker, topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32")))
        await asyncio.sleep(0.2)
        assert changes(broker) == []
        cluster.attach(1, "10.1.1.1/24", ready=True)
        await until(lambda: changes(broker) == [(["10.1.1.1/32@n1"], [])])
        assert cluster.events == []


async def test_a_vpc_named_against_the_rules_changes_nothing(topology, cluster, broker, until) -> None:
    async with router(broker, cluster) as controller:
        cluster.segment("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32"))
        await until(lambda: len(changes(broker)) == 1)
        green = {"spec": {"networks": ["10.1.0.0/16"]}, "status": {"identifier": "0000000004d3"}}
        cluster.set(VPCS, "green", "ns", **green)
        cluster.attach(1, "10.1.1.1/24", vpc="green")
        await asyncio.sleep(0.2)
        cluster.segment("n1", 2, topology.endpoint("n1", 1, "10.1.1.1/32"))
        await asyncio.sleep(0.2)
        assert controller.idle
        assert len(changes(broker)) == 1
        assert controller.store.tables.routes(0x4D2)


async def test_another_writers_status_is_overwritten(topology, cluster, broker, until) -> None:
    async with router(broker, cluster):
        cluster.segment("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32"))
        await until(lambda: "endpoint" in cluster.status("a1"))
        wrong = {**cluster.status("a1"), "endpoint": {"node": "elsewhere", "sid": "2001:db8::1"}}
        cluster.set(VPC_ATTACHMENTS, "a1", "ns", status=wrong)
        await until(lambda: cluster.status("a1")["endpoint"]["node"] == "n1")


def test_the_recorder_knows_what_is_the_same() -> None:
    assert status_writer.Record(None, "").same(status_writer.Record(None, ""))
    assert not status_writer.Record(None, "").same(status_writer.Record(None, "x"))


async def test_an_event_of_a_vpc_costs_nothing_for_its_attachments(topology, cluster, broker, until) -> None:
    """VPC.status counts endpoints, so that each pod that starts is an event of its VPC."""
    async with router(broker, cluster) as controller:
        await until(lambda: controller.idle)
        given: list[str] = []
        registrations = controller.store.nodes
        before = registrations.set_attachment
        registrations.set_attachment = lambda name, attachment: (given.append(name), before(name, attachment))
        vpc = cluster.stored(VPCS, "blue", "ns")
        for endpoints in range(5):
            cluster.set(VPCS, "blue", "ns", status={**vpc["status"], "endpoints": endpoints})
        cluster.attach(2, "10.1.1.4/24")
        await until(lambda: given)
        await asyncio.sleep(0.05)
        assert given == ["ns/a2"]
        cluster.set(VPCS, "blue", "ns", status={"identifier": "0000000004d3"})
        await until(lambda: sorted(given[1:]) == ["ns/a1", "ns/a2"])


async def test_an_attachment_whose_vpc_comes_later_is_known_then(topology, cluster, broker, until) -> None:
    cluster.remove(VPCS, "blue", "ns")
    async with router(broker, cluster) as controller:
        publish_retained(
            broker, topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32", epoch=5))
        )
        await until(lambda: controller.idle)
        assert changes(broker) == []
        cluster.set(
            VPCS, "blue", "ns", spec={"networks": ["10.1.0.0/16"]}, status={"identifier": "0000000004d2"}
        )
        await until(lambda: changes(broker) == [(["10.1.1.1/32@n1"], [])])
        await until(lambda: cluster.status("a1").get("endpoint", {}).get("node") == "n1")
