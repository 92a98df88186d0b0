"""The plan of the host's own namespace in parts, and the parts that are in the kernel."""

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from galactic.linux.objects import Objects
from galactic.node.state.attachment import Key
from galactic.node.state.tracker import DeltaTracker

HOST: Final = 0
"""The part that is the node's own; 0 is no VPC's identifier."""
UNACCOUNTED: Final = -1
"""The part of objects that no plan has and that stay: they may be those of attachments whose records are lost."""

Part = int | Key
"""The node's own, a VPC's or an attachment's. Parts have no object in common."""


class PlannedParts:
    """The parts as they were planned last. ``known`` is False while the kernel may differ from them unnoticed."""

    def __init__(self) -> None:
        self.known = False
        self._planned: dict[Part, Objects] = {}
        self._tracker: DeltaTracker[Part, Objects] = DeltaTracker(self._planned.get)

    def __iter__(self) -> Iterator[Part]:
        return iter(self._planned)

    def __contains__(self, part: Part) -> bool:
        return part in self._planned

    def __getitem__(self, part: Part) -> Objects:
        return self._planned[part]

    def plan(self, parts: AbstractSet[Part], planned: Mapping[Part, Objects]) -> None:
        """These parts are to be as ``planned``, in its order; those that are not in it are to go."""
        for part in (*planned, *(parts - planned.keys())):
            self._tracker.changing(part, self._planned.get(part))
            if part in planned:
                self._planned[part] = planned[part]
            else:
                self._planned.pop(part, None)

    def replace(self, planned: Mapping[Part, Objects]) -> None:
        """The kernel was read, and is to be as ``planned``. Pending parts are forgotten: it has no others."""
        self._tracker.drain()
        self._planned.clear()
        self._planned.update(planned)
        self.known = True

    def actual(self, parts: Iterable[Part]) -> Objects:
        """The objects of these parts in the kernel."""
        return union(objects for part in parts if (objects := self._tracker.actual(part)) is not None)

    def observe(self, part: Part, actual: Objects) -> None:
        """The kernel has these objects of the part."""
        self._tracker.observe(part, actual)

    def pending(self) -> tuple[Objects, Objects]:
        """Desired and actual objects of the parts that changed. They count as written."""
        deltas = list(self._tracker.deltas())
        return (
            union(desired for _, _, desired in deltas if desired is not None),
            union(actual for _, actual, _ in deltas if actual is not None),
        )

    def sysctls(self) -> dict[str, str]:
        """Those of all parts."""
        return {path: value for part in self._planned.values() for path, value in part.sysctls.items()}

    def all(self) -> Objects:
        """All parts as one."""
        return union(self._planned.values())


def union(parts: Iterable[Objects]) -> Objects:
    """All parts as one."""
    whole = Objects()
    for part in parts:
        whole.links |= part.links
        whole.addresses |= part.addresses
        whole.routes |= part.routes
        whole.rules |= part.rules
        whole.sysctls |= part.sysctls
        whole.lookups |= part.lookups
        whole.neighbours |= part.neighbours
    return whole
