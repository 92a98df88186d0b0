"""The router's metrics."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from galactic.messages import Changes
from galactic.router.rib.path import NodeRef, Rejection

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
FLOODERS: Final = 1000
"""Nodes that are counted by name."""
REASONS: Final = (
    *("AttachmentUnknown", "Conflict", "Duplicate", "EpochInFuture", "EpochInvalid"),
    *("FunctionMismatch", "HostBits", "Internal", "InvalidAddress", "InvalidIdentifier", "InvalidName"),
    *(
        "InvalidNetwork",
        "NodeUnknown",
        "NewerSchema",
        "NotAdmitted",
        "NotCarried",
        "NotEntitled",
        "NotListed",
        "NotReady",
        "ObjectInvalid",
    ),
    *("Overloaded", "Oversized", "PrefixInvalid", "PrefixOutsideSpace", "PrefixTaken", "RateLimited"),
    *("RevisionInvalid", "SequenceInFuture", "SequenceInvalid", "SidMismatch", "SidOutsidePrefix"),
    *(
        "StaleEpoch",
        "StaleSequence",
        "TermInvalid",
        "TooManyNetworks",
        "Undecodable",
        "UnknownTopic",
        "VpcMismatch",
    ),
)
"""Reasons of rejections: counted from 0, as a series that begins at 1 hides its first increase."""


class RouterMetrics:
    """One method for each event."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def name(suffix: str) -> str:
            return f"galactic_router_{suffix}"

        self._registrations = Counter(
            name("registrations"),
            "Registrations applied, by their way to the router.",
            ("source",),
            registry=registry,
        )
        self._rejections = Counter(
            name("rejections"),
            "Messages and paths of nodes that the router rejected.",
            ("reason",),
            registry=registry,
        )
        for reason in REASONS:
            self._rejections.labels(reason)
        for source in ("mqtt", "kubernetes"):
            self._registrations.labels(source)
        self._peerings = Gauge(
            name("peerings"), "Pairs of VPCs that are peered, in any cluster.", registry=registry
        )
        self._imported = Gauge(name("imported_routes"), "Routes of peers in VPCs' tables.", registry=registry)
        self._conflicts = Gauge(
            name("conflicts"),
            "Networks announced by an attachment while another one owns them.",
            registry=registry,
        )
        self._rejected = Gauge(
            name("rejected_endpoints"),
            "Endpoints that are rejected now for that reason. A node that is a moment behind a change has some.",
            ("reason",),
            registry=registry,
        )
        self._uncarried = Gauge(
            name("uncarried_paths"),
            "Attachments that a node announces although no pod on it carries them; they get no route there.",
            registry=registry,
        )
        self._unlisted = Gauge(
            name("unlisted_clusters"),
            "Clusters whose nodes are not checked against a complete list of attachments; 0 in Kubernetes.",
            registry=registry,
        )
        self._nodes = Gauge(name("nodes"), "Nodes with a registration or a prefix.", registry=registry)
        self._endpoints = Gauge(name("endpoints"), "Attachments with an endpoint.", registry=registry)
        self._routes = Gauge(name("routes"), "Routes in all VPCs.", registry=registry)
        self._publishes = Counter(
            name("publishes"), "Publishes that the broker confirmed.", registry=registry
        )
        self._unconfirmed = Counter(
            name("publish_failures"),
            "Publishes without confirmation, which the router repeated.",
            registry=registry,
        )
        self._puback = Histogram(
            name("puback_seconds"), "From a publish to its confirmation.", buckets=_SECONDS, registry=registry
        )
        self._changes = Counter(name("changes"), "Messages on the topic changes.", registry=registry)
        self._shards = Counter(name("shards"), "Shards published.", registry=registry)
        self._convergence = Histogram(
            name("convergence_seconds"),
            "From a registration to the confirmation of the change that it made.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._queue = Gauge(name("queue_vpcs"), "VPCs with pending changes.", registry=registry)
        self._inbox = Gauge(
            name("inbox_waiting"), "Messages of nodes that wait for their turn.", registry=registry
        )
        self._floods = Counter(
            name("floods"),
            "Times that a node's topic was suppressed for flooding.",
            ("cluster", "node"),
            registry=registry,
        )
        self._suppressed = Gauge(
            name("topics_aside"),
            "Suppressed topics of nodes, which the router reads once a second.",
            registry=registry,
        )
        self._flooders: set[NodeRef] = set()
        self._last = Gauge(
            name("last_publish_timestamp_seconds"),
            "When the broker confirmed a publish last, in seconds since 1970; 0: never.",
            registry=registry,
        )
        self._oldest = Gauge(
            name("oldest_change_seconds"),
            "Age of the oldest change that the broker has not confirmed; 0: there is none.",
            registry=registry,
        )
        self._revision = Gauge(name("revision"), "The revision published last.", ("vpc",), registry=registry)
        self._leader = Gauge(name("leader"), "1: this replica publishes.", registry=registry)
        self._foreign = Counter(
            name("foreign_messages"),
            "Other writers' messages on topics that only the leading router writes, overwritten.",
            registry=registry,
        )
        self._term = Gauge(name("term"), "The term of the router that leads.", registry=registry)
        self._recording = Gauge(
            name("recording_lag_attachments"),
            "Attachments whose status is yet to be patched.",
            registry=registry,
        )
        self._admissions = Gauge(
            name("admissions_valid"),
            "1: the file of admissions can be read; 0: the policy that was read before is in force.",
            registry=registry,
        )
        self._admissions.set(1)
        self._commit = Histogram(
            name("commit_seconds"), "Bringing the tables up to date.", buckets=_SECONDS, registry=registry
        )

    def registered(self, source: str) -> None:
        self._registrations.labels(source).inc()

    def rejected(self, *reasons: str) -> None:
        for reason in reasons:
            self._rejections.labels(reason).inc()

    def admissions(self, valid: bool) -> None:
        self._admissions.set(valid)

    def at_scrape(
        self,
        *,
        tables: Callable[[], tuple[int, int, int, int]],
        imports: Callable[[], tuple[int, int]] = lambda: (0, 0),
        uncarried: Callable[[], int],
        rejected: Mapping[str, Callable[[], int]],
        unlisted: Callable[[], int],
        leadership: Callable[[], tuple[bool, int]],
        oldest_change: Callable[[], float],
        waiting: Callable[[], int],
        suppressed: Callable[[], int],
    ) -> None:
        """Gauges that are read at every scrape.

        ``tables``: nodes, endpoints, routes and contested networks. ``imports``: peerings, and imported routes.
        ``uncarried``: paths that are rejected as
        NotCarried. ``rejected``: endpoints that are rejected, by reason.
        ``unlisted``: clusters without a complete list of attachments.
        ``leadership``: whether this router leads, and the highest term. ``oldest_change``: seconds.
        ``waiting``: messages of nodes. ``suppressed``: nodes' topics.
        """
        for position, gauge in enumerate((self._nodes, self._endpoints, self._routes, self._conflicts)):
            gauge.set_function(partial(_one_of, tables, position))
        for position, gauge in enumerate((self._peerings, self._imported)):
            gauge.set_function(partial(_one_of, imports, position))
        for position, gauge in enumerate((self._leader, self._term)):
            gauge.set_function(partial(_one_of, leadership, position))
        self._uncarried.set_function(uncarried)
        for reason, count in rejected.items():
            self._rejected.labels(reason).set_function(count)
        self._unlisted.set_function(unlisted)
        self._oldest.set_function(oldest_change)
        self._inbox.set_function(waiting)
        self._suppressed.set_function(suppressed)

    def committed(self, seconds: float, rejections: Iterable[Rejection]) -> None:
        self._commit.observe(seconds)
        self.rejected(*(rejection.reason for rejection in rejections))

    def confirmed(self, seconds: float) -> None:
        self._publishes.inc()
        self._puback.observe(seconds)
        self._last.set_to_current_time()

    def unconfirmed(self) -> None:
        self._unconfirmed.inc()

    def published(self, vpc: str, message: Changes) -> None:
        self._changes.inc()
        self._revision.labels(vpc).set(message.revision)

    def packed(self, vpc: str, routes: int, shards: int) -> None:
        """The retained table of a VPC with that many routes was published: so many shards of it."""
        self._shards.inc(shards)
        if not routes:
            self._revision.remove(vpc)

    def revisions(self, advertised: Mapping[str, int]) -> None:
        """Of the tables that this router adopts; none when it leads no longer."""
        self._revision.clear()
        for vpc, revision in advertised.items():
            self._revision.labels(vpc).set(revision)

    def converged(self, seconds: float) -> None:
        self._convergence.observe(seconds)

    def flooded(self, origin: NodeRef) -> None:
        """By node for the first FLOODERS nodes, then all others together."""
        if origin not in self._flooders and len(self._flooders) >= FLOODERS:
            origin = NodeRef("", "")
        self._flooders.add(origin)
        self._floods.labels(*origin).inc()

    def queued(self, vpcs: int) -> None:
        self._queue.set(vpcs)

    def foreign(self) -> None:
        self._foreign.inc()

    def recording(self, attachments: int) -> None:
        self._recording.set(attachments)


def _one_of(values: Callable[[], tuple[int, ...]], position: int) -> float:
    return values()[position]
