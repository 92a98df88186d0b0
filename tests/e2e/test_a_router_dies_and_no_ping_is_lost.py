"""The router that leads is killed, or frozen for longer than its lease, while pods ping each other across nodes and
come and go: no echo is lost, no valid route is withdrawn, the other router takes over, and a frozen one that wakes up
publishes nothing.
"""

import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from mqtt import BASE, LEADER, Recorder, recording
from routers import claim, kill_leader, leading, log, pids, publishes, standing_by, succeeded
from story import ANSWER_SECONDS, Tenant, eventually

from galactic_lab.cluster import Lab

DEPOSED = '"deposed by another router"'
STANDING = {"10.1.1.1/32", "10.1.1.2/32"}


@pytest.fixture
def blue(replicas: Lab, tenants: Callable[..., Tenant]) -> Tenant:
    """Two pods that reach each other, and attachments for two more."""
    tenant = tenants("blue")
    tenant.settle({"one": ("node-1", "10.1.1.1/24"), "two": ("node-2", "10.1.1.2/24")})
    tenant.attach("three", "10.1.1.3/24")
    tenant.attach("four", "10.1.1.4/24")
    tenant.all_reach((("one", "10.1.1.2"), ("two", "10.1.1.1")))
    return tenant


@pytest.fixture
def pinging(blue: Tenant) -> "Iterator[subprocess.Popen[str]]":
    """Fifty echoes a second, from one to two."""
    argv = ["ping", "-n", "-i0.02", "10.1.1.2"]
    ping = blue.lab.popen(f"pod/{blue.namespace}/one", argv, stdout=subprocess.PIPE)
    yield ping
    ping.kill()
    ping.wait(timeout=ANSWER_SECONDS)


def test_killed(blue: Tenant, pinging: "subprocess.Popen[str]") -> None:
    lab = blue.lab
    vpc = blue.lab.get("vpc", "-n", blue.namespace, "vpc")["status"]["identifier"]
    standing_by(lab, leading(lab))
    with recording(lab) as recorder:
        killed = kill_leader(lab)
        blue.pod("three", "node-2")  # while no router leads
        blue.all_reach((("one", "10.1.1.3"),))
        assert leading(lab)
        blue.delete_pod("three")
        eventually("the pod's route is withdrawn", lambda: not blue.ping("one", "10.1.1.3"))
        eventually("the withdrawal was published", lambda: gone(recorder.changes(vpc)))
    none_lost(pinging)
    assert killed.started_again(lab)
    assert succeeded(killed.claim, recorder.claims())
    published_exactly(recorder, vpc, comes=["10.1.1.3/32"], goes=["10.1.1.3/32"])


def test_frozen(blue: Tenant, pinging: "subprocess.Popen[str]") -> None:
    lab = blue.lab
    vpc = blue.lab.get("vpc", "-n", blue.namespace, "vpc")["status"]["identifier"]
    with publishes(lab) as published, recording(lab) as recorder, frozen(lab) as (cold, before):
        pid, deposed = pids(lab)[cold], log(lab, cold).count(DEPOSED)
        # When it wakes up it hears of this pod first, and then of the other's claim.
        blue.pod("three", "node-2")
        blue.all_reach((("one", "10.1.1.3"),))
        other = leading(lab)
        assert other != cold
        # Its messages from before it froze are in the broker's log ahead of that.
        eventually("the other's claim is written down", lambda: LEADER in published.of(other))
        already = published.of(cold)
        lab.kill(cold, signal.SIGCONT)
        eventually(
            "it knows that it does not lead",
            lambda: log(lab, cold).count(DEPOSED) > deposed,
        )
        blue.pod("four", "node-2")
        blue.all_reach((("one", "10.1.1.4"),))
        eventually("the route was published", lambda: "10.1.1.4/32" in came(recorder.changes(vpc)))
        written = f"{BASE}/vpcs/{vpc}/changes"
        eventually("and written down", lambda: published.log.count(f"'{written}'") >= 2)
        assert pids(lab)[cold] == pid, "it was not the frozen one that was looked at"
        # It published nothing, or it was elected again and published its claim first.
        assert published.of(cold)[len(already) :][:1] in ([], [LEADER])
    none_lost(pinging)
    assert succeeded(before, recorder.claims())
    published_exactly(recorder, vpc, comes=["10.1.1.3/32", "10.1.1.4/32"], goes=[])


@contextmanager
def frozen(lab: Lab) -> Iterator[tuple[str, dict[str, Any]]]:
    """The component that leads is frozen, while another stands by; and its claim."""
    for _ in range(10):
        cold = leading(lab)
        standing_by(lab, cold)
        lab.kill(cold, signal.SIGSTOP)
        try:
            before = claim(lab)
            if before["id"].endswith(f"-{pids(lab)[cold]}"):  # no other router was elected meanwhile
                yield cold, before
                return
        finally:
            lab.kill(cold, signal.SIGCONT)
    pytest.fail("routers take turns")


def none_lost(ping: "subprocess.Popen[str]") -> None:
    ping.send_signal(signal.SIGINT)
    output, _ = ping.communicate(timeout=ANSWER_SECONDS)
    seen = [int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", output)]
    assert len(seen) > 100
    assert seen == list(range(1, len(seen) + 1)), f"missing: {set(range(1, seen[-1] + 1)) - set(seen)}"


def came(changes: list[dict[str, Any]]) -> list[str]:
    return [route["network"] for change in changes for route in change["set"]]


def gone(changes: list[dict[str, Any]]) -> list[str]:
    return [network for change in changes for network in change["delete"]]


def published_exactly(recorder: Recorder, vpc: str, *, comes: list[str], goes: list[str]) -> None:
    """Checks the changes: these routes came and went, once each; other routes are in none; each continues the last.

    Where several routers led in turn, one publishes again the changes that its predecessor had not packed.
    """
    changes = recorder.changes(vpc)
    assert not STANDING & {*came(changes), *gone(changes)}
    if len(recorder.claims()) > 1:
        assert (set(came(changes)), set(gone(changes))) == (set(comes), set(goes))
        return
    assert (came(changes), gone(changes)) == (comes, goes)
    assert [change["previous"] for change in changes[1:]] == [change["revision"] for change in changes[:-1]]
