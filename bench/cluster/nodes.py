"""Nodes without a kernel, many in one process: ``nodes.py FOLDER BROKER FIRST LAST``.

Each is the node controller's own store, MQTT session and tasks at the API server, with a user, connections and a folder
of its own, wired as ``galactic.node.__main__`` wires them; what is desired is in its kernel at once. The process also
stands in for the kubelets: it attaches the pods that are bound to its nodes, asks the node controller for the
entitlement as an ADD does, writes the pod's status, and detaches pods that are gone.

Each line on standard input is answered with the process' figures, as JSON in a line; ``all``: with those that look at
every table.
"""

import asyncio
import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry

sys.path.insert(0, str(Path(__file__).parents[1] / "operator"))
from arrivals import Arrivals, ObservedStore
from kubelets import Kubelets
from servers import token

from galactic.bus.metrics import BusMetrics
from galactic.bus.paho import PahoBus
from galactic.garbage import set_survivors_aside
from galactic.kube.api import Key, Object
from galactic.kube.client import Kube
from galactic.kube.official import client as official
from galactic.linux.objects import packed
from galactic.messages import Topics
from galactic.names import ATTACHMENT_ANNOTATION
from galactic.node.kubernetes.carried import CarriedAttachments
from galactic.node.kubernetes.fallback import Fallback
from galactic.node.kubernetes.gateways import GatewayWatch
from galactic.node.kubernetes.segment import Facts, Segment
from galactic.node.kubernetes.tasks import KubernetesTasks, Tasks
from galactic.node.kubernetes.unaccounted import UnaccountedAttachments
from galactic.node.metrics import Metrics
from galactic.node.mqtt.session import NodeTopics, Session
from galactic.node.mqtt.subscriptions import Subscriptions
from galactic.node.state.attachment import Key as AttachmentKey
from galactic.node.state.attachment import PodRef, attachment_of
from galactic.node.state.checkpoint import Checkpoint
from galactic.node.state.condition import ConditionState
from galactic.node.state.epoch import Clock
from galactic.node.state.remote import Source
from galactic.settings import MqttSettings

CLUSTER: Final = "default"
KUBELET: Final = "kubelet"
STARTS: Final = 20
"""Nodes that connect at a time: all of their handshakes are this process' alone."""
CONDITIONS: Final = (
    "Ready",
    "Synced",
    "BrokerConnected",
    "DefinitionsApplied",
    "MultusConfigured",
    "Neighbours",
    "PathMTU",
)
FACTS: Final = {"kernel": "6.12.0-amd64", "version": "0", "encap": "encap.red"}


class Shared:
    """Shared by the nodes of this process: settings, metrics and arrivals, which real nodes have each."""

    def __init__(self, folder: Path, broker: str) -> None:
        self.folder, self.settings = folder, MqttSettings(mqtt_url=broker, cluster=CLUSTER)
        self.metrics, self.bus = Metrics(CollectorRegistry()), BusMetrics(CollectorRegistry())
        self.arrivals = Arrivals()
        self.starts = asyncio.Semaphore(STARTS)

    @cached_property
    def server(self) -> str:
        config = json.loads((self.folder / "kubeconfig").read_text())
        return str(config["clusters"][0]["cluster"]["server"])

    def client(self, user: str) -> Kube:
        """With connections of its own."""
        configuration = official.Configuration()
        configuration.host = self.server
        configuration.ssl_ca_cert = str(self.folder / "server.crt")
        configuration.api_key = {"BearerToken": f"Bearer {token(user)}"}
        configuration.client_session_kwargs = {"trust_env": False}
        return Kube(official.ApiClient(configuration))


class Node:
    """One node controller, without kernel and socket."""

    def __init__(self, name: str, shared: Shared) -> None:
        self.name, self._shared = name, shared
        self._checkpoint = checkpoint = Checkpoint(shared.folder / "nodes" / name)
        checkpoint.prepare()
        self.store = ObservedStore(CLUSTER, checkpoint, Clock())
        self.store.arrivals = shared.arrivals
        self.store.restore()
        self.store.set_unaccounted(())
        self._of_pod: dict[Key, AttachmentKey] = {}
        self._restored = {one.pod: key for key, one in self.store.attachments.items()}
        topics = Topics(shared.settings.mqtt_base)
        own = NodeTopics(topics, CLUSTER, name)
        self.bus = PahoBus(shared.settings, f"galactic-node-{CLUSTER}-{name}", own.will, shared.bus)
        subscriptions = Subscriptions(self.bus, topics, self.store, shared.metrics)
        self.session = Session(self.bus, own, self.store, subscriptions, shared.metrics)

        async def connect() -> Kube:
            return shared.client(f"galactic-node-{name}")

        self.kubernetes = KubernetesTasks(connect, self._tasks)

    def _tasks(self, kube: Kube) -> Tasks:
        segment = Segment(kube, self.name, self.store, self._facts)
        return Tasks(
            segment,
            UnaccountedAttachments(kube, self.store, lambda: segment.endpoints),
            CarriedAttachments(kube, self.name, self.store, lambda _: None),
            Fallback(kube, self.store, self.session.serves),
            GatewayWatch(kube, self.store, self._checkpoint),
        )

    def _facts(self) -> Facts:
        states = (ConditionState(name, True, name, "it is as it should be") for name in CONDITIONS)
        return Facts(FACTS, (*states, *self.kubernetes.conditions()))

    async def run(self) -> None:
        running = None
        try:
            async with self._shared.starts:
                running = asyncio.create_task(self._run())
                while not ((self.bus.connected and self.kubernetes.reachable) or running.done()):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            await running
        finally:
            if running:
                running.cancel()

    async def _run(self) -> None:
        async with self.bus, asyncio.TaskGroup() as tasks:
            tasks.create_task(self.session.run())
            tasks.create_task(self.kubernetes.run())
            tasks.create_task(self._apply())

    async def _apply(self) -> None:
        """A kernel that is always as desired."""
        while True:
            await self.store.dirty.wake.wait()
            await asyncio.sleep(0.002)
            dirty = self.store.drain_dirty()
            for vpc in dirty.vpcs:
                if vpc in self.store.tables:
                    self.store.tables[vpc].tracker.drain()
            self.store.tidy(dirty.vpcs)

    @property
    def settled(self) -> bool:
        """Whether it is connected, and has the whole table of each of its VPCs."""
        hosted = self.store.attachments.hosted
        trusted = all(map(self.session.trusted, hosted))
        return self.store.node.prefix is not None and self.session.problem is None and trusted

    @property
    def routes(self) -> int:
        views = (self.store.tables.view(vpc, Source.MQTT) for vpc in self.store.tables)
        return sum(len(view.routes) for view in views if view)

    async def attach(self, key: Key, pod: Object) -> None:
        """An ADD. Raises GalacticError."""
        meta = pod["metadata"]
        name = f"{key[0]}/{meta['annotations'][ATTACHMENT_ANNOTATION]}"
        config = await self.kubernetes.entitled(PodRef(*key, meta["uid"]), name)
        container = meta["uid"].replace("-", "") * 2
        attachment = attachment_of(config, container, f"/run/netns/cni-{meta['uid']}", "galactic0")
        for network in attachment.announces:
            self._shared.arrivals.expect(attachment.vpc, packed(network), key[1])
        self._of_pod[key] = self.store.attach(replace(attachment, pod=meta["uid"])).key

    def adopt(self, key: Key, uid: str) -> bool:
        """Whether the pod was attached in an earlier life: then the kubelet starts no sandbox."""
        if (of_pod := self._restored.pop(uid, None)) is None:
            return False
        self._of_pod[key] = of_pod
        return True

    def detach(self, key: Key) -> None:
        """A DEL."""
        if attachment := self._of_pod.pop(key, None):
            self.store.detach(attachment)


def figures(
    nodes: Mapping[str, Node], kubelets: Kubelets, arrivals: Arrivals, *, whole: bool
) -> dict[str, Any]:
    counts: dict[str, Any] = {
        "attached": len(kubelets.attached),
        "endpoints": sum(len(node.store.attachments) for node in nodes.values()),
        "failures": kubelets.failures,
        "arrived": arrivals.drain(),
    }
    if whole:
        counts["settled"] = sum(node.settled for node in nodes.values())
        counts["routes"] = sum(node.routes for node in nodes.values())
        counts["fallback"] = sum(node.kubernetes.fallback_vpcs for node in nodes.values())
    return counts


async def serve(folder: Path, broker: str, names: list[str]) -> None:
    shared = Shared(folder, broker)
    nodes = {name: Node(name, shared) for name in names}
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    async with shared.client(KUBELET) as kube:
        kubelets = Kubelets(kube, nodes)
        tasks = [asyncio.create_task(runner.run()) for runner in (*nodes.values(), kubelets)]
        for task in tasks:
            task.add_done_callback(_ended)
        while line := await reader.readline():
            answer = figures(nodes, kubelets, shared.arrivals, whole=line == b"all\n")
            print(json.dumps(answer), flush=True)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        print(f"ended: {error!r}", file=sys.stderr, flush=True)


def main() -> None:
    folder, broker, first, last = sys.argv[1:]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    set_survivors_aside()  # as galactic.launch does
    asyncio.run(serve(Path(folder), broker, [f"n{number}" for number in range(int(first), int(last))]))


if __name__ == "__main__":
    main()
