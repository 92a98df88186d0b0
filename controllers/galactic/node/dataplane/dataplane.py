"""What was last written to the kernel, in parts, and the ways to bring it to what is wanted: full, delta and look."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain, islice
from typing import Final, NamedTuple

import structlog

from galactic import names
from galactic.diff import Diff
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
from galactic.node.dataplane import plan
from galactic.node.dataplane.drift import Drift, words
from galactic.node.dataplane.plan import Host
from galactic.node.dataplane.resync import RouteResync, count, pending_jobs
from galactic.node.dataplane.sandbox import alive
from galactic.node.state.attachment import Attachment, Key
from galactic.node.state.store import Dirty, Store

log = structlog.get_logger(__name__)
HOST: Final = 0
"""The part that is the node's own; 0 is no VPC's identifier."""
PODS_A_LOOK: Final = 4
"""Namespaces of pods that are looked into each time: nothing tells of what is done inside them."""

Part = int | Key
"""The node's own, a VPC's or an attachment's. Parts have no object in common."""


class Pod(NamedTuple):
    """Where a pod's interface is, and what was last written into it."""

    netns: str
    ifname: str
    objects: Objects


class Dataplane:
    """The kernel as it was left. Not for concurrent use."""

    def __init__(self, kernel: Kernel, store: Store, exists: Callable[[str], bool] = alive) -> None:
        self._kernel, self._store, self._exists = kernel, store, exists
        self._parts: dict[Part, Objects] | None = None  # None: unknown
        self._pods: dict[Key, Pod] = {}
        self._indexes: dict[str, int] = {}  # of devices when they were last seen
        self._tables: dict[int, int] = {}
        self._encaps: dict[int, int] = {}  # VPC → networks elsewhere that are in the kernel
        self._gone: dict[Attachment, int] = {}
        self._kept = Objects()  # what is in the kernel of attachments that are not accounted for yet
        self.drift = Drift()
        """Objects found different from what was last written, by the last round that read the kernel."""
        self.written = 0
        """Objects that were to be written, ever."""

    @property
    def known(self) -> bool:
        return self._parts is not None

    def gone(self, attachment: Attachment) -> int:
        """For how many rounds that read the kernel the pod's namespace has not existed any more."""
        return self._gone.get(attachment, 0)

    def forget(self) -> None:
        """What is in the kernel is not known any more."""
        self._parts = None
        self._pods.clear()

    def routes(self) -> int:
        """Remote routes in the kernel."""
        return sum(self._encaps.values())

    async def full(self, host: Host) -> dict[Key, str]:
        """Reads everything and writes the difference. What failed, by attachment. Raises what the host failed with."""
        store = self._store
        actual = await self._kernel.look()
        known, self._parts = self._parts, None
        had, self._tables = self._tables, plan.tables_of(actual)
        if store.orphans is None:
            store.set_orphans(_host_ends(actual))
        # The store goes on changing while we wait for the kernel: what comes now is the next round's.
        local, hosted = dict(store.attachments), store.hosted
        left = store.remotes.keys() - hosted
        going = {}  # their tables are nobody's, and whatever the dump finds in them goes
        for vpc in left:
            store.remotes[vpc].clear()
            going[had.get(vpc, 0)] = store.remotes[vpc].take_pending()
        self._assign(hosted)
        sieve = RouteResync({self._tables[vpc]: store.remotes[vpc] for vpc in hosted}, going)
        actual.routes = await self._kernel.routes(host.encap, sieve.take)
        self.drift = sieve.done()
        if known is None:
            self.drift = Drift()  # of a round that failed nobody knows what it wrote
        else:
            self.drift.add(change(union([*known.values(), self._kept]), actual))
        self._find_gone(local, actual)
        present = {key: each for key, each in local.items() if each not in self._gone}
        inside = await self._look_inside(present, actual)
        parts = self._plan(host, {HOST, *hosted}, present)
        wanted = change(union(parts.values()), actual)
        held = self._held(wanted)
        self._kept = Objects(
            {name: to for name, to in wanted.links.delete.items() if name not in held.links.delete},
            {key: to for key, to in wanted.addresses.delete.items() if key not in held.addresses.delete},
            {key: to for key, to in wanted.routes.delete.items() if key not in held.routes.delete},
        )
        failure = await self._write(held)
        for key in self._pods.keys() - present.keys():
            del self._pods[key]
        problems = await self._write_pods(present, inside)
        failure = await self._write_encaps(host, sieve.jobs()) or failure
        if failure:
            raise failure
        vpcs = {table: vpc for vpc, table in self._tables.items()}
        self._encaps = {vpcs[table]: count for table, count in sieve.counts().items()}
        self._indexes = {name: link.ifindex for name, link in actual.links.items()}
        self._parts = parts
        store.tidy(left)
        return problems

    async def delta(self, host: Host, dirty: Dirty) -> dict[Key, str]:
        """Writes what changed since the last round, without reading. What failed, by attachment."""
        assert self._parts is not None
        parts, self._parts = self._parts, None
        store, hosted = self._store, self._store.hosted
        touched: set[Part] = {*dirty.attachments, *(vpc for vpc, _ in dirty.attachments)}
        if dirty.host:
            touched |= {HOST, *parts, *hosted, *store.attachments}
        before = union(parts[part] for part in touched if part in parts)
        local = {key: store.attachments[key] for key in _attachments(touched) if key in store.attachments}
        await self._forget_moved(_attachments(touched), local, before)
        present = {key: each for key, each in local.items() if each not in self._gone}
        self._assign({part for part in touched if isinstance(part, int) and part in hosted})
        planned = self._plan(host, touched & {HOST, *hosted}, present)
        wanted = change(union(planned.values()), before)
        failure = await self._write(wanted)
        for name in (*wanted.links.set, *wanted.links.delete):
            self._indexes.pop(name, None)
        made = {
            key: None for key in present if names.host_end(*key) in wanted.links.set.keys() - before.links
        }
        problems = await self._write_pods(present, made)
        failure = await self._write_encaps(host, self._encap_jobs(dirty.vpcs)) or failure
        if failure:
            raise failure
        for part in touched:
            parts.pop(part, None)
        parts.update(planned)
        self._parts = parts
        store.tidy(dirty.vpcs)
        for vpc in dirty.vpcs - store.remotes.keys():
            self._tables.pop(vpc, None)
            self._encaps.pop(vpc, None)
        return problems

    async def look(self) -> bool:
        """Whether everything but routes is as it was left, devices being the same ones. Puts right what is inside pods.

        If not, a full round is due.
        """
        assert self._parts is not None
        actual = await self._kernel.look()
        left = union([*self._parts.values(), self._kept])
        left.routes = {}
        indexes = {name: link.ifindex for name, link in actual.links.items()}
        remade = [name for name, index in self._indexes.items() if indexes.get(name, index) != index]
        self._indexes = indexes
        if change(left, actual) or remade or self._gone:
            return False
        self.drift = Drift()
        present = {
            key: self._store.attachments[key] for key in self._turn() if key in self._store.attachments
        }
        return not await self._write_pods(present, await self._look_inside(present, actual))

    async def sysctls(self) -> bool:
        """Whether they are as they were left: nobody tells of these."""
        assert self._parts is not None
        wanted = self._parts[HOST].sysctls
        actual = await self._kernel.sysctls()
        return all(actual.get(name, value) == value for name, value in wanted.items())

    async def lacking(self, host: Host | None, attachment: Attachment) -> list[str]:
        """What of an attachment the kernel does not have, in words; empty when all is there."""
        table, vrf = self._tables.get(attachment.vpc), names.vrf(attachment.vpc)
        if host is None or table is None:
            return [f"VRF {vrf}"]
        actual = await self._kernel.look()
        for device in (vrf, names.host_end(*attachment.key)):
            actual.routes |= await self._kernel.routes_of(device)
        missing = [*words(change(self._attached(host, table, attachment), actual))]
        inside = await self._kernel.read_pod(attachment.netns, attachment.ifname)
        if inside is None:
            return [*missing, f"{attachment.ifname} in {attachment.netns}"]
        rank = self._store.rank(attachment.key) if attachment.key in self._store.attachments else 0
        return [*missing, *words(change(plan.pod(attachment, rank), inside))]

    def _assign(self, vpcs: Iterable[int]) -> None:
        self._tables |= plan.tables(vpcs, self._tables)

    def _plan(self, host: Host, wanted: set[Part], present: Mapping[Key, Attachment]) -> dict[Part, Objects]:
        """The host's and VPCs' parts that are wanted, and those of all attachments given."""
        parts: dict[Part, Objects] = {}
        for part in wanted:
            if isinstance(part, int):
                parts[part] = plan.host(host) if part == HOST else plan.vpc(part, self._tables[part])
        for key, attachment in present.items():
            parts[key] = self._attached(host, self._tables[key[0]], attachment)
        return parts

    def _attached(self, host: Host, table: int, attachment: Attachment) -> Objects:
        vpc, key = attachment.vpc, attachment.key
        return plan.attached(host, table, attachment, lambda network: self._store.holder(vpc, network) == key)

    def _encap_jobs(self, vpcs: Iterable[int]) -> Iterator[EncapJob]:
        for vpc in vpcs:
            remotes, table = self._store.remotes.get(vpc), self._tables.get(vpc)
            if remotes is None:
                continue
            pending = remotes.take_pending()
            if table is None:
                continue  # it came and went between two rounds: nothing of it was ever in the kernel
            had = count(pending)
            yield from pending_jobs(table, remotes, pending)
            self._encaps[vpc] = self._encaps.get(vpc, 0) + count(pending) - had

    def _held(self, wanted: Change) -> Change:
        """Without deleting anything of VPCs that have attachments which are not accounted for yet."""
        vpcs = {vpc for vpc, _ in self._store.orphans or ()}
        if not vpcs:
            return wanted
        tables = {self._tables[vpc] for vpc in vpcs if vpc in self._tables}
        links = {name: to for name, to in wanted.links.delete.items() if _vpc(name) not in vpcs}
        addresses = {key: to for key, to in wanted.addresses.delete.items() if _vpc(key[0]) not in vpcs}
        routes = {
            key: to
            for key, to in wanted.routes.delete.items()
            if route_of(key)[0] not in tables and not (isinstance(to, EndDT46) and to.table in tables)
        }
        return replace(
            wanted,
            links=Diff(wanted.links.set, links),
            addresses=Diff(wanted.addresses.set, addresses),
            routes=Diff(wanted.routes.set, routes),
        )

    def _find_gone(self, local: Mapping[Key, Attachment], actual: Objects) -> None:
        """A namespace that is gone took its end of the veth pair, and so the pair, with it."""
        lost = [each for key, each in local.items() if names.host_end(*key) not in actual.links]
        self._gone = {each: self.gone(each) + 1 for each in lost if not self._exists(each.netns)}

    async def _look_inside(
        self, present: Mapping[Key, Attachment], actual: Objects
    ) -> dict[Key, Objects | None]:
        """What is inside the pods of which that is not known, or not any more, and of those whose turn it is.

        Interfaces of that name that lead to another pod are removed.
        """
        inside: dict[Key, Objects | None] = {}
        turn = self._turn()
        for key, each in present.items():
            device, pod = names.host_end(*key), self._pods.get(key)
            link = actual.links.get(device)
            same = link and self._indexes.get(device, link.ifindex) == link.ifindex
            same = bool(same and pod and (pod.netns, pod.ifname) == (each.netns, each.ifname))
            if same and key not in turn:
                continue
            self._pods.pop(key, None)
            inside[key] = found = await self._kernel.read_pod(each.netns, each.ifname)
            if same and pod and found:
                self.drift.add(change(pod.objects, found))
            if inside[key] is None and link:
                await self._remove_stale(device, actual)
        return inside

    def _turn(self) -> tuple[Key, ...]:
        """The pods that were not looked into for the longest time."""
        return tuple(islice(self._pods, PODS_A_LOOK))

    async def _forget_moved(
        self, keys: Iterable[Key], local: Mapping[Key, Attachment], before: Objects
    ) -> None:
        """What is known of pods that an attachment does not belong to any more."""
        for key in keys:
            pod, attachment = self._pods.get(key), local.get(key)
            if pod is None or (attachment and (attachment.netns, attachment.ifname) == pod[:2]):
                continue
            del self._pods[key]
            device = names.host_end(*key)
            if attachment is not None and device in before.links:
                await self._remove_stale(device, before)

    async def _write(self, wanted: Change) -> GalacticError | None:
        """The failure, instead of raising it: pods that are fine must not wait for what is not."""
        self.written += len(wanted)
        try:
            if wanted:
                await self._kernel.write(wanted)
        except GalacticError as error:
            return error
        return None

    async def _write_encaps(self, host: Host, jobs: Iterator[EncapJob]) -> GalacticError | None:
        first = next(jobs, None)
        try:
            if first is not None:
                await self._kernel.write_encaps(host.encap, self._counted(chain((first,), jobs)))
        except GalacticError as error:
            return error
        return None

    def _counted(self, jobs: Iterable[EncapJob]) -> Iterator[EncapJob]:
        for job in jobs:
            self.written += 1
            yield job

    async def _write_pods(
        self, present: Mapping[Key, Attachment], inside: Mapping[Key, Objects | None]
    ) -> dict[Key, str]:
        """What failed, by attachment. ``inside``: what was just read; what was last written counts otherwise."""
        problems = {}
        for key, attachment in present.items():
            if key not in self._store.attachments:
                continue  # detached meanwhile
            wanted, pod = plan.pod(attachment, self._store.rank(key)), self._pods.get(key)
            if key in inside:
                actual = inside[key] or Objects()
            elif pod:
                actual = pod.objects
            else:
                actual = await self._kernel.read_pod(attachment.netns, attachment.ifname) or Objects()
            try:
                if difference := change(wanted, actual):
                    self.written += len(difference)
                    await self._kernel.write_pod(attachment.netns, difference)
            except GalacticError as error:
                self._pods.pop(key, None)
                problems[key] = str(error)
            else:
                self._pods[key] = Pod(attachment.netns, attachment.ifname, wanted)
        return problems

    async def _remove_stale(self, device: str, actual: Objects) -> None:
        """A veth of that name leads elsewhere (an earlier pod's): it goes, with
        what depends on it, from ``actual`` too.
        """
        log.info("removing the interface of an earlier pod", device=device)
        rest = Objects(
            links={name: link for name, link in actual.links.items() if name != device},
            addresses={key: flag for key, flag in actual.addresses.items() if key[0] != device},
            routes={
                key: to
                for key, to in actual.routes.items()
                if not (isinstance(to, Direct | Via) and to.device == device)
            },
            rules=actual.rules,
        )
        await self._kernel.write(
            change(rest, Objects(actual.links, actual.addresses, actual.routes, actual.rules))
        )
        actual.links, actual.addresses, actual.routes = rest.links, rest.addresses, rest.routes


def union(parts: Iterable[Objects]) -> Objects:
    """All parts as one."""
    whole = Objects()
    for part in parts:
        whole.links |= part.links
        whole.addresses |= part.addresses
        whole.routes |= part.routes
        whole.rules |= part.rules
        whole.sysctls |= part.sysctls
    return whole


def _attachments(parts: Iterable[Part]) -> list[Key]:
    return [part for part in parts if not isinstance(part, int)]


def _host_ends(actual: Objects) -> set[Key]:
    """The attachments whose host ends are there."""
    parsed = (names.parse_interface(name) for name, link in actual.links.items() if link.kind == "veth")
    return {(parts[0], parts[1]) for parts in parsed if parts and parts[2] == "H"}


def _vpc(device: str) -> int | None:
    parts = names.parse_interface(device)
    return parts[0] if parts else None
