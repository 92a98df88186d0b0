"""The kernel's routes to other nodes, compared with the desired ones while the kernel dumps them.

Of a route that is in place nothing is kept, so a resync of 100,000 routes costs time but hardly memory.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType

from galactic.linux.objects import EncapJob, PackedNetwork, RouteKey, encap_key, encap_metric, place
from galactic.node.dataplane.drift import ADDED, GONE, Drift
from galactic.node.state.remote import RemoteRoutes


class RouteResync:
    """One dump of the kernel's routes. ``remotes``: the desired routes, by table; a route in another table is surplus.
    ``withdrawn``: by table, networks that we wrote for VPCs without an attachment here; they are surplus but no drift.

    Where a VPC has no table yet, the kernel's routes are adopted, not compared.
    """

    def __init__(
        self,
        remotes: Mapping[int, RemoteRoutes],
        withdrawn: Mapping[int, Collection[PackedNetwork]] = MappingProxyType({}),
    ) -> None:
        self._remotes, self._withdrawn = remotes, withdrawn
        self._adopted: dict[int, dict[PackedNetwork, bytes]] = {
            table: {} for table, routes in remotes.items() if routes.adopting
        }
        self._pending = {
            table: routes.tracker.drain() for table, routes in remotes.items() if table not in self._adopted
        }
        self._unseen = {table: set(remotes[table]) for table in self._pending}
        self._surplus: list[tuple[int, PackedNetwork, int, bytes]] = []
        self.counts = Counter({table: len(unseen) for table, unseen in self._unseen.items()})
        """Routes in the kernel by table, once the jobs are written."""

    def observe(self, table: int, network: PackedNetwork, metric: int, segment: bytes) -> None:
        """One route of the dump, which may have it more than once."""
        remotes = self._remotes.get(table)
        in_place = metric == encap_metric(network, segment)
        if table in self._adopted:
            self._adopted[table][network] = segment
        elif in_place and remotes and remotes.segment(network) == segment:
            self._unseen[table].discard(network)
            return
        if not in_place or table not in self._adopted:
            self._surplus.append((table, network, metric, segment))

    def finish(self) -> Drift:
        """The dump is complete. The routes that differ from what was last written."""
        drift = Drift()
        for table, segments in self._adopted.items():
            self._remotes[table].adopt(segments)
            self.counts[table] = len(segments)
        for table, unseen in self._unseen.items():
            self.counts[table] -= len(unseen)
            for network in unseen:
                self._remotes[table].tracker.observe(network, None)
                if network not in self._pending[table]:
                    drift.add_route(table, network, GONE)
        for table, network, _, _ in self._surplus:
            ours = self._pending.get(table) or self._withdrawn.get(table, ())
            if network not in ours and table not in self._adopted:
                drift.add_route(table, network, ADDED)
        return drift

    def jobs(self) -> Iterator[EncapJob]:
        """The jobs that make the kernel as desired: missing routes first, then surplus ones. Each job is made when it
        is written, by the desired state of that moment.
        """
        for table, remotes in self._remotes.items():
            yield from route_jobs(table, remotes, self.counts)
        deleted: set[RouteKey] = set()
        for table, network, metric, segment in self._surplus:
            owner = self._remotes.get(table)
            desired = owner.segment(network) if owner else None
            key = place(table, metric) + network
            if desired is not None and key == encap_key(table, network, desired):
                continue  # it was replaced in its place
            if desired is not None and desired == segment:  # adopted, with another metric
                yield encap_key(table, network, desired), desired, False
            if key not in deleted:
                deleted.add(key)
                yield key, segment, True


def route_jobs(table: int, remotes: RemoteRoutes, counts: Counter[int]) -> Iterator[EncapJob]:
    """The jobs that write a VPC's pending routes, make before break. ``counts``: routes in the kernel, by table."""
    more = 0
    for network, actual, desired in remotes.tracker.deltas():
        more += (desired is not None) - (actual is not None)
        key = encap_key(table, network, desired) if desired is not None else None
        if key is not None and desired is not None:
            yield key, desired, False
        if actual is not None and (old := encap_key(table, network, actual)) != key:
            yield old, actual, True
    counts[table] += more
