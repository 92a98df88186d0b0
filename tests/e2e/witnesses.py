"""The state of a lab when a story fails, for readers of the test's output: processes, `galactic status`, pods that are
not ready, and log lines since the story began.
"""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from galactic_lab.cluster import Lab
from galactic_lab.controlplane.controllers import router_name

LINES = 150
"""Of one story's report in all."""
EACH = 25
"""Of one log, at the most."""
LEAST = 3
"""Of one log, where it has that many: a share of the room before others get what remains."""
WIDTH = 320
SECONDS = 60.0
TROUBLE = re.compile(
    r'"level": ?"(warning|error|critical)"| (WARNING|ERROR|CRITICAL) |Traceback|[Ee]rror: |ended with'
)

Positions = Mapping[Path, int]


def positions(lab: Lab) -> dict[Path, int]:
    """The present length of each log: later lines belong to the story that begins."""
    return {path: path.stat().st_size for path in lab.state.logs.glob("*.log")}


def testimony(lab: Lab, since: Positions) -> str:
    """The report, in short sections. A part that cannot be read has the error instead; nothing is raised."""
    sections = [
        ("what runs", _asked(lambda: _running(lab)), 14),
        ("galactic status", _asked(lambda: _status(lab)), 30),
        ("pods that are not ready, and warnings", _asked(lambda: _pods(lab)), 16),
    ]
    lines = [line for title, section, most in sections for line in (f"── {title}", *_short(section, most))]
    logs = _asked(lambda: list(_logs(lab, since, LINES - len(lines))))
    return "\n".join(line[:WIDTH] for line in (*lines, *logs))


def _asked(what: Callable[[], list[str]]) -> list[str]:
    try:
        return what()
    except Exception as error:  # noqa: BLE001 - a report that fails would take the failed story's place
        return [f"(could not be asked: {error!r})"]


def _short(lines: list[str], most: int) -> list[str]:
    return lines if len(lines) <= most else [*lines[: most - 1], f"… {len(lines) - most + 1} more"]


def _running(lab: Lab) -> list[str]:
    """One line of the running processes with their ages, and a line for each that does not run."""
    status = lab.supervisor.status()
    up = [
        f"{process['name']} {process['description'].rpartition(' ')[2]}"
        for process in status
        if process["pid"]
    ]
    down = [
        f"{process['name']}: {process['statename']} {process['description']}"
        for process in status
        if not process["pid"]
    ]
    held = [member.name for member in lab.state.members if lab.state.hold(member.name).exists()]
    away = [member.name for member in lab.state.members if not lab.controller_pid(member.name)]
    nodes = (
        [f"without a controller: {', '.join(away)} (kept away: {', '.join(held) or 'none'})"] if away else []
    )
    return [", ".join(up), *down, *nodes]


def _status(lab: Lab) -> list[str]:
    argv = [str(Path(sys.executable).with_name("galactic")), "status", "--kubeconfig", str(lab.kubeconfig)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, check=False)
    return (done.stdout + done.stderr).strip().splitlines()


def _pods(lab: Lab) -> list[str]:
    pods = lab.kubectl("get", "pods", "-A", "-o", "wide", "--request-timeout=20s").splitlines()
    warnings = ("get", "events", "-A", "--field-selector=type=Warning", "--sort-by=.lastTimestamp")
    events = lab.kubectl(*warnings, "--request-timeout=20s").splitlines()
    return [line for line in pods[1:] if not re.search(r"\s(\d+)/\1\s+Running", line)][-8:] + events[1:][-8:]


def _names(lab: Lab) -> Iterator[str]:
    """The logs that are read."""
    yield from map(router_name, range(lab.state.routers))
    yield from ("operator", "webhook", "mosquitto")
    for member in lab.state.members:
        yield from (f"{member.name}.{role}" for role in ("controller", "containerd", "kubelet"))
    yield "nodes"


def _logs(lab: Lab, since: Positions, room: int) -> Iterator[str]:
    """Of each log warnings and errors first, then the last lines; in the log's order."""
    logs = {name: _since(lab.state.logs / f"{name}.log", since) for name in _names(lab)}
    speaking = {name: lines for name, lines in logs.items() if lines}
    if silent := sorted(logs.keys() - speaking.keys()):
        yield f"── no lines since the story began: {', '.join(silent)}"
    trouble = {
        name: {number for number, line in enumerate(lines) if TROUBLE.search(line)}
        for name, lines in speaking.items()
    }
    room -= 1 + len(speaking)
    shares = _shares({name: max(LEAST, len(trouble[name])) for name in speaking}, speaking, room)
    for name, lines in speaking.items():
        last = sorted(trouble[name], reverse=True)[: shares[name]]
        others = (number for number in reversed(range(len(lines))) if number not in trouble[name])
        yield f"── {name}: {len(trouble[name])} of {len(lines)} lines since the story began are warnings or errors"
        yield from (lines[number] for number in sorted([*last, *islice(others, shares[name] - len(last))]))


def _shares(urgent: Mapping[str, int], lines: Mapping[str, list[str]], room: int) -> dict[str, int]:
    """The number of lines of each log that there is room for: shared evenly, urgent lines first."""
    shares = dict.fromkeys(lines, 0)
    for wanted in (urgent, dict.fromkeys(lines, EACH)):
        most = {name: min(wanted[name], EACH, len(lines[name])) for name in lines}
        while room > 0 and (wanting := [name for name in lines if shares[name] < most[name]]):
            for name in wanting[:room]:
                shares[name] += 1
            room -= len(wanting[:room])
    return shares


def _since(path: Path, since: Positions) -> list[str]:
    try:
        with path.open("rb") as log:
            if path.stat().st_size >= since.get(path, 0):  # or it was rotated
                log.seek(since.get(path, 0))
            return log.read().decode(errors="replace").splitlines()
    except OSError:
        return []
