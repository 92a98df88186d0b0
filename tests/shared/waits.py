"""Waiting for what another task, thread or process does."""

import asyncio
from collections.abc import Callable
from typing import Final

PATIENCE_SECONDS: Final = 120.0
"""It costs only where what is waited for never is."""


async def until(condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """Returns when it is true."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition():
        assert loop.time() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)
