"""Disturbances of a lab that is up: hold, kill, restart, reboot; and waiting for their effect."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from galactic.errors import Rejected, Unreachable
from galactic_lab.node import kubelet, real_multus
from galactic_lab.places import Places
from galactic_lab.processes import Supervisor
from galactic_lab.state import NAMESPACE

READY_SECONDS: Final = 480.0


class Disturbances(Places):
    """Disturbances of the parts of one lab."""

    @property
    def running(self) -> bool:
        """Whether the lab is up."""
        return Supervisor(self._state).running()

    @property
    def supervisor(self) -> Supervisor:
        """The lab's processes. Raises Rejected where it is not up."""
        supervisor = Supervisor(self._state)
        if not supervisor.running():
            raise Rejected(f"lab {self._state.name!r} is not up; run `galactic lab up`", field="lab")
        return supervisor

    def hold(self, node: str) -> None:
        """Stops the node's controller until ``release``."""
        name = self._state.node(node).name
        self._no_pod(node)
        self._state.stopped(name).unlink(missing_ok=True)
        self._state.hold(name).touch()
        self.wait(
            f"the controller of {node} to end",
            self._state.stopped(name).exists,
            log="nodes",
            every=0.05,
        )

    def release(self, node: str) -> None:
        """Lets the node's controller run again."""
        self._state.hold(self._state.node(node).name).unlink(missing_ok=True)

    def choose_version(self, component: str, sources: Path | None) -> None:
        """The folder that a component imports ``galactic`` from at its next start; None: the lab's own.

        ``component``: operator, webhook, router (all of them), or ``controller/NODE``.
        """
        role, _, node = component.partition("/")
        link = self._state.version(f"galactic-node-{node}" if role == "controller" else f"galactic-{role}")
        link.unlink(missing_ok=True)
        if sources is not None:
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(sources)

    def reboot(self, node: str) -> None:
        """Powers the node off, and returns when it boots again. It loses devices, rules and /run, not its disks."""
        path = self._state.pid(self._state.node(node).name, "init")
        before = path.read_text()
        self.run("kernel", ["kill", "-9", before.strip()])
        self.wait(f"{node} to boot", lambda: path.read_text() != before, log="nodes")

    def _no_pod(self, node: str) -> None:
        """Raises Rejected where node controllers are pods."""
        if self._state.chart:
            where = (
                f"-n {NAMESPACE} -l app.kubernetes.io/component=node --field-selector spec.nodeName={node}"
            )
            raise Rejected(f"the node controller is a pod: kubectl delete pod {where}", field="component")

    def remove_multus(self, node: str) -> None:
        """Removes Multus' configuration from a node, as its daemon does while it restarts."""
        self._multus(node, "mv {there} {aside}")

    def restore_multus(self, node: str) -> None:
        """Restores Multus' configuration."""
        self._multus(node, "mv {aside} {there}")

    def _multus(self, node: str, script: str) -> None:
        name = self._state.node(node).name
        there = kubelet.DEFINITIONS / real_multus.definition(self._state.multus)
        aside = kubelet.DEFINITIONS / "multus.away"
        self.run(name, ["sh", "-c", script.format(there=there, aside=aside)])

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
        if role == "controller":
            self._no_pod(node)
        absent = Rejected(f"{component!r} does not run; controller/NODE or kubelet/NODE", field="component")
        if role not in ("controller", "kubelet", "containerd", "kube-proxy", "multus"):
            raise absent
        try:
            pid = int(path.read_text())
        except (OSError, ValueError):
            raise absent from None
        # The pid file of an ended process stays until the node's supervisor has noticed.
        self.run("kernel", ["sh", "-c", f"kill -{int(number)} {pid} || test ! -e /proc/{pid}"])

    def restart(self, component: str) -> None:
        """Stops a component and starts it again."""
        if "/" in component:
            self.kill(component, signal.SIGTERM)
        else:
            self.supervisor.restart(component)

    def wait(self, what: str, done: Callable[[], bool], *, log: str, every: float = 0.2) -> None:
        """Waits until ``done``. Raises Unreachable with the end of a component's log after READY_SECONDS."""
        deadline = time.monotonic() + READY_SECONDS
        while not done():
            if time.monotonic() > deadline:
                raise Unreachable("lab", f"waited {READY_SECONDS:.0f} s for {what}\n{self.tail(log)}")
            time.sleep(every)

    def tail(self, component: str, lines: int = 20) -> str:
        """The end of a component's log, with the log's path."""
        path = self._state.logs / f"{component}.log"
        if not path.exists():
            return f"{path} does not exist"
        return f"{path} ends:\n" + "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
