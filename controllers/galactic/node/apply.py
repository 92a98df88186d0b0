"""What was last written to the kernel, in parts, and the two ways to bring it to what is wanted: full and delta."""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

import structlog

from galactic import names
from galactic.errors import GalacticError
from galactic.linux.objects import (
    Change,
    Direct,
    Encap,
    Kernel,
    Network,
    Objects,
    Via,
    change,
    route_of,
)
from galactic.node import plan
from galactic.node.attachment import Attachment, Key
from galactic.node.plan import Host
from galactic.node.store import Store

log = structlog.get_logger(__name__)
HOST: Final = 0
"""The part that is the node's own; 0 is no VPC's identifier."""


class Pod(NamedTuple):
    """Where a pod's interface is, and what was last written into it."""

    netns: str
    ifname: str
    objects: Objects


class Applied:
    """The kernel as it was left. Not for concurrent use."""

    def __init__(self, kernel: Kernel, store: Store, exists: Callable[[str], bool] = os.path.exists) -> None:
        self._kernel, self._store, self._exists = kernel, store, exists
        self._parts: dict[int, Objects] | None = None  # None: unknown
        self._pods: dict[Key, Pod] = {}
        self._tables: dict[int, int] = {}
        self._adopted = False
        self._gone: dict[Attachment, int] = {}
        self.drift = 0
        """Objects found different from what was last written, by the last full round."""

    @property
    def known(self) -> bool:
        return self._parts is not None

    def gone(self, attachment: Attachment) -> int:
        """For how many full rounds the pod's namespace has not existed any more."""
        return self._gone.get(attachment, 0)

    def forget(self) -> None:
        """What is in the kernel is not known any more."""
        self._parts = None
        self._pods.clear()

    def routes(self) -> int:
        """Remote routes in the kernel."""
        parts = self._parts or {}
        return sum(isinstance(to, Encap) for part in parts.values() for to in part.routes.values())

    async def full(self, host: Host) -> dict[Key, str]:
        """Reads everything and writes the difference. What failed, by attachment. Raises what the host
        failed with.
        """
        actual = await self._kernel.read()
        known, self._parts = self._parts, None
        self._tables = plan.tables_of(actual)
        self._adopt(actual)
        self.drift = len(change(union(known.values()), actual)) if known else 0
        # The store goes on changing while we wait for the kernel: what comes now is the next round's.
        local = dict(self._store.attachments)
        inside = {key: await self._kernel.read_pod(each.netns, each.ifname) for key, each in local.items()}
        self._find_gone(local, inside, actual)
        for key, objects in inside.items():
            device = names.host_end(*key)
            if objects is None and device in actual.links:
                await self._remove_stale(device, actual)
        present = {key: each for key, each in local.items() if each not in self._gone}
        parts = self._plan(host, {HOST, *(vpc for vpc, _ in local)}, present)
        failure = await self._write(change(union(parts.values()), actual))
        wanted_pods = {key: plan.pod(each) for key, each in present.items()}
        for key, pod in self._pods.items():
            if key in inside and key in wanted_pods and pod.objects == wanted_pods[key]:
                self.drift += len(change(pod.objects, inside[key] or Objects()))
        self._pods.clear()
        problems = {}
        for key, objects in wanted_pods.items():
            if problem := await self._write_pod(present[key], objects, inside[key] or Objects()):
                problems[key] = problem
        if failure:
            raise failure
        self._parts = parts
        return problems

    async def delta(self, host: Host, dirty: set[int], rehost: bool) -> dict[Key, str]:
        """Writes what changed since the last round, without reading. What failed, by attachment."""
        assert self._parts is not None
        parts, self._parts = self._parts, None
        local = dict(self._store.attachments)
        hosted = {vpc for vpc, _ in local}
        touched = {HOST, *hosted, *parts} if rehost else dirty
        before = union(parts[part] for part in touched if part in parts)
        for key, pod in list(self._pods.items()):
            attachment = local.get(key)
            if attachment is None or (attachment.netns, attachment.ifname) != (pod.netns, pod.ifname):
                del self._pods[key]
                device = names.host_end(*key)
                if attachment is not None and device in before.links:
                    await self._remove_stale(device, before)
        present = {key: each for key, each in local.items() if each not in self._gone}
        planned = self._plan(host, touched & {HOST, *hosted}, present)
        failure = await self._write(change(union(planned.values()), before))
        problems = {}
        for key, attachment in present.items():
            objects = plan.pod(attachment)
            pod_known = self._pods.get(key)
            if key[0] not in touched or (pod_known and pod_known.objects == objects):
                continue
            actual = pod_known.objects if pod_known else None
            if actual is None:
                actual = await self._kernel.read_pod(attachment.netns, attachment.ifname) or Objects()
            if problem := await self._write_pod(attachment, objects, actual):
                problems[key] = problem
        if failure:
            raise failure
        self._parts = {part: objects for part, objects in parts.items() if part not in touched} | planned
        return problems

    async def lacking(self, host: Host | None, attachment: Attachment) -> list[str]:
        """What of an attachment the kernel does not have, in words; empty when all is there."""
        table = self._tables.get(attachment.vpc)
        if host is None or table is None:
            return [f"VRF {names.vrf(attachment.vpc)}"]
        missing = _words(change(plan.attached(host, table, attachment), await self._kernel.read()))
        actual = await self._kernel.read_pod(attachment.netns, attachment.ifname)
        if actual is None:
            return [*missing, f"{attachment.ifname} in {attachment.netns}"]
        return missing + _words(change(plan.pod(attachment), actual))

    def _adopt(self, actual: Objects) -> None:
        """At start the routes that are there stay, until a writer knows the whole table of their VPC."""
        if self._adopted:
            return
        self._adopted = True
        vpcs = {table: vpc for vpc, table in self._tables.items()}
        found: dict[int, dict[Network, bytes]] = {}
        for key, target in actual.routes.items():
            if isinstance(target, Encap):
                table, network, _ = route_of(key)
                if table in vpcs:
                    found.setdefault(vpcs[table], {})[network] = target.segment
        for vpc, routes in found.items():
            if vpc in self._store.hosted:
                self._store.adopt(vpc, routes)

    def _find_gone(
        self, local: Mapping[Key, Attachment], inside: Mapping[Key, Objects | None], actual: Objects
    ) -> None:
        """A namespace that is gone took its end of the veth pair, and so the pair, with it."""
        candidates = [
            local[key]
            for key, objects in inside.items()
            if objects is None and names.host_end(*key) not in actual.links
        ]
        self._gone = {each: self.gone(each) + 1 for each in candidates if not self._exists(each.netns)}

    def _plan(self, host: Host, wanted: set[int], present: Mapping[Key, Attachment]) -> dict[int, Objects]:
        vpcs = wanted - {HOST}
        self._tables |= plan.tables(vpcs, self._tables)
        parts = {}
        for part in wanted:
            if part == HOST:
                parts[HOST] = plan.host(host)
                continue
            local = [each for each in present.values() if each.vpc == part]
            parts[part] = plan.vpc(host, part, self._tables[part], local, self._store.remote(part))
        return parts

    async def _write(self, wanted: Change) -> GalacticError | None:
        """The failure, instead of raising it: pods that are fine must not wait for what is not."""
        if not wanted:
            return None
        try:
            await self._kernel.write(wanted)
        except GalacticError as error:
            return error
        return None

    async def _write_pod(self, attachment: Attachment, objects: Objects, actual: Objects) -> str | None:
        try:
            if wanted := change(objects, actual):
                await self._kernel.write_pod(attachment.netns, wanted)
        except GalacticError as error:
            return str(error)
        self._pods[attachment.key] = Pod(attachment.netns, attachment.ifname, objects)
        return None

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
    """All parts as one. Parts have no keys in common."""
    whole = Objects()
    for part in parts:
        whole.links |= part.links
        whole.addresses |= part.addresses
        whole.routes |= part.routes
        whole.rules |= part.rules
        whole.sysctls |= part.sysctls
    return whole


def _words(difference: Change) -> list[str]:
    """What is to be set, in words."""
    words = [f"link {name}" for name in difference.links.set]
    words += [f"address {address} on {device}" for device, address in difference.addresses.set]
    words += ["route {1} in table {0}".format(*route_of(key)) for key in difference.routes.set]
    words += [f"rule {rule.priority}" for rule in difference.rules.set]
    return words + [f"sysctl {name}" for name in difference.sysctls.set]
