"""Every component is killed, and the node controllers end in good order as for an upgrade, while a ping and a TCP
connection run between two nodes: not one echo is missing, no byte is lost, the connection is not reset.
"""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from story import ANSWER_SECONDS, Tenant, eventually, healthy

from galactic_lab.cluster import Lab

NODES = ("node-1", "node-2")
RESTARTS = (
    ("router", signal.SIGKILL),
    ("mosquitto", signal.SIGKILL),
    *((f"controller/{node}", number) for node in NODES for number in (signal.SIGKILL, signal.SIGTERM)),
)
STREAM = Path(__file__).with_name("stream.py")


def test_survive(tenants: Callable[..., Tenant], lab: Lab) -> None:
    blue = tenants("blue")
    blue.settle({"one": ("node-1", "10.1.1.1/24"), "two": ("node-2", "10.1.1.2/24")})
    blue.all_reach((("one", "10.1.1.2"),))
    argv = [sys.executable, "-P", str(STREAM), blue.netns("two"), "10.1.1.2", blue.netns("one")]
    stream = lab.popen("kernel", argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    ping = lab.popen(
        f"pod/{blue.namespace}/one", ["ping", "-n", "-i0.02", "10.1.1.2"], stdout=subprocess.PIPE
    )
    try:
        assert stream.stdout
        assert stream.stdout.readline() == "connected\n"
        for component, number in RESTARTS:
            before = process(lab, component)
            lab.kill(component, number)
            eventually(
                f"{component} is another process",
                lambda before=before, component=component: process(lab, component) not in (None, before),
            )
            if component.startswith("controller/"):
                node = component.removeprefix("controller/")
                eventually(f"the controller of {node} is at work again", lambda node=node: healthy(lab, node))
    finally:
        ping.send_signal(signal.SIGINT)
        echoes, _ = ping.communicate(timeout=ANSWER_SECONDS)
        summary, _ = stream.communicate(timeout=ANSWER_SECONDS)  # which ends its standard input
    result = json.loads(summary)
    assert result["error"] is None
    assert result["sent"] == result["received"] > 100
    seen = [int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", echoes)]
    assert seen == list(range(1, len(seen) + 1)), f"missing: {set(range(1, seen[-1] + 1)) - set(seen)}"
    assert len(seen) > 100

    # and what comes after it works as before
    blue.attach("three", "10.1.1.3/24")
    blue.pod("three", "node-2")
    blue.all_reach((("one", "10.1.1.3"),))
    eventually("the new endpoint is recorded", lambda: blue.endpoint("three"))


def process(lab: Lab, component: str) -> int | None:
    """The process id of a component, None while there is none."""
    if component.startswith("controller/"):
        return lab.controller_pid(component.removeprefix("controller/"))
    (entry,) = (process for process in lab.supervisor.status() if process["name"] == component)
    return entry["pid"] if entry["statename"] == "RUNNING" else None
