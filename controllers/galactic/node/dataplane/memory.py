"""A kernel in memory, for tests: ``objects.Kernel``, with failures and external changes on demand."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from galactic.errors import Unreachable
from galactic.linux.objects import (
    LOOPBACK_DEVICE,
    WAY_OUT_METRIC,
    Balanced,
    Change,
    Direct,
    Encap,
    EncapJob,
    EncapMode,
    EncapSink,
    EndDT46,
    Link,
    Neighbour,
    NeighbourState,
    Objects,
    RouteKey,
    RouteTarget,
    Via,
    route_of,
)


@dataclass
class MemoryKernel:
    """Network namespaces are names in ``namespaces``; each has devices, each of which has objects."""

    host: Objects = field(default_factory=Objects)
    namespaces: dict[str, dict[str, Objects]] = field(default_factory=dict)
    peers: dict[str, tuple[str, str]] = field(default_factory=dict)  # host end → where the other end is
    reads: int = 0
    made: int = 0
    writes: list[Change] = field(default_factory=list)
    fail: str = ""  # writes of a link of that name fail
    table: dict[Neighbour, NeighbourState] = field(default_factory=dict)  # of neighbours
    silent: set[Neighbour] = field(default_factory=set)  # those that do not answer
    solicited: list[Neighbour] = field(default_factory=list)
    kept_devices: set[str] = field(default_factory=set)  # of other programs, whose neighbours are kept

    def add_namespace(self, path: str) -> str:
        self.namespaces[path] = {}
        return path

    def remove_namespace(self, path: str) -> None:
        """A pod's sandbox is destroyed: veth pairs with an end in it go."""
        del self.namespaces[path]
        for device, (netns, _) in list(self.peers.items()):
            if netns == path:
                self.lose_link(device)

    def lose_link(self, device: str) -> None:
        """The device is gone, with all objects that depend on it."""
        self.host.links.pop(device, None)
        netns, ifname = self.peers.pop(device, ("", ""))
        self.namespaces.get(netns, {}).pop(ifname, None)
        if not netns and ifname in self.peers:
            self.lose_link(ifname)
        self.host.addresses = {key: flag for key, flag in self.host.addresses.items() if key[0] != device}
        self.host.neighbours = {key: None for key in self.host.neighbours if key[0] != device}
        self.host.sysctls = {
            path: value for path, value in self.host.sysctls.items() if device not in path.split("/")
        }
        self.host.routes = {
            key: to
            for key, to in self.host.routes.items()
            if not (isinstance(to, Direct | Via | Encap | Balanced | EndDT46) and to.device == device)
        }

    async def objects(self) -> Objects:
        await asyncio.sleep(0)
        host = self.host
        return Objects(
            dict(host.links),
            dict(host.addresses),
            rules=dict(host.rules),
            sysctls=dict(host.sysctls),
            lookups=dict(host.lookups),
            neighbours=dict(host.neighbours),
        )

    async def sysctls(self) -> dict[str, str]:
        return dict(self.host.sysctls)

    async def routes(self, mode: EncapMode, sink: EncapSink) -> dict[RouteKey, RouteTarget]:
        await asyncio.sleep(0)
        self.reads += 1
        others: dict[RouteKey, RouteTarget] = {}
        for number, (key, to) in enumerate(list(self.host.routes.items())):
            table, _, metric = route_of(key)
            plain = metric != WAY_OUT_METRIC
            if plain and isinstance(to, Encap) and (to.device, to.mode) == (LOOPBACK_DEVICE, mode):
                sink(table, key[8:], metric, to.segment)
            else:
                others[key] = to
            if number % 4 == 0:
                await asyncio.sleep(0)  # tables change while they are dumped
        return others

    async def routes_of(self, device: str) -> dict[RouteKey, RouteTarget]:
        return {
            key: to
            for key, to in self.host.routes.items()
            if isinstance(to, Direct | Via | Encap | Balanced | EndDT46) and to.device == device
        }

    async def neighbours(self) -> dict[Neighbour, NeighbourState]:
        await asyncio.sleep(0)
        return {
            neighbour: state for neighbour, state in self.table.items() if neighbour[0] in self.host.links
        }

    async def solicit(self, wanted: Iterable[Neighbour]) -> set[Neighbour]:
        """Those in ``silent`` do not answer; of others the kernel knows it at once."""
        await asyncio.sleep(0)
        solicited = {neighbour for neighbour in wanted if neighbour[0] in self.host.links}
        self.solicited += sorted(solicited, key=str)
        self.table |= {
            neighbour: "FAILED" if neighbour in self.silent else "REACHABLE" for neighbour in solicited
        }
        return solicited

    async def keep_next_hops(self, devices: Iterable[str]) -> int:
        await asyncio.sleep(0)
        new = set(devices) - self.kept_devices
        self.kept_devices |= new
        return len(new)

    async def write_encaps(self, mode: EncapMode, jobs: Iterable[EncapJob]) -> None:
        failed = []
        for key, segment, gone in jobs:
            await asyncio.sleep(0)
            if gone:
                if isinstance(self.host.routes.get(key), Encap):
                    del self.host.routes[key]
            elif LOOPBACK_DEVICE in self.host.links:
                self.host.routes[key] = Encap(LOOPBACK_DEVICE, segment, mode)
            else:
                failed.append(f"there is no device {LOOPBACK_DEVICE}")
        if failed:
            raise Unreachable("kernel", failed[0])

    async def read(self) -> Objects:
        """Everything at once, for tests."""
        host = self.host
        return Objects(
            dict(host.links),
            dict(host.addresses),
            dict(host.routes),
            dict(host.rules),
            dict(host.sysctls),
            dict(host.lookups),
            dict(host.neighbours),
        )

    async def write(self, wanted: Change) -> None:
        await asyncio.sleep(0)
        self.writes.append(wanted)
        failed = []
        self._delete(wanted)
        for device, link in wanted.links.set.items():
            if device == self.fail or not self._make(device, link):
                failed.append(f"link {device}")
        self.host.sysctls |= wanted.sysctls.set
        for (device, address), flag in wanted.addresses.set.items():
            if device in self.host.links:
                self.host.addresses[device, address] = flag
        self.host.neighbours |= {key: None for key in wanted.neighbours.set if key[0] in self.host.links}
        self.host.rules |= wanted.rules.set
        self.host.lookups |= wanted.lookups.set
        for key, to in wanted.routes.set.items():
            if not isinstance(to, Direct | Via | Encap | EndDT46) or to.device in self.host.links:
                self.host.routes[key] = to
        if failed:
            raise Unreachable("kernel", ", ".join(failed))

    def _delete(self, wanted: Change) -> None:
        host = self.host
        host.routes = {key: to for key, to in host.routes.items() if key not in wanted.routes.delete}
        host.rules = {rule: None for rule in host.rules if rule not in wanted.rules.delete}
        host.neighbours = {key: None for key in host.neighbours if key not in wanted.neighbours.delete}
        for family in wanted.lookups.delete:
            del host.lookups[family]
        host.addresses = {key: to for key, to in host.addresses.items() if key not in wanted.addresses.delete}
        for device in wanted.links.delete:
            self.lose_link(device)

    def _make(self, device: str, link: Link) -> bool:
        if link.master and link.master not in self.host.links:
            return False
        if device not in self.host.links and link.peer:
            netns, ifname = link.peer
            if netns:  # otherwise the other end is the host's as well, and one of the links
                if netns not in self.namespaces or ifname in self.namespaces[netns]:
                    return False
                self.namespaces[netns][ifname] = Objects()
            self.peers[device] = link.peer
        present = self.host.links.get(device)
        self.made += 1
        self.host.links[device] = link._replace(peer=None, ifindex=present.ifindex if present else self.made)
        return True

    async def read_pod(self, netns: str, device: str) -> Objects | None:
        await asyncio.sleep(0)
        present = self.namespaces.get(netns, {}).get(device)
        if present is None:
            return None
        return Objects(
            addresses=dict(present.addresses),
            routes=dict(present.routes),
            neighbours=dict(present.neighbours),
        )

    async def write_pod(self, netns: str, wanted: Change) -> None:
        await asyncio.sleep(0)
        devices = {device for device, _ in wanted.addresses.set} or self.namespaces.get(netns, {}).keys()
        for device, objects in self.namespaces.get(netns, {}).items():
            if device not in devices:
                continue
            objects.addresses = {
                key: flag for key, flag in objects.addresses.items() if key not in wanted.addresses.delete
            } | {key: flag for key, flag in wanted.addresses.set.items() if key[0] == device}
            objects.routes = {
                key: to for key, to in objects.routes.items() if key not in wanted.routes.delete
            } | wanted.routes.set
            objects.neighbours = {
                key: None for key in objects.neighbours if key not in wanted.neighbours.delete
            } | {key: None for key in wanted.neighbours.set if key[0] == device}
            return
        raise Unreachable("kernel", f"{netns} does not exist")
