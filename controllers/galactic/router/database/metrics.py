"""The database's metrics: how far it is behind, and what was written, failed or given up."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge


class DatabaseMetrics:
    """``galactic_router_database_…``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def name(what: str) -> str:
            return f"galactic_router_database_{what}"

        self._lag_seconds = Gauge(
            name("lag_seconds"), "Age of the oldest change that is not written yet.", registry=registry
        )
        self._lag_items = Gauge(
            name("lag_items"), "Networks and endpoints whose change is not written yet.", registry=registry
        )
        self.commits = Counter(name("commits"), "Transactions.", registry=registry)
        self.items = Counter(
            name("items"), "Networks and endpoints whose change was written.", registry=registry
        )
        self.failures = Counter(name("failures"), "Attempts that failed.", ("reason",), registry=registry)
        self.comparisons = Counter(
            name("comparisons"), "Times the table was compared with the database.", registry=registry
        )
        self.corrections = Counter(
            name("corrections"),
            "Networks for which a comparison found something else, so that the moment is not known exactly.",
            registry=registry,
        )
        self.lost = Counter(
            name("lost_items"),
            "Changes given up while the database was away for too long: the state is right, its history has a gap.",
            registry=registry,
        )
        self.retired = Counter(
            name("retired"), "Periods removed, older than the retention.", registry=registry
        )
        self.connected = Gauge(
            name("connected"), "1: there is a connection, and the schema fits.", registry=registry
        )

    def lag(self, seconds: Callable[[], float], items: Callable[[], float]) -> None:
        """Both are asked at every scrape."""
        self._lag_seconds.set_function(seconds)
        self._lag_items.set_function(items)
