"""The kernel as it was last written, and the ways to make it as desired: resync, apply and verify."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain

import structlog

from galactic import names
from galactic.errors import GalacticError
from galactic.linux.objects import (
    Change,
    Direct,
    EncapJob,
    EndDT46,
    Kernel,
    Objects,
    Via,
    change,
    route_of,
)
from galactic.node.dataplane import gateway_routes, plan
from galactic.node.dataplane.drift import Drift, words
from galactic.node.dataplane.macs import Macs
from galactic.node.dataplane.parts import HOST, UNACCOUNTED, Part, PlannedParts, union
from galactic.node.dataplane.plan import Host
from galactic.node.dataplane.pods import Pods
from galactic.node.dataplane.resync import RouteResync, route_jobs
from galactic.node.dataplane.sandbox import alive
from galactic.node.state.attachment import Attachment, Key
from galactic.node.state.dirty import Dirty
from galactic.node.state.store import Store

log = structlog.get_logger(__name__)


class Dataplane:
    """The kernel as it was last written. Not for concurrent use."""

    def __init__(self, kernel: Kernel, store: Store, exists: Callable[[str], bool] = alive) -> None:
        self._kernel, self._store = kernel, store
        self._parts = PlannedParts()
        self._tables: dict[int, int] = {}  # by VPC
        self._routes: Counter[int] = Counter()  # routes to other nodes in the kernel, by table
        self._indexes: dict[str, int] = {}  # of devices when they were last read
        self._macs = Macs()
        self._written = 0
        self.pods = Pods(kernel, store, exists)
        self.drift = Drift()
        """Objects that the last round which read the kernel found different from what was last written."""
        self.led_out: frozenset[int] | None = None
        """VPCs whose way out of this node was in the kernel after the last round that ended well; None before."""

    @property
    def known(self) -> bool:
        """Whether the kernel is as it was last written, as far as is known."""
        return self._parts.known

    @property
    def written(self) -> int:
        """Objects that were to be written, ever."""
        return self._written + self.pods.objects

    @property
    def routes(self) -> int:
        """Routes to other nodes in the kernel."""
        return self._routes.total()

    def gone(self, attachment: Attachment) -> int:
        """The rounds that read the kernel since the pod's network namespace was first found gone."""
        return self.pods.gone(attachment)

    def forget(self) -> None:
        """The kernel may differ from what was last written."""
        self._parts.known = False
        self.pods.forget_all()

    async def resync(self, host: Host) -> dict[Key, str]:
        """Reads the whole kernel and writes the difference. The failures, by attachment. Raises the host's own
        failure.
        """
        store = self._store
        actual = await self._kernel.objects()
        self._macs.observe(actual.links)
        known, self._parts.known = self._parts.known, False
        tables_before, self._tables = self._tables, plan.tables_of(actual)
        if store.attachments.unaccounted is None:
            store.set_unaccounted(_host_ends(actual))
        # The store goes on changing while the kernel is read: changes from here on are the next round's.
        attachments, hosted = dict(store.attachments), store.attachments.hosted
        left = store.tables.keys() - hosted
        withdrawn = {}  # routes in these tables are surplus: their VPCs have no attachment here any more
        for vpc in left:
            store.tables[vpc].clear()
            withdrawn[tables_before.get(vpc, 0)] = store.tables[vpc].tracker.drain()
        self._assign(hosted)
        routes = RouteResync({self._tables[vpc]: store.tables[vpc] for vpc in hosted}, withdrawn)
        actual.routes = await self._kernel.routes(host.encap, routes.observe)
        self.drift = routes.finish()
        if known:
            written = self._parts.all()
            written.neighbours = actual.neighbours  # a pod may take its interface down: no drift
            self.drift.add(change(written, actual))
        else:
            self.drift = Drift()  # what a round that failed has written is not known
        self.pods.find_gone(attachments, actual)
        present = self.pods.present(attachments)
        inside = await self._read_pods(present, actual)
        parts = self._plan(host, {HOST, *hosted}, present)
        wanted = change(union(parts.values()), actual)
        if unaccounted := self._unaccounted(wanted):
            parts[UNACCOUNTED] = unaccounted
            wanted = change(union(parts.values()), actual)
        failure = await self._write(wanted)
        self._macs.made(wanted.links.set, wanted.links.set.keys() - actual.links.keys())
        await self._introduce(wanted, actual)
        self.pods.forget_others(present)
        problems = await self.pods.write(present, inside)
        failure = await self._keep_neighbours(wanted) or failure
        failure = await self._write_routes(host, routes.jobs()) or failure
        if failure:
            raise failure
        self._routes = routes.counts
        self._indexes = {name: link.ifindex for name, link in actual.links.items()}
        self._parts.replace(parts)
        self.led_out = self._leading_out(parts)
        store.tidy(left)
        return problems

    async def apply(self, host: Host, dirty: Dirty) -> dict[Key, str]:
        """Writes what changed since the last round, without reading. The failures, by attachment."""
        assert self.known
        self._parts.known = False
        store, hosted = self._store, self._store.attachments.hosted
        touched: set[Part] = {*dirty.attachments, *(vpc for vpc, _ in dirty.attachments), *dirty.gateways}
        if dirty.host:
            touched |= {HOST, *self._parts, *hosted, *store.attachments} - {UNACCOUNTED}
        keys = [part for part in touched if not isinstance(part, int)]
        attachments = {key: store.attachments[key] for key in keys if key in store.attachments}
        for key in keys:
            if self.pods.forget_moved(key, attachments.get(key)) and key in attachments:
                await self._remove_earlier(key)
        present = self.pods.present(attachments)
        self._assign({part for part in touched if isinstance(part, int) and part in hosted})
        self._parts.plan(touched, self._plan(host, touched & {HOST, *hosted}, present))
        desired, actual = self._parts.pending()
        wanted = change(desired, actual)
        failure = await self._write(wanted)
        for name in (*wanted.links.set, *wanted.links.delete):
            self._indexes.pop(name, None)
        made = wanted.links.set.keys() - actual.links.keys()
        self._macs.made(wanted.links.set, made)
        new: dict[Key, Objects | None] = {key: None for key in present if names.host_end(*key) in made}
        problems = await self.pods.write(present, new)
        failure = await self._keep_neighbours(wanted) or failure
        failure = await self._write_routes(host, self._route_jobs(dirty.vpcs)) or failure
        if failure:
            raise failure
        self._parts.known = True
        self.led_out = (self.led_out or frozenset()) - touched | self._leading_out(touched)
        store.tidy(dirty.vpcs)
        for vpc in dirty.vpcs - store.tables.keys():
            self._routes.pop(self._tables.pop(vpc, 0), None)
        return problems

    async def verify(self) -> bool:
        """Whether everything but routes is as it was last written, and no device was made again. If not, a resync has
        to follow. Differences inside pods are corrected.
        """
        assert self.known
        actual = await self._kernel.objects()
        left = self._parts.all()
        left.routes = {}
        await self._restore_neighbours(left, actual)
        remade = [
            name
            for name, link in actual.links.items()
            if self._indexes.get(name, link.ifindex) != link.ifindex
        ]
        self._indexes = {name: link.ifindex for name, link in actual.links.items()}
        if change(left, actual) or remade or self.pods.any_gone:
            return False
        self.drift = Drift()
        attachments = self._store.attachments
        present = {key: attachments[key] for key in self.pods.turn() if key in attachments}
        return not await self.pods.write(present, await self._read_pods(present, actual))

    async def verify_sysctls(self) -> bool:
        """Whether they are as they were last written: the kernel does not report changes of most of them."""
        assert self.known
        desired = self._parts.sysctls()
        actual = await self._kernel.sysctls()
        return all(actual.get(name, value) == value for name, value in desired.items())

    async def missing(self, host: Host | None, attachment: Attachment) -> list[str]:
        """The objects of an attachment that the kernel does not have, in words; empty when it has all."""
        table, vrf = self._tables.get(attachment.vpc), names.vrf(attachment.vpc)
        if host is None or table is None:
            return [f"VRF {vrf}"]
        actual, attached = await self._kernel.objects(), self._attached(host, table, attachment)
        attached.neighbours = actual.neighbours = {}  # a pod may take its interface down
        for device in (vrf, names.host_end(*attachment.key)):
            actual.routes |= await self._kernel.routes_of(device)
        missing = [*words(change(attached, actual))]
        inside = await self._kernel.read_pod(attachment.netns, attachment.ifname)
        if inside is None:
            return [*missing, f"{attachment.ifname} in {attachment.netns}"]
        rank = (
            self._store.attachments.rank(attachment.key) if attachment.key in self._store.attachments else 0
        )
        return [*missing, *words(change(plan.pod(attachment, rank), inside))]

    async def _introduce(self, wanted: Change, actual: Objects) -> None:
        """Makes host ends whose MAC was put back ask for their pods, which so learn the MAC at once."""
        restored = {
            name
            for name, link in wanted.links.set.items()
            if name in actual.links and actual.links[name].mac != link.mac
        }
        attachments = self._store.attachments.items()
        asked = [
            (device, address.ip)
            for key, attachment in attachments
            if (device := names.host_end(*key)) in restored
            for address in attachment.addresses
        ]
        if asked:
            await self._kernel.solicit(asked)

    async def _restore_neighbours(self, left: Objects, actual: Objects) -> None:
        """Writes those that the kernel has lost; it forgets a host end's when the pod takes its own end down. No round
        that reads all routes follows: pods could make the node do nothing else.
        """
        lost = change(Objects(neighbours=left.neighbours), Objects(neighbours=actual.neighbours))
        if not await self._write(lost):
            actual.neighbours = left.neighbours

    async def _keep_neighbours(self, written: Change) -> GalacticError | None:
        """Again, on new host ends: the kernel forgets them while the pod's end is down. The failure."""
        again = Objects(
            neighbours={key: None for key in written.neighbours.set if key[0] in written.links.set}
        )
        try:
            if again.neighbours:
                await self._kernel.write(change(again, Objects()))
        except GalacticError as error:
            return error
        return None

    def _leading_out(self, parts: Iterable[Part]) -> frozenset[int]:
        """Those of these parts that are of VPCs and have a way out of this node."""
        vpcs = {part for part in parts if isinstance(part, int) and part in self._parts} - {HOST, UNACCOUNTED}
        return frozenset(vpc for vpc in vpcs if any(map(_is_exit_end, self._parts[vpc].links)))

    def _assign(self, vpcs: Iterable[int]) -> None:
        self._tables |= plan.tables(vpcs, self._tables)

    def _plan(self, host: Host, wanted: set[Part], present: Mapping[Key, Attachment]) -> dict[Part, Objects]:
        """The host's and VPCs' parts that are wanted, and those of all attachments given."""
        parts: dict[Part, Objects] = {}
        for part in wanted:
            if isinstance(part, int):
                parts[part] = self._macs.kept(plan.host(host) if part == HOST else self._vpc(host, part))
        for key, attachment in present.items():
            parts[key] = self._attached(host, self._tables[key[0]], attachment)
        return parts

    def _vpc(self, host: Host, vpc: int) -> Objects:
        table = self._tables[vpc]
        way = gateway_routes.objects(host, vpc, table, self._store.gateways)
        return union((plan.vpc(vpc, table), way))

    def _attached(self, host: Host, table: int, attachment: Attachment) -> Objects:
        holds = self._store.tables.holds
        planned = plan.attached(host, table, attachment, lambda network: holds(attachment, network))
        return self._macs.kept(planned)

    def _unaccounted(self, wanted: Change) -> Objects | None:
        """Of the objects to be deleted, those of VPCs that have attachments which are not accounted for: they stay."""
        vpcs = {vpc for vpc, _ in self._store.attachments.unaccounted or ()}
        if not vpcs:
            return None
        tables = {self._tables[vpc] for vpc in vpcs if vpc in self._tables}
        tables |= {table + plan.TABLES for table in tables}  # of VRFs of gateways
        return Objects(
            links={name: link for name, link in wanted.links.delete.items() if _vpc(name) in vpcs},
            addresses={key: flag for key, flag in wanted.addresses.delete.items() if _vpc(key[0]) in vpcs},
            neighbours={key: None for key in wanted.neighbours.delete if _vpc(key[0]) in vpcs},
            routes={
                key: to
                for key, to in wanted.routes.delete.items()
                if route_of(key)[0] in tables or (isinstance(to, EndDT46) and to.table in tables)
            },
        )

    async def _read_pods(
        self, present: Mapping[Key, Attachment], actual: Objects
    ) -> dict[Key, Objects | None]:
        """The objects inside pods. Where a pod has no such interface, the host end leads to another pod: it goes."""

        def same_device(key: Key) -> bool:
            device = names.host_end(*key)
            link = actual.links.get(device)
            return bool(link and self._indexes.get(device, link.ifindex) == link.ifindex)

        inside = await self.pods.read(present, same_device, self.drift)
        for key, objects in inside.items():
            if objects is None and names.host_end(*key) in actual.links:
                rest = await self._remove_device(names.host_end(*key), actual)
                actual.links, actual.addresses, actual.routes = rest.links, rest.addresses, rest.routes
                actual.sysctls, actual.neighbours = rest.sysctls, rest.neighbours
        return inside

    async def _remove_earlier(self, key: Key) -> None:
        """The host end leads to the pod that had the attachment earlier: it goes."""
        actual, device = self._parts.actual((key,)), names.host_end(*key)
        if device in actual.links:
            self._parts.observe(key, await self._remove_device(device, actual))

    async def _remove_device(self, device: str, actual: Objects) -> Objects:
        """Removes a device. The rest of ``actual``: without it and the objects that depend on it."""
        log.info("removing the interface of an earlier pod", device=device)
        rest = replace(
            actual,
            links={name: link for name, link in actual.links.items() if name != device},
            addresses={key: flag for key, flag in actual.addresses.items() if key[0] != device},
            neighbours={key: None for key in actual.neighbours if key[0] != device},
            routes={
                key: to
                for key, to in actual.routes.items()
                if not (isinstance(to, Direct | Via) and to.device == device)
            },
            sysctls={path: value for path, value in actual.sysctls.items() if device not in path.split("/")},
        )
        await self._kernel.write(change(rest, actual))
        return rest

    async def _write(self, wanted: Change) -> GalacticError | None:
        """The failure, instead of raising it: pods whose objects are fine must not wait for the others."""
        self._written += len(wanted)
        try:
            if wanted:
                await self._kernel.write(wanted)
        except GalacticError as error:
            return error
        return None

    def _route_jobs(self, vpcs: Iterable[int]) -> Iterator[EncapJob]:
        for vpc in vpcs:
            remotes, table = self._store.tables.get(vpc), self._tables.get(vpc)
            # Without a table the VPC came and went between two rounds: none of its routes was ever in the kernel.
            if remotes is not None and table is not None:
                yield from route_jobs(table, remotes, self._routes)

    async def _write_routes(self, host: Host, jobs: Iterator[EncapJob]) -> GalacticError | None:
        """The failure, instead of raising it."""
        first = next(jobs, None)
        try:
            if first is not None:
                await self._kernel.write_encaps(host.encap, self._counted(chain((first,), jobs)))
        except GalacticError as error:
            return error
        return None

    def _counted(self, jobs: Iterable[EncapJob]) -> Iterator[EncapJob]:
        for job in jobs:
            self._written += 1
            yield job


def _host_ends(actual: Objects) -> set[Key]:
    """The attachments whose host ends are in the kernel."""
    parsed = (names.parse_interface(name) for name, link in actual.links.items() if link.kind == "veth")
    return {(parts[0], parts[1]) for parts in parsed if parts and parts[2] == "H"}


def _is_exit_end(device: str) -> bool:
    named = names.parse_interface(device)
    return named is not None and named[2] == "E"


def _vpc(device: str) -> int | None:
    parts = names.parse_interface(device)
    return parts[0] if parts else None
