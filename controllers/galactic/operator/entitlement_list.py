"""The list of what attachments entitle to, and of VPCs that name peers: its entries, and the shards that they are in.

Pure (docs/design/entitlements.md).
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_interface

import msgspec

from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import VpcAttachment
from galactic.kube.api import Key
from galactic.messages import Entitlement, PeeringVpc
from galactic.operator.peering import named
from galactic.operator.state import Caches


def entitlement(attachment: VpcAttachment) -> Entitlement:
    """The entry of an attachment: a copy of its status, which the operator alone writes."""
    meta, status = attachment.metadata, attachment.status
    terminations = status.configuration.terminations if status.configuration else ()
    return Entitlement(
        f"{meta.namespace}/{meta.name}",
        status.configuration.vpc if status.configuration else "",
        status.identifier or "",
        (*_hosts(status.addresses), *(termination.network for termination in terminations)),
        tuple(sorted({carrier.node for carrier in status.carriers or ()})),
        status.ready,
        status.vpc or "",
    )


def _hosts(addresses: Iterable[str]) -> Iterator[str]:
    for address in addresses:
        with suppress(ValueError):
            host = ip_interface(address).ip
            yield f"{host}/{host.max_prefixlen}"


def declaration(key: Key, caches: Caches) -> PeeringVpc | None:
    """The entry of a VPC that names peers with identifiers; None for any other, and for one that is being deleted."""
    vpc = caches.vpcs.get(key)
    if not isinstance(vpc, Vpc) or not vpc.status.identifier or vpc.metadata.deletion_timestamp is not None:
        return None
    peers = [caches.vpcs.get(peer) for peer in named(key, vpc) if peer != key]
    known = dict.fromkeys(
        peer.status.identifier for peer in peers if isinstance(peer, Vpc) and peer.status.identifier
    )
    if not known:
        return None
    return PeeringVpc("/".join(key), vpc.status.identifier, vpc.spec.networks, tuple(known))


Entry = Entitlement | PeeringVpc


def _name(entry: Entry) -> str:
    """The key of an entry in the layout: no attachment's name begins with a slash."""
    return f"/{entry.name}" if isinstance(entry, PeeringVpc) else entry.attachment


@dataclass(slots=True)
class Layout:
    """Which entry is in which shard. It stays there as long as there is room, and else moves to the last one.

    ``room``: bytes of the entries of a shard.
    """

    room: int
    shards: list[dict[str, Entry]] = field(default_factory=lambda: [{}])
    dirty: set[int] = field(default_factory=lambda: {0})
    """Shards that differ from what is published. The last goes first: entries that move arrive before they leave."""
    _sizes: list[int] = field(default_factory=lambda: [0])
    _where: dict[str, tuple[int, int]] = field(default_factory=dict)  # name → shard, bytes

    def put(self, entry: Entry) -> None:
        """The entry as it is now."""
        name = _name(entry)
        size, (shard, before) = len(msgspec.json.encode(entry)), self._where.get(name, (-1, 0))
        if shard >= 0 and self.shards[shard].get(name) == entry:
            return
        if shard < 0 or self._sizes[shard] - before + size > self.room:
            self._take(name, shard, before)
            if shard >= 0:
                self.dirty.add(shard)
            shard, before = self._room(size), 0
        self.shards[shard][name] = entry
        self._sizes[shard] += size - before
        self._where[name] = shard, size
        self.dirty.add(shard)

    def remove(self, name: str) -> None:
        """The attachment is no more, or (with a slash in front) the VPC names no peers."""
        if (where := self._where.pop(name, None)) is not None:
            self._take(name, *where)
            self.dirty.add(where[0])

    @property
    def sparse(self) -> bool:
        """Whether most shards have been left: a list of its own would be much shorter."""
        return len(self.shards) > 4 + 3 * sum(self._sizes) // self.room

    def _take(self, name: str, shard: int, size: int) -> None:
        if shard >= 0:
            del self.shards[shard][name]
            self._sizes[shard] -= size

    def _room(self, size: int) -> int:
        """The last shard, or a new one: former shards refill as their own entries change."""
        last = len(self.shards) - 1
        if self._sizes[last] and self._sizes[last] + size > self.room:
            self.shards.append({})
            self._sizes.append(0)
            self.dirty.add(last + 1)
        return len(self.shards) - 1
