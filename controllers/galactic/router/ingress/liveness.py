"""Nodes that are silent, and those that have been for longer than ``--withdraw-after``.

Silence alone says nothing about a node's data plane, so by default nobody minds. Where it is minded it begins with the
``offline`` of the Last Will. MQTT does not say when that was, so a router that starts counts from when it reads it:
a restart may lengthen the wait and never shortens it; a standby has counted along.

What is heard late of a silent node counts less than what others say who are there (docs/design/late-messages.md).
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from galactic.router.rib.path import NodeRef

log = structlog.get_logger(__name__)
LOOK_SECONDS: Final = 1.0


class Silence:
    """``silence`` is called with True for a node that was offline for ``after`` seconds (0: none ever), then False.

    ``absent`` at once, with whether a node is offline.
    """

    def __init__(
        self,
        after: float,
        silence: Callable[[NodeRef, bool], None],
        absent: Callable[[NodeRef, bool], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._after, self._silence, self._absent, self._clock = after, silence, absent, clock
        self._since: dict[NodeRef, float] = {}
        self._silent: set[NodeRef] = set()

    def said(self, origin: NodeRef, online: bool) -> None:
        """Its status."""
        self._absent(origin, not online)
        if not online:
            self._since.setdefault(origin, self._clock())
            return
        self._since.pop(origin, None)
        if origin in self._silent:
            self._silent.discard(origin)
            log.info("node is heard of again", cluster=origin.cluster, node=origin.node)
            self._silence(origin, False)

    def look(self) -> None:
        """Tells of those whose time is over."""
        for origin, since in self._since.items():
            if self._after and origin not in self._silent and self._clock() - since >= self._after:
                self._silent.add(origin)
                log.warning(
                    "node is silent, withdrawing its routes", cluster=origin.cluster, node=origin.node
                )
                self._silence(origin, True)

    async def run(self) -> None:
        """Looks for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()
