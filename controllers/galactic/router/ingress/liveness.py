"""Nodes that are offline, and those that have been for longer than ``--withdraw-after``.

An offline node may still forward packets, so by default its routes stay. Where they do not, the time begins with the
``offline`` of the Last Will. MQTT does not carry when that was published, so a router that starts counts from when it
reads it: a restart may lengthen the time and never shortens it. A standby counts too.

What arrives late from an offline node counts less than what online nodes register (docs/design/late-messages.md).
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from galactic.router.rib.path import NodeRef
from galactic.router.rib.registrations import Registrations

log = structlog.get_logger(__name__)
POLL_SECONDS: Final = 1.0


class NodeLiveness:
    """Withdraws the routes of nodes that were offline for ``withdraw_after`` seconds; 0: of none."""

    def __init__(
        self, nodes: Registrations, withdraw_after: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._nodes, self._withdraw_after, self._clock = nodes, withdraw_after, clock
        self._offline_since: dict[NodeRef, float] = {}
        self._withdrawn: set[NodeRef] = set()

    def set_status(self, node: NodeRef, online: bool) -> None:
        """A node's status: its own, or its Last Will."""
        self._nodes.set_offline(node, not online)
        if not online:
            self._offline_since.setdefault(node, self._clock())
            return
        self._offline_since.pop(node, None)
        if node in self._withdrawn:
            self._withdrawn.discard(node)
            log.info("node is online again", cluster=node.cluster, node=node.node)
            self._nodes.withdraw(node, False)

    def withdraw(self) -> None:
        """Withdraws the routes of those whose time is over."""
        for node, since in self._offline_since.items():
            if (
                self._withdraw_after
                and node not in self._withdrawn
                and self._clock() - since >= self._withdraw_after
            ):
                self._withdrawn.add(node)
                log.warning(
                    "node is offline for too long, withdrawing its routes",
                    cluster=node.cluster,
                    node=node.node,
                    seconds=self._withdraw_after,
                )
                self._nodes.withdraw(node, True)

    async def run(self) -> None:
        """Withdraws for ever."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            self.withdraw()
