"""One lab's settings and the places where it keeps things: everything it ever writes is below ``State.root``.

(Builds are shared by all labs and live in the cache, see ``galactic_lab.builds.cache``.)
"""

import fcntl
import json
import os
import random
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Final

import galactic
from galactic.errors import Rejected

HOME: Final = Path("/run/galactic-lab")
SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the lab's folder in it is named after the lab
ENOUGH: Final = 2**30
"""Bytes: containers often have 64 MiB there, which is less than etcd sets aside."""
NAMESPACE: Final = "galactic-system"
"""Galactic's own, in Kubernetes."""
SRV6_SPACE: Final = IPv6Network("2001:db8:ff00::/40")
CONTROL: Final = IPv6Address("fd00:ffff::1")
"""The address of the control plane that has a broker, in the lab's own namespace."""
GATEWAY: Final = IPv6Address("fd00:ffff::2")
"""The fabric's address on the link to that."""
API_PORT: Final = 6443
MQTT_PORT: Final = 8884
"""The one of the shipped listeners that asks for user and password, over TLS."""
DATABASE_PORT: Final = 5432
PROMETHEUS_PORT: Final = 9090
AGENT_PORT: Final = 7
METRICS_PORT: Final = 9180
WEBHOOK_PORT: Final = 9443
SERVICES: Final = IPv6Network("fd00:fffe::/112")
"""The service range. Of the advertised address's family, or the API server refuses to start."""
DOMAIN: Final = "cluster.local"
DNS: Final = "fd00:fffe::a"
"""The address of the cluster's DNS, in the service range; only a lab with the chart has one."""
VOLATILE: Final = Path("/run/galactic-volatile")
"""The nodes' private folders, in the memory of the lab's kernel: a guest cannot make sockets in host files."""
LINUX: Final = "backports"
"""The name of the guest kernel that labs boot unless asked for another: guests of it are two to three times faster."""
MAX_NODES: Final = 64
PORTS: Final = 8192
MAX_ROUTERS: Final = 3
"""As many as the shipped access list has users for."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node: the namespace it lives in and its addresses."""

    name: str
    number: int
    namespace: str

    @property
    def address(self) -> IPv6Address:
        """Its underlay address."""
        return IPv6Address(f"fd00:{self.number:x}::2")

    @property
    def gateway(self) -> IPv6Address:
        """The fabric's address on the link to it."""
        return IPv6Address(f"fd00:{self.number:x}::1")

    @property
    def pods(self) -> IPv6Network:
        """The addresses of its pods in the default network."""
        return IPv6Network(f"fd01:{self.number:x}::/64")

    @property
    def prefix(self) -> IPv6Network:
        """Its SRv6 prefix."""
        return IPv6Network(f"2001:db8:ff{self.number:02x}:100::/56")


@dataclass(frozen=True, slots=True)
class State:
    """What ``galactic lab up`` was asked for, kept in ``lab.json`` so that every later command agrees."""

    name: str
    nodes: int = 3
    latency: float = 0.0
    linux: str = LINUX
    """The guest kernel, by its name in ``guest_kernels.KERNELS``."""
    chart: bool = False
    """Whether the chart is installed; else Galactic's programs run from the checkout."""
    images: str = ""
    """With the chart: the build with the images, chosen when the lab comes up first: later edits do not change them."""
    multus: str = ""
    """A folder with a Multus, which nodes then run; empty: they have the stand-in."""
    linux_source: str = ""
    """What that kernel is built from, chosen when the lab comes up first: later choices do not change its kernel."""
    kubernetes: str = ""
    """The version of Kubernetes that was asked for, such as 1.34; empty: the newest, or that of KUBEBUILDER_ASSETS."""
    port: int = 0
    routers: int = 1
    database: bool = False
    database_port: int = 0
    prometheus: bool = False
    prometheus_port: int = 0
    standalone: bool = False
    """Whether the routers are outside Kubernetes, and so may serve several clusters."""
    join: str = ""
    """The lab whose fabric, kernel, broker and routers this one uses; empty: its own."""
    site: int = 0
    """0 for a lab of its own; those that join another are numbered from 1."""
    first: int = 1
    """The number of the first node: nodes on one fabric are numbered through."""

    @property
    def cluster(self) -> str:
        """What the cluster is called among those that share its broker."""
        return self.name if self.join else "default"

    @property
    def control(self) -> IPv6Address:
        """The control plane's address, in the lab's own namespace."""
        return IPv6Address(f"fd00:{0xFFFF - 2 * self.site:x}::1")

    @property
    def gateway(self) -> IPv6Address:
        """The other end of the control plane's link."""
        return IPv6Address(f"fd00:{0xFFFF - 2 * self.site:x}::2")

    @property
    def host(self) -> "State":
        """The lab whose fabric it is."""
        return State(self.join) if self.join else self

    @property
    def root(self) -> Path:
        return HOME / self.name

    @property
    def memory(self) -> Path:
        """A folder in memory, for what is written all the time and lost with the lab; not there before it is needed."""
        there = SHARED_MEMORY.is_mount() and shutil.disk_usage(SHARED_MEMORY).total >= ENOUGH
        return (SHARED_MEMORY if there else HOME) / f"galactic-lab-{self.name}"

    @property
    def namespace(self) -> str:
        """The network namespace of the control plane, on the machine's own kernel."""
        return f"galactic-{self.name}"

    @property
    def prefix(self) -> str:
        """What the names of nodes' namespaces begin with: nothing, unless it shares the kernel of another lab."""
        return f"{self.name}-" if self.join else ""

    @property
    def fabric(self) -> str:
        return f"{self.host.prefix}fabric"

    @property
    def members(self) -> tuple[Node, ...]:
        return tuple(
            Node(f"node-{n}", n, f"{self.prefix}node-{n}") for n in range(self.first, self.first + self.nodes)
        )

    def node(self, name: str) -> Node:
        """Raises Rejected for a name the lab does not have."""
        for node in self.members:
            if node.name == name:
                return node
        known = ", ".join(node.name for node in self.members)
        raise Rejected(f"there is no node {name!r} in lab {self.name!r}; it has {known}", field="node")

    @property
    def logs(self) -> Path:
        return self.root / "log"

    @property
    def gate(self) -> Path:
        """There is this file once the API server knows what nodes ask of it; they wait for it."""
        return self.root / "gate"

    @property
    def audit(self) -> Path:
        """The API server's audit log: a line for each request of a controller of ours."""
        return self.logs / "audit.log"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def tools(self) -> Path:
        return self.root / "bin"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's, usable from the machine's root namespace."""
        return self.root / "kubeconfig"

    @property
    def agent_socket(self) -> Path:
        return self.root / "agent.sock"

    @property
    def server(self) -> str:
        return f"https://[{self.control}]:{API_PORT}"

    @property
    def mqtt_url(self) -> str:
        return f"mqtts://[{CONTROL}]:{MQTT_PORT}"

    @property
    def broker(self) -> Path:
        """The broker's configuration and data, and what its clients need."""
        return self.host.root / "broker"

    @property
    def admissions(self) -> Path:
        """The standalone routers' file of which clusters may be in which VPC."""
        return self.root / "admissions.yaml"

    def database_url(self, *, inside: bool = False) -> str:
        """The router's database, for the lab's own processes (``inside``) or from anywhere on this machine."""
        where = f"[::1]:{DATABASE_PORT}" if inside else f"127.0.0.1:{self.database_port}"
        return f"postgresql://galactic@{where}/postgres"

    @property
    def prometheus_url(self) -> str:
        """From anywhere on this machine."""
        return f"http://127.0.0.1:{self.prometheus_port}"

    def identity(self, user: str) -> Path:
        """The kubeconfig of one controller, for use inside the lab."""
        return self.root / "identities" / f"{user}.kubeconfig"

    def node_dir(self, node: str) -> Path:
        """What the lab keeps about one node: pid files, the CNI result cache, the hold file."""
        return self.root / "nodes" / node

    def hold(self, node: str) -> Path:
        """While this file exists the node's controller is kept away."""
        return self.node_dir(node) / "hold"

    def stopped(self, node: str) -> Path:
        """The file that exists once the controller of a held node does not run."""
        return self.node_dir(node) / "stopped"

    def pid(self, node: str, role: str) -> Path:
        """Process id, in the lab's kernel, of a node's ``supervisor`` or of a program of it, such as ``kubelet``."""
        return self.node_dir(node) / f"{role}.pid"

    def make_root(self) -> None:
        """``root`` is there."""
        with alone():
            self.root.mkdir(parents=True, exist_ok=True)

    def save(self) -> None:
        self.make_root()
        partial = self.root / "lab.json.partial"
        partial.write_text(json.dumps(asdict(self), indent=2) + "\n")
        partial.rename(self.root / "lab.json")

    @classmethod
    def load(cls, name: str) -> "State | None":
        """The lab of that name, or None where it is not up. What another version of ours knew besides is left out."""
        try:
            kept = json.loads((HOME / name / "lab.json").read_text())
        except FileNotFoundError:
            return None
        return cls(**{one.name: kept[one.name] for one in fields(cls) if one.name in kept})

    def with_ports(self) -> "State":
        """The same with free local ports for what is reached from this machine, unless it has them."""
        labs = [asdict(self), *(json.loads(path.read_text()) for path in HOME.glob("*/lab.json"))]
        taken = {value for lab in labs for name, value in lab.items() if name.endswith("port")}
        return replace(
            self,
            port=self.port or _free_port(taken),
            database_port=self.database_port or (self.database and _free_port(taken)),
            prometheus_port=self.prometheus_port or (self.prometheus and _free_port(taken)),
        )


def labs() -> list[str]:
    """Names of the labs on this machine."""
    return sorted(path.parent.name for path in HOME.glob("*/lab.json")) if HOME.exists() else []


def _free_port(taken: set[int]) -> int:
    """One that nobody listens on and that is not ``taken``, as it is then. It is below those that the kernel gives to
    connections: it is free until the lab listens.
    """
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    below = [port for port in range(max(first - PORTS, 1024), first) if port not in taken]
    for port in random.sample(below, len(below)):
        try:
            with socket.create_server(("127.0.0.1", port)):
                taken.add(port)
                return port
        except OSError:
            continue
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def alone() -> Iterator[None]:
    """No other process makes or removes meanwhile what all labs share: ``HOME``, the folder of network namespaces."""
    folder = os.open(HOME.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def interpreter() -> list[str]:
    """How to start a module of ours with this interpreter: append ``-m MODULE``."""
    return [sys.executable, "-P"]


def sources() -> tuple[Path, Path]:
    """The folders that ``galactic`` and ``galactic_lab`` are imported from."""
    return Path(galactic.__file__).resolve().parents[1], Path(__file__).resolve().parents[1]


def checkout() -> Path:
    """The repository, where the lab runs from one."""
    return Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    """The variables every process of the lab starts with: nothing is inherited by accident."""
    path = os.environ.get("PATH", "")
    sbin = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    kept = {key: os.environ[key] for key in ("HOME", "LANG", "LC_ALL") if key in os.environ}
    return {
        "HOME": "/root",
        "PATH": f"{path}:{sbin}" if path else sbin,
        "PYTHONPATH": os.pathsep.join(map(str, sources())),
    } | kept
