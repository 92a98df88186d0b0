"""One step on the data's way, and what to do where it ends."""

from dataclasses import dataclass
from typing import Final

STOPS, PASSES, UNKNOWN = "stops", "passes", "unknown"
ANEW: Final = "make the pod anew, or restart galactic-node on its node"


@dataclass(frozen=True, slots=True)
class Hop:
    """One step. ``state``: passes, stops, or unknown where nobody could be asked."""

    where: str
    what: str
    state: str = PASSES
    remedy: str = ""

    def plain(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in self.__slots__}


def controller(node: str) -> str:
    """The remedy for what the node controller keeps right."""
    return (
        f"galactic-node on {node} puts it right if it runs: galactic status, and kubectl describe nseg {node}"
    )
