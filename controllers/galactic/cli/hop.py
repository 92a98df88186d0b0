"""One hop of a data path, and its remedies."""

from dataclasses import dataclass
from typing import Final

STOPS, PASSES, UNKNOWN = "stops", "passes", "unknown"
RECREATE: Final = "recreate the pod, or restart galactic-node on its node"


@dataclass(frozen=True, slots=True)
class Hop:
    """One hop. ``state``: passes, stops, or unknown if its kernel could not be read."""

    where: str
    what: str
    state: str = PASSES
    remedy: str = ""

    def plain(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in self.__slots__}


def controller_remedy(node: str) -> str:
    """The remedy for state that the node controller maintains."""
    return (
        f"galactic-node on {node} repairs it while it runs: galactic status, and kubectl describe nseg {node}"
    )
