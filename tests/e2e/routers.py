"""Which of a lab's routers leads, and what each of them publishes."""

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mqtt
from story import eventually

from galactic_lab.cluster import Lab
from galactic_lab.controlplane import broker
from galactic_lab.controlplane.controllers import router_name

DEBUG = "log_type debug\n"


def pids(lab: Lab) -> dict[str, int]:
    """The routers that run."""
    names = {router_name(number) for number in range(lab.state.routers)}
    return {each["name"]: each["pid"] for each in lab.supervisor.status() if each["name"] in names}


def claim(lab: Lab) -> Any:
    """The retained ``router/leader``, None where there is none."""
    return mqtt.retained(lab).get(mqtt.LEADER)


def leading(lab: Lab) -> str:
    """The component that leads, waited for."""

    def one() -> str | None:
        said = claim(lab)
        pid = said and int(said["id"].rpartition("-")[2])
        return next((name for name, each in pids(lab).items() if each == pid), None)

    return str(eventually("one of the routers leads", one))


def standing_by(lab: Lab, leader: str) -> str:
    """A component other than ``leader``, and that has read all there is."""
    other = next(name for name in pids(lab) if name != leader)
    ready = '"broker read"'
    eventually(f"{other} has read what there is", lambda: ready in log(lab, other).split('"starting"')[-1])
    return other


@contextmanager
def only_one(lab: Lab) -> Iterator[None]:
    """One router meanwhile. Of two, one follows the other that is held up for three seconds."""
    first = leading(lab)
    others = [name for name in pids(lab) if name != first]
    try:
        for name in others:
            lab.supervisor.stop(name)
        eventually(f"{first} leads", lambda: leading(lab) == first)
        yield
    finally:
        for name in others:
            lab.supervisor.start(name)


def succeeded(before: dict[str, Any], claims: list[dict[str, Any]]) -> bool:
    """Whether others followed, one after the other, each in a term of its own. Who leads may change more often than a
    story asks for: a leader that is held up for three seconds is followed as one that died is.
    """
    later = claims[1:] if claims[:1] == [before] else claims  # said again, to a broker that may not have it
    terms = [before["term"], *(each["term"] for each in later)]
    return any(each["id"] != before["id"] for each in later) and terms == sorted(set(terms))


def log(lab: Lab, component: str) -> str:
    return (lab.state.logs / f"{component}.log").read_text(errors="replace")


class Publishes:
    """What the broker received, out of its log."""

    def __init__(self, lab: Lab) -> None:
        self._lab, self._from = lab, len(log(lab, "mosquitto"))

    @property
    def log(self) -> str:
        return log(self._lab, "mosquitto")[self._from :]

    def of(self, component: str) -> list[str]:
        """The topics that a router published to, in that order; not what it says to itself to know when it has read
        all there is.
        """
        number = next(n for n in range(self._lab.state.routers) if router_name(n) == component)
        found = re.findall(rf"Received PUBLISH from {broker.router(number)} \(.*?, '([^']*)'", self.log)
        return [topic for topic in found if "/router/sync/" not in topic]


@contextmanager
def publishes(lab: Lab) -> Iterator[Publishes]:
    """The broker writes down who publishes what."""
    config = lab.state.broker / "mosquitto.conf"
    text = config.read_text()
    found = Publishes(lab)
    config.write_text(text + DEBUG)
    try:
        lab.kill("mosquitto", signal.SIGHUP)
        eventually("the broker has read that", lambda: mqtt.retained(lab) and "SUBSCRIBE" in found.log)
        yield found
    finally:
        config.write_text(text)
        lab.kill("mosquitto", signal.SIGHUP)
