"""The node's record of itself: its prefix, its clock, and the prefix that the packet filter is in place for."""

from ipaddress import IPv6Network

from galactic import srv6
from galactic.node.state.checkpoint import Checkpoint, NodeFile
from galactic.node.state.epoch import Clock


class NodeRecord:
    """Durable, except for ``sequence``: that of the last registration."""

    def __init__(self, checkpoint: Checkpoint, clock: Clock) -> None:
        self._checkpoint, self._clock = checkpoint, clock
        self.prefix: IPv6Network | None = None
        self.filtered: IPv6Network | None = None
        self.sequence = 0

    def restore(self) -> None:
        """As the checkpoint has it."""
        node = self._checkpoint.node()
        self._clock.observe(node.clock)
        self.prefix = srv6.parse_prefix(node.prefix) if node.prefix else None
        self.filtered = srv6.parse_prefix(node.filtered) if node.filtered else None

    @property
    def here(self) -> bytes:
        """How the SIDs of this node begin; empty while it has no prefix."""
        return srv6.locator(self.prefix).network_address.packed[:8] if self.prefix else b""

    def set_filtered(self, prefix: IPv6Network) -> None:
        """The packet filter is in place for a node with that prefix. It outlives this process, as the records do."""
        if prefix != self.filtered:
            self.filtered = prefix
            self._save()

    def observe(self, number: int) -> None:
        """An epoch or a sequence of this node's earlier life: those that follow are greater."""
        self._clock.observe(number)

    def next_epoch(self, *known: int) -> int:
        """Greater than all before it and than those known."""
        return self._clock.take(*known)

    def advance(self) -> None:
        """The next registration has a sequence of its own. Raises Unreachable when that cannot be remembered."""
        self.sequence = self._clock.take()
        self._save()

    def _save(self) -> None:
        prefix, filtered = (str(network or "") for network in (self.prefix, self.filtered))
        self._checkpoint.put_node(NodeFile(prefix, self._clock.last, filtered))
