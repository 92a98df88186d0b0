"""A node controller on a kernel and a broker in memory; only socket, records and plugin are real.

Timers do not fire unless a test asks for it: no time-out, and no periodic check.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

import pytest
from clockwork import Clockwork
from prometheus_client import CollectorRegistry
from statuses import Statuses

from galactic.errors import GalacticError
from galactic.names import host_end
from galactic.node.cni.calls import Authority, Calls
from galactic.node.cni.server import Server
from galactic.node.dataplane.dataplane import Dataplane
from galactic.node.dataplane.memory import MemoryKernel
from galactic.node.dataplane.plan import Host
from galactic.node.dataplane.sync import Sync
from galactic.node.metrics import Metrics
from galactic.node.state.attachment import Attachment, Key
from galactic.node.state.checkpoint import Checkpoint
from galactic.node.state.epoch import Clock
from galactic.node.state.store import Store

SPACE = IPv6Network("2001:db8:ff00::/40")
PREFIX = IPv6Network("2001:db8:ff01:100::/56")
NEVER = 10.0**6
PATIENT = "LIMIT_SECONDS = 240"
PLUGIN = (
    (Path(__file__).parents[3] / "src" / "cni_plugin" / "main.py")
    .read_text()
    .replace("LIMIT_SECONDS = 20", PATIENT)
)
assert PATIENT in PLUGIN
ON_A_CLOCK_OF_THEIR_OWN = ("test_storm.py",)
TURN_SECONDS = 0.0003
"""Seconds that a step of the kernel takes: other tasks run in the middle of it."""


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    own = item.path.name in ON_A_CLOCK_OF_THEIR_OWN
    return {"clockwork": partial(Clockwork, TURN_SECONDS)} if own else {"real": asyncio.new_event_loop}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Of node-1, which has its prefix."""
    checkpoint = Checkpoint(tmp_path)
    checkpoint.prepare()
    made = Store("default", checkpoint, Clock())
    made.gateways.node = "node-1"
    made.set_prefix(PREFIX)
    return made


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VERIFY_SECONDS", "RESYNC_SECONDS"):
        monkeypatch.setattr(f"galactic.node.dataplane.sync.{name}", NEVER)
    for name in ("APPLY_SECONDS", "UNDO_SECONDS"):
        monkeypatch.setattr(f"galactic.node.cni.calls.{name}", NEVER)


def _config(function: str = "G", *, last: int = 1, **more: Any) -> dict[str, Any]:
    """A plugin configuration of VPC 1234 (base62 jU) as the operator writes it."""
    return {
        "cniVersion": "1.0.0",
        "name": "blue",
        "type": "galactic",
        "vpc": "jU",
        "vpcattachment": function,
        "attachment": f"default/blue-{function}",
        "mtu": 0,
        "addresses": [f"10.1.1.{last}/24", f"2001:10:1:1::{last:x}/64"],
        "networks": ["10.1.1.0/24", "2001:10:1:1::/64"],
        "terminations": [],
        "routes": [],
    } | more


def _default(name: str) -> dict[str, Any]:
    """Of a call that did not pass through ``Node.cni``."""
    return _config(name.removeprefix("default/blue-"))


@dataclass
class Answer:
    code: int
    text: str

    @property
    def body(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.text)
        return value


@dataclass
class Rules:
    """Those of attachments: in force at once, or while ``problem`` is set never. ``seen``: the devices at that time."""

    kernel: MemoryKernel
    problem: GalacticError | None = None
    seen: list[tuple[Key, tuple[str, ...], bool]] = field(default_factory=list)
    wanted: dict[Key, tuple[str, ...]] = field(default_factory=dict)

    @contextmanager
    def admitting(self, attachment: Attachment, slices: tuple[str, ...]) -> Iterator[None]:
        self.wanted[attachment.key] = slices
        yield
        del self.wanted[attachment.key]

    async def enforced(self, key: Key) -> None:
        self.seen.append((key, self.wanted[key], host_end(*key) in self.kernel.host.links))
        if self.problem:
            raise self.problem


@dataclass
class Node:
    """One node controller's life; ``start`` and ``stop`` may alternate, kernel and records stay."""

    directory: Path
    kernel: MemoryKernel = field(default_factory=MemoryKernel)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    problem: str | None = None
    rules: Rules = field(init=False)
    authority: Authority = field(default_factory=lambda: Statuses(_default))
    prefix: IPv6Network | None = PREFIX
    plugin: tuple[str, ...] = (sys.executable, "-ISE", "-c", PLUGIN)

    def __post_init__(self) -> None:
        self.rules = Rules(self.kernel)

    @property
    def socket(self) -> Path:
        return self.directory / "agent.sock"

    async def start(self) -> None:
        checkpoint = Checkpoint(self.directory)
        checkpoint.prepare()
        self.metrics = Metrics(CollectorRegistry())
        self.store = Store("default", checkpoint, Clock())
        self.store.restore()
        if self.prefix:
            self.store.set_prefix(self.prefix)
        exists: Callable[[str], bool] = self.kernel.namespaces.__contains__
        self.sync = Sync(
            self.kernel, self.store, self._host, self.metrics, Dataplane(self.kernel, self.store, exists)
        )
        calls = Calls(self.store, self.sync, self.authority, self._problem, exists, rules=self.rules)
        self.server = Server(self.socket, calls, self.metrics)
        self.tasks = [asyncio.create_task(self.sync.run()), asyncio.create_task(self.server.run())]
        while not self.socket.exists():
            await asyncio.sleep(0.01)
        if self.prefix:
            await self.sync.ready.wait()

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.socket.unlink(missing_ok=True)

    async def cni(
        self,
        command: str,
        body: dict[str, Any] | bytes = b"",
        *,
        container: str = "c1",
        netns: str = "/ns/1",
        ifname: str = "galactic0",
        **more: str,
    ) -> Answer:
        """Runs the plugin as the kubelet does."""
        if command == "ADD" and isinstance(self.authority, Statuses):
            self.authority.put(body)
        process = await asyncio.create_subprocess_exec(
            *self.plugin,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={
                "CNI_COMMAND": command,
                "CNI_CONTAINERID": container,
                "CNI_NETNS": netns,
                "CNI_IFNAME": ifname,
                "GALACTIC_SOCKET": str(self.socket),
            }
            | more,
        )
        given = body if isinstance(body, bytes) else json.dumps(body).encode()
        output, complaint = await process.communicate(given)
        assert not complaint, complaint.decode()
        return Answer(process.returncode or 0, output.decode())

    def _host(self) -> Host | None:
        prefix = self.store.node.prefix
        return Host(prefix, SPACE, "eth0") if prefix else None

    def _problem(self) -> str | None:
        return self.problem or (None if self.sync.ready.is_set() else self.sync.problem)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path / "run")
    made.kernel.add_namespace("/ns/1")
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def config() -> Callable[..., dict[str, Any]]:
    """Makes plugin configurations of VPC 1234, with any field replaced."""
    return _config
