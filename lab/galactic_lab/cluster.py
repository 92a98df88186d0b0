"""The lab as one object, for the command line, the demo and the end-to-end tests.

    with Lab("story") as lab:
        lab.up(nodes=3)
        lab.kubectl("apply", "-f", "examples/")
        lab.exec("node-1", ["ip", "-6", "route"])
        lab.pod("default/a", ["ping", "-c1", "10.1.1.2"])

Everything is synchronous and raises ``galactic.errors``: Rejected where the caller must change something, Unreachable
where a part does not come up, with the end of its log.
"""

import compileall
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Final, Self

from rich.console import Console

from galactic.errors import Rejected
from galactic_lab import assets, cleanup, node_programs
from galactic_lab.agreement import agreed, joined
from galactic_lab.assets import Assets
from galactic_lab.builds import build_linux, build_modules, guest_kernels, packages
from galactic_lab.builds.build import Build
from galactic_lab.builds.build_linux import Source
from galactic_lab.controlplane import (
    admission,
    broker,
    credentials,
    dns,
    helm_release,
    rbac,
    readiness,
    servers,
)
from galactic_lab.controlplane.controllers import router_name
from galactic_lab.disturbances import Disturbances
from galactic_lab.kernel.kernel import Kernel
from galactic_lab.kernel.kernels import choose
from galactic_lab.node import plugins, proxy, real_multus
from galactic_lab.processes import Program, Supervisor
from galactic_lab.state import MAX_ROUTERS, NAMESPACE, State, checkout, environment, interpreter, sources

FIRST: Final = (
    *("forwarder", "forwarder-services", "etcd", "mosquitto"),
    *("postgres", "guest", "kube-apiserver"),
)
LATER: Final = (
    *("kube-controller-manager", "kube-scheduler", "coredns", "operator"),
    *map(router_name, range(MAX_ROUTERS)),
    "webhook",
    "prometheus",
)


class Lab(Disturbances):
    """One lab by name, up or not. As a context manager it goes down at the end."""

    def __init__(self, name: str = "default", console: Console | None = None) -> None:
        if not name.isascii() or not name.replace("-", "").isalnum() or len(name) > 20:
            raise Rejected(f"{name!r}: use letters, digits and dashes, at most 20", field="name")
        self._console = console or Console(quiet=True)
        super().__init__(State.load(name) or State(name))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def up(
        self,
        nodes: int | None = None,
        latency: float | None = None,
        *,
        linux: str | None = None,
        kubernetes: str | None = None,
        chart: bool | None = None,
        routers: int | None = None,
        database: bool | None = None,
        prometheus: bool | None = None,
        standalone: bool | None = None,
        join: str | None = None,
    ) -> None:
        """Brings the lab up, until its nodes are Ready. Running parts stay; dead ones are started again.

        With ``nodes`` 0 it is a control plane alone, up in seconds. ``routers``, ``standalone`` (routers outside of
        Kubernetes), ``database`` and ``prometheus`` may change while the lab is up. ``join``: the lab is a further
        cluster on that lab's fabric, broker and routers. ``kubernetes``: a version such as 1.34; by default that of
        ``GALACTIC_LAB_KUBERNETES``, else the newest. ``linux``: the guest kernel; by default ``GALACTIC_LAB_LINUX``,
        else the newest. ``chart``: Galactic as its chart installs it. ``GALACTIC_LAB_MULTUS``: a folder with a Multus.
        """
        if os.geteuid() != 0:
            raise Rejected("the lab makes network namespaces: run it as root (sudo)", field="user")
        self._state = agreed(
            self._state.name,
            {
                "nodes": nodes,
                "latency": latency,
                "linux": linux or os.environ.get(guest_kernels.SETTING) or None,
                "kubernetes": kubernetes or os.environ.get(build_modules.SETTING) or None,
                "chart": chart,
                "multus": real_multus.given(os.environ.get(real_multus.SETTING, "")) or None,
                "join": join,
            },
            {"routers": routers, "database": database, "prometheus": prometheus, "standalone": standalone},
        )
        self._install()
        guest = self._guest() if self._state.nodes else None
        self.build(*([guest] if guest else []))
        self._state = self._state.with_ports()
        self._write_credentials(self._state, self.assets)
        kernel = choose(self._state)
        with self._step(f"a User Mode Linux guest, {guest.version}" if guest else "a network namespace"):
            kernel.boot()
        controllers = self._start_control_plane(kernel)
        with self._step("custom resource definitions, roles"):
            self._define(self._state, self.assets)
        with self._step("controllers"):
            self.supervisor.start(*controllers)
            self._state.gate.touch()
        self._bring_up_nodes()
        with self._step("admission webhooks"):
            log = "kube-apiserver" if self._state.chart else "webhook"
            self.wait("the webhooks to be called", lambda: readiness.webhooks(self), log=log)

    def _start_control_plane(self, kernel: Kernel) -> list[str]:
        """Starts all programs up to the API server, and the nodes' program; the names of those that start later."""
        state = self._state
        own_guest = bool(state.nodes) and not state.join
        programs = [*kernel.programs(), *servers.programs(state, self.assets, guest=own_guest)]
        programs += [self._nodes_program(kernel)] if state.nodes else []
        names = {program.name for program in programs}
        supervisor = Supervisor(state)
        with self._step("etcd, kube-apiserver" + ("" if state.chart else ", MQTT broker")):
            supervisor.ensure(programs, environment() | {cleanup.MARK: state.name})
            supervisor.start(*(name for name in FIRST if name in names))
            if state.nodes:  # in parallel: in a guest, imports take as long as the API server's start
                self.wait("the nodes' kernel", kernel.ready, log="guest")
                supervisor.start("nodes")
            self.wait("kube-apiserver", lambda: readiness.serving(self), log="kube-apiserver")
        return [name for name in LATER if name in names]

    def _bring_up_nodes(self) -> None:
        """Waits for the nodes, and with the chart for its pods: both come up at the same time."""
        to_install = self._state.chart and not helm_release.installed(self)
        with helm_release.install(self) if to_install else nullcontext() as helm:
            with self._step(f"{self._state.nodes} nodes"):
                self._wait_for_nodes()
            if helm:
                with self._step("the chart"):
                    helm.finish()

    def _wait_for_nodes(self) -> None:
        if self._state.nodes:
            if not self._state.chart:
                self._annotate_nodes()
            self.wait("every node to be Ready", lambda: readiness.nodes(self), log="nodes")
        self.wait(
            "the default service account", lambda: readiness.account(self), log="kube-controller-manager"
        )

    def _define(self, state: State, found: Assets) -> None:
        """Applies the kinds and roles that nodes and controllers need; the chart brings its own."""
        if state.chart:
            multus_kinds = str(servers.MULTUS)
            self.kubectl("apply", "--server-side", "-f", multus_kinds, "-f", "-", stdin=dns.manifest(state))
        else:
            if not self.kubectl("get", "namespace", NAMESPACE, "--ignore-not-found", "-o", "name"):
                self.kubectl("create", "namespace", NAMESPACE)
            rendered = (found.helm, checkout() / "charts/galactic", found.version)
            given = rbac.manifest(*rendered) + "---\n" + admission.manifest(state, *rendered)
            kinds = servers.kinds()
            files = [word for path in servers.definitions(checkout()) for word in ("-f", str(path))]
            self.kubectl(
                "apply", "--server-side", "--force-conflicts", *files, "-f", "-", stdin=given + kinds
            )
        self.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=240s")

    def _write_credentials(self, state: State, found: Assets) -> None:
        with self._step("credentials"):
            state.save()
            credentials.make(state)
            self._write_tools(found)
            if state.join:
                nodes = [broker.node(state, member.name) for member in state.members]
                broker.admit(state, [state.cluster, *nodes])
                Supervisor(state.host).kill("mosquitto", signal.SIGHUP)

    def _annotate_nodes(self) -> None:
        """Annotates the nodes with their prefixes: a kubelet registers its Node without annotations."""
        self.wait("every node to register", lambda: readiness.registered(self), log="nodes")
        for member in self._state.members:
            prefix = f"galactic.datumapis.com/srv6-prefix={member.prefix}"
            self.kubectl("annotate", "--overwrite", "node", member.name, prefix)

    def down(self) -> None:
        """Removes the lab, also after a crash, and the labs that joined it. The cache of builds stays."""
        for guest in joined(self._state.name):
            cleanup.remove(guest)
        cleanup.remove(self._state)
        packages.tidy()
        self._state = State(self._state.name)

    def guest_kernel(self, name: str) -> Source:
        """The source of the guest kernel of that name; asks apt unless the source is settled. Raises BuildFailed."""
        source = guest_kernels.settled(name)
        if source is None:
            with self._step(f"the {name} guest kernel's version"):
                source = guest_kernels.resolve(name)
        if remark := guest_kernels.remark(name, source):
            self._console.print(f"[yellow]![/] {remark}")
        return source

    def _guest(self) -> Source:
        """The source of the lab's guest kernel, kept in its state."""
        if not self._state.linux_source:
            self._state = replace(self._state, linux_source=str(self.guest_kernel(self._state.linux)))
        return Source.parse(self._state.linux_source)

    def build(self, *guests: Source, chart: bool = False) -> list[Build]:
        """Builds and fetches all that the cache lacks: programs, these guest kernels, and with ``chart`` the images of
        its pods.
        """
        self._install(chart=chart)
        kubernetes = self._state.kubernetes or os.environ.get(build_modules.SETTING, "")
        guest_builds = [build_linux.build(source) for source in guests]
        pods = chart or (self._state.chart and not self._state.images)
        builds = assets.needed(kubernetes, guests=guest_builds, nodes=bool(guests), chart=pods)
        assets.build(builds, self._console)
        if self._state.chart and not self._state.images:
            root, _ = node_programs.chart(kubernetes)
            self._state = replace(self._state, images=str(root.home))
        return builds

    def _install(self, *, chart: bool = False) -> None:
        """Installs the packages of programs that every lab runs."""
        lacking = packages.absent()
        if (chart or self._state.chart) and not packages.program(proxy.PROGRAM):
            lacking.append(proxy.PACKAGE)
        if lacking:
            with self._step("packages"):
                packages.install(lacking)

    def _nodes_program(self, kernel: Kernel) -> Program:
        argv = [*interpreter(), "-u", "-m", "galactic_lab.node.nodes", self._state.name]
        command = kernel.command(argv, environment=environment())
        return Program("nodes", command, environment(), inside=False, priority=700, stop_seconds=15)

    def _write_tools(self, found: Assets) -> None:
        """Writes ``bin/kubectl``, ``bin/helm`` and the folder of CNI plugins."""
        self._state.tools.mkdir(parents=True, exist_ok=True)
        for name, path in (("kubectl", found.kubectl), ("helm", found.helm)):
            link = self._state.tools / name
            link.unlink(missing_ok=True)
            link.symlink_to(path)
        plugins.write(self._state.tools / "cni", galactic=not self._state.chart)
        # A guest has these files read-only: it would compile them at each start, and the plugin for each pod.
        for folder in (
            sources()[0] / "galactic",
            sources()[1] / "galactic_lab",
            checkout() / "src/cni_plugin",
        ):
            compileall.compile_dir(folder, quiet=2)

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
