"""The operator's metrics."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector


class Metrics:
    """``galactic_operator_…``, registered once a process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.reconciled = Counter(
            "galactic_operator_reconciles",
            "Runs of the reconciler by kind and result (ok, retry, error).",
            ("kind", "result"),
            registry=registry,
        )
        self.seconds = Histogram(
            "galactic_operator_reconcile_duration_seconds",
            "Time that one run of the reconciler took.",
            ("kind",),
            buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2.5, 10),
            registry=registry,
        )
        self.waiting = Gauge(
            "galactic_operator_queue_length",
            "Objects that are dirty, being worked on, or due later.",
            registry=registry,
        )
        self.objects = Gauge(
            "galactic_operator_objects", "Objects in memory by kind.", ("kind",), registry=registry
        )
        self.requests = Gauge(
            "galactic_operator_api_requests",
            "Requests made to the API server by the reconciler since the start.",
            registry=registry,
        )
        self.events_dropped = Gauge(
            "galactic_operator_events_dropped",
            "Events that were not written: too many, or refused, since the start.",
            registry=registry,
        )
        self.missed = Counter(
            "galactic_operator_missed_deletions",
            "Objects that a resync found gone without the watch having told.",
            ("kind",),
            registry=registry,
        )

        self.leading = Gauge(
            "galactic_operator_leading", "1 while this replica holds the lease and acts.", registry=registry
        )
        self._registry = registry

    def read(
        self,
        *,
        waiting: Callable[[], float],
        requests: Callable[[], float],
        dropped: Callable[[], float],
        counts: dict[str, Callable[[], float]],
        leads: Callable[[], bool],
        holder: Callable[[], str],
    ) -> None:
        """Where the gauges read their values when they are scraped."""
        self.waiting.set_function(waiting)
        self.requests.set_function(requests)
        self.events_dropped.set_function(dropped)
        self.leading.set_function(leads)
        self._registry.register(_Holder(holder))
        for kind, count in counts.items():
            self.objects.labels(kind).set_function(count)


class _Holder(Collector):
    """Who leads, as a label."""

    def __init__(self, holder: Callable[[], str]) -> None:
        self._holder = holder

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "galactic_operator_lease_holder",
            "Always 1; the label is who held the lease when this replica last looked, empty for nobody.",
            labels=["identity"],
        )
        family.add_metric([self._holder()], 1)
        yield family
