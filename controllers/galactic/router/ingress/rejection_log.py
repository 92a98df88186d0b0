"""The log of rejected paths: a line in ten minutes for an attachment and reason."""

from collections.abc import Iterable
from typing import Final

import structlog

from galactic.router.log_throttle import LogThrottle
from galactic.router.rib.path import Identity, Rejection
from galactic.router.rib.store import Store
from galactic.router.rib.vpc_tables import Commit

log = structlog.get_logger(__name__)
SAME_SECONDS: Final = 600.0
SILENT: Final = frozenset({"StaleEpoch", "NotReady"})
"""Reasons that belong to every move and every start, and call for nothing."""

MOMENTARY: Final = ("NotEntitled", "SidOutsidePrefix")
"""Reasons of a node that is a moment behind a change of the attachment's addresses, or of its own prefix."""


class RejectionLog:
    """Logs rejections."""

    def __init__(self) -> None:
        self._throttle = LogThrottle(SAME_SECONDS)

    def note(self, rejections: Iterable[Rejection]) -> None:
        """These paths are rejected."""
        for rejection in rejections:
            cluster, node = rejection.origin
            if not (times := self._throttle.count((cluster, rejection.attachment, rejection.reason))):
                continue
            level = log.info if rejection.reason in SILENT else log.warning
            level(
                "path rejected",
                reason=rejection.reason,
                cluster=cluster,
                node=node,
                attachment=rejection.attachment,
                error=rejection.message,
                times=times,
            )


class RejectionReports:
    """Logs what a leading router rejects, where there is no Kubernetes that could hold Events."""

    def __init__(self, store: Store) -> None:
        self._store, self._log = store, RejectionLog()

    def lead(self, term: int) -> None:
        """The log needs no start."""

    def resign(self) -> None:
        """The log needs no end."""

    def committed(self, commit: Commit) -> None:
        """The tables changed."""
        self._log.note((*commit.rejections, *conflict_rejections(self._store, commit.touched)))


def conflict_rejections(store: Store, touched: Iterable[Identity]) -> list[Rejection]:
    """The networks that the paths of these attachments announce and do not have."""
    paths = [path for identity in touched if (path := store.tables.best_path(identity))]
    return [
        Rejection(path.origin, path.attachment, "Conflict", conflict.sentence)
        for path in paths
        for conflict in store.tables.conflicts(path)
    ]
