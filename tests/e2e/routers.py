"""Which of a lab's routers leads, and what each of them publishes."""

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import mqtt
from story import eventually

from galactic_lab.cluster import Lab
from galactic_lab.controlplane import broker
from galactic_lab.controlplane.controllers import router_name

DEBUG = "log_type debug\n"


def pids(lab: Lab) -> dict[str, int]:
    """The routers that run."""
    names = {router_name(number) for number in range(lab.state.routers)}
    return {
        process["name"]: process["pid"] for process in lab.supervisor.status() if process["name"] in names
    }


def claim(lab: Lab) -> Any:
    """The retained ``router/leader``, None where there is none."""
    return mqtt.retained(lab).get(mqtt.LEADER)


def leading(lab: Lab) -> str:
    """The component that leads, waited for."""

    def one() -> str | None:
        leader = claim(lab)
        pid = leader and int(leader["id"].rpartition("-")[2])
        return next((name for name, number in pids(lab).items() if number == pid), None)

    return str(eventually("one of the routers leads", one))


def standing_by(lab: Lab, leader: str) -> str:
    """A component other than ``leader``, once it has read everything that the broker retains."""
    other = next(name for name in pids(lab) if name != leader)
    ready = '"broker read"'
    eventually(f"{other} has read the broker", lambda: ready in log(lab, other).split('"starting"')[-1])
    return other


@contextmanager
def only_one(lab: Lab) -> Iterator[None]:
    """Stops all routers but the leader meanwhile: a standby would succeed a leader that is delayed for three
    seconds.
    """
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


class Killed(NamedTuple):
    """A leader that was killed: its component, its claim, and the process's id and start in Unix seconds."""

    component: str
    claim: dict[str, Any]
    process: tuple[int, int]

    def started_again(self, lab: Lab) -> bool:
        """Whether the component is another process now."""
        return _processes(lab)[self.component] != self.process


def kill_leader(lab: Lab) -> Killed:
    killed = Killed(component := leading(lab), claim(lab), _processes(lab)[component])
    lab.kill(component)
    assert str(killed.claim["id"]).endswith(f"-{killed.process[0]}"), "another router was elected meanwhile"
    return killed


def _processes(lab: Lab) -> dict[str, tuple[int, int]]:
    return {process["name"]: (process["pid"], process["start"]) for process in lab.supervisor.status()}


def succeeded(before: dict[str, Any], claims: list[dict[str, Any]]) -> bool:
    """Whether other claims followed, one after the other, each in a term of its own. There may be more leaders than a
    story asks for: one that is delayed for three seconds is succeeded as well. The name of a leader proves nothing:
    process ids are given again.
    """
    # A leader publishes its claim again to a broker that came back.
    later = claims[1:] if claims[:1] == [before] else claims
    terms = [before["term"], *(claimed["term"] for claimed in later)]
    return bool(later) and terms == sorted(set(terms))


def log(lab: Lab, component: str) -> str:
    return (lab.state.logs / f"{component}.log").read_text(errors="replace")


class Publishes:
    """The messages that the broker received, out of its log."""

    def __init__(self, lab: Lab) -> None:
        self._lab, self._from = lab, len(log(lab, "mosquitto"))

    @property
    def log(self) -> str:
        return log(self._lab, "mosquitto")[self._from :]

    def of(self, component: str) -> list[str]:
        """The topics that a router published to, in that order, without its own end-of-RIB markers."""
        number = next(n for n in range(self._lab.state.routers) if router_name(n) == component)
        found = re.findall(rf"Received PUBLISH from {broker.router(number)} \(.*?, '([^']*)'", self.log)
        return [topic for topic in found if "/router/sync/" not in topic]


@contextmanager
def publishes(lab: Lab) -> Iterator[Publishes]:
    """The broker logs each message with its publisher meanwhile."""
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
