"""`galactic connectivity test` reports packets that do not arrive, and leaves nothing behind. The stories of the chart
run it as `helm test`, where all is well.

Its pods run Galactic's image, so the lab is one that the chart was installed in.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from story import eventually

from galactic_lab.cluster import Lab

LABEL = "galactic.datumapis.com/connectivity"
TRIES, SECONDS = 3, 900.0
UNREACHABLE = 4


def start(lab: Lab, *words: str) -> "subprocess.Popen[str]":
    program = Path(sys.executable).with_name("galactic")
    argv = [str(program), "connectivity", "test", *words, "--kubeconfig", str(lab.kubeconfig), "-o", "json"]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def tried(lab: Lab, *words: str, ends: int) -> dict[str, Any]:
    """The results, with that exit code. Runs again where the API server did not answer."""
    for _ in range(TRIES):
        output, errors = (process := start(lab, *words)).communicate(timeout=SECONDS)
        if process.returncode != UNREACHABLE:
            break
        start(lab, "--cleanup").communicate(timeout=SECONDS)
    assert process.returncode == ends, errors
    return dict(json.loads(output))


def left(lab: Lab) -> str:
    return lab.kubectl("get", "namespaces", "-l", LABEL, "-o", "name")


def hindered(lab: Lab, node: str) -> list[str]:
    """Why no pod is attached there."""
    taints = [taint["key"] for taint in lab.get("node", node)["spec"].get("taints", ())]
    conditions = lab.get("nodesegment", node)["status"].get("conditions", ())
    return taints + [
        condition["type"]
        for condition in conditions
        if condition["type"] == "Ready" and condition["status"] != "True"
    ]


@pytest.fixture(scope="module")
def lab(charted: Lab) -> Lab:
    """In place of the stories' lab."""
    return charted


@pytest.fixture(autouse=True)
def unhindered(lab: Lab) -> None:
    """A lab that has just come up, or the story before this one, may keep pods away for a moment."""
    for node in ("node-1", "node-2"):
        eventually(f"nothing hinders pods on {node}: {hindered(lab, node)}", lambda: not hindered(lab, node))  # noqa: B023


def test_packets_that_do_not_arrive_are_reported(lab: Lab) -> None:
    """Nothing crosses the underlay between the two nodes."""
    prefix = str(lab.state.node("node-2").prefix)
    lab.exec("node-1", ["ip", "-6", "route", "add", "unreachable", prefix, "metric", "1"])
    try:
        found = tried(lab, "--timeout", "30", "--nodes", "node-1,node-2", ends=3)
        wrong = {(result["from"], result["to"]) for result in found["results"] if not result["right"]}
        assert ("blue-1", "10.254.0.2") in wrong
    finally:
        lab.exec("node-1", ["ip", "-6", "route", "del", "unreachable", prefix, "metric", "1"])
    assert not left(lab)


def test_an_interrupted_test_leaves_nothing(lab: Lab) -> None:
    interrupted = start(lab)
    eventually("its namespace is there", lambda: left(lab))
    interrupted.send_signal(signal.SIGINT)
    interrupted.communicate(timeout=SECONDS)
    assert interrupted.returncode == 130
    assert not left(lab)
