"""The broker as leadership uses it: the claim, and the gate through which everything else is published."""

import asyncio
import contextlib
from typing import Final

import structlog

from galactic.launch import Health
from galactic.messages import Leader, Topics, encode, gone
from galactic.router.egress.publisher import Publisher

log = structlog.get_logger(__name__)
LEAVE_SECONDS: Final = 1.0
"""For the farewell of a leader that ends to reach the broker."""


class Gate:
    """Closed until the broker was read and no other router's claim is higher. Claims pass it in any case."""

    def __init__(self, publisher: Publisher, topics: Topics, health: Health) -> None:
        self._publisher, self._topic, self._health = publisher, topics.leader, health

    def session_began(self) -> None:
        """The broker accepted a connection."""
        self._publisher.connected(True)
        self._health.set("mqtt", None, ready=True)

    def session_ended(self, reason: str) -> None:
        """There is no connection. Closes the gate."""
        self._publisher.connected(False)
        self._health.set("mqtt", reason, ready=True)

    def open(self) -> None:
        """Everything may be published."""
        self._publisher.set_gate(True)

    def close(self) -> None:
        """Nothing but claims may be published."""
        self._publisher.set_gate(False)

    def report(self, rival: Leader | None) -> None:
        """Another cluster's router leads at this broker; None: no longer."""
        problem = None
        if rival is not None:
            problem = (
                f"{rival.id} of another cluster (kube-system {rival.owner}) leads at this broker, so this router "
                "publishes nothing; give this cluster an mqtt_base or a broker of its own, let routers outside serve "
                "both (--kubernetes=false), or, if the other cluster is no more, clear the retained message "
                f"{self._topic}"
            )
        self._health.set("cluster", problem)
        if problem:
            log.error("another cluster leads at this broker", problem=problem)

    async def publish(self, claim: Leader) -> None:
        """Returns when the broker has confirmed the claim."""
        await self._publisher.publish(self._topic, encode(claim), True, gated=False)

    async def leave(self, replica: str) -> None:
        """Publishes that this router has gone, if there is a session."""
        if not self._publisher.online:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self.publish(gone(replica))
