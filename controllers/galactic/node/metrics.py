"""The node controller's metrics."""

from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from galactic import refusals
from galactic.node.traffic_metrics import TrafficCollector

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0)
GATEWAY_NODES: Final = 32
"""Series of a gateway's nodes at most: those that do not answer come first."""
OBJECTS = (1, 10, 100, 1_000, 10_000, 100_000)


class Metrics:
    """Those of one node controller."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "galactic_node_cni_requests",
            "CNI calls by verb and CNI error code.",
            ["verb", "code"],
            registry=registry,
        )
        self.refused = Counter(
            "galactic_node_refused",
            "Pods that were not attached, or detached, because they do not carry the attachment, by reason.",
            ["reason"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "galactic_node_cni_request_seconds", "CNI calls.", ["verb"], registry=registry, buckets=SECONDS
        )
        self.sync_seconds = Histogram(
            "galactic_node_sync_seconds",
            "Rounds that write or verify the kernel.",
            ["kind"],
            registry=registry,
            buckets=SECONDS,
        )
        self.batch = Histogram(
            "galactic_node_batch_objects",
            "Kernel objects written in one round.",
            registry=registry,
            buckets=OBJECTS,
        )
        self.connected = Gauge(
            "galactic_node_connected",
            "1 while the peer (broker, kube-apiserver) answers.",
            ["peer"],
            registry=registry,
        )
        self.fallback = Gauge(
            "galactic_node_fallback_vpcs",
            "VPCs whose routes are read from kube-apiserver because the broker has no whole table of them.",
            registry=registry,
        )
        self.backend = Gauge(
            "galactic_node_packet_filter",
            "1 for the backend that Galactic's rules are in.",
            ["backend"],
            registry=registry,
        )
        self.filter_drift = Counter(
            "galactic_node_filter_drift_chains",
            "Chains of Galactic in the packet filter that another program had changed.",
            registry=registry,
        )
        self.full_sync = Gauge(
            "galactic_node_last_full_sync_timestamp_seconds",
            "When the whole kernel was last compared with the plan.",
            registry=registry,
        )
        self.sync_failures = Counter("galactic_node_sync_failures", "Rounds that failed.", registry=registry)
        self.drift = Counter(
            "galactic_node_drift_objects",
            "Kernel objects that another program had changed.",
            registry=registry,
        )
        self.endpoints = Gauge("galactic_node_endpoints", "Attachments on this node.", registry=registry)
        self.vpcs = Gauge("galactic_node_vpcs", "VPCs with an attachment on this node.", registry=registry)
        self.routes = Gauge("galactic_node_remote_routes", "Routes to other nodes.", registry=registry)
        self.neighbours_failed = Gauge(
            "galactic_node_neighbours_failed",
            "Addresses of pods on this node that answer neither ARP nor neighbour discovery.",
            registry=registry,
        )
        self.too_big = Counter(
            "galactic_node_too_big_reports",
            "Packet-too-big messages of routers about this node's SRv6 packets, by result.",
            ["result"],
            registry=registry,
        )
        self.smaller_paths = Gauge(
            "galactic_node_smaller_paths",
            "Nodes that a router reported a smaller link to than this node's underlay interface.",
            registry=registry,
        )
        self.rereads = Counter(
            "galactic_node_table_rereads", "Route tables read again after a gap.", registry=registry
        )
        self.dropped = Counter(
            "galactic_node_dropped_messages",
            "MQTT messages that were ignored.",
            ["reason"],
            registry=registry,
        )
        self.publications = Counter(
            "galactic_node_publications",
            "Publications of this node's endpoints.",
            ["result"],
            registry=registry,
        )
        self.ways_out = Gauge(
            "galactic_node_ways_out", "VPCs that are led out of the cluster by this node.", registry=registry
        )
        self.gateway_failovers = Counter(
            "galactic_node_gateway_failovers",
            "Gateways' nodes that ceased to answer this node, so that it leads round them.",
            registry=registry,
        )
        self._gateway_nodes = Gauge(
            "galactic_node_gateway_nodes",
            "Other nodes by which the VPCs here are led out, by whether they answer this node.",
            ["state"],
            registry=registry,
        )
        self._gateway_node_answers = Gauge(
            "galactic_node_gateway_node_answers",
            f"1 while a node by which VPCs here are led out answers this node; {GATEWAY_NODES} nodes at most, "
            "those that do not answer first.",
            ["gateway_node"],
            registry=registry,
        )
        self._conditions = Gauge(
            "galactic_node_condition",
            "1: this condition of the NodeSegment is True, 0: it is not.",
            ["type"],
            registry=registry,
        )
        self._vpc_endpoints = Gauge(
            "galactic_node_vpc_endpoints",
            "Attachments of a VPC (namespace/name) on this node.",
            ["vpc_name"],
            registry=registry,
        )
        self._vpc_revision = Gauge(
            "galactic_node_vpc_revision",
            "Revision of a VPC's route table on this node, as the router published it; 0: none yet.",
            ["vpc_name"],
            registry=registry,
        )
        self.traffic = TrafficCollector(registry)
        self._values: dict[Gauge, Mapping[str, int]] = {}
        # A label that exists from the start shows its first increase.
        for reason in refusals.REASONS:
            self.refused.labels(reason)
        for kind in ("delta", "full", "look"):
            self.sync_seconds.labels(kind)
        self.set_gateway_nodes({})
        for result in ("confirmed", "failed"):
            self.publications.labels(result)

    def expect_requests(self, codes: Iterable[int]) -> None:
        """The series of ADD and DEL, with these codes, exist before the first of them."""
        for verb in ("add", "del"):
            for code in codes:
                self.requests.labels(verb, code)
            self.request_seconds.labels(verb)

    def set_conditions(self, states: Mapping[str, bool]) -> None:
        """All conditions, by type."""
        self._set(self._conditions, states)

    def set_gateway_nodes(self, answering: Mapping[str, bool]) -> None:
        """All other nodes by which the VPCs here are led out, and whether each answers."""
        present = sum(answering.values())
        self._set(self._gateway_nodes, {"answering": present, "silent": len(answering) - present})
        shown = sorted(answering.items(), key=lambda item: (item[1], item[0]))[:GATEWAY_NODES]
        self._set(self._gateway_node_answers, dict(shown))

    def set_vpcs(self, endpoints: Mapping[str, int], revisions: Mapping[str, int]) -> None:
        """All VPCs here, by namespace/name: the number of attachments, and the revision of the table."""
        self._set(self._vpc_endpoints, endpoints)
        self._set(self._vpc_revision, revisions)

    def _set(self, gauge: Gauge, values: Mapping[str, int]) -> None:
        """The gauge has exactly these values, by its one label."""
        before = self._values.get(gauge, {})
        for label in before.keys() - values.keys():
            gauge.remove(label)
        for label, value in values.items():
            if before.get(label) != value:
                gauge.labels(label).set(value)
        self._values[gauge] = dict(values)
