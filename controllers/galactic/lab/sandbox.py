"""A Pod's sandbox: its network namespace and what CNI plugins put into it, recorded on disk before it is done.

The record is what makes a restart safe: whatever was begun is known, and DEL gets the configuration that ADD had.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from galactic.errors import GalacticError
from galactic.lab.runtime.libcni import Attachment, Config, Runtime
from galactic.lab.runtime.selections import Selection

NETNS = Path("/run/netns")
MOST_CALLS: Final = 128
"""More than a node has pods."""
Result = TypeVar("Result")


@dataclass(slots=True)
class Network:
    """One interface: what was asked for, the configuration used, and the result once there is one."""

    namespace: str
    name: str
    interface: str
    runtime: dict[str, Any]
    config: Config
    result: Config | None = None

    @property
    def selection(self) -> Selection:
        return Selection(self.namespace, self.name, self.interface, self.runtime)


@dataclass(slots=True)
class Record:
    """Everything known about one sandbox."""

    uid: str
    namespace: str
    name: str
    attempt: int
    ready: bool = False
    networks: list[Network] = field(default_factory=list)

    @property
    def id(self) -> str:
        """What plugins know as the container: another one for every attempt, as with real runtimes."""
        return hashlib.sha256(f"{self.uid}:{self.attempt}".encode()).hexdigest()

    @property
    def netns(self) -> str:
        """The namespace's name, for ``ip netns``."""
        return f"pod-{self.uid}"

    def attachment(self, network: Network, *, netns: bool = True) -> Attachment:
        arguments = {
            "IgnoreUnknown": "1",
            "K8S_POD_NAMESPACE": self.namespace,
            "K8S_POD_NAME": self.name,
            "K8S_POD_INFRA_CONTAINER_ID": self.id,
            "K8S_POD_UID": self.uid,
        }
        return Attachment(
            container=self.id,
            netns=str(NETNS / self.netns) if netns else "",
            interface=network.interface,
            arguments=";".join(f"{key}={value}" for key, value in arguments.items()),
            runtime=network.runtime,
        )


class Sandboxes:
    """The sandboxes of one node, kept as one file each in ``folder``."""

    def __init__(self, folder: Path, runtime: Runtime) -> None:
        self._folder, self._runtime = folder, runtime
        self._callers = ThreadPoolExecutor(MOST_CALLS, thread_name_prefix="cni")
        folder.mkdir(parents=True, exist_ok=True)

    def load(self) -> dict[str, Record]:
        """All records, by the Pod's uid."""
        records = {}
        for path in self._folder.glob("*.json"):
            raw = json.loads(path.read_text())
            raw["networks"] = [Network(**network) for network in raw["networks"]]
            records[raw["uid"]] = Record(**raw)
        return records

    def save(self, record: Record) -> None:
        path = self._folder / f"{record.uid}.json"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(record)))
        partial.rename(path)

    def exists(self, record: Record) -> bool:
        """Whether the namespace is still there (it is not after the kernel went down)."""
        return (NETNS / record.netns).exists()

    async def make(self, record: Record) -> None:
        """Namespace, loopback, and every network in order. On failure, everything is owed a ``remove``."""
        self.save(record)
        await _ip("netns", "add", record.netns)
        await _ip("-n", record.netns, "link", "set", "lo", "up")
        for network in record.networks:
            network.result = await self._call(self._runtime.add, network.config, record.attachment(network))
            self.save(record)
        record.ready = True
        self.save(record)

    async def remove(self, record: Record) -> None:
        """Nothing is left of it: DEL in reverse order, the namespace, the record. Raises until that is so."""
        there = self.exists(record)
        for network in reversed(record.networks):
            attachment = record.attachment(network, netns=there)
            await self._call(self._runtime.delete, network.config, attachment, network.result)
        if there:
            await _ip("netns", "delete", record.netns)
        with suppress(FileNotFoundError):
            (self._folder / f"{record.uid}.json").unlink()

    async def _call(self, plugins: Callable[..., Result], *arguments: Any) -> Result:
        """A call of plugins, which blocks its thread: no pod's waits for another's."""
        return await asyncio.get_running_loop().run_in_executor(self._callers, plugins, *arguments)


async def _ip(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "ip", *arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, error = await process.communicate()
    if process.returncode != 0:
        raise GalacticError(f"ip {' '.join(arguments)}: {error.decode(errors='replace').strip()}")
