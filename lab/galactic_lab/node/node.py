"""A node: a machine with containerd, kubelet, and the stand-in for Multus.

Galactic's controller runs beside them; with the chart kube-proxy does, and the controller is a pod. Where a Multus with
a daemon is given, that runs in place of the stand-in.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

from galactic_lab.kernel import fabric
from galactic_lab.node import containerd, kubelet, machine, multus, programs, proxy, real_multus
from galactic_lab.node.supervision import Supervisor, become, fork, redirect
from galactic_lab.state import Node, State, environment

CHART_PLUGINS: Final = Path("/opt/cni/bin")
"""The chart's default for ``node.cniBinDir``."""


class RealNode(Supervisor):
    """Ends with its machine: pods do not outlive it, as on a node that is powered off."""

    def __init__(self, state: State, member: Node) -> None:
        self._built = programs.find(state.kubernetes, state.images)
        own = [CHART_PLUGINS] if state.chart else []
        own += [Path(state.multus)] if state.multus else []
        self._plugins = [*own, state.tools / "cni", self._built.plugins]
        self._init = 0
        super().__init__(state, member)

    def programs(self) -> dict[str, Callable[[], None]]:
        proxies = {"kube-proxy": self._proxy} if self._state.chart else {}
        daemons = {"multus": self._multus} if real_multus.thick(self._state.multus) else {}
        return {"containerd": self._containerd, "kubelet": self._kubelet} | proxies | daemons

    def isolate(self) -> None:
        """Boots the node: what a reboot does not keep is gone, its first process runs, its networks are configured."""
        init = self._state.pid(self._member.name, "init")
        if init.exists():
            fabric.remake_node(self._state, self._member)
            machine.forget_boot(self._member)
        machine.isolate(self._member)
        ready, tell = os.pipe()
        self._init = fork(lambda: machine.init(tell))
        os.close(tell)
        os.read(ready, 1)
        os.close(ready)
        init.write_text(f"{self._init}\n")
        kubeconfig = self._state.identity("multus")
        if self._state.multus:
            real_multus.configure(self._state.multus, self._member.pods, kubeconfig)
        else:
            multus.configure(self._member.pods, kubeconfig, self._plugins)

    def ended(self, pid: int) -> bool:
        """With its first process the kernel has ended everything else in the node."""
        if pid != self._init:
            return False
        self._init, self._ending = 0, True
        return True

    def _stop(self) -> None:
        super()._stop()
        if self._init:
            os.kill(self._init, signal.SIGKILL)

    def _containerd(self) -> None:
        redirect(self._state.logs / f"{self._member.name}.containerd.log")
        become(environment())
        containerd.start(self._built.containerd, self._plugins, kubelet.DEFINITIONS, self._built.images)

    def _kubelet(self) -> None:
        state, member = self._state, self._member
        redirect(state.logs / f"{member.name}.kubelet.log")
        become(environment())
        identity = state.identity(f"kubelet-{member.name}")
        kubelet.start(self._built.kubelet, member.name, str(member.address), identity)

    def _proxy(self) -> None:
        state, member = self._state, self._member
        redirect(state.logs / f"{member.name}.kube-proxy.log")
        become(environment())
        proxy.start(self._built.proxy, state, member)

    def _multus(self) -> None:
        redirect(self._state.logs / f"{self._member.name}.multus.log")
        become(environment())
        identity = self._state.identity("multus")
        real_multus.start(self._state.multus, self._member.name, identity, self._plugins)
