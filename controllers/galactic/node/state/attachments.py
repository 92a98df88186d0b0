"""The attachments on this node, indexed by VPC, pod and network."""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet

from galactic.linux.objects import Network
from galactic.node.state.attachment import Attachment, Key


class LocalAttachments(Mapping[Key, Attachment]):
    """Those on this node, by key. Pure: the store writes records, and marks what a change makes dirty."""

    def __init__(self) -> None:
        self._all: dict[Key, Attachment] = {}
        self._by_vpc: dict[int, dict[Key, Attachment]] = {}
        self._by_netns: dict[str, set[Key]] = {}
        self._announcers: dict[tuple[int, Network], set[Key]] = {}
        self.unaccounted: set[Key] | None = None
        """Host ends found in the kernel at start that have no record; None: the kernel was not read yet."""
        self.led_out: AbstractSet[int] = frozenset()
        """The VPCs that a gateway leads out of by this node."""

    def __getitem__(self, key: Key) -> Attachment:
        return self._all[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    @property
    def complete(self) -> bool:
        """Whether all that is attached here is known: the kernel was read, and it has nothing else."""
        return self.unaccounted is not None and not self.unaccounted

    @property
    def hosted(self) -> set[int]:
        """The VPCs that have an attachment here, an unaccounted one included, or are led out here."""
        return self._by_vpc.keys() | {vpc for vpc, _ in self.unaccounted or ()} | self.led_out

    def hosts(self, vpc: int) -> bool:
        """Whether that one is among ``hosted``."""
        return (
            vpc in self._by_vpc
            or vpc in self.led_out
            or any(vpc == other for other, _ in self.unaccounted or ())
        )

    def of_vpc(self, vpc: int) -> list[Attachment]:
        return list(self._by_vpc.get(vpc, {}).values())

    def holder(self, vpc: int, network: Network, lost: frozenset[bytes] = frozenset()) -> Key | None:
        """Of the attachments here that announce the network, the one that holds it: the oldest.

        ``lost``: the paths of those that do not own it, as the table has it.
        """
        announcers = self.announcers(vpc, network)
        if lost:
            announcers = {key for key in announcers if self._all[key].path_id not in lost}
        return min(announcers, key=lambda key: (self._all[key].epoch, key), default=None)

    def announcers(self, vpc: int, network: Network) -> AbstractSet[Key]:
        """The attachments here that announce the network."""
        return self._announcers.get((vpc, network), frozenset())

    def rank(self, key: Key) -> int:
        """How many of the pod's other attachments are older: 0 for the only one. Their routes come first."""
        attachment = self._all[key]
        return sum(
            (self._all[other].epoch, other) < (attachment.epoch, key)
            for other in self._by_netns[attachment.netns]
        )

    def beside(self, attachment: Attachment) -> list[Attachment]:
        """The attachments of the same pod, other than that one."""
        keys = self._by_netns.get(attachment.netns, set()) - {attachment.key}
        return [self._all[key] for key in sorted(keys)]

    def put(self, attachment: Attachment) -> set[Key]:
        """The attachment is here now. It, and those whose rank or networks may change with it."""
        key = attachment.key
        affected = self._unlink(key) if key in self._all else {key}
        self._all[key] = self._by_vpc.setdefault(attachment.vpc, {})[key] = attachment
        indexes = [self._by_netns.setdefault(attachment.netns, set())]
        indexes += [
            self._announcers.setdefault((attachment.vpc, network), set()) for network in attachment.announces
        ]
        for index in indexes:
            affected |= index
            index.add(key)
        return affected

    def remove(self, key: Key) -> set[Key]:
        """The attachment is not here any more. It, and those whose rank or networks may change with it."""
        affected = self._unlink(key)
        del self._all[key], self._by_vpc[key[0]][key]
        if not self._by_vpc[key[0]]:
            del self._by_vpc[key[0]]
        return affected

    def _unlink(self, key: Key) -> set[Key]:
        attachment, affected = self._all[key], {key}
        pod = self._by_netns[attachment.netns]
        pod.remove(key)
        affected |= pod
        if not pod:
            del self._by_netns[attachment.netns]
        for network in attachment.announces:
            announcers = self._announcers[key[0], network]
            announcers.remove(key)
            affected |= announcers
            if not announcers:
                del self._announcers[key[0], network]
        return affected
