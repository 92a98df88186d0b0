"""The webhook's metrics."""

from collections.abc import Callable
from datetime import datetime
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

TURNED_AWAY: Final = ("UnknownClient", "Busy", "TooLarge", "TooSlow")


class Metrics:
    """``galactic_webhook_…``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._reviews = Counter(
            "galactic_webhook_reviews",
            "Requests answered: allowed, warned, refused, failed (for now) or undecodable.",
            ("resource", "operation", "answer"),
            registry=registry,
        )
        self._seconds = Histogram(
            "galactic_webhook_review_seconds",
            "Time to answer a request.",
            buckets=(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 4, 5),
            registry=registry,
        )
        self._expiry = Gauge(
            "galactic_webhook_certificate_expiry_timestamp_seconds",
            "Expiry of the serving certificate.",
            registry=registry,
        )
        self._loads = Counter(
            "galactic_webhook_certificate_loads",
            "Certificates put into service.",
            registry=registry,
        )

        self._turned_away = Counter(
            "galactic_webhook_turned_away",
            "Requests not read as a review: UnknownClient (by its certificate), Busy, TooLarge or TooSlow (the body).",
            ("reason",),
            registry=registry,
        )
        for reason in TURNED_AWAY:
            self._turned_away.labels(reason)
        self._inflight = Gauge(
            "galactic_webhook_in_flight", "Requests that are being answered.", registry=registry
        )

    def read(self, inflight: Callable[[], int]) -> None:
        """The gauge of requests in flight gets its value there."""
        self._inflight.set_function(inflight)

    def turned_away(self, reason: str) -> None:
        self._turned_away.labels(reason).inc()

    def reviewed(self, resource: str, operation: str, answer: str, seconds: float) -> None:
        self._reviews.labels(resource, operation, answer).inc()
        self._seconds.observe(seconds)

    def loaded(self, expiry: datetime) -> None:
        self._expiry.set(expiry.timestamp())
        self._loads.inc()
