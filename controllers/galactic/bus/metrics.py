"""Metrics of a connection to the broker; the same names in every process."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class BusMetrics:
    """``galactic_mqtt_…``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.connected = Gauge("galactic_mqtt_connected", "1: connected to the broker.", registry=registry)
        self.failures = Counter(
            "galactic_mqtt_connection_failures",
            "Connections that failed or ended, by reason.",
            ("reason",),
            registry=registry,
        )
        self.refusals = Counter(
            "galactic_mqtt_refusals",
            "Requests that the broker refused: publish or subscribe.",
            ("what",),
            registry=registry,
        )
        self.waiting = Gauge(
            "galactic_mqtt_arrivals_waiting",
            "Messages that arrived and are not handled yet.",
            registry=registry,
        )
        self.pauses = Counter(
            "galactic_mqtt_read_pauses",
            "Times that reading paused because the receive queue was full.",
            registry=registry,
        )
        self.underway = Gauge(
            "galactic_mqtt_publishes_underway",
            "Publishes whose PUBACK has not arrived yet.",
            registry=registry,
        )
        self.puback = Histogram(
            "galactic_mqtt_puback_seconds",
            "From a publish to its PUBACK.",
            buckets=_SECONDS,
            registry=registry,
        )
