"""What the node controller counts."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0)
OBJECTS = (1, 10, 100, 1_000, 10_000, 100_000)


class Metrics:
    """The metrics of one node controller."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "galactic_node_cni_requests",
            "CNI calls by verb and CNI error code.",
            ["verb", "code"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "galactic_node_cni_request_seconds", "CNI calls.", ["verb"], registry=registry, buckets=SECONDS
        )
        self.sync_seconds = Histogram(
            "galactic_node_sync_seconds",
            "One round of writing desired minus actual.",
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
            "VPCs whose routes are read from kube-apiserver because the broker does not tell them.",
            registry=registry,
        )
        self.backend = Gauge(
            "galactic_node_packet_filter",
            "1 for the backend that our rules are in.",
            ["backend"],
            registry=registry,
        )
        self.filter_drift = Counter(
            "galactic_node_filter_drift_chains",
            "Chains of ours in the packet filter that others had changed.",
            registry=registry,
        )
        self.full_sync = Gauge(
            "galactic_node_last_full_sync_timestamp_seconds",
            "When the whole kernel was last compared with what is wanted.",
            registry=registry,
        )
        self.sync_failures = Counter("galactic_node_sync_failures", "Rounds that failed.", registry=registry)
        self.drift = Counter(
            "galactic_node_drift_objects", "Kernel objects that others had changed.", registry=registry
        )
        self.endpoints = Gauge("galactic_node_endpoints", "Attachments on this node.", registry=registry)
        self.vpcs = Gauge("galactic_node_vpcs", "VPCs with an attachment on this node.", registry=registry)
        self.routes = Gauge("galactic_node_remote_routes", "Routes to other nodes.", registry=registry)
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
