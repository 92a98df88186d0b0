"""A node: a machine with containerd, kubelet, and Multus' daemon or the stand-in for it.

Galactic's controller runs beside them; with the chart kube-proxy does, and the controller is a pod.
"""

import importlib
import os
import sys
from functools import partial
from pathlib import Path
from typing import Final

from galactic_lab import node_programs
from galactic_lab.controlplane import broker, controllers
from galactic_lab.kernel import fabric, namespaces
from galactic_lab.node import containerd, kubelet, machine, multus, networks, proxy, real_multus
from galactic_lab.node.supervision import Child, Supervisor, become, fork, redirect
from galactic_lab.state import Node, State, environment, interpreter

CONTROLLER: Final = "galactic.node.__main__"
USAGE_SECONDS: Final = "10"
"""Between two messages with a node's traffic, so that `galactic usage` shows it soon."""
SLACK_SECONDS: Final = 0.002
"""Of programs in Go: a thread of their runtime sleeps 20 µs at a time, and a guest takes longer to wake it."""
CHART_PLUGINS: Final = Path("/opt/cni/bin")
"""The chart's default for ``node.cniBinDir``."""


def become_patient() -> None:
    """The environment of the lab's processes, and the slack of programs in Go."""
    become(environment())
    namespaces.set_timer_slack(SLACK_SECONDS)


class LabNode:
    """One node. It ends with its machine: pods do not outlive it, as on a node that is powered off."""

    def __init__(self, state: State, member: Node) -> None:
        self._state, self._member = state, member
        self._built = node_programs.find(state.kubernetes, state.images)
        own = [CHART_PLUGINS] if state.chart else []
        own += [Path(state.multus)] if state.multus else []
        self._plugins = [*own, state.tools / "cni", self._built.plugins]

    def run(self) -> None:
        """Boots the node and keeps its programs running, until SIGTERM or until its first process ends."""
        state, name = self._state, self._member.name
        state.node_dir(name).mkdir(parents=True, exist_ok=True)
        Supervisor(self._children(), partial(state.pid, name)).run(self._boot)

    def _children(self) -> list[Child]:
        state, name = self._state, self._member.name
        children = [Child("containerd", self._containerd), Child("kubelet", self._kubelet)]
        if state.chart:
            children.append(Child("kube-proxy", self._proxy))
        if not state.multus or real_multus.thick(state.multus):
            children.append(Child("multus", self._multus))
        if not state.chart and controllers.installed(CONTROLLER):
            held, stopped = state.hold(name).exists, state.stopped(name).touch
            children.append(Child("controller", self._controller, held, stopped))
        return children

    def _boot(self) -> int:
        """Boots the node with the caller in it; the process id of its first process.

        Devices, rules and /run of an earlier boot are removed; the networks of pods are configured.
        """
        pidfile = self._state.pid(self._member.name, "init")
        if pidfile.exists():
            fabric.remake_node(self._state, self._member)
            machine.forget_boot(self._member)
        machine.isolate(self._member)
        mounted, ready = os.pipe()
        init = fork(lambda: machine.init(ready))
        os.close(ready)
        os.read(mounted, 1)
        os.close(mounted)
        pidfile.write_text(f"{init}\n")
        kubeconfig = self._state.identity("multus")
        if self._state.multus:
            real_multus.configure(self._state.multus, self._member.pods, kubeconfig)
        else:
            networks.configure(self._member.pods, kubeconfig, self._plugins)
        return init

    def _containerd(self) -> None:
        redirect(self._state.logs / f"{self._member.name}.containerd.log")
        become_patient()
        containerd.start(self._built.containerd, self._plugins, kubelet.DEFINITIONS, self._built.images)

    def _kubelet(self) -> None:
        state, member = self._state, self._member
        redirect(state.logs / f"{member.name}.kubelet.log")
        become_patient()
        identity = state.identity(f"kubelet-{member.name}")
        kubelet.start(self._built.kubelet, member.name, str(member.address), identity)

    def _proxy(self) -> None:
        state, member = self._state, self._member
        redirect(state.logs / f"{member.name}.kube-proxy.log")
        become_patient()
        proxy.start(self._built.proxy, state, member)

    def _multus(self) -> None:
        redirect(self._state.logs / f"{self._member.name}.multus.log")
        become(environment())
        if not self._state.multus:
            multus.serve()
        identity = self._state.identity("multus")
        real_multus.start(self._state.multus, self._member.name, identity, self._plugins)

    def _controller(self) -> None:
        state, member = self._state, self._member
        redirect(state.logs / f"{member.name}.controller.log")
        user = f"galactic-node-{member.name}"
        variables = controllers.settings(state, user)
        variables |= broker.variables(state, broker.node(state, member.name))
        own = {"GALACTIC_NODE_NAME": member.name, "GALACTIC_UNDERLAY_INTERFACE": "eth0"}
        own["GALACTIC_USAGE_INTERVAL"] = USAGE_SECONDS
        become(variables | own | {"GALACTIC_CNI_CONF_DIR": "/etc/cni/net.d", "TMPDIR": "/tmp"})  # noqa: S108
        if state.version(user).exists():  # not what this process has imported
            os.execv(sys.executable, [*interpreter(), "-m", "galactic.node"])  # noqa: S606
        sys.argv = ["galactic-node"]
        importlib.import_module(CONTROLLER).main()
