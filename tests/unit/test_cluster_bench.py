"""The parts of ``bench/cluster`` whose errors would be wrong figures: the meter, the count of writes, the table."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "cluster"
PROGRAM = """
import asyncio, sys, time

def busy(seconds):
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass

async def long():
    busy(0.2)

async def main():
    await long()
    for _ in range(10):
        busy(0.02)
        await asyncio.sleep(0)
    print("done", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""
SECONDS = 30.0


@pytest.fixture
def bench(monkeypatch):
    for folder in ("operator", "cluster"):
        monkeypatch.syspath_prepend(BENCH.parent / folder)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(BENCH.parent):
            del sys.modules[name]


def figures(process: "subprocess.Popen[str]", path: Path) -> dict[str, float]:
    path.unlink(missing_ok=True)
    process.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    found: dict[str, float] = json.loads(path.read_text())
    return found


def test_the_meter_has_the_longest_turn_since_it_was_last_asked(tmp_path):
    program, path = tmp_path / "program.py", tmp_path / "figures.json"
    program.write_text(PROGRAM)
    argv = [sys.executable, "-P", str(BENCH / "metered.py"), str(path), str(program)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "done\n"
            first, second = figures(process, path), figures(process, path)
        finally:
            process.kill()
    assert 0.2 <= first["step"] <= first["turn"] < 0.4, "one turn, not the sum of all"
    assert first["name"] == "main"
    assert second["turn"] < 0.1


@pytest.mark.usefixtures("bench")
def test_writes_are_counted_once_by_user_kind_and_verb(tmp_path):
    from load import Audit

    log = tmp_path / "audit.log"
    status = {"resource": "vpcattachments", "subresource": "status"}
    events = [
        {"user": {"username": "operator"}, "verb": "patch", "objectRef": status},
        {"user": {"username": "operator"}, "verb": "patch", "objectRef": status},
        {"user": {"username": "galactic-node-n7"}, "verb": "create", "objectRef": {"resource": "events"}},
    ]
    lines = [json.dumps(event) + "\n" for event in events]
    log.write_text("".join(lines[:2]) + lines[2][:20])  # the server is about to write the rest
    audit = Audit(log)
    assert audit.drain() == {("operator", "vpcattachments/status", "patch"): 2}
    log.write_text("".join(lines))
    assert audit.drain() == {("galactic-node-n7", "events", "create"): 1}
    assert not audit.drain()


@pytest.mark.usefixtures("bench")
async def test_a_node_of_the_bench_has_the_tasks_of_a_real_one(tmp_path):
    from nodes import Node, Shared

    from galactic.kube.memory import MemoryApi

    node = Node("n1", Shared(tmp_path, "mqtt://127.0.0.1:1"))
    tasks = node._tasks(MemoryApi())
    assert {name for name in tasks.__slots__ if getattr(tasks, name) is None} == {"certificate", "slices"}


@pytest.mark.usefixtures("bench")
def test_every_figure_is_in_the_table(tmp_path):
    from processes import COMPONENTS, Turns
    from report import details, table
    from result import Result

    def result(nodes: int, change: float) -> Result:
        made = Result(nodes, 100 * nodes, 50)
        made.writes = Counter(
            {("operator", "events", "create"): 100, ("galactic-node-n1", "pods", "patch"): 50}
        )
        turns = {name: Turns(0.03, 0.02, "worker", 0.01, 2) for name in COMPONENTS}
        turns |= {"nodes-1": Turns(0.5, 0.004, "step", 0, 0), "nodes-2": Turns(0.5, 0.007, "step", 0, 0)}
        made.turns = dict.fromkeys(("pods start", "paced", "one change", "broker restart", "start"), turns)
        memory = dict.fromkeys((*COMPONENTS, "nodes"), 2048.0)
        made.memory = {"filled": memory, "restarted": memory}
        made.spent = dict.fromkeys((*COMPONENTS, "kube-apiserver", "etcd"), 0.001)
        made.reachable = [number / 1000 for number in range(1, 101)]
        made.change = {"operator": change, "router-1": change, "router-2": 2 * change, "broker": 0.0}
        return made

    text = "\n".join(table([result(10, 0.010), result(1000, 0.012)]))
    for row in (
        "| API writes a pod | 3.00 | 3.00 |",
        "| processor time of a pod, ours | 4.0 ms | 4.0 ms |",
        "| bound to reachable, p50 and p99 | 51 ms, 100 ms | 51 ms, 100 ms |",
        "| memory of webhook, an attachment | 2.0 KiB, 2.0 KiB | 2.0 KiB, 2.0 KiB |",
        "| longest turn of operator, running and at start | 30 ms, 30 ms | 30 ms, 30 ms |",
        "| longest turn of nodes, running and at start | 7 ms, 7 ms | 7 ms, 7 ms |",
        "| a change, operator | 10.00 ms (1.00) | 12.00 ms (1.20) |",
        "| a change, routers | 30.00 ms (1.00) | 36.00 ms (1.20) |",
        "| a change, broker | 0.00 ms (-) | 0.00 ms (-) |",
    ):
        assert row in text
    assert "operator create events 2.00, node patch pods 1.00" in "\n".join(details([result(10, 0.01)]))
