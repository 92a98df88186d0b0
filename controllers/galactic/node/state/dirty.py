"""Changes of the desired state that are not in the kernel yet."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from galactic.node.state.attachment import Key


@dataclass(slots=True)
class Dirty:
    """Parts of the desired state that may not be in the kernel yet."""

    attachments: set[Key] = field(default_factory=set)
    vpcs: set[int] = field(default_factory=set)  # whose remote routes changed
    gateways: set[int] = field(default_factory=set)  # VPCs whose way out changed
    host: bool = False  # what all plans depend on
    everything: bool = False  # the kernel must be read

    def __bool__(self) -> bool:
        return bool(self.attachments or self.vpcs or self.gateways or self.host or self.everything)


class DirtyState:
    """Collects them between two rounds. ``wake`` is set when the kernel may have to change."""

    def __init__(self) -> None:
        self.now = Dirty()
        self.wake = asyncio.Event()

    def mark_vpc(self, vpc: int) -> None:
        """The VPC's remote routes changed, or whether it is hosted here."""
        self.now.vpcs.add(vpc)
        self.wake.set()

    def mark_gateways(self, vpcs: Iterable[int]) -> None:
        """The ways out of these VPCs changed."""
        self.now.gateways.update(vpcs)
        self.wake.set()

    def mark_host(self) -> None:
        """Something that all plans depend on changed."""
        self.now.host = True
        self.wake.set()

    def drain(self) -> Dirty:
        """The parts that became dirty since the last call."""
        dirty, self.now = self.now, Dirty()
        self.wake.clear()
        return dirty

    def restore(self, dirty: Dirty) -> None:
        """They could not be written yet."""
        self.now.attachments |= dirty.attachments
        self.now.vpcs |= dirty.vpcs
        self.now.gateways |= dirty.gateways
        self.now.host |= dirty.host
        self.now.everything |= dirty.everything
