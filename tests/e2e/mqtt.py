"""Messages that the lab's broker retains, and those that pass through it, by Mosquitto's own clients."""

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


class Message(NamedTuple):
    """One message; an empty payload, which clears what was retained, is None."""

    topic: str
    payload: Any
    retained: bool


def publish(lab: Lab, user: str, topic: str, payload: str = "") -> None:
    """Publishes as ``user``, retained; an empty payload clears the topic. A new user gets a password first."""
    if not (lab.state.broker / "secrets" / user).exists():
        broker.admit(lab.state, [user])
        lab.kill("mosquitto", signal.SIGHUP)
    options = ["-m", payload] if payload else ["-n"]
    lab.run("control", [*broker.client(lab.state, "mosquitto_pub", user), "-r", "-t", topic, *options])


def retained(lab: Lab) -> dict[str, Any]:
    """Topic → payload of everything below the base.

    The broker answers subscriptions in order: its version comes after everything retained below the base.
    """
    found: dict[str, Any] = {}
    with _listening(lab, broker.OBSERVER, f"{BASE}/#", VERSION) as lines:
        for message in lines:
            if message.topic == VERSION:
                break
            if message.retained:
                found[message.topic] = message.payload
    return found


class Recorder:
    """All messages published since it subscribed."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.ready = threading.Event()

    def changes(self, vpc: str) -> list[dict[str, Any]]:
        """The changes of a VPC, in their order."""
        return [message.payload for message in self.messages if message.topic == f"{BASE}/vpcs/{vpc}/changes"]

    def claims(self) -> list[dict[str, Any]]:
        """The claims to leadership in their order, without repetitions. Term 0 is a router's last will."""
        payloads = [
            message.payload
            for message in self.messages
            if message.topic == LEADER and message.payload and message.payload["term"]
        ]
        return [payload for number, payload in enumerate(payloads) if payload not in payloads[:number]]


@contextmanager
def recording(lab: Lab) -> Iterator[Recorder]:
    """Subscribes to all topics. Messages that were retained before are not recorded."""
    recorder = Recorder()
    with _listening(lab, broker.RECORDER, f"{BASE}/#", VERSION) as lines:

        def record() -> None:
            for message in lines:
                recorder.ready.set()
                if not message.retained:
                    recorder.messages.append(message)

        thread = threading.Thread(target=record, daemon=True)
        thread.start()
        assert recorder.ready.wait(SECONDS), "the broker sends nothing to a subscriber"
        yield recorder
    thread.join(SECONDS)


@contextmanager
def _listening(lab: Lab, user: str, *topics: str) -> Iterator[Iterator[Message]]:
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


def _parsed(line: str) -> Message:
    kept, topic, payload = line.rstrip("\n").split(" ", 2)
    return Message(topic, _value(payload), kept == "1")


def _value(payload: str) -> Any:
    """Not all that routers say to themselves is JSON."""
    try:
        return json.loads(payload) if payload else None
    except ValueError:
        return payload
