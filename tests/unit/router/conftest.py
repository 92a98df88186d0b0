"""What the router's tests share: endpoints by number, and brokers of their own."""

import asyncio
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv6Network
from pathlib import Path

import pytest

from galactic.lab import mosquitto
from galactic.messages import Endpoint, NodeEndpoints, NodeStatus, Topics, encode
from galactic.names import function_hex, vpc_hex
from galactic.srv6 import sid


class World:
    """Nodes n1, n2, … with prefixes of their own, and endpoints on them."""

    topics = Topics("galactic/v1")

    @staticmethod
    def prefix(node: str) -> IPv6Network:
        return IPv6Network(f"2001:db8:ff01:{int(node[1:]):x}00::/56")

    def endpoint(
        self, node: str, function: int, *networks: str, epoch: int = 1, vpc: int = 0x4D2
    ) -> Endpoint:
        address = str(sid(self.prefix(node), vpc, function))
        return Endpoint(vpc_hex(vpc), function_hex(function), f"ns/a{function}", address, networks, epoch)

    def status(self, node: str, cluster: str = "default") -> tuple[str, bytes]:
        return self.topics.status(cluster, node), encode(NodeStatus("online", str(self.prefix(node)), "1"))

    def endpoints(
        self, node: str, sequence: int, *endpoints: Endpoint, cluster: str = "default"
    ) -> tuple[str, bytes]:
        return self.topics.endpoints(cluster, node), encode(NodeEndpoints(sequence, endpoints))


@pytest.fixture
def world() -> World:
    return World()


class Mosquitto(mosquitto.Mosquitto):
    """A broker of the test's own that says what it retains."""

    def retained(self, filters: str = "galactic/v1/vpcs/#") -> dict[str, str]:
        """What ``mosquitto_sub`` is given that subscribes now."""
        program = shutil.which("mosquitto_sub")
        assert program, "mosquitto_sub is needed: apt-get install mosquitto-clients"
        command = [program, "-p", str(self.port), "-t", filters, "--retained-only", "-W", "1", "-F", "%t %p"]
        lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
        return {topic: payload for topic, _, payload in (line.partition(" ") for line in lines)}


@pytest.fixture(name="mosquitto")
def a_mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path)
    yield broker
    broker.kill()


@pytest.fixture
def until() -> Callable[..., object]:
    """Waits until something is true, ten seconds at the most."""

    async def wait(condition: Callable[[], object], seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            await asyncio.sleep(0.01)

    return wait
