"""Objects of the API server as models."""

import structlog

from galactic.crds.model import T, parse
from galactic.errors import Rejected
from galactic.kube.api import Key, Object
from galactic.router.metrics import RouterMetrics

log = structlog.get_logger(__name__)


def parsed(kind: type[T], key: Key, body: Object, metrics: RouterMetrics) -> T | None:
    """None where the object does not fit the model: that is counted and logged."""
    try:
        return parse(kind, body)
    except Rejected as error:
        metrics.rejected("ObjectInvalid")
        log.warning(
            "object does not fit its schema", kind=kind.__name__, name="/".join(key), error=str(error)
        )
        return None
