"""What the lab's broker retains and what passes through it, seen with Mosquitto's own clients."""

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from galactic_lab.cluster import Lab
from galactic_lab.controlplane import broker

BASE = "galactic/v1"
LEADER = f"{BASE}/router/leader"
VERSION = "$SYS/broker/version"
"""The one topic that any broker retains from its first moment."""
SECONDS = 120.0
STORY_SECONDS = 1200.0


class Said(NamedTuple):
    """One message; an empty payload, which clears what was retained, is None."""

    topic: str
    payload: Any
    retained: bool


def publish(lab: Lab, user: str, topic: str, payload: str = "") -> None:
    """Says it as ``user``, retained; nothing clears what is retained. Somebody new gets a password first."""
    if not (lab.state.broker / "secrets" / user).exists():
        broker.admit(lab.state, [user])
        lab.kill("mosquitto", signal.SIGHUP)
    said = ["-m", payload] if payload else ["-n"]
    lab.run("control", [*broker.client(lab.state, "mosquitto_pub", user), "-r", "-t", topic, *said])


def retained(lab: Lab) -> dict[str, Any]:
    """Topic → payload of everything below the base.

    The broker answers subscriptions in order: when it says its version, all of the first is told.
    """
    found: dict[str, Any] = {}
    with _listening(lab, broker.OBSERVER, f"{BASE}/#", VERSION) as lines:
        for said in lines:
            if said.topic == VERSION:
                break
            if said.retained:
                found[said.topic] = said.payload
    return found


class Recorder:
    """Everything that was said since it listens."""

    def __init__(self) -> None:
        self.said: list[Said] = []
        self.ready = threading.Event()

    def changes(self, vpc: str) -> list[dict[str, Any]]:
        """The changes of a VPC, in their order."""
        return [each.payload for each in self.said if each.topic == f"{BASE}/vpcs/{vpc}/changes"]

    def claims(self) -> list[dict[str, Any]]:
        """Who began to lead, each once, in their order. Term 0 is a router's last will: it leads no more."""
        said = [
            one.payload for one in self.said if one.topic == LEADER and one.payload and one.payload["term"]
        ]
        return [each for number, each in enumerate(said) if each not in said[:number]]


@contextmanager
def recording(lab: Lab) -> Iterator[Recorder]:
    """Listens to everything. What is retained when it begins is not recorded."""
    recorder = Recorder()
    with _listening(lab, broker.RECORDER, f"{BASE}/#", VERSION) as lines:

        def record() -> None:
            for said in lines:
                recorder.ready.set()
                if not said.retained:
                    recorder.said.append(said)

        thread = threading.Thread(target=record, daemon=True)
        thread.start()
        assert recorder.ready.wait(SECONDS), "the broker says nothing to somebody who listens"
        yield recorder
    thread.join(SECONDS)


@contextmanager
def _listening(lab: Lab, user: str, *topics: str) -> Iterator[Iterator[Said]]:
    argv = broker.client(lab.state, "mosquitto_sub", user)
    for topic in topics:
        argv += ["-t", topic]
    listening = lab.popen("control", [*argv, "-F", "%r %t %p"], stdout=subprocess.PIPE)
    timer = threading.Timer(STORY_SECONDS, listening.kill)
    timer.start()
    try:
        assert listening.stdout
        yield map(_parsed, listening.stdout)
    finally:
        timer.cancel()
        listening.kill()  # its handler of SIGTERM may wait for ever for what it has interrupted
        listening.wait(SECONDS)


def _parsed(line: str) -> Said:
    kept, topic, payload = line.rstrip("\n").split(" ", 2)
    return Said(topic, _value(payload), kept == "1")


def _value(payload: str) -> Any:
    """Not all that routers say to themselves is JSON."""
    try:
        return json.loads(payload) if payload else None
    except ValueError:
        return payload
