"""The processes of one cluster, each with a meter on its loop, and the figures of each."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1] / "operator"))
from servers import api_server, free_port, scraped

from galactic_lab.controlplane.mosquitto import Mosquitto

HERE: Final = Path(__file__).parent
ON_PROCESS: Final = 250
"""Nodes in one process."""
BLOCK: Final = "2001:db8:ff00::/40"
NAMESPACE: Final = "galactic-system"
BROKER: Final = "max_queued_messages 1000000\nmax_queued_bytes 0\nset_tcp_nodelay true\nsys_interval 1\n"
ROUTERS: Final = ("router-1", "router-2")
COMPONENTS: Final = ("operator", "webhook", *ROUTERS)
KUBELET: Final = "kubelet"
END_SECONDS: Final = 20.0
LIMIT_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Turns:
    """Seconds of processor time; ``name`` is the longest step's."""

    turn: float
    step: float
    name: str
    collection: float
    generation: int


def cpu(pid: int) -> float:
    """Seconds on a processor, of all its threads."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def rss(pid: int) -> int:
    """Bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Program:
    """A process under ``metered.py``, that can be started again. ``user``: its own at the API server."""

    def __init__(
        self, name: str, user: str, folder: Path, argv: list[str], variables: dict[str, str]
    ) -> None:
        self.name, self._folder, self._argv = name, folder, argv
        kubeconfig = str(folder / f"kubeconfig-{user}")
        self._variables = variables | {"KUBECONFIG": kubeconfig, "POD_NAMESPACE": NAMESPACE}
        self._figures = folder / f"{name}.json"
        self.log = folder / f"{name}.log"
        self.process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        assert self.process
        if self.process.poll() is not None:
            raise SystemExit(f"{self.name} ended:\n" + "\n".join(self.log.read_text().splitlines()[-20:]))
        return self.process.pid

    def start(self) -> None:
        argv = [sys.executable, "-P", str(HERE / "metered.py"), str(self._figures), *self._argv]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | self._variables,
                text=True,
            )

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    async def turns(self) -> Turns:
        """The longest ones since the last call, or the start."""
        self._figures.unlink(missing_ok=True)
        os.kill(self.pid, signal.SIGUSR1)
        async with asyncio.timeout(LIMIT_SECONDS):
            while not self._figures.exists():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return Turns(**json.loads(self._figures.read_text()))

    async def ask(self, question: str) -> dict[str, Any]:
        """The answer of ``nodes.py``."""
        assert self.process
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{question}\n")
        self.process.stdin.flush()
        line = await asyncio.to_thread(self.process.stdout.readline)
        if not line:
            raise SystemExit(f"{self.name} ended:\n" + "\n".join(self.log.read_text().splitlines()[-20:]))
        answer: dict[str, Any] = json.loads(line)
        return answer


class Cluster:
    """All processes of a cluster with that many nodes."""

    def __init__(self, folder: Path, broker: Mosquitto, count: int) -> None:
        self.folder, self.broker, self.count = folder, broker, count
        self._ports = {name: free_port() for name in COMPONENTS}
        self.arrived: dict[str, tuple[float, float]] = {}
        mqtt = {"GALACTIC_MQTT_URL": broker.url}
        https = free_port()
        self.webhook_url = f"https://127.0.0.1:{https}"
        extra = {
            "operator": {"GALACTIC_POOL_PREFIX": BLOCK},
            "webhook": {
                "GALACTIC_PORT": str(https),
                "GALACTIC_WEBHOOK_URL": self.webhook_url,
                "GALACTIC_NAMESPACE": NAMESPACE,
                "GALACTIC_DRAIN_SECONDS": "0",
            },
        } | dict.fromkeys(ROUTERS, mqtt)
        self.programs: dict[str, Program] = {}
        for name in COMPONENTS:
            module = f"galactic.{name.partition('-')[0]}"
            common = {
                "GALACTIC_SRV6_BLOCK": BLOCK,
                "GALACTIC_LOG_LEVEL": "warning",
                "GALACTIC_METRICS_PORT": str(self._ports[name]),
            }
            self.programs[name] = Program(name, name, folder, [module], common | extra[name])
        self.nodes = []
        for number, first in enumerate(range(1, count + 1, ON_PROCESS), 1):
            last = min(first + ON_PROCESS, count + 1)
            argv = [str(HERE / "nodes.py"), str(folder), broker.url, str(first), str(last)]
            self.nodes.append(Program(f"nodes-{number}", KUBELET, folder, argv, {}))
        self.servers = {
            name: int((folder / f"{name}.pid").read_text()) for name in ("kube-apiserver", "etcd")
        }

    @property
    def all(self) -> list[Program]:
        return [*self.programs.values(), *self.nodes]

    def stop(self) -> None:
        for program in self.all:
            program.stop()

    def empty_broker(self) -> None:
        """It starts again without what it had saved."""
        self.broker.kill()
        for saved in self.broker.folder.glob("mosquitto.db*"):
            saved.unlink()
        self.broker.start(persistence=True, extra=BROKER)

    def metric(self, name: str, metric: str) -> float:
        """A metric of a program, all labels together."""
        values = scraped(self._ports[name])
        return sum(value for key, value in values.items() if key.partition("{")[0] == metric)

    def ready(self, name: str) -> bool:
        """Whether a program is ready by its own account."""
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self._ports[name]}/readyz", timeout=10).close()
        except OSError:
            return False
        return True

    @property
    def leader(self) -> str:
        """The router that leads; the first one while there is none."""
        leads = [name for name in ROUTERS if self.metric(name, "galactic_router_leader")]
        return (leads or ROUTERS)[0]

    def cpu(self) -> dict[str, float]:
        """Seconds by process; the nodes of all processes as ``a node``, the average of one."""
        assert self.broker.process
        by_name = {name: cpu(program.pid) for name, program in self.programs.items()}
        by_name["a node"] = sum(cpu(program.pid) for program in self.nodes) / self.count
        by_name |= {name: cpu(pid) for name, pid in self.servers.items()}
        return by_name | {"broker": cpu(self.broker.process.pid)}

    def memory(self) -> dict[str, int]:
        """Bytes by process, of all nodes together."""
        assert self.broker.process
        by_name = {name: rss(program.pid) for name, program in self.programs.items()}
        by_name["nodes"] = sum(rss(program.pid) for program in self.nodes)
        by_name |= {name: rss(pid) for name, pid in self.servers.items()}
        return by_name | {"broker": rss(self.broker.process.pid)}

    async def turns(self) -> dict[str, Turns]:
        found = await asyncio.gather(*(program.turns() for program in self.all))
        return {program.name: turns for program, turns in zip(self.all, found, strict=True)}

    async def counts(self, question: str = "counts") -> dict[str, int]:
        """Those of all nodes together. The arrivals are collected in ``arrived``."""
        total: dict[str, int] = {}
        for answer in await asyncio.gather(*(program.ask(question) for program in self.nodes)):
            for pod, (first, last) in answer.pop("arrived").items():
                before = self.arrived.get(pod, (first, last))
                self.arrived[pod] = min(first, before[0]), max(last, before[1])
            total = {name: total.get(name, 0) + value for name, value in answer.items()}
        return total

    async def figures(self) -> dict[str, int]:
        """The same, and those that look at every table."""
        return await self.counts("all")


def users(count: int) -> list[str]:
    """Those of a cluster with that many nodes, at the API server."""
    return [*COMPONENTS, KUBELET, *(f"galactic-node-n{number}" for number in range(1, count + 1))]


@contextmanager
def cluster(count: int) -> Iterator[Cluster]:
    """With API server and broker running, and no program of ours yet."""
    with ExitStack() as stack:
        folder = stack.enter_context(api_server(users(count)))
        (folder / "nodes").mkdir()
        broker = Mosquitto(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        broker.start(persistence=True, extra=BROKER)
        stack.callback(broker.kill)
        made = Cluster(folder, broker, count)
        stack.callback(made.stop)
        yield made
