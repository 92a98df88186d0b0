"""A router's real peers: a broker for each test, and a PostgreSQL server for those that ask for one."""

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from registrations import Topology
from waits import until

from galactic.bus import client, inflight, paho
from galactic.router.ingress import subscriptions
from galactic_lab.controlplane import mosquitto

PATIENCE_SECONDS = 120
LAST = "$SYS/broker/version"
"""A topic that every Mosquitto retains."""


@pytest.fixture
def topology() -> Topology:
    return Topology()


class Mosquitto(mosquitto.Mosquitto):
    """A broker of the test's own, whose retained messages can be read."""

    def retained(self, filters: str = "galactic/v1/vpcs/#") -> dict[str, str]:
        """All retained messages that ``mosquitto_sub`` receives, however long that takes.

        A broker sends retained messages in the order of the filters, so the last filter's message is the end.
        """
        program = shutil.which("mosquitto_sub")
        assert program, "mosquitto_sub is needed: apt-get install mosquitto-clients"
        asked = ("-t", filters, "-t", LAST, "--retained-only", "-k", "600")
        messages: dict[str, str] = {}
        with subprocess.Popen(
            [program, "-p", str(self.port), *asked, "-F", "%t %p"], stdout=subprocess.PIPE, text=True
        ) as listening:
            # Killed: it catches SIGTERM and its own alarm, and can hang for ever.
            impatient = threading.Timer(PATIENCE_SECONDS, listening.kill)
            impatient.start()
            assert listening.stdout
            for line in listening.stdout:
                topic, _, payload = line.rstrip("\n").partition(" ")
                if topic == LAST:
                    break
                messages[topic] = payload
            else:
                pytest.fail("the broker did not send its retained messages")
            impatient.cancel()
            listening.kill()
        return messages


@pytest.fixture(name="mosquitto")
def a_mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path)
    yield broker
    broker.kill()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long time-outs for slow machines, and no periodic re-subscription to all nodes."""
    monkeypatch.setattr(inflight, "PUBACK_SECONDS", 600.0)
    monkeypatch.setattr(paho, "KEEPALIVE_SECONDS", 60)
    monkeypatch.setattr(paho, "SAME_SECONDS", 3600.0)
    monkeypatch.setattr(client, "CONNECT_SECONDS", 60.0)
    monkeypatch.setattr(subscriptions, "SWEEP_SECONDS", 3600.0)


@pytest.fixture(name="until")
def _until() -> Callable[..., object]:
    return until
