"""A history is dumped and restored with the commands of docs/operations/backup.md, while a router runs."""

import os
import subprocess
from pathlib import Path
from typing import Final

import psycopg
import pytest
from blocks import DOCS, Command, blocks, commands
from database_world import (
    RecordedPlane,
    endpoint,
    history_writer,
    recorded,
    recorded_endpoints,
    rows,
    running,
    sample,
)

from galactic_lab.controlplane import postgres

PERIODS: Final = (
    "SELECT network::text, upper_inf(during), ended_exactly "
    "FROM galactic.period ORDER BY network, lower(during)"
)


@pytest.fixture
def written() -> tuple[Command, Command]:
    """How the page dumps, and how it restores."""
    page = DOCS / "operations/backup.md"
    (block,) = [block for block in blocks(page) if "pg_dump" in block.text]
    dump, restore = commands(block)
    return dump, restore


def run(command: Command, url: str, folder: Path) -> None:
    programs = f"{postgres.programs()}:{os.environ['PATH']}"
    variables = os.environ | {"GALACTIC_DATABASE_URL": url, "PATH": programs}
    done = subprocess.run(
        ["bash", "-euc", command.typed],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, f"{command.place}: $ {command.typed}\n{done.stdout}{done.stderr}"


async def test_restore_under_a_running_router(
    url, until, written: tuple[Command, Command], tmp_path: Path
) -> None:
    dump, restore = written
    plane = RecordedPlane()
    async with running(history_writer(url, plane)) as writer:
        plane.register(1, endpoint(1, 1, "10.1.1.1/32"), endpoint(1, 2, "10.1.1.2/32"))
        await until(lambda: writer.idle)
        run(dump, url, tmp_path)
        plane.register(1, endpoint(1, 2, "10.1.1.2/32"))
        plane.register(2, endpoint(2, 3, "10.1.1.3/32"))
        await until(lambda: writer.idle)
        run(restore, url, tmp_path)
        assert rows(url, PERIODS) == [("10.1.1.1/32", True, True), ("10.1.1.2/32", True, True)], "as it was"
        before = sample(writer, "comparisons_total")
        plane.register(3, endpoint(3, 4, "10.1.1.4/32"))
        await until(lambda: sample(writer, "comparisons_total") > before and writer.idle)
        assert writer.problems[-1] is None
    assert recorded(url) == plane.table()
    assert recorded_endpoints(url) == plane.endpoints()
    ends = {network: (runs, exactly) for network, runs, exactly in rows(url, PERIODS)}
    assert ends["10.1.1.1/32"] == (False, False), "when it ended is not known"
    assert ends["10.1.1.2/32"] == ends["10.1.1.4/32"] == (True, True)


async def test_restore_into_an_empty_database(
    url, until, written: tuple[Command, Command], tmp_path: Path
) -> None:
    """The server was lost, and the router has not been started at the new one yet."""
    dump, restore = written
    plane = RecordedPlane()
    async with running(history_writer(url, plane)) as writer:
        plane.register(1, endpoint(1, 1, "10.1.1.1/32"))
        await until(lambda: writer.idle)
    periods = rows(url, PERIODS)
    run(dump, url, tmp_path)
    other = f"{url}_again"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {other.rpartition('/')[2]}".encode())
    run(restore, other, tmp_path)
    assert rows(other, PERIODS) == periods
    async with running(history_writer(other, plane)) as writer:
        await until(lambda: writer.idle)
        assert writer.problems[-1:] in ([], [None])
    assert recorded(other) == plane.table()
