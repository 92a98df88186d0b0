"""The kernel makes the route to an IPv6 address a moment after the address: no device is set down and up for that."""

import pytest

from galactic.linux import local_routes
from galactic.linux.local_routes import Local, without_route

FIRST, SECOND = (7, b"\x0a\x00\x00\x01"), (7, bytes(16))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[set[Local]]:
    """Its routes at each look; the last ones stay."""
    looks: list[set[Local]] = []

    async def listed(_namespace: object) -> set[Local]:
        return looks.pop(0) if len(looks) > 1 else looks[0]

    monkeypatch.setattr(local_routes, "local_routes", listed)
    monkeypatch.setattr(local_routes, "PAUSE_SECONDS", 0.001)
    return looks


@pytest.mark.parametrize(
    ("looks", "missing"),
    [
        pytest.param([{FIRST, SECOND}], set(), id="there"),
        pytest.param([{FIRST}, {FIRST}, {FIRST, SECOND}], set(), id="a-moment-later"),
        pytest.param([{FIRST}], {SECOND}, id="gone"),
        pytest.param([set()], {FIRST, SECOND}, id="all-gone"),
    ],
)
async def test_what_stays_without_a_route_is_missed(
    kernel: list[set[Local]], looks: list[set[Local]], missing: set[Local]
) -> None:
    kernel += looks
    assert await without_route(None, {FIRST, SECOND}) == missing  # type: ignore[arg-type]
