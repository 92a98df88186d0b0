"""Publishes that the broker has not confirmed yet."""

import asyncio
from typing import Final

from paho.mqtt.reasoncodes import ReasonCode

from galactic.bus.metrics import BusMetrics
from galactic.errors import Unreachable

PUBACK_SECONDS: Final = 10.0


class NotDone(Exception):
    """A PUBACK that says no (MQTT 5 §3.4.2.1)."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Unconfirmed:
    """By packet identifier. One clock for all of them: a timer each costs more than the rest of a publish."""

    def __init__(self, metrics: BusMetrics) -> None:
        self._metrics = metrics
        self._waiting: dict[int, tuple[asyncio.Future[None], float]] = {}
        metrics.underway.set_function(lambda: len(self._waiting))

    def add(self, mid: int) -> asyncio.Future[None]:
        """Done when the broker has confirmed; with NotDone where it refused, with Unreachable where it said nothing."""
        loop = asyncio.get_running_loop()
        confirmed = loop.create_future()
        self._waiting[mid] = confirmed, loop.time()
        return confirmed

    def remove(self, mid: int) -> None:
        """Nobody waits for it any more."""
        self._waiting.pop(mid, None)

    def answered(self, mid: int, reason: ReasonCode) -> None:
        """A PUBACK arrived."""
        confirmed, since = self._waiting.get(mid, (None, 0.0))
        if confirmed is None or confirmed.done():
            return
        if reason.is_failure:
            confirmed.set_exception(NotDone(str(reason)))
        else:
            self._metrics.puback.observe(confirmed.get_loop().time() - since)
            confirmed.set_result(None)

    def expire(self) -> None:
        """To be called now and then: who has waited for too long learns that."""
        overdue = asyncio.get_running_loop().time() - PUBACK_SECONDS
        for confirmed, since in self._waiting.values():
            if since <= overdue and not confirmed.done():
                confirmed.set_exception(Unreachable("mqtt", f"no PUBACK within {PUBACK_SECONDS:g} s"))

    def fail(self, error: Unreachable) -> None:
        """The session is over, and with it all that was under way."""
        for confirmed, _ in self._waiting.values():
            if not confirmed.done():
                confirmed.set_exception(error)
