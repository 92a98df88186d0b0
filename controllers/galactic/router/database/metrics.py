"""The database's metrics: its lag, and the changes that were written, failed or were given up."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge


class DatabaseMetrics:
    """``galactic_router_database_…``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def name(suffix: str) -> str:
            return f"galactic_router_database_{suffix}"

        self._lag_seconds = Gauge(
            name("lag_seconds"), "Age of the oldest change that is not written yet.", registry=registry
        )
        self._lag_items = Gauge(
            name("lag_items"), "Networks and endpoints whose change is not written yet.", registry=registry
        )
        self.commits = Counter(name("commits"), "Transactions committed.", registry=registry)
        self.items = Counter(
            name("items"), "Networks and endpoints whose change was written.", registry=registry
        )
        self.failures = Counter(
            name("failures"), "Attempts to write that failed, by reason.", ("reason",), registry=registry
        )
        self.comparisons = Counter(
            name("comparisons"), "Comparisons of the tables with the database.", registry=registry
        )
        self.corrections = Counter(
            name("corrections"),
            "Networks that a comparison found to differ, so that the time of the change is not known exactly.",
            registry=registry,
        )
        self.lost = Counter(
            name("lost_items"),
            "Changes given up because the database was unreachable for too long: its history has a gap.",
            registry=registry,
        )
        self.retired = Counter(
            name("retired"), "Periods deleted because they are older than the retention.", registry=registry
        )
        self.connected = Gauge(
            name("connected"), "1: connected, and the schema has the expected version.", registry=registry
        )

    def lag(self, seconds: Callable[[], float], items: Callable[[], float]) -> None:
        """Both are called at every scrape."""
        self._lag_seconds.set_function(seconds)
        self._lag_items.set_function(items)


class UsageMetrics:
    """``galactic_router_usage_…``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def name(suffix: str) -> str:
            return f"galactic_router_usage_{suffix}"

        self.samples = Counter(
            name("samples"), "Attachments' sums of traffic that were written.", registry=registry
        )
        self.rejected = Counter(
            name("rejected"),
            "Sums and messages of nodes that were not written, by reason. NotRecorded: no router has recorded that "
            "attachment on that node.",
            ("reason",),
            registry=registry,
        )
        self.failures = Counter(
            name("failures"), "Attempts to write that failed, by error.", ("error",), registry=registry
        )
        self._waiting = Gauge(
            name("waiting"), "Messages of nodes that are not written yet.", registry=registry
        )
        self.rejected.labels("NotRecorded")

    def waiting(self, count: Callable[[], float]) -> None:
        """Called at every scrape."""
        self._waiting.set_function(count)
