"""A forwarded port reaches a program inside the lab that is starting or slow."""

import asyncio
import errno
from typing import Any

import pytest

from galactic_lab.controlplane import forward

REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
NO_ROUTE = OSError(errno.EHOSTUNREACH, "no route to host")


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[OSError]:
    """The far end's errors at each try, the last one first; then it answers."""
    errors: list[OSError] = []

    async def connect(*_: Any) -> str:
        if errors:
            raise errors.pop()
        return "connected"

    monkeypatch.setattr(asyncio, "open_connection", connect)
    monkeypatch.setattr(forward, "PAUSES", (0.0, 0.0))
    return errors


@pytest.mark.parametrize(
    "errors",
    [
        pytest.param([], id="at-once"),
        pytest.param([REFUSED] * 2, id="it-is-starting"),
        pytest.param([TimeoutError()] * 20, id="it-is-held-up"),
        pytest.param([NO_ROUTE] * 20, id="so-long-that-its-neighbours-forget-it"),
        pytest.param([REFUSED, TimeoutError(), NO_ROUTE, REFUSED], id="all-of-that"),
    ],
)
async def test_it_is_reached_in_the_end(tries: list[OSError], errors: list[OSError]) -> None:
    tries.extend(errors)
    assert await forward._far("::1", 7) == "connected"


async def test_a_refusal_is_returned_soon(tries: list[OSError]) -> None:
    tries.extend([REFUSED] * 9)
    with pytest.raises(ConnectionRefusedError):
        await forward._far("::1", 7)
    assert len(tries) == 6


@pytest.mark.parametrize("silence", [TimeoutError(), NO_ROUTE])
async def test_silence_has_an_end(
    tries: list[OSError], monkeypatch: pytest.MonkeyPatch, silence: OSError
) -> None:
    monkeypatch.setattr(forward, "SILENT_SECONDS", -1.0)
    tries.extend([silence] * 9)
    with pytest.raises(type(silence)):
        await forward._far("::1", 7)
