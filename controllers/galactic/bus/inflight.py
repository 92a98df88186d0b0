"""Publishes whose PUBACK has not arrived yet."""

import asyncio
from typing import Final

from paho.mqtt.reasoncodes import ReasonCode

from galactic.bus.metrics import BusMetrics
from galactic.errors import Unreachable

PUBACK_SECONDS: Final = 10.0


class PublishRefused(Exception):
    """A PUBACK with a failure (MQTT 5 §3.4.2.1)."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Inflight:
    """By packet identifier. One clock for all of them: a timer each costs more than the rest of a publish."""

    def __init__(self, metrics: BusMetrics) -> None:
        self._metrics = metrics
        self._publishes: dict[int, tuple[asyncio.Future[None], float]] = {}
        metrics.underway.set_function(lambda: len(self._publishes))

    def add(self, mid: int) -> asyncio.Future[None]:
        """Done at the PUBACK. Fails with PublishRefused, or with Unreachable if no PUBACK arrives."""
        loop = asyncio.get_running_loop()
        confirmed = loop.create_future()
        self._publishes[mid] = confirmed, loop.time()
        return confirmed

    def remove(self, mid: int) -> None:
        """The publish is done, failed or cancelled."""
        self._publishes.pop(mid, None)

    def answered(self, mid: int, reason: ReasonCode) -> None:
        """A PUBACK arrived."""
        confirmed, since = self._publishes.get(mid, (None, 0.0))
        if confirmed is None or confirmed.done():
            return
        if reason.is_failure:
            confirmed.set_exception(PublishRefused(str(reason)))
        else:
            self._metrics.puback.observe(confirmed.get_loop().time() - since)
            confirmed.set_result(None)

    def expire(self) -> None:
        """Fails the publishes that have waited for PUBACK_SECONDS; to be called every second or so."""
        sent_before = asyncio.get_running_loop().time() - PUBACK_SECONDS
        for confirmed, since in self._publishes.values():
            if since <= sent_before and not confirmed.done():
                confirmed.set_exception(Unreachable("mqtt", f"no PUBACK within {PUBACK_SECONDS:g} s"))

    def fail(self, error: Unreachable) -> None:
        """The session is over: all of its publishes fail."""
        for confirmed, _ in self._publishes.values():
            if not confirmed.done():
                confirmed.set_exception(error)
