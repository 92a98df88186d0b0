"""What a connection to the broker tells on /metrics; the same names in every process."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class BusMetrics:
    """One method or child for each thing that happens."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.connected = Gauge("galactic_mqtt_connected", "1: there is a session.", registry=registry)
        self.failures = Counter(
            "galactic_mqtt_connection_failures",
            "Connections that were not made, or ended, by reason.",
            ("reason",),
            registry=registry,
        )
        self.refusals = Counter(
            "galactic_mqtt_refusals",
            "What the broker would not do: publish or subscribe.",
            ("what",),
            registry=registry,
        )
        self.waiting = Gauge(
            "galactic_mqtt_arrivals_waiting", "Messages that arrived and are not handled.", registry=registry
        )
        self.pauses = Counter(
            "galactic_mqtt_read_pauses",
            "How often reading was stopped because too much was waiting.",
            registry=registry,
        )
        self.underway = Gauge(
            "galactic_mqtt_publishes_underway", "Publishes without PUBACK by now.", registry=registry
        )
        self.puback = Histogram(
            "galactic_mqtt_puback_seconds",
            "From a publish to its PUBACK.",
            buckets=_SECONDS,
            registry=registry,
        )
