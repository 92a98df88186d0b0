"""The kernel's events about objects of ours."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

import structlog

from galactic.backoff import Backoff
from galactic.errors import GalacticError
from galactic.linux.events import Changed

log = structlog.get_logger(__name__)
BACKOFF_SECONDS: Final = (0.5, 30.0)


async def follow(events: Callable[[], AsyncIterator[Changed]], changed: Callable[[Changed], object]) -> None:
    """Calls ``changed`` with every event, for ever. While events fail, drift is found by resyncs alone."""
    backoff = Backoff(*BACKOFF_SECONDS)
    while True:
        try:
            async for event in events():
                backoff.succeeded()
                changed(event)
        except GalacticError as error:
            log.warning("no events from the kernel, trying again", error=str(error))
        await asyncio.sleep(backoff.pause())
