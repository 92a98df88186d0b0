"""What the router's tests share. Time passes by itself where a test waits for nothing outside its event loop."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
from clockwork import Clockwork
from registrations import Topology
from waits import until

from galactic.router.ingress import subscriptions

SERVED = ("test_inspection.py", "test_joining.py")
"""A socket, and a file that a thread reads."""


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"real": asyncio.new_event_loop} if item.path.name in SERVED else {"clockwork": Clockwork}


@pytest.fixture
def topology() -> Topology:
    return Topology()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is heard again without a reason."""
    monkeypatch.setattr(subscriptions, "SWEEP_SECONDS", 3600.0)


@pytest.fixture(name="until")
def _until() -> Callable[..., object]:
    return until
