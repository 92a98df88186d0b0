"""Metrics that every process exposes on /metrics.

Each controller has a class of its own for the others. Both register with the one registry that ``__main__`` makes, so
that an import declares nothing.
"""

from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, CollectorRegistry, Gauge, ProcessCollector

from galactic import __version__


def registry(component: str) -> CollectorRegistry:
    """A registry with the process' own metrics and ``galactic_build_info``."""
    own = CollectorRegistry()
    ProcessCollector(registry=own)
    own.register(GC_COLLECTOR)
    own.register(PLATFORM_COLLECTOR)
    info = Gauge(
        "galactic_build_info",
        "Always 1; the labels are component and version.",
        ("component", "version"),
        registry=own,
    )
    info.labels(component, __version__).set(1)
    return own
