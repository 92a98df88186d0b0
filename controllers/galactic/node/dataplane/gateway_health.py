"""Whether the nodes answer by which the VPCs here are led out: each node asks for itself.

The last will of a node at the broker comes after its keepalive, and the API server's lease after 40 s. So every node
sends an echo request to each of those nodes every TICK_SECONDS, and leads round one that has not answered MISSED
requests in a row: 0.6 to 0.75 s after it went. Answers that lie in the socket are read before any judgement, so a node
controller that was held up accuses no one. Where none of a VPC's nodes answers, nothing changes: there is nothing
better to do.
"""

import asyncio
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from ipaddress import IPv6Address
from typing import Final, Protocol

import structlog

from galactic import srv6
from galactic.errors import GalacticError
from galactic.node.state.store import Store

log = structlog.get_logger(__name__)
TICK_SECONDS: Final = 0.15
MISSED: Final = 4
ANSWERED: Final = 7
"""Requests in a row that a node has to answer until it is used again."""
IDLE_SECONDS: Final = 0.5
RETRY_SECONDS: Final = 5.0


class Echoes(Protocol):
    """``galactic.linux.liveness.EchoSocket``, or a test's."""

    def send(self, destinations: AbstractSet[IPv6Address]) -> None: ...

    def answered(self) -> set[IPv6Address]: ...


class Judgement:
    """Which nodes answer. Pure: ``tick`` gets the answers since the last one."""

    def __init__(self) -> None:
        self._runs: dict[str, int] = {}  # answered in a row, or negative: missed in a row
        self.away: frozenset[str] = frozenset()

    def tick(self, asked: Mapping[str, IPv6Address], answered: AbstractSet[IPv6Address]) -> None:
        """``asked``: the nodes, by the address that was asked. A new one counts as present."""
        runs: dict[str, int] = {}
        away = set()
        for node, address in asked.items():
            before = self._runs.get(node, 0)
            if address in answered:
                runs[node] = max(before, 0) + 1
            else:
                runs[node] = min(before, 0) - 1
            if runs[node] <= -MISSED or (node in self.away and runs[node] < ANSWERED):
                away.add(node)
        self._runs, self.away = runs, frozenset(away)


class GatewayHealth:
    """Asks, and reports to the store. ``echoes`` opens a socket that sends from an address."""

    def __init__(
        self,
        store: Store,
        echoes: Callable[[IPv6Address], AbstractContextManager[Echoes]],
        lost: Callable[[int], None] = lambda _: None,
    ) -> None:
        """``lost``: called with the number of nodes that have just ceased to answer."""
        self._store, self._open, self._lost = store, echoes, lost
        self._judgement = Judgement()
        self.answering: Mapping[str, bool] = {}
        """Each node that is asked, and whether it answers."""

    async def run(self) -> None:
        """For ever. Without a socket, or before the node has its loopback, every node counts as present."""
        problem = ""
        while True:
            prefix = self._store.node.prefix
            if prefix is None or not self._asked():
                await asyncio.sleep(IDLE_SECONDS)
                continue
            try:
                with self._open(srv6.loopback(prefix)) as echoes:
                    while self._store.node.prefix == prefix and self._asked():
                        await self._tick(echoes)
                        problem = ""
            except GalacticError as error:
                if str(error) != problem:
                    log.warning("gateways' nodes not asked whether they answer", error=str(error))
                problem = str(error)
                await asyncio.sleep(RETRY_SECONDS)
            self._report({}, set())

    async def _tick(self, echoes: Echoes) -> None:
        asked = self._asked()
        echoes.send(set(asked.values()))
        await asyncio.sleep(TICK_SECONDS)
        self._report(asked, echoes.answered())

    def _report(self, asked: Mapping[str, IPv6Address], answered: AbstractSet[IPv6Address]) -> None:
        before = self._judgement.away
        self._judgement.tick(asked, answered)
        after = self._judgement.away
        for node in sorted(after - before):
            log.warning("a gateway's node does not answer, its share goes to the others", node=node)
        for node in sorted(before - after):
            log.info("a gateway's node answers again, or is none any more", node=node)
        self.answering = {node: node not in after for node in asked}
        if after != before:
            self._store.set_away(after)
        if after - before:
            self._lost(len(after - before))

    def _asked(self) -> dict[str, IPv6Address]:
        """The loopbacks of the nodes by which the VPCs here are led out, other than this one."""
        store = self._store
        hosted = store.attachments.hosted - store.attachments.led_out
        return {
            one.node: one.loopback
            for vpc, gateway in store.gateways.all.items()
            if vpc in hosted
            for one in gateway.exits
            if one.ready and one.node != store.gateways.node
        }
