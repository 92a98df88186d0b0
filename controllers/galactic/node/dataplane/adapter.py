"""The host that the controller runs on, as ``setup.HostSetup`` uses it."""

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv6Network
from pathlib import Path

from galactic import srv6
from galactic.linux.firewall import Installed, firewall, install
from galactic.linux.firewall_fingerprint import fingerprint
from galactic.linux.foreign_chains import Dropping, dropping, packets
from galactic.linux.precedence import harmless
from galactic.linux.preflight import Preflight, preflight
from galactic.linux.underlay import Underlay, underlay


class LinuxHost:
    """The real one. ``device`` names the underlay's interface, empty: the one with the route to ``block``.

    ``drop_external_sids``: whether packets to the locator are dropped that come from outside the SRv6 block.
    """

    def __init__(self, block: IPv6Network, device: str, *, drop_external_sids: bool) -> None:
        self._block, self._device, self._drop_external_sids = block, device, drop_external_sids
        self._uplinks: tuple[str, ...] = ()

    async def preflight(self) -> Preflight:
        return await preflight()

    async def underlay(self) -> Underlay:
        found = await underlay(self._block, device=self._device, known=self._uplinks)
        self._uplinks = found.uplinks
        return found

    def modules(self) -> str:
        try:
            return Path("/proc/modules").read_text()
        except OSError:  # a kernel without modules
            return ""

    async def filter(
        self, prefix: IPv6Network, uplinks: Sequence[str], known: Installed | None = None
    ) -> Installed:
        rules = firewall(
            self._block,
            srv6.locator(prefix),
            srv6.loopback(prefix),
            uplinks,
            guard=self._drop_external_sids,
        )
        if known is None:
            return await install(rules)
        return replace(await install(rules, backend=known.backend), reason=known.reason)

    def intact(self, installed: Installed) -> bool:
        return fingerprint(installed.backend, harmless=harmless) == installed.fingerprint

    def dropping(self, prefix: IPv6Network, uplinks: Sequence[str]) -> Sequence[Dropping]:
        wanted = tuple(packets(self._block, srv6.loopback(prefix), uplinks))
        return dropping(wanted, self._block)
