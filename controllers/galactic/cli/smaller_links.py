"""Smaller links on the way from a node to others, from the condition ``PathMTU`` of its NodeSegment."""

import re
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network
from typing import Final, NamedTuple

from galactic.cli.snapshot import Snapshot

_LINK: Final = re.compile(r"(?P<mtu>\d+) bytes to (?P<locator>\S+/64) \(reported by (?P<router>[0-9a-f:]+)\)")


class SmallerLink(NamedTuple):
    """Packets to ``locator`` may have ``mtu`` bytes, as ``router`` has reported. ``node``: "" if it is unknown."""

    locator: IPv6Network
    mtu: int
    router: IPv6Address
    node: str


def smaller_links(snapshot: Snapshot, node: str) -> Iterator[SmallerLink]:
    """Those that the node names."""
    segment = snapshot.segments.get(node)
    for condition in segment.status.conditions if segment else ():
        if condition.type == "PathMTU" and condition.status == "False":
            for link in _LINK.finditer(condition.message):
                locator = IPv6Network(link["locator"])
                yield SmallerLink(
                    locator, int(link["mtu"]), IPv6Address(link["router"]), _node(snapshot, locator)
                )


def with_names(snapshot: Snapshot, message: str) -> str:
    """The condition's message with the nodes' names ahead of their locators."""

    def named(link: re.Match[str]) -> str:
        node = _node(snapshot, IPv6Network(link["locator"]))
        return link[0].replace(" to ", f" to {node}, " if node else " to ", 1)

    return _LINK.sub(named, message)


def _node(snapshot: Snapshot, locator: IPv6Network) -> str:
    for name, segment in snapshot.segments.items():
        if segment.spec.prefix.split("/")[0] == str(locator.network_address):
            return name
    return ""
