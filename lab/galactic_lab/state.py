"""One lab's settings, addresses and paths. A lab writes below ``State.root`` alone; ``builds.cache`` has what labs
share.
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
"""Bytes that etcd needs in shared memory. Containers often have 64 MiB, less than etcd preallocates."""
NAMESPACE: Final = "galactic-system"
"""Galactic's namespace in Kubernetes."""
SRV6_SPACE: Final = IPv6Network("2001:db8:ff00::/40")
CONTROL: Final = IPv6Address("fd00:ffff::1")
"""The address of the control plane that has a broker, in the lab's own namespace."""
GATEWAY: Final = IPv6Address("fd00:ffff::2")
"""The fabric's address on the link to the control plane."""
API_PORT: Final = 6443
MQTT_PORT: Final = 8884
"""The port of the shipped listener with TLS and passwords."""
DATABASE_PORT: Final = 5432
PROMETHEUS_PORT: Final = 9090
AGENT_PORT: Final = 7
METRICS_PORT: Final = 9180
WEBHOOK_PORT: Final = 9443
SERVICES: Final = IPv6Network("fd00:fffe::/112")
"""The service range. Its family is that of the advertised address, as the API server requires."""
DOMAIN: Final = "cluster.local"
DNS: Final = "fd00:fffe::a"
"""The address of the cluster's DNS, in the service range; only a lab with the chart has one."""
VOLATILE: Final = Path("/run/galactic-volatile")
"""The nodes' private folders, in the memory of the lab's kernel: a guest cannot make sockets in host files."""
LINUX: Final = "backports"
"""The default guest kernel of labs: it starts processes two to three times faster."""
MAX_NODES: Final = 64
PORTS: Final = 8192
MAX_ROUTERS: Final = 3
"""The number of router users in the shipped access list."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node: its network namespace and its addresses."""

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
    """The settings of ``galactic lab up``, kept in ``lab.json`` for later commands."""

    name: str
    nodes: int = 3
    latency: float = 0.0
    linux: str = LINUX
    """The guest kernel, by its name in ``guest_kernels.KERNELS``."""
    chart: bool = False
    """Whether the chart is installed; else Galactic's programs run from the checkout."""
    images: str = ""
    """With the chart: the build with the images, fixed when the lab first comes up."""
    multus: str = ""
    """A folder with the Multus that nodes run; empty: the stand-in."""
    linux_source: str = ""
    """The source of the guest kernel, fixed when the lab first comes up."""
    kubernetes: str = ""
    """The requested version of Kubernetes, such as 1.34; empty: the newest, or that of KUBEBUILDER_ASSETS."""
    port: int = 0
    routers: int = 1
    database: bool = False
    database_port: int = 0
    prometheus: bool = False
    prometheus_port: int = 0
    standalone: bool = False
    """Whether the routers run without Kubernetes, and may serve several clusters."""
    join: str = ""
    """The lab whose fabric, kernel, broker and routers this one uses; empty: its own."""
    site: int = 0
    """0, or the number of a lab that joins another, from 1."""
    first: int = 1
    """The number of the first node: numbers are unique on a fabric."""

    @property
    def cluster(self) -> str:
        """The cluster's name among those of its broker."""
        return self.name if self.join else "default"

    @property
    def control(self) -> IPv6Address:
        """The control plane's address, in the lab's own namespace."""
        return IPv6Address(f"fd00:{0xFFFF - 2 * self.site:x}::1")

    @property
    def gateway(self) -> IPv6Address:
        """The address of the other end of the control plane's link."""
        return IPv6Address(f"fd00:{0xFFFF - 2 * self.site:x}::2")

    @property
    def host(self) -> "State":
        """The lab that owns the fabric."""
        return State(self.join) if self.join else self

    @property
    def root(self) -> Path:
        return HOME / self.name

    @property
    def memory(self) -> Path:
        """A folder in memory for etcd's data, which is lost with the lab. It may not exist yet."""
        there = SHARED_MEMORY.is_mount() and shutil.disk_usage(SHARED_MEMORY).total >= ENOUGH
        return (SHARED_MEMORY if there else HOME) / f"galactic-lab-{self.name}"

    @property
    def namespace(self) -> str:
        """The network namespace of the control plane, on the machine's own kernel."""
        return f"galactic-{self.name}"

    @property
    def prefix(self) -> str:
        """The prefix of the names of nodes' namespaces; empty unless the lab shares the kernel of another lab."""
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
        """The node of that name. Raises Rejected for an unknown name."""
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
        """The file that exists once the API server has the kinds and roles that nodes need; nodes wait for it."""
        return self.root / "gate"

    @property
    def audit(self) -> Path:
        """The API server's audit log: a line for each request of a controller of Galactic."""
        return self.logs / "audit.log"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def tools(self) -> Path:
        return self.root / "bin"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, usable from anywhere on this machine."""
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
        """The folder of the broker's configuration and data, and of its clients' credentials."""
        return self.host.root / "broker"

    @property
    def admissions(self) -> Path:
        """The admissions file of standalone routers: which clusters may be in which VPC."""
        return self.root / "admissions.yaml"

    def database_url(self, *, inside: bool = False) -> str:
        """The URL of the routers' database, for the lab's own processes (``inside``) or others of this machine."""
        where = f"[::1]:{DATABASE_PORT}" if inside else f"127.0.0.1:{self.database_port}"
        return f"postgresql://galactic@{where}/postgres"

    @property
    def prometheus_url(self) -> str:
        """Prometheus' URL, from anywhere on this machine."""
        return f"http://127.0.0.1:{self.prometheus_port}"

    def identity(self, user: str) -> Path:
        """The kubeconfig of one controller, for use inside the lab."""
        return self.root / "identities" / f"{user}.kubeconfig"

    def node_dir(self, node: str) -> Path:
        """The folder of one node's pid files, CNI results and hold file."""
        return self.root / "nodes" / node

    def version(self, user: str) -> Path:
        """A folder that the program of that user imports ``galactic`` from; where it does not exist, the lab's own."""
        return self.root / "versions" / user

    def hold(self, node: str) -> Path:
        """The hold file: while it exists the node's controller stays stopped."""
        return self.node_dir(node) / "hold"

    def stopped(self, node: str) -> Path:
        """The file that exists once the controller of a held node does not run."""
        return self.node_dir(node) / "stopped"

    def pid(self, node: str, role: str) -> Path:
        """The file with the process id, in the lab's kernel, of a node's ``supervisor`` or of a program such as
        ``kubelet``.
        """
        return self.node_dir(node) / f"{role}.pid"

    def make_root(self) -> None:
        """Makes ``root``."""
        with alone():
            self.root.mkdir(parents=True, exist_ok=True)

    def save(self) -> None:
        self.make_root()
        partial = self.root / "lab.json.partial"
        partial.write_text(json.dumps(asdict(self), indent=2) + "\n")
        partial.rename(self.root / "lab.json")

    @classmethod
    def load(cls, name: str) -> "State | None":
        """The lab of that name; None where it is not up. Unknown settings, of another version, are left out."""
        try:
            kept = json.loads((HOME / name / "lab.json").read_text())
        except FileNotFoundError:
            return None
        return cls(**{one.name: kept[one.name] for one in fields(cls) if one.name in kept})

    def with_ports(self) -> "State":
        """The state with free local ports for the API server, the database and Prometheus. Chosen ports stay."""
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
    """A free port that is not in ``taken``, and is added to it. It lies below the kernel's range for connections: it
    stays free until the lab listens.
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
    """A lock on what all labs share: ``HOME`` and the folder of network namespaces."""
    folder = os.open(HOME.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def interpreter() -> list[str]:
    """The argv that starts a module with this interpreter; append ``-m MODULE``."""
    return [sys.executable, "-P"]


def sources() -> tuple[Path, Path]:
    """The folders that ``galactic`` and ``galactic_lab`` are imported from."""
    return Path(galactic.__file__).resolve().parents[1], Path(__file__).resolve().parents[1]


def checkout() -> Path:
    """The root of the checkout that the lab runs from."""
    return Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    """The environment of each process of the lab. Other variables are not inherited.

    Go's garbage collector runs at four times the live heap, not at twice: the API server takes a tenth less processor
    time, and a quarter more memory.
    """
    path = os.environ.get("PATH", "")
    sbin = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    kept = {key: os.environ[key] for key in ("HOME", "LANG", "LC_ALL") if key in os.environ}
    return {
        "HOME": "/root",
        "GOGC": "300",
        "PATH": f"{path}:{sbin}" if path else sbin,
        "PYTHONPATH": os.pathsep.join(map(str, sources())),
    } | kept
