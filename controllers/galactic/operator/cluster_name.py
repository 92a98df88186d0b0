"""The cluster's name at the broker: one cluster has it, recognised by the UID of its namespace kube-system."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from galactic.backoff import Backoff
from galactic.errors import GalacticError, Rejected
from galactic.kube.api import Api
from galactic.kube.resources import NAMESPACES

log = structlog.get_logger(__name__)
KUBE_SYSTEM: Final = "kube-system"
REASON: Final = "ClusterNameTaken"
BACKOFF_SECONDS: Final = (0.5, 10.0)


@dataclass(frozen=True, slots=True)
class ClusterName:
    """``uid``: of the namespace kube-system; empty: unknown, and not compared. ``report`` gets the problem, or None."""

    name: str
    uid: str = ""
    report: Callable[[str | None], None] = lambda _: None

    def rival(self, uid: str) -> bool:
        """Whether a message with this UID is of another cluster. Earlier versions write none."""
        return bool(uid and self.uid and uid != self.uid)


class NameTaken(Rejected):
    """Another cluster has published under the name."""

    def __init__(self, cluster: ClusterName, uid: str, topics: str) -> None:
        super().__init__(
            f"{cluster.name} is the name of another cluster at this broker (kube-system {uid}, here {cluster.uid}), so "
            "nothing is published for routers outside; give this cluster a name of its own, or, if the other one is "
            f"no more, clear the retained messages of {topics}",
            reason=REASON,
            field="cluster",
        )


async def cluster_uid(api: Api) -> str:
    """The UID of the namespace kube-system, as soon as the API server answers; empty where it does not exist."""
    backoff = Backoff(*BACKOFF_SECONDS)
    while True:
        try:
            found, _ = await api.list(NAMESPACES, fields=f"metadata.name={KUBE_SYSTEM}")
        except GalacticError as error:
            log.warning("UID of kube-system not read, trying again", error=str(error))
            await asyncio.sleep(backoff.pause())
        else:
            return next((str(one["metadata"]["uid"]) for one in found), "")
