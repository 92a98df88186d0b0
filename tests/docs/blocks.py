"""The fenced blocks of a page, and the marks that decide whether a test runs them.

In tutorials a ``console`` block is run; elsewhere the comment before it is ``<!-- run: here -->`` or
``<!-- not run: why -->``, or for a whole page ``<!-- commands not run: why -->``. ``<!-- run: fails -->``: the last
command must fail. ``<!-- run: lab -->``: it needs commands of the lab. ``<!-- run: two clusters -->``: it needs two.
Lines with ``$`` are commands, each followed by its output, with ``…`` for parts that differ. A block with
``title="NAME"`` is a file of that name.
"""

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
DOCS: Final = ROOT / "docs"
_FENCE: Final = re.compile(r"^(?P<indent> *)```(?P<language>\w*)(?P<options>.*)$")
_MARK: Final = re.compile(r"^ *<!-- (?P<mark>(?:not )?run: .+) -->$")
_PAGE: Final = re.compile(r"^<!-- commands (?P<mark>not run: .+) -->$", re.MULTILINE)
_SECONDS: Final = 1500.0


@dataclass(frozen=True, slots=True)
class Block:
    page: Path
    line: int
    language: str
    title: str
    mark: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def run(self) -> bool:
        return self.language == "console" and self.mark.startswith("run")


@dataclass(frozen=True, slots=True)
class Command:
    place: str
    typed: str
    expected: tuple[str, ...]
    fails: bool


def pages() -> list[Path]:
    """All pages of the documentation."""
    return sorted(DOCS.rglob("*.md"))


def blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text().split("\n")
    for_all = _PAGE.search(page.read_text())
    usual = for_all["mark"] if for_all else "run" if page.parent.name == "tutorials" else ""
    number, mark = 0, ""
    while number < len(lines):
        if match := _MARK.match(lines[number]):
            mark = match["mark"]
        elif fence := _FENCE.match(lines[number]):
            end = next(at for at in range(number + 1, len(lines)) if lines[at].strip() == "```")
            text = "\n".join(line.removeprefix(fence["indent"]) for line in lines[number + 1 : end])
            title = re.search(r'title="([^"]+)"', fence["options"])
            yield Block(
                page, number + 1, fence["language"], title[1] if title else "", mark or usual, f"{text}\n"
            )
            number, mark = end, ""
        elif lines[number].strip():
            mark = ""
        number += 1


def commands(block: Block) -> list[Command]:
    """The commands of a console block. One without any ``$`` is a list of commands, with comments behind them."""
    lines = block.text.rstrip("\n").split("\n")
    if not any(line.startswith("$ ") for line in lines):
        typed = [re.split(r"\s+# ", line)[0] for line in lines if line.strip() and not line.startswith("#")]
        return [Command(block.place, line, (), fails=False) for line in typed]
    groups: list[tuple[str, list[str]]] = []
    for line in lines:
        if line.startswith("$ "):
            groups.append((line[2:], []))
        elif line.strip() and groups:
            groups[-1][1].append(line)
    last = len(groups) - 1
    return [
        Command(block.place, typed, tuple(output), fails=block.mark == "run: fails" and at == last)
        for at, (typed, output) in enumerate(groups)
    ]


def missing(expected: tuple[str, ...], printed: str) -> str | None:
    """The first expected line that is not printed in its order; None if all are."""
    lines = iter(printed.split("\n"))
    for line in expected:
        pattern = r"\s+".join(".*".join(map(re.escape, word.split("…"))) for word in line.split())
        if not any(re.fullmatch(pattern, line.strip()) for line in lines):
            return line
    return None


def walk(page: Path, folder: Path, environment: Mapping[str, str]) -> None:
    """Follows the page like a reader: makes its files, runs its commands in one shell, and compares the output."""
    todo = []
    for block in blocks(page):
        if block.title:
            (folder / block.title).write_text(block.text)
        if block.run:
            todo += commands(block)
    script = "".join(
        f"echo '@@ {number}'\n{command.typed}\nstatus=$?; echo; echo \"@= $status\"\n"
        f"[ $status {'!=' if command.fails else '='} 0 ] || exit\n"
        for number, command in enumerate(todo)
    )
    shell = subprocess.run(
        ["bash", "-u", "-c", f"exec 2>&1\n{script}"],
        cwd=folder,
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    outputs = {int(part.split("\n")[0]): part.split("\n", 1)[1] for part in shell.stdout.split("@@ ")[1:]}
    assert todo, f"{page} has nothing to run"
    for number, command in enumerate(todo):
        printed, _, status = outputs.get(number, "").partition("@= ")
        assert status, f"{command.place}: $ {command.typed}\ndid not end\n{printed}"
        assert (int(status) != 0) == command.fails, f"{command.place}: $ {command.typed}\n{printed}→ {status}"
        line = missing(command.expected, printed)
        assert line is None, f"{command.place}: $ {command.typed}\n{printed}without the line: {line}"
