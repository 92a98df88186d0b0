"""The MACs of Galactic's devices: those they were made with, or had when they were first read.

A device of an earlier version has a MAC that no plan names, and its pod knows that one: it stays. A MAC that another
program changes later (udev, by MACAddressPolicy= of systemd.link(5)) is put back.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from galactic.linux.objects import Link, Objects

_MADE: Final = 0
"""The index of a device that was made and not read since."""


class Macs:
    """By device: its index and its MAC."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, str]] = {}

    def observe(self, links: Mapping[str, Link]) -> None:
        """All devices as just read."""
        for name in self._known.keys() - links.keys():
            del self._known[name]
        for name, link in links.items():
            index, mac = self._known.get(name, (link.ifindex, link.mac))
            self._known[name] = link.ifindex, mac if index in (_MADE, link.ifindex) else link.mac

    def made(self, links: Mapping[str, Link], names: Iterable[str]) -> None:
        """These devices were made as planned."""
        self._known |= {name: (_MADE, links[name].mac) for name in names}

    def kept(self, objects: Objects) -> Objects:
        """The plan with the MACs that the devices have."""
        known = self._known
        links = {
            name: link._replace(mac=known[name][1]) if name in known else link
            for name, link in objects.links.items()
        }
        return replace(objects, links=links)
