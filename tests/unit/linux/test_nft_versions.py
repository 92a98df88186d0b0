"""Programs of nft that crash: another version takes over, or the error names the remedy."""

from pathlib import Path

import pytest

from galactic.errors import Unreachable
from galactic.linux import nftables
from galactic.linux.nftables import NEWER, PROGRAM, Nftables

CRASHES = "kill -SEGV $$"
WORKS = "cat >> {log}; echo {name} >> {log}"
REFUSES = "echo 'Error: syntax error' >&2; exit 1"


class Programs:
    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"

    def put(self, name: str, body: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{body.format(log=self.log, name=name)}\n")
        path.chmod(0o755)

    @property
    def written(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    monkeypatch.setattr(nftables, "_chosen", nftables._Chosen())
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return Programs(tmp_path)


async def test_the_newer_one_takes_over_and_stays(programs):
    programs.put(PROGRAM, CRASHES)
    programs.put(NEWER, WORKS)
    await Nftables().apply("add table inet a\n")
    programs.put(PROGRAM, WORKS)
    await Nftables().apply("add table inet b\n")
    assert programs.written == ["add table inet a", NEWER, "add table inet b", NEWER]


async def test_the_first_one_writes_as_long_as_it_works(programs):
    programs.put(PROGRAM, WORKS)
    programs.put(NEWER, CRASHES)
    await Nftables().apply("add table inet a\n")
    assert programs.written == ["add table inet a", PROGRAM]


@pytest.mark.parametrize(
    "newer", [pytest.param("", id="there-is-none"), pytest.param(CRASHES, id="crashes-too")]
)
async def test_without_one_that_works_the_message_names_the_remedy(programs, newer):
    programs.put(PROGRAM, CRASHES)
    if newer:
        programs.put(NEWER, newer)
    with pytest.raises(Unreachable, match=r"ended by SIGSEGV.*update nftables"):
        await Nftables().apply("add table inet a\n")


async def test_a_refusal_is_no_crash(programs):
    programs.put(PROGRAM, REFUSES)
    programs.put(NEWER, WORKS)
    with pytest.raises(Unreachable, match="syntax error"):
        await Nftables().apply("add table inet a\n")
    assert programs.written == []


async def test_a_program_that_is_killed_has_not_crashed(programs):
    """As the kernel does where there is no memory left."""
    programs.put(PROGRAM, "kill -KILL $$")
    programs.put(NEWER, WORKS)
    with pytest.raises(Unreachable, match=r"it ended by SIGKILL$"):
        await Nftables().apply("add table inet a\n")
    assert programs.written == []
