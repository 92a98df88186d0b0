"""The log of what nodes said and was not believed: a line in ten minutes for an attachment and reason."""

from collections.abc import Iterable
from typing import Final

import structlog

from galactic.router.log_throttle import LogThrottle
from galactic.router.rib.path import Rejection

log = structlog.get_logger(__name__)
SAME_SECONDS: Final = 600.0
SILENT: Final = frozenset({"StaleEpoch", "NotReady"})
"""Reasons that belong to every move and every start, and that nobody has to do anything about."""


class RejectionLog:
    """``note`` any number of them."""

    def __init__(self) -> None:
        self._repeats = LogThrottle(SAME_SECONDS)

    def note(self, rejections: Iterable[Rejection]) -> None:
        """These were rejected."""
        for rejection in rejections:
            cluster, node = rejection.origin
            if not (times := self._repeats.due((cluster, rejection.attachment, rejection.reason))):
                continue
            say = log.info if rejection.reason in SILENT else log.warning
            say(
                "rejected",
                reason=rejection.reason,
                cluster=cluster,
                node=node,
                attachment=rejection.attachment,
                error=rejection.message,
                times=times,
            )
