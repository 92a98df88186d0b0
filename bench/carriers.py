"""What carriers cost an ADD: ``.venv/bin/python bench/carriers.py [--lab NAME] [--pods 10]``.

On a real node of the lab, with kubelet, containerd and Multus. Pods start one after another: each ADD comes soon after
the Node is in the Pod's spec, and may be ahead of the operator, which writes the carrier then. Afterwards each pod's
sandbox is killed, and kubelet makes another one: that ADD finds its carrier in the node's cache. The difference is the
wait. Seconds are the node controller's own (``galactic_node_cni_request_seconds``), from the plugin's request to the
answer. Brings a lab up if none of that name is; the goal is a wait of 50 ms at the median.
"""

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Callable

from rich.console import Console

from galactic.kube.api import Object
from galactic_lab.cluster import Lab
from galactic_lab.state import METRICS_PORT

API = "galactic.datumapis.com/v1alpha"
NAMESPACE, NODE = "bench-carriers", "node-1"
GOAL_SECONDS = 0.05
PATIENCE_SECONDS = 120.0


def vpc() -> list[Object]:
    spec = {"networks": ["10.1.1.0/24"]}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": API, "kind": "VPC", "metadata": {"name": "vpc", "namespace": NAMESPACE}, "spec": spec},
    ]


def attachment(number: int) -> Object:
    interface = {"name": "galactic0", "addresses": [f"10.1.1.{number}/24"]}
    return {
        "apiVersion": API,
        "kind": "VPCAttachment",
        "metadata": {"name": f"pod-{number}", "namespace": NAMESPACE},
        "spec": {"vpc": {"apiVersion": API, "kind": "VPC", "name": "vpc"}, "interface": interface},
    }


def pod(number: int) -> Object:
    name = f"pod-{number}"
    annotations = {"k8s.v1alpha.galactic.datumapis.com/vpc-attachment": name}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "annotations": annotations},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": NODE},
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": "nicolaka/netshoot"}],
        },
    }


class Adds:
    """The ADDs that the node has answered: how many, and their seconds together."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        address = next(member.address for member in lab.state.members if member.name == NODE)
        url = f"http://[{address}]:{METRICS_PORT}/metrics"
        ask = f"import urllib.request as u; print(u.urlopen({url!r}, timeout=10).read().decode())"
        self._command = [sys.executable, "-ISEc", ask]

    def read(self) -> tuple[int, float]:
        text = self._lab.run("control", self._command).stdout
        pattern = r'^galactic_node_cni_request_seconds_{}{{verb="add"}} (\S+)$'
        numbers = [re.search(pattern.format(name), text, re.MULTILINE) for name in ("count", "sum")]
        count, seconds = (float(number[1]) if number else 0.0 for number in numbers)
        return int(count), seconds

    def of(self, action: Callable[[], object]) -> float:
        """Seconds of the ADDs that follow from the action: of one pod."""
        count, seconds = self.read()
        action()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (now := self.read())[0] == count:
            if time.monotonic() > deadline:
                raise SystemExit("no ADD came")
            time.sleep(0.2)
        return now[1] - seconds


def apply(lab: Lab, *objects: Object) -> None:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    lab.kubectl("apply", "-f", "-", stdin=text)


def ready(lab: Lab, *names: str) -> None:
    lab.kubectl("wait", "-n", NAMESPACE, "--for=condition=Ready", *names, f"--timeout={PATIENCE_SECONDS:g}s")


def kill_sandbox(lab: Lab, name: str) -> None:
    uid = lab.get("pod", "-n", NAMESPACE, name)["metadata"]["uid"]
    find = f"find /sys/fs/cgroup -path '*pod{uid}/*' -name cgroup.procs"
    lab.run("kernel", ["sh", "-c", f"for f in $({find}); do kill -9 $(cat $f); done"], check=False)


def measure(lab: Lab, pods: int) -> tuple[list[float], list[float]]:
    """Seconds of each ADD: of new pods, and of the same pods with their carriers known."""
    numbers = range(1, pods + 2)  # the first is for what is slow once, and does not count
    apply(lab, *vpc(), *map(attachment, numbers))
    ready(lab, "vpca", "--all")
    adds = Adds(lab)
    new, known = [], []
    for number in numbers:
        new.append(adds.of(lambda number=number: apply(lab, pod(number))))  # type: ignore[misc]
        ready(lab, f"pod/pod-{number}")
    for number in numbers:
        known.append(adds.of(lambda number=number: kill_sandbox(lab, f"pod-{number}")))  # type: ignore[misc]
        ready(lab, f"pod/pod-{number}")
    return new[1:], known[1:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--lab", default="bench")
    parser.add_argument("--pods", type=int, default=10)
    given = parser.parse_args()
    lab = Lab(given.lab, Console(stderr=True))
    was_running = lab.running
    try:
        lab.up()
        new, known = measure(lab, given.pods)
    finally:
        if lab.running:
            lab.kubectl("delete", "namespace", NAMESPACE, "--timeout=120s", "--ignore-not-found", check=False)
        if not was_running:
            lab.down()
    for title, seconds in (("a new pod", new), ("its carrier is known", known)):
        print(
            f"{title:<21} {statistics.median(seconds) * 1e3:>6.0f} ms",
            f"({', '.join(f'{one * 1e3:.0f}' for one in sorted(seconds))})",
        )
    wait = statistics.median(new) - statistics.median(known)
    print(f"{'the wait':<21} {wait * 1e3:>6.0f} ms  (goal: at most {GOAL_SECONDS * 1e3:.0f})")
    return 0 if wait <= GOAL_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
