"""Galactic's chart in a lab: installed by Helm as in docs/install.md, with the reasons where it does not come up.

The values are the chart's own, but for the SRv6 space, the nodes' prefixes, and the broker's image: Debian's Mosquitto.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, Self

import yaml

from galactic.errors import Unreachable
from galactic_lab.assets import Assets
from galactic_lab.images import chart as chart_images
from galactic_lab.state import NAMESPACE, SRV6_SPACE, State, checkout

NAME: Final = "galactic"
SECONDS: Final = 480
LOG_LINES: Final = 5
EVENTS: Final = 3


class Cluster(Protocol):
    """The part of a lab that this module uses."""

    @property
    def state(self) -> State: ...

    @property
    def assets(self) -> Assets: ...

    @property
    def kubeconfig(self) -> Path: ...

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str: ...

    def get(self, *arguments: str) -> Any: ...


def chart() -> Path:
    """The chart of this checkout."""
    return checkout() / "charts/galactic"


def values(state: State) -> dict[str, Any]:
    """The values of docs/install.md: the SRv6 block and each node's prefix of it; and the lab's image of the broker."""
    segments = {member.name: str(member.prefix) for member in state.members}
    return {"srv6Space": str(SRV6_SPACE), "segments": segments, "broker": {"image": chart_images.BROKER}}


def values_file(state: State) -> Path:
    """The file with the values, for upgrades by hand."""
    return state.root / "galactic.yaml"


def installed(lab: Cluster) -> bool:
    """Whether Helm has a release with status ``deployed``."""
    with _helm(lab, "status", NAME, "--output=json") as process:
        output, _ = process.communicate()
    return process.returncode == 0 and json.loads(output)["info"]["status"] == "deployed"


class Installation:
    """A running Helm, started by ``install``. As a context manager it ends with the block."""

    def __init__(self, lab: Cluster, process: "subprocess.Popen[str]") -> None:
        self._lab, self._process = lab, process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def finish(self) -> None:
        """Waits until all pods of the release are Ready. Raises Unreachable with the pods that are not, and the
        reasons.
        """
        _, errors = self._process.communicate()
        if self._process.returncode:
            raise Unreachable("helm", "\n".join([errors.strip(), *complaints(self._lab)]))


def install(lab: Cluster) -> Installation:
    """Starts to install the chart, or to upgrade the release. Nodes may come up meanwhile."""
    path = values_file(lab.state)
    path.write_text(yaml.safe_dump(values(lab.state), sort_keys=False))
    options = ("--create-namespace", f"--values={path}", "--wait", f"--timeout={SECONDS}s")
    return Installation(lab, _helm(lab, "upgrade", "--install", NAME, str(chart()), *options))


def _helm(lab: Cluster, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [str(lab.assets.helm), *arguments, f"--namespace={NAMESPACE}"],
        env=os.environ | {"KUBECONFIG": str(lab.kubeconfig)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def complaints(lab: Cluster) -> list[str]:
    """A line for each pod of Galactic's, and below those that are not Ready their last warnings and log lines."""
    pods = lab.get("pods", "-n", NAMESPACE)["items"]
    lines = [] if pods else [f"there is no pod in {NAMESPACE}"]
    for pod in pods:
        meta, ready = pod["metadata"], is_ready(pod)
        node = pod["spec"].get("nodeName") or "no node"
        lines.append(f"{meta['name']} on {node}: {'Ready' if ready else trouble(pod)}")
        if not ready:
            lines += [f"    {line}" for line in (*_warnings(lab, meta["uid"]), *_logs(lab, pod))]
    return lines


def status(lab: Cluster) -> list[tuple[str, str, str]]:
    """Name, state and node of each pod of Galactic's."""
    pods = lab.get("pods", "-n", NAMESPACE)["items"]
    return [
        (
            f"pod/{pod['metadata']['name']}",
            "running" if is_ready(pod) else trouble(pod),
            pod["spec"].get("nodeName", ""),
        )
        for pod in pods
    ]


def is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def trouble(pod: Mapping[str, Any]) -> str:
    """The reason why a pod is not Ready: a container that waits or ended, or no node for it; else its phase."""
    status = pod.get("status", {})
    for one in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        state = one.get("state") or {}
        waiting, ended = state.get("waiting") or {}, state.get("terminated") or {}
        if reason := waiting.get("reason"):
            message = " ".join(waiting.get("message", "").split())
            return f"{one['name']}: {reason}" + (f" ({message})" if message else "")
        if ended.get("exitCode"):
            return f"{one['name']}: ended with {ended['exitCode']}"
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return str(condition.get("message") or "not scheduled")
    return str(status.get("phase", "unknown"))


def _warnings(lab: Cluster, uid: str) -> list[str]:
    selector = f"--field-selector=involvedObject.uid={uid},type=Warning"
    events = lab.get("events", "-n", NAMESPACE, selector)["items"]
    return [f"{event['reason']}: {' '.join(event['message'].split())}" for event in events[-EVENTS:]]


def _logs(lab: Cluster, pod: Mapping[str, Any]) -> Iterator[str]:
    status = pod.get("status", {})
    for one in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        if not one.get("containerID") or (one.get("state") or {}).get("terminated", {}).get("exitCode") == 0:
            continue
        options = ("-n", NAMESPACE, pod["metadata"]["name"], "-c", one["name"], f"--tail={LOG_LINES}")
        yield from lab.kubectl("logs", *options, check=False).splitlines()
