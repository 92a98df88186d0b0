"""The real kernel: the implementation of ``galactic.linux.objects.Kernel``.

Between calls it remembers only which sysctls it wrote, as the kernel has no mark of them. Devices are looked up by name
at every use, so that changes by other programs are never missed.
"""

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Self

from galactic.errors import Rejected, Unreachable
from galactic.linux import devconf, kept_neighbours, neighbours, sysctl
from galactic.linux.devices import Devices, is_galactic, translated
from galactic.linux.local_routes import without_route
from galactic.linux.namespace import Namespace
from galactic.linux.objects import (
    MAIN_TABLE,
    Change,
    EncapJob,
    EncapMode,
    EncapSink,
    Family,
    Interface,
    Link,
    LookupOrder,
    Neighbour,
    NeighbourState,
    Objects,
    Other,
    RouteKey,
    RouteTarget,
)
from galactic.linux.objects import Unreachable as Unreached
from galactic.linux.routes import RouteSocket, deletions, route_name, settings

_ORDER = {"dummy": 0, "vrf": 1, "veth": 2}
_NAMED = 5
"""The most failures that an error names."""


class LinuxKernel:
    """The kernel of one network namespace: by default the one this process is in. Used on one event loop."""

    def __init__(self, namespace: Namespace | None = None) -> None:
        self._namespace = namespace or Namespace.own()
        names, requests, routes = self._namespace.netlinks(True, False, True)
        self._devices = Devices(names, requests)
        self._routes = RouteSocket(self._namespace, routes)
        self._sysctls: set[str] = set()
        self._cycled: set[str] = set()  # devices that are set down and up again
        self._lock = asyncio.Lock()

    @property
    def port(self) -> int:
        """The netlink port of this object's route changes in notifications: see ``galactic.linux.events``."""
        return self._routes.port

    async def objects(self) -> Objects:
        """Galactic's objects except routes. Sysctls: those that this object has written before."""
        links, addresses = await self._devices.links(), await self._devices.addresses()
        await self._doubt(links, addresses)
        return Objects(
            links=links,
            addresses=addresses,
            rules=await self._devices.rules(),
            lookups=await self._devices.lookups(),
            sysctls=await self.sysctls(),
            neighbours=await kept_neighbours.kept(self._namespace, is_galactic),
        )

    async def _doubt(self, links: dict[str, Link], addresses: dict[tuple[str, Interface], bool]) -> None:
        """Where another program took the kernel's own routes of a device (``ip route flush table all``), a host end is
        as good as down, and is set down and up again. An address of another device is as good as gone.
        """
        receiving = {
            (links[device].ifindex, address.ip.packed): (device, address)
            for device, address in addresses
            if device in links and links[device].up
        }
        self._cycled.clear()
        for missing in await without_route(self._namespace, receiving.keys()):
            device, address = receiving[missing]
            if links[device].kind == "veth":
                self._cycled.add(device)
            else:
                del addresses[device, address]
        for device in self._cycled:
            links[device] = links[device]._replace(up=False)

    async def sysctls(self) -> dict[str, str]:
        """The values of the sysctls that this object has written before; not those of devices that are gone."""
        ours = {setting for path in self._sysctls if (setting := _of_device(path))}
        others = self._sysctls - {str(setting) for setting in ours}
        present = sysctl.values(self._namespace, others)
        if ours:
            present |= await devconf.read(self._namespace, ours)
        self._sysctls &= present.keys() | others
        return present

    async def pending_lookups(self, wanted: Mapping[Family, LookupOrder]) -> list[str]:
        """The changes of policy rules that ``write`` would make, as commands."""
        commands = [await self._devices.pending_lookup(family, order) for family, order in wanted.items()]
        return [command for listed in commands for command in listed]

    async def routes(self, mode: EncapMode, sink: EncapSink) -> dict[RouteKey, RouteTarget]:
        """Galactic's routes; those through ``LOOPBACK_DEVICE`` with that mode go to ``sink`` instead."""
        return await self._routes.dump(mode=mode, sink=sink)

    async def routes_of(self, device: str) -> dict[RouteKey, RouteTarget]:
        """Galactic's routes on one device."""
        index = self._devices.index(device)
        return await self._routes.dump(device=index) if index else {}

    async def routes_in(self, table: int) -> dict[RouteKey, RouteTarget]:
        """Galactic's routes in one table."""
        return await self._routes.dump(table=table)

    async def read(self) -> Objects:
        """All of Galactic's objects, routes included."""
        objects = await self.objects()
        objects.routes = await self._routes.dump()
        return objects

    async def write(self, wanted: Change) -> None:
        """Deletes objects, routes first and devices last; then sets objects, in the opposite order.

        Raises Unreachable naming the objects that failed, or Rejected if the user has to correct every failure.
        A device that was created again has lost its addresses and routes: the next read shows them as missing.
        """
        async with self._lock:
            failures = _Failures()
            await self._delete(wanted, failures)
            await self._set(wanted, failures)
        failures.raise_any()

    async def write_encaps(self, mode: EncapMode, jobs: Iterable[EncapJob]) -> None:
        """Sets and deletes routes through ``LOOPBACK_DEVICE``, in that order. Raises Unreachable as ``write``."""
        failures = _Failures()
        async with self._lock:
            for key, why in (await self._routes.write_encaps(mode, jobs)).items():
                failures.add(route_name(key), why)
        failures.raise_any()

    async def _delete(self, wanted: Change, failures: "_Failures") -> None:
        devices = self._devices
        for key, why in (await self._routes.write(deletions(wanted.routes.delete))).items():
            failures.add(route_name(key), why)
        for rule in wanted.rules.delete:
            await failures.of(f"rule {rule.priority} to {rule.destination}", devices.delete_rule(rule))
        for family in wanted.lookups.delete:
            await failures.of(f"IPv{family} policy rules", devices.set_lookup(family, None))
        gone = [key for key in wanted.neighbours.delete if key[0] not in wanted.links.delete]
        await self._keep((), gone, failures)
        for device, address in wanted.addresses.delete:
            if device not in wanted.links.delete:
                await failures.of(f"address {address} of {device}", devices.delete_address(device, address))
        for name, _ in sorted(wanted.links.delete.items(), key=lambda item: -_ORDER[item[1].kind]):
            await failures.of(f"device {name}", devices.delete_link(name))

    async def _set(self, wanted: Change, failures: "_Failures") -> None:
        devices = self._devices
        self._sysctls |= wanted.sysctls.set.keys()
        ours = {setting: value for path, value in wanted.sysctls.set.items() if (setting := _of_device(path))}
        of_devices = {str(setting) for setting in ours}
        others = {path: value for path, value in wanted.sysctls.set.items() if path not in of_devices}
        late = sysctl.write(self._namespace, others)
        # objects that depend on these are skipped, and are no failures of their own
        missing: set[str] = set()
        for name, link in sorted(wanted.links.set.items(), key=lambda item: _ORDER[item[1].kind]):
            if not await failures.of(
                f"device {name}", devices.set_link(name, link, cycle=name in self._cycled)
            ):
                missing.add(name)
        # a device's sysctls come with the device, net.vrf.strict_mode with the first VRF
        late = sysctl.write(self._namespace, {path: wanted.sysctls.set[path] for path in late})
        late |= await self._set_ours({key: value for key, value in ours.items() if key.device not in missing})
        for path, error in late.items():
            failures.add(f"sysctl {path}", error.strerror or str(error))
        for (device, address), bare in wanted.addresses.set.items():
            if device in missing:
                continue
            await failures.of(f"address {address} of {device}", devices.set_address(device, address, bare))
        await self._keep((key for key in wanted.neighbours.set if key[0] not in missing), (), failures)
        for rule in wanted.rules.set:
            await failures.of(f"rule {rule.priority} to {rule.destination}", devices.set_rule(rule))
        for family, order in wanted.lookups.set.items():
            await failures.of(f"IPv{family} policy rules", devices.set_lookup(family, order))
        routes = wanted.routes.set
        if missing:
            routes = {key: target for key, target in routes.items() if _device(target) not in missing}
        for key, why in (await self._routes.write(settings(routes))).items():
            failures.add(route_name(key), why)

    async def _set_ours(self, wanted: Mapping[devconf.Setting, str]) -> dict[str, OSError]:
        """The failures by path."""
        with translated():
            return await devconf.write(self._namespace, wanted) if wanted else {}

    async def _keep(
        self, wanted: Iterable[Neighbour], surplus: Iterable[Neighbour], failures: "_Failures"
    ) -> None:
        wanted, surplus = list(wanted), list(surplus)
        if wanted or surplus:
            for (device, address), why in (
                await kept_neighbours.keep(self._namespace, wanted, surplus)
            ).items():
                failures.add(f"neighbour {address} of {device}", why)

    async def neighbours(self) -> dict[Neighbour, NeighbourState]:
        """The neighbours on Galactic's devices."""
        return await neighbours.read(self._namespace, is_galactic)

    async def solicit(self, wanted: Iterable[Neighbour]) -> set[Neighbour]:
        """Makes the kernel solicit neighbours of unknown state, as for a packet. Returns those that it accepted."""
        return await neighbours.solicit(self._namespace, wanted)

    async def keep_next_hops(self, devices: Iterable[str]) -> int:
        """Keeps the neighbours on those devices that answer this node. Returns how many are new."""
        return await kept_neighbours.keep_next_hops(self._namespace, devices)

    async def release_next_hops(self) -> list[Neighbour]:
        """Deletes kept neighbours on all devices: the kernel resolves them again with the next packet."""
        present = list(await kept_neighbours.kept(self._namespace, lambda _: True))
        failures = await kept_neighbours.keep(self._namespace, (), present)
        return [neighbour for neighbour in present if neighbour not in failures]

    async def read_pod(self, netns: str, device: str) -> Objects | None:
        """Galactic's addresses, main-table routes and neighbours of a device in a pod's namespace; None if either is
        gone.
        """
        try:
            namespace = Namespace.at(netns)
        except OSError:
            return None
        with namespace:
            pod = LinuxKernel(namespace)
            try:
                if not (index := pod._devices.index(device)):
                    return None
                return Objects(
                    addresses=await pod._devices.addresses(device),
                    routes=await pod._routes.dump(table=MAIN_TABLE, device=index),
                    neighbours=await kept_neighbours.kept(namespace, device.__eq__),
                )
            finally:
                pod.close()

    async def write_pod(self, netns: str, wanted: Change) -> None:
        """Writes addresses, routes and neighbours in a pod's namespace. Devices that get one are set up first.

        Routes of other programs stay: none is replaced or deleted. Galactic's are set before old ones are deleted, so
        that no packet goes elsewhere between. Raises as ``write``.
        """
        with translated():
            namespace = Namespace.at(netns)
        with namespace:
            pod = LinuxKernel(namespace)
            try:
                given = {device for device, _ in wanted.addresses.set}
                given |= {device for target in wanted.routes.set.values() if (device := _device(target))}
                failures = _Failures()
                for device in sorted(given):
                    await failures.of(f"device {device} in {netns}", pod._devices.set_up(device))
                for device in sorted(
                    {device for device, address in wanted.addresses.set if address.version == 6}
                ):
                    await failures.of(f"device {device} in {netns}", pod._enable_ipv6(device))
                failures.raise_any()
                await pod._write_shared(wanted, failures)
                failures.raise_any()
            finally:
                pod.close()

    async def _enable_ipv6(self, device: str) -> None:
        """Raises Rejected where IPv6 is disabled on a device of a pod and cannot be enabled."""
        path = f"net/ipv6/conf/{device}/disable_ipv6"
        for name, error in sysctl.write(self._namespace, {path: "0"}).items():
            if isinstance(error, FileNotFoundError):
                raise Rejected(f"no IPv6 in the pod: the kernel was booted with ipv6.disable=1 ({name})")
            raise Rejected(
                f"IPv6 is disabled in the pod: its {name.replace('/', '.')} is 1 and cannot be written here "
                f"({error.strerror}): take net.ipv6.conf.default.disable_ipv6 and net.ipv6.conf.all.disable_ipv6 "
                "out of the pod's securityContext.sysctls and of the container runtime's configuration",
                reason="IPv6Disabled",
            )

    async def _write_shared(self, wanted: Change, failures: "_Failures") -> None:
        # IPv6 has an address once: one with another prefix length takes the place of the old one.
        coming = {(device, address.ip) for device, address in wanted.addresses.set if address.version == 6}
        going = list(wanted.addresses.delete)
        for device, address in [key for key in going if (key[0], key[1].ip) in coming]:
            going.remove((device, address))
            await failures.of(f"address {address} of {device}", self._devices.delete_address(device, address))
        for (device, address), bare in wanted.addresses.set.items():
            await failures.of(
                f"address {address} of {device}", self._devices.set_address(device, address, bare)
            )
        await self._keep(wanted.neighbours.set, wanted.neighbours.delete, failures)
        routes: dict[str, dict[RouteKey, RouteTarget]] = {}
        for key, target in wanted.routes.set.items():
            routes.setdefault(_device(target), {})[key] = target
        for device, targets in routes.items():
            for key, why in (await self._routes.create(device, targets)).items():
                failures.add(route_name(key), why)
        for key, why in (await self._routes.write(deletions(wanted.routes.delete))).items():
            failures.add(route_name(key), why)
        # With the first address of a subnet the kernel deletes the others, and with the last one all routes of IPv4.
        for device in sorted({device for device, address in going if address.version == 4}):
            promoting = devconf.set_ipv4(self._namespace, device, {"promote_secondaries": 1})
            await failures.of(f"device {device}", promoting)
        for device, address in going:
            await failures.of(f"address {address} of {device}", self._devices.delete_address(device, address))

    def close(self) -> None:
        self._devices.close()
        self._routes.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Failures:
    """Objects that failed, by name; raised as one error."""

    def __init__(self) -> None:
        self._rejected: list[Rejected] = []
        self._texts: list[str] = []

    def add(self, name: str, why: str) -> None:
        self._texts.append(f"{name}: {why}")

    async def of(self, name: str, work: Coroutine[None, None, None]) -> bool:
        """Awaits ``work`` and records its error under that name. Returns whether it succeeded."""
        try:
            await work
        except Rejected as error:
            self._rejected.append(Rejected(f"{name}: {error}", reason=error.reason))
            self._texts.append(str(self._rejected[-1]))
        except Unreachable as error:
            self.add(name, str(error).removeprefix("kernel: "))
        else:
            return True
        return False

    def raise_any(self) -> None:
        """Raises if there were failures."""
        if not self._texts:
            return
        rest = len(self._texts) - _NAMED
        text = "; ".join(self._texts[:_NAMED]) + (f"; and {rest} more" if rest > 0 else "")
        if len(self._rejected) == len(self._texts):
            raise Rejected(text, reason=self._rejected[0].reason)
        raise Unreachable("kernel", text)


def _of_device(path: str) -> devconf.Setting | None:
    """The sysctl as one of a device of ours; None for all others."""
    setting = devconf.Setting.parse(path)
    return setting if setting and is_galactic(setting.device) else None


def _device(target: RouteTarget) -> str:
    return "" if isinstance(target, Unreached | Other) else target.device
