"""A router answers what it tells, to its own user and nobody else."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from galactic.messages import Route
from galactic.router import inspection
from galactic.router.networks import Network

VPC = 0x4D2
ROUTE = Route("10.1.1.2/32", ("2001:db8:ff02:100:0:4d2:0:2a",), "default", "node-2", "002a", 7)


class FakeRouter:
    term = 3
    vpcs = frozenset({VPC, 0x4D3})

    def told(self, vpc: int) -> tuple[int, Mapping[Network, Route]]:
        return (12, {Network(ROUTE.network): ROUTE}) if vpc == VPC else (0, {})


async def test_the_tables_of_a_running_router(capsys: pytest.CaptureFixture[str]) -> None:
    replica = f"test-{id(capsys)}"
    serving = asyncio.create_task(inspection.serve(replica, FakeRouter()))
    listed = await asyncio.to_thread(listening, replica)
    await asyncio.to_thread(inspection.main, ["0000000004d2"], lambda: listed)
    serving.cancel()
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["replica"], found["term"]) == (replica, 3)
    assert found["vpcs"] == {
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
    serving = asyncio.create_task(inspection.serve("test-stranger", FakeRouter()))
    await asyncio.to_thread(listening, "test-stranger")
    with pytest.raises((ValueError, OSError)):
        await asyncio.to_thread(inspection.ask, "test-stranger", [])
    serving.cancel()


def test_where_there_is_no_router(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        inspection.main([], lambda: "Num RefCount Protocol Flags Type St Inode Path\n0: 2 0 0 1 1 9 @other\n")
    assert end.value.code == 1
    assert "no router answers here" in capsys.readouterr().err


def listening(replica: str) -> str:
    """/proc/net/unix, once the replica is in it, and nothing else of ours."""
    while True:
        for line in Path("/proc/net/unix").read_text().splitlines():
            if line.endswith(f"@{inspection.PREFIX}{replica}"):
                return line
