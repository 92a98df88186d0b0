"""Whether the parts of a lab are up."""

import json
import subprocess
from typing import Any, Final, Protocol

from galactic.errors import Rejected
from galactic.names import API_VERSION, ATTACHMENT_ANNOTATION
from galactic_lab.state import State

PROBES: Final = tuple(
    json.dumps({"metadata": {"name": "probe", "namespace": "default"}, **manifest})
    for manifest in (
        {"apiVersion": API_VERSION, "kind": "VPC", "spec": {"networks": ["10.0.0.1/8"]}},
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "probe",
                "namespace": "default",
                "annotations": {ATTACHMENT_ANNOTATION: "Bad Name"},
            },
            "spec": {"containers": [{"name": "probe", "image": "probe"}]},
        },
    )
)
"""Objects that the validating and the mutating webhook deny as soon as the API server calls them."""


class ProbedLab(Protocol):
    """The part of a lab that this module uses."""

    @property
    def state(self) -> State: ...

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str: ...

    def get(self, *arguments: str) -> Any: ...

    def run(
        self, target: str, argv: list[str], *, check: bool = True
    ) -> "subprocess.CompletedProcess[str]": ...


def serving(lab: ProbedLab) -> bool:
    """Whether the API server is ready."""
    return lab.kubectl("get", "--raw", "/readyz", check=False) == "ok"


def registered(lab: ProbedLab) -> bool:
    """Whether all nodes are registered."""
    known = {node["metadata"]["name"] for node in lab.get("nodes")["items"]}
    return {member.name for member in lab.state.members} <= known


def nodes(lab: ProbedLab) -> bool:
    """Whether all nodes are Ready. A status may be older than the nodes' kernel: kubelets must run, too."""
    tests = [
        f"test -e /run/netns/{member.namespace} && kill -0 $(cat {lab.state.pid(member.name, 'kubelet')})"
        for member in lab.state.members
    ]
    if lab.run("kernel", ["sh", "-c", " && ".join(tests)], check=False).returncode != 0:
        return False
    ready = set()
    for node in lab.get("nodes")["items"]:
        conditions = {one["type"]: one["status"] for one in node["status"].get("conditions") or ()}
        if conditions.get("Ready") == "True" and not node["spec"].get("taints"):
            ready.add(node["metadata"]["name"])
    return {member.name for member in lab.state.members} <= ready


def account(lab: ProbedLab) -> bool:
    """Whether the default service account, which pods need, exists."""
    return bool(lab.kubectl("get", "serviceaccount", "default", "-o", "name", check=False))


def webhooks(lab: ProbedLab) -> bool:
    """Whether the API server calls the webhooks."""
    return all(_refused(lab, probe) for probe in PROBES)


def _refused(lab: ProbedLab, manifest: str) -> bool:
    try:
        lab.kubectl("create", "--dry-run=server", "-f", "-", stdin=manifest)
    except Rejected as refusal:
        return "denied the request" in str(refusal)
    return False
