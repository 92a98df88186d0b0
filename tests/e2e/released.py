"""Helpers of stories about the chart on real nodes: Helm, Galactic's pods, and traffic of the examples."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import audit
import yaml
from apiserver import Server
from story import ANSWER_SECONDS, API, POD_SECONDS

from galactic.names import VPC_ANNOTATION
from galactic_lab.cluster import Lab
from galactic_lab.controlplane import helm_release
from galactic_lab.places import HELD_UP
from galactic_lab.state import NAMESPACE, checkout

GALACTIC: Final = Path(sys.executable).with_name("galactic")
EXAMPLES: Final = str(checkout() / "examples")
HELM_SECONDS: Final = 600
COMPONENTS: Final = {"broker": 1, "node": 3, "operator": 2, "router": 2, "webhook": 2}
"""How many pods each has with the chart's defaults, on three nodes."""
COMPONENT: Final = "app.kubernetes.io/component"
OPTED: Final = "operator.evictUnattached=true,operator.nodeTaint.set=true,metrics.secure.enabled=true"
"""Values that change every pod but the broker's, and give more rights."""


def run_helm(lab: Lab, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [str(lab.assets.helm), *arguments, f"--namespace={NAMESPACE}"]
    variables = os.environ | {"KUBECONFIG": str(lab.kubeconfig)}
    return subprocess.run(
        command, env=variables, capture_output=True, text=True, timeout=HELM_SECONDS, check=False
    )


def helm(lab: Lab, *arguments: str) -> str:
    """The output of a command that succeeds."""
    done = run_helm(lab, *arguments)
    assert done.returncode == 0, "\n".join([done.stderr, *helm_release.complaints(lab)])
    return done.stdout


def granted(lab: Lab, account: str, *options: str) -> set[audit.Right]:
    """A ServiceAccount's rights by the chart's defaults; ``options``: values as ``--set`` has them."""
    values = [f"--values={helm_release.values_file(lab.state)}", *(f"--set={one}" for one in options)]
    text = helm(lab, "template", "galactic", str(helm_release.chart()), *values)
    return audit.granted(filter(None, yaml.load_all(text, yaml.CSafeLoader)), account)


def pods(lab: Lab) -> dict[str, dict[str, Any]]:
    """Galactic's pods that are not being deleted, by UID."""
    found = lab.get("pods", "-n", NAMESPACE, "-l", f"app.kubernetes.io/name=galactic,{COMPONENT}!=test")[
        "items"
    ]
    return {pod["metadata"]["uid"]: pod for pod in found if "deletionTimestamp" not in pod["metadata"]}


def but_the_brokers(lab: Lab) -> dict[str, dict[str, Any]]:
    """Those of its pods that an upgrade replaces, by UID."""
    return {uid: pod for uid, pod in pods(lab).items() if pod["metadata"]["labels"][COMPONENT] != "broker"}


def ready(lab: Lab) -> dict[str, int]:
    """How many pods of each component are Ready."""
    labels = [
        pod["metadata"]["labels"][COMPONENT] for pod in pods(lab).values() if helm_release.is_ready(pod)
    ]
    return {component: labels.count(component) for component in sorted(set(labels))}


def status(lab: Lab) -> str:
    variables = os.environ | {"KUBECONFIG": str(lab.kubeconfig)}
    done = subprocess.run(
        [GALACTIC, "status"],
        env=variables,
        capture_output=True,
        text=True,
        timeout=ANSWER_SECONDS,
        check=False,
    )
    return done.stdout


def inside(lab: Lab, namespace: str, pod: str, *argv: str) -> "subprocess.CompletedProcess[str]":
    """A command in the pod's container, as kubectl exec runs it."""
    command = [str(lab.assets.kubectl), f"--kubeconfig={lab.kubeconfig}", "exec", "-n", namespace, pod, "--"]
    return subprocess.run(
        [*command, *argv], capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
    )


def pings(lab: Lab, namespace: str, pod: str, address: str) -> bool:
    """Whether a container reaches an address, by a command in it."""
    return inside(lab, namespace, pod, "ping", "-c", "1", "-W", "2", address).returncode == 0


@contextmanager
def traffic(lab: Lab) -> Iterator[None]:
    """Five echoes a second from one node to another and on one node, none of which is lost."""
    ways = [("web", "10.1.1.2"), ("web", "2001:10:1:1::2"), ("web", "10.1.1.3")]
    running = [
        lab.popen(f"pod/blue/{pod}", ["ping", "-n", "-i0.2", address], stdout=subprocess.PIPE)
        for pod, address in ways
    ]
    began = time.monotonic()
    try:
        yield
    finally:
        seconds = time.monotonic() - began
        for process in running:
            process.send_signal(signal.SIGINT)
        outputs = [process.communicate(timeout=ANSWER_SECONDS)[0] for process in running]
    for way, output in zip(ways, outputs, strict=True):
        found = re.search(r"(\d+) packets transmitted", output)
        assert found, f"{way}: {output[-500:]}"
        sent, received = int(found[1]), {int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", output)}
        assert sent > seconds, f"{way}: {sent} echoes in {seconds:.0f} s"
        # The last one may have been under way when ping was ended.
        lost = sorted(set(range(1, sent)) - received)
        assert not lost, f"{way}: of {sent} in {seconds:.0f} s these are lost: {lost}"


ASKED: Final = {"name": "asked", "namespace": "blue"}
QUESTIONS: Final = (
    {"apiVersion": API, "kind": "VPC", "metadata": ASKED, "spec": {"networks": ["10.9.0.0/16"]}},
    {"apiVersion": API, "kind": "VPCAttachment", "metadata": ASKED, "spec": {"vpc": {"name": "blue"}}},
    {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": ASKED | {"annotations": {VPC_ANNOTATION: "blue"}},
        "spec": {"containers": [{"name": "main", "image": "none"}]},
    },
)
"""Objects about which the API server asks the webhooks."""
QUESTIONS_PAUSE: Final = 0.1


class Questions:
    """Creations in a dry run, one after the other, over one connection. One that was held up counts as none."""

    def __init__(self, lab: Lab) -> None:
        self._server = Server(lab.kubeconfig, patience=0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.answered = 0
        self.refusals: list[str] = []

    def _ask(self) -> None:
        while not self._ended.is_set():
            for question in QUESTIONS:
                began = time.strftime("%H:%M:%S")
                try:
                    problem = self._server.dry_run(question)
                except OSError as error:  # the API server itself, or the way to it
                    problem = f"context deadline exceeded: {error}"
                if not problem:
                    self.answered += 1
                elif not HELD_UP.search(problem):
                    self.refusals.append(f"{began}: {question['kind']}: {problem}")
                self._ended.wait(QUESTIONS_PAUSE)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(ANSWER_SECONDS)


def settled(lab: Lab) -> bool:
    return ready(lab) == COMPONENTS and len(pods(lab)) == sum(COMPONENTS.values())


def replaced(lab: Lab, before: dict[str, dict[str, Any]]) -> bool:
    """No pod of before is left, and all are Ready."""
    return not before.keys() & pods(lab).keys() and settled(lab)


def recreate(lab: Lab, pod: str) -> None:
    """The pod of the examples is made again."""
    lab.kubectl("delete", "pod", "-n", "blue", pod, f"--timeout={POD_SECONDS}s")
    lab.kubectl("apply", "-f", EXAMPLES)
    lab.kubectl("wait", "-n", "blue", "--for=condition=Ready", f"pod/{pod}", f"--timeout={POD_SECONDS}s")
