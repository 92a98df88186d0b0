"""The kernel's events about objects of ours."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final, TypeVar

import structlog

from galactic.backoff import Backoff
from galactic.errors import GalacticError

log = structlog.get_logger(__name__)
BACKOFF_SECONDS: Final = (0.5, 30.0)
C = TypeVar("C")


async def follow(events: Callable[[], AsyncIterator[C]], changed: Callable[[C], object]) -> None:
    """Calls ``changed`` with every event, for ever. While events fail, drift is found by resyncs alone."""
    backoff, problem = Backoff(*BACKOFF_SECONDS), ""
    while True:
        try:
            async for event in events():
                backoff.succeeded()
                problem = ""
                changed(event)
        except GalacticError as error:
            if str(error) != problem:
                log.warning("no events from the kernel, trying again", error=str(error))
            problem = str(error)
        await asyncio.sleep(backoff.pause())


class Paced:
    """Calls a function at once, and then once in ``seconds`` at most, however often it is called itself."""

    def __init__(self, function: Callable[[], object], seconds: float) -> None:
        self._function, self._seconds = function, seconds
        self._next = 0.0
        self._waiting: asyncio.TimerHandle | None = None

    def __call__(self) -> None:
        loop = asyncio.get_running_loop()
        if self._waiting is None:
            if loop.time() >= self._next:
                self._run()
            else:
                self._waiting = loop.call_at(self._next, self._run)

    def _run(self) -> None:
        self._waiting = None
        self._next = asyncio.get_running_loop().time() + self._seconds
        self._function()
