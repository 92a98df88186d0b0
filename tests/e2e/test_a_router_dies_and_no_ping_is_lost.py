"""The router that leads is killed, or frozen for longer than its lease, while pods ping each other across nodes and
come and go: no echo is lost, no route is withdrawn that stands, the other router goes on, and a frozen one that wakes
up says nothing any more.
"""

import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from mqtt import LEADER, recording
from routers import claim, leading, log, pids, publishes, standing_by
from story import Tenant, eventually

from galactic.lab.cluster import Lab

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
    ping.wait(timeout=30)


def test_killed(blue: Tenant, pinging: "subprocess.Popen[str]") -> None:
    lab = blue.lab
    vpc = blue.lab.get("vpc", "-n", blue.namespace, "vpc")["status"]["identifier"]
    other, before = standing_by(lab), claim(lab)
    with recording(lab) as recorder:
        lab.kill(leading(lab))
        blue.pod("three", "node-2")  # while nobody leads
        blue.all_reach((("one", "10.1.1.3"),))
        assert leading(lab) == other
        assert claim(lab)["term"] > before["term"]
        blue.delete_pod("three")
        eventually("the pod's route is withdrawn", lambda: not blue.ping("one", "10.1.1.3"))
    none_lost(pinging)
    told(recorder.changes(vpc), come=["10.1.1.3/32"], gone=["10.1.1.3/32"])


def test_frozen(blue: Tenant, pinging: "subprocess.Popen[str]") -> None:
    lab = blue.lab
    vpc = blue.lab.get("vpc", "-n", blue.namespace, "vpc")["status"]["identifier"]
    other, frozen = standing_by(lab), leading(lab)
    before, deposed = pids(lab)[frozen], log(lab, frozen).count('"deposed"')
    with publishes(lab) as published, recording(lab) as recorder:
        lab.kill(frozen, signal.SIGSTOP)
        try:
            # When it wakes up it hears of this pod first, and then of the other's claim.
            blue.pod("three", "node-2")
            blue.all_reach((("one", "10.1.1.3"),))
            assert leading(lab) == other
            already = published.of(frozen)
        finally:
            lab.kill(frozen, signal.SIGCONT)
        eventually("it knows that it does not lead", lambda: log(lab, frozen).count('"deposed"') > deposed)
        blue.pod("four", "node-2")
        blue.all_reach((("one", "10.1.1.4"),))
        assert pids(lab)[frozen] == before, "it was not the frozen one that was looked at"
        assert leading(lab) == other
        assert published.of(other)
        assert published.of(frozen) == already
    none_lost(pinging)
    told(recorder.changes(vpc), come=["10.1.1.3/32", "10.1.1.4/32"], gone=[])
    claims = [each.payload for each in recorder.said if each.topic == LEADER]
    assert len(claims) == 1


def none_lost(ping: "subprocess.Popen[str]") -> None:
    ping.send_signal(signal.SIGINT)
    said, _ = ping.communicate(timeout=60)
    seen = [int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", said)]
    assert len(seen) > 100
    assert seen == list(range(1, len(seen) + 1)), f"missing: {set(range(1, seen[-1] + 1)) - set(seen)}"


def told(changes: list[dict[str, Any]], *, come: list[str], gone: list[str]) -> None:
    """These came and went, each once; of what stands nothing was said, and each change follows on the one before."""
    assert [route["network"] for change in changes for route in change["set"]] == come
    assert [network for change in changes for network in change["delete"]] == gone
    assert not STANDING & {*come, *gone}
    assert [change["previous"] for change in changes[1:]] == [change["revision"] for change in changes[:-1]]
