"""The machine that the controller runs on, as ``host.Preparation`` asks it."""

from ipaddress import IPv6Network

import structlog

from galactic import srv6
from galactic.linux.firewall import firewall, install
from galactic.linux.preflight import Preflight, preflight
from galactic.linux.underlay import Underlay, underlay

log = structlog.get_logger(__name__)


class LinuxMachine:
    """The real one. ``device`` names the underlay's interface, empty: the one with the route to ``space``.

    ``guard``: whether the locator is closed to what does not come from the SRv6 space.
    """

    def __init__(self, space: IPv6Network, device: str, *, guard: bool) -> None:
        self._space, self._device, self._guard = space, device, guard

    async def preflight(self) -> Preflight:
        return await preflight()

    async def underlay(self) -> Underlay:
        return await underlay(self._space, device=self._device)

    async def filter(self, prefix: IPv6Network) -> None:
        rules = firewall(self._space, srv6.locator(prefix), srv6.loopback(prefix), guard=self._guard)
        installed = await install(rules)
        if installed.changed:
            log.info(
                "packet filter", backend=installed.backend, why=installed.reason, changed=installed.changed
            )
