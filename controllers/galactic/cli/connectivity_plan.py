"""The connectivity test as a value: its objects, and the results from its pods' states. No I/O."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from galactic.cli.probe import Target
from galactic.names import API_VERSION, ATTACHMENT_ANNOTATION

LABEL: Final = "galactic.datumapis.com/connectivity"
NETWORKS: Final = ("10.254.0.0/24", "fd9a:1ac7:1c00::/64")
PODS: Final = (
    # VPC, name, index of the node, host number. Equal numbers in both VPCs are equal addresses.
    ("blue", "blue-1", 0, 1),
    ("blue", "blue-2", 1, 2),
    ("blue", "blue-3", 0, 3),
    ("green", "green-1", 0, 1),
    ("green", "green-2", 1, 2),
)
PROBE: Final = "probe"
MESSAGE_BYTES: Final = 300


@dataclass(frozen=True, slots=True)
class ConnectivityPlan:
    """Two VPCs with the same networks in one namespace. Only blue has address 3, which green must not reach."""

    namespace: str
    nodes: Sequence[str]
    image: str
    patience: float

    def namespace_object(self) -> dict[str, Any]:
        """The namespace."""
        return {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": self.namespace, "labels": {LABEL: "test"}},
        }

    def vpcs(self) -> list[dict[str, Any]]:
        return [
            _object("VPC", name, {"networks": [*NETWORKS]}) for name in dict.fromkeys(vpc for vpc, *_ in PODS)
        ]

    def attachments(self) -> list[dict[str, Any]]:
        return [
            _object(
                "VPCAttachment",
                name,
                {
                    "vpc": {"apiVersion": API_VERSION, "kind": "VPC", "name": vpc},
                    "interface": {
                        "name": "galactic0",
                        "addresses": [
                            f"{address}/{network.rpartition('/')[2]}"
                            for address, network in zip(addresses(number), NETWORKS, strict=True)
                        ],
                    },
                },
            )
            for vpc, name, _, number in PODS
        ]

    def targets(self, name: str) -> list[Target]:
        """The targets of a pod: each host number in both families, with the pod of its VPC that must answer."""
        vpc = next(vpc for vpc, other, *_ in PODS if other == name)
        names = {number: other for home, other, _, number in PODS if home == vpc}
        numbers = sorted({number for *_, number in PODS})
        own = next(number for _, other, _, number in PODS if other == name)
        return [
            Target(address, names.get(number, ""))
            for number in numbers
            if number != own
            for address in addresses(number)
        ]

    def pods(self) -> list[dict[str, Any]]:
        return [self._pod(name, self.nodes[node]) for _, name, node, _ in PODS]

    def _pod(self, name: str, node: str) -> dict[str, Any]:
        asked = [word for target in self.targets(name) for word in ("--ask", str(target))]
        security = {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }

        def container(kind: str, *words: str) -> dict[str, Any]:
            return {
                "name": kind,
                "image": self.image,
                "command": ["galactic", "connectivity", kind, *words],
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "securityContext": security,
                "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
            }

        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "labels": {LABEL: "test"},
                "annotations": {ATTACHMENT_ANNOTATION: name},
            },
            "spec": {
                "nodeSelector": {"kubernetes.io/hostname": node},
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": False,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 65532,
                    "runAsGroup": 65532,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    container("answer", "--name", name),
                    container(PROBE, *asked, "--patience", f"{self.patience:g}"),
                ],
            },
        }

    def finished(self, pods: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether every probe has ended."""
        return all(_ended(pods.get(name)) is not None for _, name, *_ in PODS)

    def results(
        self, pods: Mapping[str, Mapping[str, Any]], events: Iterable[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """A row for each target. ``why``: the reason if the pod's probe gave no result."""
        events_by_pod = {event["involvedObject"].get("name"): event for event in events}
        rows: list[dict[str, Any]] = []
        for _, name, node, _ in PODS:
            ended = _ended(pods.get(name))
            wrong, why = _unexpected_answers(ended), ""
            if ended is None or (ended.get("exitCode") and not wrong):
                event = events_by_pod.get(name)
                why = f"{name}: " + _failure(
                    pods.get(name), ended, str(event.get("message", "")) if event else ""
                )
            for target in self.targets(name):
                answered = wrong.get(str(target), target.expected)
                right = not why and str(target) not in wrong
                rows.append(
                    {
                        "from": name,
                        "node": self.nodes[node],
                        "to": target.address,
                        "expected": target.expected,
                        "found": "?" if why else answered,
                        "right": right,
                        "why": why,
                    }
                )
        return rows


def addresses(number: int) -> tuple[str, str]:
    """The IPv4 and the IPv6 address of a host number."""
    return tuple(  # type: ignore[return-value]  # one for each network
        f"{network.rpartition('/')[0].removesuffix('0') if '.' in network else network.rpartition('/')[0]}{number:x}"
        for network in NETWORKS
    )


def _object(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


def _ended(pod: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """How a pod's probe ended; None before its end."""
    for container in ((pod or {}).get("status") or {}).get("containerStatuses") or ():
        if container["name"] == PROBE:
            ended = (container.get("state") or {}).get("terminated")
            return dict(ended) if ended else None
    return None


def _unexpected_answers(ended: Mapping[str, Any] | None) -> dict[str, str]:
    """Unexpected answers by target, from a probe's termination message."""
    wrong = {}
    for line in str((ended or {}).get("message") or "").splitlines():
        asked, marker, answered = line.strip().partition(" found=")
        if marker:
            wrong[asked] = answered
    return wrong


def _failure(pod: Mapping[str, Any] | None, ended: Mapping[str, Any] | None, event: str) -> str:
    if pod is None:
        return "the pod is gone"
    if ended is not None:
        output = " ".join(str(ended.get("message") or "").split())[-MESSAGE_BYTES:]
        return f"the probe ended with {ended.get('exitCode')}" + (f": {output}" if output else "")
    status = pod.get("status") or {}
    waiting = [
        state["message"] or state.get("reason", "")
        for container in status.get("containerStatuses") or ()
        if (state := (container.get("state") or {}).get("waiting")) and state.get("message")
    ]
    reason = event or (waiting[0] if waiting else "")
    return f"not finished in time, {status.get('phase', 'Unknown')}" + (
        f": {reason[:MESSAGE_BYTES]}" if reason else ""
    )
