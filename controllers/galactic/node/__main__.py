"""galactic-node: the wiring, read from top to bottom."""

from collections.abc import AsyncIterator

from prometheus_client import CollectorRegistry

from galactic.bus.metrics import BusMetrics
from galactic.bus.paho import PahoBus
from galactic.errors import Rejected
from galactic.kube.client import connect
from galactic.launch import Health, launch
from galactic.linux.events import Changed, Events
from galactic.linux.kernel import LinuxKernel
from galactic.messages import Topics
from galactic.metrics import registry
from galactic.node.cni.calls import Calls
from galactic.node.cni.server import Server
from galactic.node.controller import Controller
from galactic.node.dataplane.adapter import LinuxHost
from galactic.node.dataplane.neighbours import Neighbours
from galactic.node.dataplane.setup import HostSetup
from galactic.node.dataplane.sync import Sync
from galactic.node.kubernetes.multus import MultusConfiguration
from galactic.node.metrics import Metrics
from galactic.node.mqtt.session import Registration, will
from galactic.node.mqtt.subscriptions import Subscriptions
from galactic.node.state.checkpoint import Checkpoint
from galactic.node.state.epoch import Clock
from galactic.node.state.store import Store
from galactic.settings import NodeSettings, load

PROGRAM = "galactic-node"


async def run(settings: NodeSettings, figures: CollectorRegistry, health: Health) -> None:
    """The node controller with its real adapters, until cancelled."""
    cluster, node, space = settings.cluster, settings.node_name, settings.srv6_block
    if not node:
        raise Rejected("give this Node's name", field="node_name")
    if space is None:
        raise Rejected(
            "give the network that all nodes' prefixes lie in, e.g. 2001:db8:ff00::/40", field="srv6_block"
        )
    topics = Topics(settings.mqtt_base)
    metrics = Metrics(figures)
    records = Checkpoint(settings.socket.parent)
    records.prepare()
    store = Store(cluster, records, Clock())
    store.restore()

    bus = PahoBus(
        settings, f"galactic-node-{cluster}-{node}", will(topics, cluster, node), BusMetrics(figures)
    )
    async with LinuxKernel() as kernel, bus:

        async def events() -> AsyncIterator[Changed]:
            with Events(own_port=kernel.port) as changes:
                async for changed in changes:
                    yield changed

        preparation = HostSetup(
            LinuxHost(space, settings.underlay_interface, guard=settings.drop_external_sids),
            store,
            space,
            metrics.filter_drift.inc,
        )
        sync = Sync(kernel, store, preparation.host, metrics)
        following = Subscriptions(bus, topics, store, metrics)
        registration = Registration(
            bus=bus,
            topics=topics,
            cluster=cluster,
            node=node,
            store=store,
            following=following,
            metrics=metrics,
        )
        controller = Controller(
            node=node,
            store=store,
            preparation=preparation,
            sync=sync,
            neighbours=Neighbours(kernel, store),
            registration=registration,
            events=events,
            connect=connect,
            metrics=metrics,
            multus=MultusConfiguration(settings.cni_conf_dir),
        )
        server = Server(settings.socket, Calls(store, sync, controller.problem), metrics)
        await controller.run(server, health)


def main() -> None:
    """The console script."""
    settings = load(NodeSettings, program=PROGRAM)
    figures = registry("node")
    launch(settings, PROGRAM, lambda health: run(settings, figures, health), figures)


if __name__ == "__main__":
    main()
