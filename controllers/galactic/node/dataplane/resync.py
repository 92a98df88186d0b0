"""The kernel's routes to other nodes, compared with what is wanted while they are being dumped.

Nothing is kept of a route that is right, so that looking at 100,000 of them costs time but hardly memory.
"""

from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType

from galactic.linux.objects import EncapJob, PackedNetwork, RouteKey, encap_key, encap_metric, place
from galactic.node.dataplane.drift import ADDED, GONE, Drift
from galactic.node.state.remote import RemoteRoutes


class RouteResync:
    """What one dump finds. ``remotes``: by table, of every VPC that has one; whatever is in other tables is too much.
    ``left``: by table, what we wrote ourselves of VPCs that are not wanted any more.

    Where nobody but the kernel has told of a VPC yet, what it has is not compared but adopted.
    """

    def __init__(
        self,
        remotes: Mapping[int, RemoteRoutes],
        left: Mapping[int, Collection[PackedNetwork]] = MappingProxyType({}),
    ) -> None:
        self._remotes, self._left = remotes, left
        self._adopted: dict[int, dict[PackedNetwork, bytes]] = {
            table: {} for table, each in remotes.items() if each.adopting
        }
        self._expected = {
            table: each.take_pending() for table, each in remotes.items() if table not in self._adopted
        }
        self._unseen = {table: set(remotes[table]) for table in self._expected}
        self._counts = {table: len(unseen) for table, unseen in self._unseen.items()}
        self._wrong: list[tuple[int, PackedNetwork, int, bytes]] = []

    def take(self, table: int, network: PackedNetwork, metric: int, segment: bytes) -> None:
        """One route of the dump; it may come more than once."""
        remotes = self._remotes.get(table)
        right = metric == encap_metric(network, segment)
        if (adopted := self._adopted.get(table)) is not None:
            adopted[network] = segment
        elif right and remotes and remotes.wanted(network) == segment:
            self._unseen[table].discard(network)
            return
        if not right or adopted is None:
            self._wrong.append((table, network, metric, segment))

    def done(self) -> Drift:
        """The dump is over. The routes that differ from what was last written."""
        for table, adopted in self._adopted.items():
            self._remotes[table].found(adopted)
            self._counts[table] = len(adopted)
        drift = Drift()
        for table, unseen in self._unseen.items():
            for network in unseen:
                if network not in self._expected[table]:
                    drift.add_route(table, network, GONE)
        for table, network, _, _ in self._wrong:
            ours = self._expected.get(table) or self._left.get(table, ())
            if network not in ours and table not in self._adopted:
                drift.add_route(table, network, ADDED)
        return drift

    def counts(self) -> dict[int, int]:
        """Routes by table, once the jobs are done."""
        return self._counts

    def jobs(self) -> Iterator[EncapJob]:
        """What makes it right: sets first. To be taken one after the other: it asks what is wanted at that moment."""
        for table, unseen in self._unseen.items():
            for network in unseen:
                if segment := self._remotes[table].write(network):
                    yield encap_key(table, network, segment), segment, False
                else:
                    self._counts[table] -= 1  # it was withdrawn meanwhile
        for table in self._adopted:
            remotes, pending = self._remotes[table], self._remotes[table].take_pending()
            self._counts[table] -= count(pending)
            yield from pending_jobs(table, remotes, pending)
            self._counts[table] += count(pending)
        deleted: set[RouteKey] = set()
        for table, network, metric, segment in self._wrong:
            elsewhere = self._remotes.get(table)
            wanted = elsewhere.wanted(network) if elsewhere else None
            key = place(table, metric) + network
            if wanted is not None and key == encap_key(table, network, wanted):
                continue  # it was replaced in its place
            if wanted is not None and wanted == segment:
                yield encap_key(table, network, wanted), wanted, False
            if key not in deleted:
                deleted.add(key)
                yield key, segment, True


def pending_jobs(
    table: int, remotes: RemoteRoutes, pending: dict[PackedNetwork, bytes | None]
) -> Iterator[EncapJob]:
    """What makes the networks right of which the kernel is thought to have ``pending``: make before break. What it has
    afterwards is in ``pending`` then.
    """
    for network, there in pending.items():
        wanted = pending[network] = remotes.write(network)
        if wanted == there:
            continue
        key = encap_key(table, network, wanted) if wanted is not None else None
        if key is not None and wanted is not None:
            yield key, wanted, False
        if there is not None and (old := encap_key(table, network, there)) != key:
            yield old, there, True


def count(pending: Mapping[PackedNetwork, bytes | None]) -> int:
    """How many of these networks the kernel has a route to."""
    return sum(segment is not None for segment in pending.values())
