"""Every metric, from the registries of all processes."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry

from galactic.bus.metrics import BusMetrics
from galactic.node.metrics import Metrics as NodeMetrics
from galactic.operator.metrics import Metrics as OperatorMetrics
from galactic.router.database.metrics import DatabaseMetrics, UsageMetrics
from galactic.router.metrics import RouterMetrics
from galactic.webhook.metrics import Metrics as WebhookMetrics
from reference.page import code, page, table, text

CLASSES: Final[tuple[tuple[str, str, Callable[[CollectorRegistry], object]], ...]] = (
    ("Operator", "galactic.operator.metrics", OperatorMetrics),
    ("Webhooks", "galactic.webhook.metrics", WebhookMetrics),
    ("Node controller", "galactic.node.metrics", NodeMetrics),
    ("Router", "galactic.router.metrics", RouterMetrics),
    ("Router: the database", "galactic.router.database.metrics", DatabaseMetrics),
    ("Router: usage", "galactic.router.database.metrics", UsageMetrics),
    ("Node controller and router: the broker", "galactic.bus.metrics", BusMetrics),
)
"""Heading, module, and the class that registers the metrics."""


def pages() -> dict[str, str]:
    who = (
        "For those who monitor Galactic: every metric on `/metrics` (port `metrics_port`), by process. "
        "Each process also "
        "has `galactic_build_info{component,version}`, always 1, and the usual `process_…` and `python_…`."
    )
    parts = [
        f"## {title}\n\n"
        + table(("metric", "type", "labels", "meaning"), (_row(*family) for family in families(register)))
        for title, _, register in CLASSES
    ]
    return {"metrics.md": page("Metrics", who, *parts, source="the registries in controllers/galactic")}


def families(
    register: Callable[[CollectorRegistry], object],
) -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    """Queried name, type, labels and meaning of each registered metric, sorted by name."""
    registry = CollectorRegistry()
    register(registry)
    found = []
    for collector in set(registry._collector_to_names):  # noqa: SLF001 - labels are not public
        if hasattr(collector, "_labelnames"):
            found.append(_declared(collector))
        else:
            for family in collector.collect():
                labels = tuple(getattr(family, "_labelnames", ()))
                found.append((_queried(family.name, family.type), family.type, labels, family.documentation))
    yield from sorted(found)


def _declared(collector: Any) -> tuple[str, str, tuple[str, ...], str]:
    name, kind = collector._name, collector._type  # noqa: SLF001
    return _queried(name, kind), kind, tuple(collector._labelnames), collector._documentation  # noqa: SLF001


def _queried(name: str, kind: str) -> str:
    """The name of a family's samples."""
    return f"{name}_total" if kind == "counter" else name


def _row(name: str, kind: str, labels: tuple[str, ...], meaning: str) -> tuple[str, ...]:
    return code(name), kind, ", ".join(map(code, labels)), text(meaning)
