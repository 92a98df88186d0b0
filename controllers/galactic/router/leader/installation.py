"""The tables in force, which a router starts from: as they were published, or else as they are recorded."""

import asyncio
from collections.abc import Iterator, Mapping
from ipaddress import IPv6Network
from typing import Final, Protocol

from galactic.diff import Diff
from galactic.errors import Rejected
from galactic.messages import Route
from galactic.router.ingress.decoder import Decoder
from galactic.router.rib.networks import Network
from galactic.router.rib.path import NodeRef
from galactic.router.rib.store import Store
from galactic.srv6 import parse_sid

TURN: Final = 300
"""Recorded routes that are read in one turn of the loop."""


class Records(Protocol):
    """Routes recorded in Kubernetes, in each attachment's status; ``kubernetes.attachments.AttachmentIndex``."""

    def recorded(self) -> Iterator[tuple[int, Route]]: ...


class Installation:
    """Puts tables into the store as those in force. ``records`` None: standalone."""

    def __init__(self, store: Store, decoder: Decoder, records: Records | None) -> None:
        self._store, self._decoder, self._records = store, decoder, records

    async def install(self, tables: Mapping[int, Mapping[Network, Route]]) -> dict[int, Diff[Network, Route]]:
        """These are in force; to networks that are in none of them the routes that Kubernetes has recorded.

        Returns the latter, which no subscriber has received.
        """
        installed = {vpc: dict(routes) for vpc, routes in tables.items()}
        unpublished: dict[int, Diff[Network, Route]] = {}
        if self._records is not None:
            for number, (vpc, route) in enumerate(self._records.recorded()):
                network, routes = Network(route.network), installed.setdefault(vpc, {})
                if network not in routes:
                    routes[network] = route
                    unpublished.setdefault(vpc, Diff({}, {})).set[network] = route
                if number % TURN == TURN - 1:
                    await asyncio.sleep(0)
        elif self._decoder.without_prefix:
            self._derive_prefixes(installed)
        for _ in self._store.install(installed):
            await asyncio.sleep(0)
        return unpublished

    def _derive_prefixes(self, installed: Mapping[int, Mapping[Network, Route]]) -> None:
        """An offline node's Last Will cannot carry its prefix: its routes in force do."""
        without = self._decoder.without_prefix
        for routes in installed.values():
            for route in routes.values():
                node = NodeRef(route.cluster, route.node)
                if node in without and route.segments:
                    try:
                        locator = parse_sid(route.segments[0]).locator << 64
                    except Rejected:
                        continue
                    without.discard(node)
                    self._store.nodes.set_prefix(node, IPv6Network((locator, 64)))
