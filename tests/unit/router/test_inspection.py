"""A router prints its published tables to its own user and root alone."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from galactic.messages import Route
from galactic.router import inspection
from galactic.router.rib.networks import Network

VPC = 0x4D2
ROUTE = Route("10.1.1.2/32", ("2001:db8:ff02:100:0:4d2:0:2a",), "default", "node-2", "002a", 7)


class FakeRouter:
    term = 3
    vpcs = frozenset({VPC, 0x4D3})

    def table(self, vpc: int) -> tuple[int, Mapping[Network, Route]]:
        return (12, {Network(ROUTE.network): ROUTE}) if vpc == VPC else (0, {})


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "SECONDS", 120.0)


async def test_the_tables_of_a_running_router(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving() as (replica, listed):
        await asyncio.to_thread(inspection.main, ["0000000004d2"], lambda: listed)
    (printed,) = json.loads(capsys.readouterr().out)
    assert (printed["replica"], printed["term"]) == (replica, 3)
    assert printed["vpcs"] == {
        "0000000004d2": {
            "revision": 12,
            "routes": [
                {
                    "network": "10.1.1.2/32",
                    "sid": ROUTE.segments[0],
                    "cluster": "default",
                    "node": "node-2",
                    "function": "002a",
                    "epoch": 7,
                }
            ],
        }
    }


async def test_another_user_is_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "_user", lambda _: 4711)
    async with serving() as (replica, _):
        with pytest.raises((ValueError, OSError)):
            await asyncio.to_thread(inspection.ask, replica, [])


def test_where_there_is_no_router(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        inspection.main([], lambda: "Num RefCount Protocol Flags Type St Inode Path\n0: 2 0 0 1 1 9 @other\n")
    assert end.value.code == 1
    assert "no router answers here" in capsys.readouterr().err


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[str, str]]:
    """A replica that no other test has, and its line of /proc/net/unix."""
    replica = f"test-{uuid.uuid4().hex}"
    task = asyncio.create_task(inspection.InspectionServer(replica, FakeRouter()).run())
    try:
        while not (listed := listening(replica)):
            assert not task.done(), task
            await asyncio.sleep(0.01)
        yield replica, listed
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def listening(replica: str) -> str:
    """Empty: it does not."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    return next((line for line in lines if line.endswith(f"@{inspection.PREFIX}{replica}")), "")
