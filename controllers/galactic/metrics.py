"""What every process exposes on /metrics, whoever it is.

Each controller has a class of its own for what it alone knows; both register with the one registry that ``__main__``
makes, so that importing declares nothing.
"""

from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, CollectorRegistry, Gauge, ProcessCollector

from galactic import __version__


def registry(component: str) -> CollectorRegistry:
    """A registry with the process' own figures and ``galactic_build_info``."""
    own = CollectorRegistry()
    ProcessCollector(registry=own)
    own.register(GC_COLLECTOR)
    own.register(PLATFORM_COLLECTOR)
    info = Gauge(
        "galactic_build_info", "Always 1; the labels tell what runs.", ("component", "version"), registry=own
    )
    info.labels(component, __version__).set(1)
    return own
