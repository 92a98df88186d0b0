"""Messages that the router drops: counted each time, and logged once a minute for a topic and reason."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from galactic.errors import Rejected
from galactic.router.ingress.decoder import is_valid
from galactic.router.log_throttle import LogThrottle
from galactic.router.metrics import RouterMetrics
from galactic.router.rib.path import NodeRef

log = structlog.get_logger(__name__)
USUAL: Final = "StaleSequence"
"""A registration arrives over MQTT and from Kubernetes, and is repeated: the second time it is dropped."""


class DroppedMessages:
    """Counts and logs messages that are dropped."""

    def __init__(self, metrics: RouterMetrics) -> None:
        self._metrics, self._throttle = metrics, LogThrottle()

    @contextmanager
    def guard(self, topic: str) -> Iterator[None]:
        """Surrounds the handling of one message. Exceptions are logged and not raised: one message must not stop
        others.
        """
        try:
            yield
        except Rejected as error:
            self._metrics.rejected(error.reason)
            if times := self._throttle.count((topic, error.reason)):
                level = log.info if error.reason == USUAL else log.warning
                level("message dropped", topic=topic, reason=error.reason, error=str(error), times=times)
        except Exception:  # a mistake of the router's
            self._metrics.rejected("Internal")
            if self._throttle.count((topic, "Internal")):
                log.exception("message dropped", topic=topic, reason="Internal")

    def superseded(self, node: NodeRef) -> None:
        """A newer message replaced one that waited because its node is over its share."""
        self._metrics.rejected("RateLimited")
        if times := self._throttle.count(node):
            log.warning(
                "registration superseded: a newer one of this node is queued",
                cluster=node.cluster,
                node=node.node,
                times=times,
            )

    def flooded(self, node: NodeRef) -> None:
        """The topic of a node is suppressed."""
        self._metrics.flooded(node if is_valid(node) else NodeRef("", ""))
