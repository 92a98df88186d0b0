"""Fixtures of the router's tests. They run on a simulated clock where nothing outside the event loop is involved."""

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
    """No periodic re-subscription to all nodes."""
    monkeypatch.setattr(subscriptions, "SWEEP_SECONDS", 3600.0)


@pytest.fixture(name="until")
def _until() -> Callable[..., object]:
    return until
