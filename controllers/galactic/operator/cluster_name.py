"""The cluster's name at the broker: one cluster has it, recognised by the UID of its namespace kube-system."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from galactic.errors import Rejected

REASON: Final = "ClusterNameTaken"


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
