"""Time passes by itself, except where a server is asked."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
from clockwork import Clockwork

SERVED = ("test_execution.py",)


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"real": asyncio.new_event_loop} if item.path.name in SERVED else {"clockwork": Clockwork}
