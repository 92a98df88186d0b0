"""Reads programs, logs, metrics, kernels and the routers' tables of a cluster: everything but API objects.

Commands use the protocol ``ClusterAccess``. ``Cluster`` reaches Galactic's pods, found by label, through the API
server only (``pods/exec``, ``pods/log``, ``pods/proxy``). Entry points add other kinds of clusters:
``galactic.cli.extensions``.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, Protocol, cast

from galactic.cli.cluster_options import LONGER, REQUEST_SECONDS, ClusterOptions
from galactic.cli.extensions import sites
from galactic.cli.snapshot import Component
from galactic.errors import GalacticError, Unreachable
from galactic.kube.api import Object, Objects
from galactic.kube.client import Kube
from galactic.kube.execution import TooSlow, execute
from galactic.kube.resources import DAEMON_SETS, DEPLOYMENTS, PODS, STATEFUL_SETS

LABELS: Final = "app.kubernetes.io/name=galactic"
COMPONENT: Final = "app.kubernetes.io/component"
METRICS_PORT: Final = 9090
LOG_LINES: Final = 5000
SERVING: Final = frozenset({"operator", "webhook", "router"})
"""Programs of Deployments that serve /healthz."""
HEALTHY: Final = ""
NOT_READY: Final = "not ready"
Inspection = dict[str, Any]
"""The output of ``galactic-node-inspect``."""


class ClusterAccess(Protocol):
    """Programs, logs, metrics and kernels of one cluster."""

    async def components(self) -> tuple[Component, ...]:
        """All programs and the broker. Raises GalacticError."""

    def router_outside(self, components: Sequence[Component]) -> bool:
        """Whether the cluster has no router of its own."""

    async def inspect(self, node: str, arguments: Sequence[str]) -> Inspection:
        """The output of ``galactic-node-inspect`` on a node. Raises GalacticError."""

    async def router_tables(self, vpcs: Sequence[str]) -> list[dict[str, Any]]:
        """The output of ``galactic-router-inspect``: each router's tables. Raises GalacticError."""

    def logs(self) -> AsyncIterator[tuple[str, str]]:
        """(file name, text) of every program's log."""

    def metrics(self) -> AsyncIterator[tuple[str, str]]:
        """(file name, text) of every program's metrics."""

    async def image(self) -> str:
        """The image of the node controller; empty for none."""


def cluster_access(options: ClusterOptions, kube: Kube) -> ClusterAccess:
    """The first added kind of cluster (``extensions.sites``) that the kubeconfig belongs to, else Galactic's chart."""
    for added in sites():
        if access := added(options.files):
            return cast("ClusterAccess", access)
    return Cluster(kube, options.seconds)


class Cluster:
    """Galactic as its chart installs it. ``seconds``: timeout of a command in a pod."""

    def __init__(self, kube: Kube, seconds: float = REQUEST_SECONDS) -> None:
        self._kube, self._seconds = kube, seconds
        self._listed: Objects | None = None

    async def pods(self) -> Objects:
        """Galactic's own pods, listed once."""
        if self._listed is None:
            self._listed = (await self._kube.list(PODS, labels=LABELS))[0]
        return self._listed

    async def components(self) -> tuple[Component, ...]:
        self._listed = None
        kinds = (DEPLOYMENTS, DAEMON_SETS, STATEFUL_SETS)
        deployments, daemons, sets = await asyncio.gather(
            *(self._kube.list(kind, labels=LABELS) for kind in kinds)
        )
        pods = await self.pods()
        components: list[Component] = []
        workloads = [("deploy", workload) for workload in deployments[0]] + [
            ("sts", workload) for workload in sets[0]
        ]
        for kind, workload in workloads:
            status = workload.get("status") or {}
            name = _component(workload)
            mine = [pod for pod in pods if _component(pod) == name]
            problem, unwell = await self._unwell(mine)
            components.append(
                Component(
                    name,
                    max(status.get("readyReplicas", 0) - unwell, 0),
                    workload["spec"].get("replicas", 1),
                    _tag(workload["spec"]["template"]),
                    await self._reason(mine) or problem,
                    log=_log(workload, f"{kind}/{workload['metadata']['name']}"),
                )
            )
        for daemon in daemons[0]:
            name = _component(daemon)
            for pod in (pod for pod in pods if _component(pod) == name):
                node, shown = pod["spec"].get("nodeName", ""), _log(pod, pod["metadata"]["name"])
                why = await self._reason([pod])
                components.append(Component(name, int(_ready(pod)), 1, _tag(pod), why, node, shown))
            if not (daemon.get("status") or {}).get("desiredNumberScheduled"):
                components.append(Component(name, 0, 1, _tag(daemon["spec"]["template"]), "no node runs it"))
        return tuple(sorted(components, key=lambda component: (component.name, component.node)))

    def router_outside(self, components: Sequence[Component]) -> bool:
        return bool(components) and not any(
            component.kind == "router" and component.wanted for component in components
        )

    async def _reason(self, pods: Objects) -> str:
        """The reason why one of these pods is not ready; empty if all are."""
        for pod in pods:
            if not _ready(pod):
                return problem(pod) or await self._health(pod) or NOT_READY
        return ""

    async def _unwell(self, pods: Objects) -> tuple[str, int]:
        """A problem of the ready ones of these pods, if any has one, and how many have.

        They can work, or take over: a router is ready without its broker, so that no drain waits for that.
        """
        ready = [pod for pod in pods if _ready(pod) and _serves(pod)]
        answers = await asyncio.gather(*map(self._health, ready))
        problems = [answer for answer in answers if answer not in (HEALTHY, NOT_READY)]
        return next(iter(problems), ""), len(problems)

    async def _health(self, pod: Object) -> str:
        meta = pod["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{_server(pod)}/proxy/healthz"
        try:
            await self._kube.text(path)
        except GalacticError as error:
            message = str(error)
            problems = message.split("503", 1)[1].splitlines() if "503" in message else [NOT_READY]
            return "; ".join(filter(None, map(str.strip, problems)))
        return HEALTHY

    async def inspect(self, node: str, arguments: Sequence[str]) -> Inspection:
        for pod in await self.pods():
            if _component(pod) == "node" and pod["spec"].get("nodeName") == node:
                inspection = await self._json(pod, "node", ["galactic-node-inspect", *arguments])
                assert isinstance(inspection, dict)
                return inspection
        raise Unreachable("node", f"no pod of galactic-node runs on {node}: its kernel cannot be read")

    async def router_tables(self, vpcs: Sequence[str]) -> list[dict[str, Any]]:
        tables: list[dict[str, Any]] = []
        pods = [pod for pod in await self.pods() if _component(pod) == "router" and _running(pod)]
        for pod in pods:
            tables += await self._json(pod, "router", ["galactic-router-inspect", *vpcs])
        if not pods:
            raise Unreachable("router", "no pod of galactic-router runs: the published tables cannot be read")
        return tables

    async def _json(self, pod: Object, container: str, argv: list[str]) -> Any:
        meta, names = pod["metadata"], [container["name"] for container in pod["spec"]["containers"]]
        chosen = container if container in names else names[0]
        where = f"{meta['namespace']}/{meta['name']}"
        try:
            done = await execute(
                self._kube, meta["namespace"], meta["name"], chosen, argv, seconds=self._seconds
            )
        except TooSlow as error:
            raise Unreachable(container, f"{error}; {LONGER}") from error
        if done.code:
            raise Unreachable(container, f"{where}: {done.errors.strip() or f'exit code {done.code}'}")
        try:
            return json.loads(done.output)
        except ValueError as error:
            raise Unreachable(container, f"{where}: `{argv[0]}` printed no JSON") from error

    async def logs(self) -> AsyncIterator[tuple[str, str]]:
        for pod in await self.pods():
            meta = pod["metadata"]
            statuses = (pod.get("status") or {}).get("containerStatuses") or ()
            restarted = {container["name"] for container in statuses if container.get("restartCount")}
            spec = pod["spec"]
            for container in (*(spec.get("initContainers") or ()), *spec["containers"]):
                for previous in (False, True) if container["name"] in restarted else (False,):
                    path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/log"
                    query = {"container": container["name"], "tailLines": str(LOG_LINES)}
                    query |= {"previous": "true"} if previous else {}
                    name = f"{meta['name']}.{container['name']}{'.previous' if previous else ''}.log"
                    yield name, await _text_or_error(self._kube.text(path, query))

    async def metrics(self) -> AsyncIterator[tuple[str, str]]:
        for pod in await self.pods():
            meta = pod["metadata"]
            if _component(pod) in ("operator", "webhook", "router", "node") and _running(pod):
                path = f"/api/v1/namespaces/{meta['namespace']}/pods/{_server(pod)}/proxy/metrics"
                yield f"{meta['name']}.prom", await _text_or_error(self._kube.text(path))

    async def image(self) -> str:
        for pod in await self.pods():
            if _component(pod) == "node":
                return str(pod["spec"]["containers"][0]["image"])
        return ""


async def _text_or_error(work: Any) -> str:
    try:
        return str(await work)
    except GalacticError as error:
        return f"not available: {error}\n"


def problem(pod: Object) -> str:
    """The reason why a pod does not run, from its containers' states; empty if it runs."""
    status = pod.get("status") or {}
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        state = container.get("state") or {}
        waiting, ended = state.get("waiting") or {}, state.get("terminated") or {}
        last = (container.get("lastState") or {}).get("terminated") or {}
        if reason := waiting.get("reason"):
            message = last.get("message") or waiting.get("message") or ""
            return f"{container['name']}: {reason}" + (
                f" ({' '.join(message.split())[-300:]})" if message else ""
            )
        if ended.get("exitCode"):
            return f"{container['name']}: ended with {ended['exitCode']}"
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return str(condition.get("message") or "not scheduled")
    return ""


def _component(workload: Object) -> str:
    return str((workload["metadata"].get("labels") or {}).get(COMPONENT, "galactic"))


def _log(workload: Object, name: str) -> str:
    return f"kubectl logs -n {workload['metadata']['namespace']} {name}"


def _server(pod: Object) -> str:
    """Where a pod serves /metrics and /healthz, as the API server's proxy takes it: [https:]NAME:PORT."""
    name = pod["metadata"]["name"]
    for container in pod["spec"]["containers"]:
        for port in container.get("ports") or ():
            if port.get("name") == "metrics":
                probe = (container.get("readinessProbe") or {}).get("httpGet") or {}
                scheme = "https:" if probe.get("scheme") == "HTTPS" else ""
                return f"{scheme}{name}:{port['containerPort']}"
    return f"{name}:{METRICS_PORT}"


def _serves(pod: Object) -> bool:
    return _component(pod) in SERVING


def _running(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") == "Running"


def _ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _tag(pod: Object) -> str:
    """The version in the image's name: its tag or the digest's first 19 characters."""
    image = str(pod["spec"]["containers"][0].get("image", ""))
    name, _, digest = image.partition("@")
    _, colon, tag = name.rpartition("/")[2].partition(":")
    return tag if colon else digest[:19]
