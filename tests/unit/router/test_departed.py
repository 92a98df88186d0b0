"""A router in Kubernetes clears what the broker retains of nodes that are no more, and of no other node."""

from prometheus_client import CollectorRegistry

from galactic.bus.memory import MemoryBroker, MemoryBus
from galactic.crds.nodesegment import NodeSegment
from galactic.errors import Unreachable
from galactic.messages import EndpointsHead, NodeEndpoints, NodeStatus, Topics, encode
from galactic.names import API_VERSION
from galactic.router.kubernetes.departed import GRACE_SECONDS, REFUSED_SECONDS, DepartedNodes
from galactic.router.kubernetes.segments import SegmentIndex
from galactic.router.metrics import RouterMetrics
from galactic.router.rib.path import NodeRef
from galactic.router.rib.store import Store

TOPICS = Topics("galactic/v1")
NAMES = ("here", "by-hand", "gone", "online")


class Plane:
    """Nodes of two clusters at a broker; ``here`` has a Node, ``by-hand`` a NodeSegment alone."""

    def __init__(self) -> None:
        self.now, self.broker = 1000.0, MemoryBroker()
        self.bus = MemoryBus(self.broker, None)
        metrics = RouterMetrics(CollectorRegistry())
        self.segments = SegmentIndex("east", Store(checked=True).nodes, metrics)
        self.segments.set_node(("", "here"), {"metadata": {"name": "here", "uid": "1"}})
        body = {"apiVersion": API_VERSION, "kind": NodeSegment.KIND, "metadata": {"name": "by-hand"}}
        body |= {"spec": {"prefix": "2001:db8:ff01:100::/56"}}
        self.segments.set_segment(("", "by-hand"), body)
        self.offline = {NodeRef(cluster, name) for cluster in ("east", "west") for name in NAMES[:3]}
        for cluster in ("east", "west"):
            for name in NAMES:
                self.register(cluster, name)
        self.departed = DepartedNodes(self.bus, TOPICS, self.segments, lambda: self.offline, lambda: self.now)

    def register(self, cluster: str, node: str) -> None:
        for topic, payload in (
            (TOPICS.status(cluster, node), NodeStatus("offline")),
            (TOPICS.endpoints(cluster, node), NodeEndpoints(1, ())),
            (TOPICS.endpoints_shard(cluster, node, "head"), EndpointsHead(1, (1,))),
            (TOPICS.endpoints_shard(cluster, node, 3), NodeEndpoints(1, ())),
        ):
            self.broker.publish(topic, encode(payload), True)

    def retained(self) -> set[tuple[str, str]]:
        parts = [TOPICS.parts(topic) for topic in self.broker.retained]
        return {(levels[1], levels[2]) for levels in parts}


async def test_a_removed_node_is_cleared_after_a_grace_and_nothing_else() -> None:
    plane = Plane()
    everything = plane.retained()
    await plane.departed.poll()
    plane.now += GRACE_SECONDS
    await plane.departed.poll()
    assert plane.retained() == everything, "the Nodes were not listed yet"
    plane.segments.nodes_listed()
    await plane.departed.poll()
    assert plane.retained() == everything, "its controller may end after its Node"
    plane.now += GRACE_SECONDS
    await plane.departed.poll()
    assert plane.retained() == everything - {("east", "gone")}


async def test_a_node_that_comes_back_is_left_alone() -> None:
    plane = Plane()
    plane.segments.nodes_listed()
    await plane.departed.poll()
    plane.offline.discard(NodeRef("east", "gone"))
    plane.now += GRACE_SECONDS
    await plane.departed.poll()
    plane.offline.add(NodeRef("east", "gone"))
    await plane.departed.poll()
    plane.now += GRACE_SECONDS / 2
    await plane.departed.poll()
    assert ("east", "gone") in plane.retained(), "its grace has begun again"


async def test_a_broker_that_refuses_is_asked_seldom() -> None:
    plane = Plane()
    plane.segments.nodes_listed()
    asked: list[str] = []

    async def refuse(topic: str, payload: bytes, *, retain: bool = False) -> None:
        asked.append(topic)
        raise Unreachable("mqtt", f"the broker refused {topic}: {payload!r} {retain}")

    plane.bus.publish = refuse
    await plane.departed.poll()
    for _ in range(20):
        plane.now += GRACE_SECONDS
        await plane.departed.poll()
    assert len(asked) == 1
    plane.now += REFUSED_SECONDS
    await plane.departed.poll()
    assert len(asked) == 2
