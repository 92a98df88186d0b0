"""The lab as one object: what the command line, the demo and the end-to-end tests use.

    with Lab("story") as lab:
        lab.up(nodes=3)
        lab.kubectl("apply", "-f", "examples/")
        lab.exec("node-1", ["ip", "-6", "route"])
        lab.pod("default/a", ["ping", "-c1", "10.1.1.2"])

Everything is synchronous and raises ``galactic.errors``: Rejected for what the caller must change, Unreachable for what
does not come up, with the end of the log that says why.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

from rich.console import Console

from galactic.errors import Rejected, Unreachable
from galactic.lab import assets, broker, cleanup, controlplane, credentials, packages, rbac, readiness
from galactic.lab.agreement import agreed, joined
from galactic.lab.assets import Assets
from galactic.lab.controllers import router_name
from galactic.lab.kernel import Kernel
from galactic.lab.kernels import choose
from galactic.lab.processes import Program, Supervisor
from galactic.lab.state import (
    MAX_ROUTERS,
    NAMESPACE,
    State,
    checkout,
    environment,
    interpreter,
    source_root,
)

READY_SECONDS: Final = 120.0
FIRST: Final = ("forwarder", "etcd", "mosquitto", "postgres", "guest", "kube-apiserver")
LATER: Final = (
    *("kube-controller-manager", "kube-scheduler", "operator"),
    *map(router_name, range(MAX_ROUTERS)),
    "webhook",
    "prometheus",
)


class Lab:
    """One lab by name, up or not. As a context manager it is taken down at the end."""

    def __init__(self, name: str = "default", console: Console | None = None) -> None:
        if not name.isascii() or not name.replace("-", "").isalnum() or len(name) > 20:
            raise Rejected(f"{name!r} is not letters, digits and dashes (at most 20)", field="name")
        self._console = console or Console(quiet=True)
        self._state = State.load(name) or State(name)
        self._assets: Assets | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    # Its life

    def up(
        self,
        nodes: int | None = None,
        latency: float | None = None,
        kernel: str | None = None,
        *,
        routers: int | None = None,
        database: bool | None = None,
        prometheus: bool | None = None,
        standalone: bool | None = None,
        join: str | None = None,
    ) -> None:
        """The lab is up and its nodes are Ready. What is up already stays; what has died is started again.

        Without nodes (0) it is a control plane alone, which is up in seconds: for what needs an API server only.
        The number of routers, where they belong (``standalone``: to no cluster), a database and a Prometheus may be
        changed in a lab that is up. A lab that joins another is a further cluster on that one's fabric, broker and
        routers.
        """
        if os.geteuid() != 0:
            raise Rejected("the lab makes network namespaces: run it as root (sudo)", field="user")
        self._state = agreed(
            self._state.name,
            {"nodes": nodes, "latency": latency, "kernel": kernel, "join": join},
            {"routers": routers, "database": database, "prometheus": prometheus, "standalone": standalone},
        )
        self._install()
        chosen = choose(self._state)
        self.build(guest=chosen.name == "uml")
        found = self.assets
        state = self._state = replace(self._state, kernel=chosen.name).with_ports()
        with self._step("credentials"):
            state.save()
            credentials.make(state)
            self._write_tools(found)
            if state.join:
                broker.admit(state, [broker.node(state, member.name) for member in state.members])
                Supervisor(state.host).kill("mosquitto", signal.SIGHUP)
        with self._step(
            f"kernel: {'the running one' if chosen.name == 'host' else 'a User Mode Linux guest'}"
        ):
            chosen = choose(state)
            chosen.boot()
        supervisor = Supervisor(state)
        guest = chosen.name == "uml" and not state.join
        programs = [*chosen.programs(), *controlplane.programs(state, found, guest=guest)]
        programs += [self._nodes_program(chosen)] if state.nodes else []
        known = {program.name for program in programs}
        with self._step("etcd, kube-apiserver, MQTT broker"):
            supervisor.ensure(programs, environment() | {cleanup.MARK: state.name})
            supervisor.start(*(name for name in FIRST if name in known))
            self._wait("kube-apiserver", lambda: readiness.serving(self), log="kube-apiserver")
        with self._step("custom resource definitions, roles"):
            if not self.kubectl("get", "namespace", NAMESPACE, "--ignore-not-found", "-o", "name"):
                self.kubectl("create", "namespace", NAMESPACE)
            for path in controlplane.definitions(checkout()):
                self.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(path))
            self.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
            roles = rbac.manifest(found.helm, checkout() / "charts/galactic", found.version)
            self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=roles)
        with self._step("controllers"):
            supervisor.start(*(name for name in LATER if name in known))
        with self._step(f"{state.nodes} nodes"):
            self._wait("the nodes' kernel", chosen.ready, log="guest")
            if state.nodes:
                supervisor.start("nodes")
                self._wait("every node to be Ready", lambda: readiness.nodes(self), log="nodes")
            self._wait(
                "the default service account", lambda: readiness.account(self), log="kube-controller-manager"
            )
        with self._step("admission webhooks"):
            self._wait("the webhooks to be asked", lambda: readiness.webhooks(self), log="webhook")

    def down(self) -> None:
        """Nothing of the lab is left, however it ended, nor of those that joined it. The cache of builds stays."""
        for guest in joined(self._state.name):
            cleanup.remove(guest)
        cleanup.remove(self._state)
        packages.tidy()
        self._state = State(self._state.name)

    def build(self, *, guest: bool | None = None) -> None:
        """Everything that has to be built or fetched is in the cache."""
        self._install()
        if guest is None:
            guest = choose(self._state).name == "uml"
        if not packages.program("etcd"):
            with self._step("package etcd-server"):
                packages.install(["etcd-server"])
        assets.build(assets.needed(guest=guest), self._console)

    def _install(self) -> None:
        """The programs that every lab runs, and the tests before it, are on this machine."""
        if lacking := packages.absent():
            with self._step("packages"):
                packages.install(lacking)

    @property
    def state(self) -> State:
        """Its settings and places."""
        return self._state

    @property
    def running(self) -> bool:
        """Whether it is up at all."""
        return Supervisor(self._state).running()

    @property
    def kubeconfig(self) -> Path:
        """For kubectl, from anywhere on this machine."""
        return self._state.kubeconfig

    @property
    def assets(self) -> Assets:
        """The programs it uses. Raises Rejected while some are missing."""
        if self._assets is None:
            self._assets = assets.find()
        return self._assets

    @property
    def supervisor(self) -> Supervisor:
        """Its processes. Raises Rejected where it is not up."""
        supervisor = Supervisor(self._state)
        if not supervisor.running():
            raise Rejected(f"lab {self._state.name!r} is not up; run `galactic lab up`", field="lab")
        return supervisor

    # Running things in it

    def command(self, target: str, argv: Sequence[str], *, terminal: bool = False) -> list[str]:
        """An argv for the machine that runs ``argv`` at ``target`` and does not outlive its caller.

        ``target``: a node's name, ``fabric``, ``control`` (the control plane's namespace), ``kernel`` (no namespace
        of its own), or ``pod/NAMESPACE/NAME``.
        """
        state = self._state
        if target == "control":
            return ["nsenter", f"--net=/run/netns/{state.namespace}", "--", *argv]
        return choose(state).command(argv, enter=self._enter(target), terminal=terminal)

    def _enter(self, target: str) -> list[str]:
        state = self._state
        if target == "kernel":
            return []
        if target == "fabric":
            return [f"/run/netns/{state.fabric}"]
        if target.startswith("pod/"):
            return [f"/run/netns/{self.pod_namespace(target.removeprefix('pod/'))}"]
        member = state.node(target)
        files = [f"/run/netns/{member.namespace}"]
        try:
            pid = int(state.pid(target, "supervisor").read_text())
        except (OSError, ValueError):
            return files
        return [*files, f"/proc/{pid}/ns/mnt"]

    def pod_namespace(self, pod: str) -> str:
        """The network namespace of ``NAMESPACE/NAME`` (or NAME, in ``default``). Raises Rejected for an unknown Pod."""
        namespace, _, name = pod.rpartition("/")
        found = self.kubectl(
            "get", "pod", "-n", namespace or "default", name, "-o", "jsonpath={.metadata.uid}", check=False
        )
        if not found:
            raise Rejected(f"there is no pod {name!r} in namespace {namespace or 'default'!r}", field="pod")
        return f"pod-{found}"

    def run(
        self,
        target: str,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout: float | None = None,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs ``argv`` at ``target`` (see ``command``) and returns what it printed.

        With ``check``, a status other than 0 raises Unreachable with that output. TimeoutExpired is subprocess's own.
        """
        source: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
        done = subprocess.run(
            self.command(target, argv), capture_output=True, text=True, timeout=timeout, **source, check=False
        )
        if check and done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip())[-2000:]
            raise Unreachable(target, f"`{' '.join(argv)}` ended with {done.returncode}: {said}")
        return done

    def exec(self, node: str, argv: Sequence[str], **options: Any) -> str:
        """What ``argv`` prints on a node."""
        return self.run(node, argv, **options).stdout

    def pod(self, name: str, argv: Sequence[str], **options: Any) -> str:
        """What ``argv`` prints in the network namespace of a Pod."""
        return self.run(f"pod/{name}", argv, **options).stdout

    def popen(self, target: str, argv: Sequence[str], **options: Any) -> "subprocess.Popen[str]":
        """``argv`` at ``target``, going on. Ending the returned process ends the command."""
        return subprocess.Popen(self.command(target, argv), text=True, **options)

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """What kubectl prints, as the administrator. With ``check``, raises Rejected with what it complains about."""
        done = subprocess.run(
            [str(self.assets.kubectl), *arguments],
            env=os.environ | {"KUBECONFIG": str(self.kubeconfig)},
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode != 0:
            raise Rejected(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}", field="kubectl")
        return done.stdout

    def get(self, *arguments: str) -> Any:
        """``kubectl get … -o json``, parsed."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    # Disturbing it

    def hold(self, node: str) -> None:
        """The node's controller ends and stays away until ``release``."""
        path = self._state.hold(self._state.node(node).name)
        path.touch()
        self._wait(
            f"the controller of {node} to end",
            lambda: self.controller_pid(node) is None,
            log="nodes",
            every=0.05,
        )

    def release(self, node: str) -> None:
        """The node's controller may run again."""
        self._state.hold(self._state.node(node).name).unlink(missing_ok=True)

    def controller_pid(self, node: str) -> int | None:
        """The process id, in the nodes' kernel, of a node's controller; None while it does not run."""
        try:
            return int(self._state.pid(node, "controller").read_text())
        except (OSError, ValueError):
            return None

    def kill(self, component: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Signals a component: a supervised process, or ``controller/NODE``, ``kubelet/NODE``."""
        role, _, node = component.partition("/")
        if not node:
            self.supervisor.kill(component, number)
            return
        path = self._state.pid(self._state.node(node).name, role)
        if role not in ("controller", "kubelet") or not path.exists():
            raise Rejected(f"{component!r} does not run; controller/NODE or kubelet/NODE", field="component")
        self.run("kernel", ["kill", f"-{int(number)}", path.read_text().strip()])

    def restart(self, component: str) -> None:
        """Ends a component in good order and starts it again."""
        if "/" in component:
            self.kill(component, signal.SIGTERM)
        else:
            self.supervisor.restart(component)

    # How it comes up

    def _nodes_program(self, kernel: Kernel) -> Program:
        argv = [*interpreter(), "-u", "-m", "galactic.lab.nodes", self._state.name]
        command = kernel.command(argv, environment=environment())
        return Program("nodes", command, environment(), inside=False, priority=700, stop_seconds=15)

    def _write_tools(self, found: Assets) -> None:
        """``bin/kubectl``, ``bin/helm``, and the folder of CNI plugins, with ours run straight from this tree."""
        plugins = self._state.tools / "cni"
        plugins.mkdir(parents=True, exist_ok=True)
        for name, path in (("kubectl", found.kubectl), ("helm", found.helm)):
            link = self._state.tools / name
            link.unlink(missing_ok=True)
            link.symlink_to(path)
        plugin = plugins / "galactic"
        plugin.write_text(
            f"#!{sys.executable} -ISE\nimport sys\n\nsys.path.insert(0, {str(source_root().parent / 'src')!r})\n"
            "from cni_plugin.main import main\n\nsys.exit(main())\n"
        )
        plugin.chmod(0o755)

    def _wait(self, what: str, done: Callable[[], bool], *, log: str, every: float = 0.2) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not done():
            if time.monotonic() > deadline:
                raise Unreachable("lab", f"waited {READY_SECONDS:.0f} s for {what} in vain\n{self.tail(log)}")
            time.sleep(every)

    def tail(self, component: str, lines: int = 20) -> str:
        """The end of a component's log, with the log's path."""
        path = self._state.logs / f"{component}.log"
        if not path.exists():
            return f"{path} does not exist"
        return f"{path} ends:\n" + "\n".join(path.read_text(errors="replace").splitlines()[-lines:])

    @contextmanager
    def _step(self, title: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            with self._console.status(f"{title} …"):
                yield
        except BaseException:
            self._console.print(f"[red]✗[/] {title}")
            raise
        self._console.print(f"[green]✓[/] {title} [dim]{time.monotonic() - started:.1f} s[/]")
