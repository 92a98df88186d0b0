"""Whether the pods of an attachment have their VPC interface: the condition Attached.

A pod lacks the interface where Multus did not call the CNI plugin when the sandbox was made (``galactic.kube.pods``).
The grace is measured by the operator's clock: a pod's own times come from the clock of its node.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from galactic.crds.nodesegment import NodeSegment
from galactic.kube.api import Key
from galactic.kube.conditions import State
from galactic.kube.pods import attached, lacks_interface
from galactic.operator.objects import Pod
from galactic.operator.state import Caches

LISTED: Final = 5
"""Pods that a message lists."""


@dataclass(frozen=True, slots=True)
class InterfaceCheck:
    """``state`` is the condition, None removes it; the condition stays as it is unless ``decided``.

    ``lacking``: pods without their interface for longer than the grace. ``again``: seconds until the next check.
    """

    state: State | None = None
    decided: bool = True
    lacking: tuple[Pod, ...] = ()
    again: float | None = None


class Interfaces:
    """Remembers since when each pod has run without its interface. ``grace``: seconds for which it may."""

    def __init__(self, grace: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._grace, self._clock = grace, clock
        self._since: dict[Key, dict[str, float]] = {}  # attachment → Pod's UID → when the lack was first seen

    def forget(self, key: Key) -> None:
        """The attachment was deleted."""
        self._since.pop(key, None)

    def check(self, caches: Caches, key: Key) -> InterfaceCheck:
        """Checks the attachment's live pods."""
        pods, name, now = tuple(_pods(caches, key)), "/".join(key), self._clock()
        lacking = [pod for pod in pods if lacks_interface(pod.place, name, _segment(caches, pod))]
        counted = [pod for pod in lacking if caches.reports(pod.node)]
        previous = self._since.pop(key, {})
        since = {pod.metadata.uid: previous.get(pod.metadata.uid, now) for pod in counted}
        if since:
            self._since[key] = since
        overdue = tuple(pod for pod in counted if now - since[pod.metadata.uid] >= self._grace)
        waits = [self._grace - (now - at) for at in since.values() if now - at < self._grace]
        again = min(waits) if waits else self._grace if len(counted) < len(lacking) else None
        if overdue:
            return InterfaceCheck(not_attached(overdue), lacking=overdue, again=again)
        if lacking:
            return InterfaceCheck(decided=False, again=again)
        nodes = [pod.node for pod in pods if _has_interface(name, _segment(caches, pod))]
        if nodes:
            message = f"a pod has its interface on node {', '.join(nodes)}"
            return InterfaceCheck(State("True", "Attached", message))
        return InterfaceCheck()


def not_attached(pods: tuple[Pod, ...]) -> State:
    """The condition for pods without their interface, with the remedy."""
    names = [pod.metadata.name for pod in pods[:LISTED]]
    run = f"pod {names[0]} runs" if len(pods) == 1 else f"pods {', '.join(names)} run"
    nodes = ", ".join(dict.fromkeys(pod.node for pod in pods[:LISTED]))
    remedy = f"kubectl delete pod -n {pods[0].metadata.namespace} {' '.join(names)}"
    consequence = "its owner makes another one" if all(pod.owned for pod in pods) else "then make it again"
    return State(
        "False",
        "PodNotAttached",
        f"{run} on {nodes} without the VPC interface: Multus did not call Galactic when the sandbox was made; "
        f"{remedy}: {consequence}",
    )


def changed(old: NodeSegment | None, new: NodeSegment | None) -> set[Key]:
    """The attachments that a node has begun or ceased to report, or reports with other networks."""
    names = {name for name, _ in _reported(old) ^ _reported(new)}
    return {(namespace, name) for namespace, _, name in (text.partition("/") for text in names)}


def _reported(segment: NodeSegment | None) -> set[tuple[str, tuple[str, ...]]]:
    return (
        {(endpoint.attachment, endpoint.networks) for endpoint in segment.status.endpoints}
        if segment
        else set()
    )


def _pods(caches: Caches, key: Key) -> Iterator[Pod]:
    for carrier in caches.carriers(key):
        pod = caches.pods.get(carrier)
        if (
            pod is not None
            and pod.node
            and pod.metadata.deletion_timestamp is None
            and not pod.place.host_network
        ):
            yield pod


def _segment(caches: Caches, pod: Pod) -> NodeSegment | None:
    segment = caches.segments.get(("", pod.node))
    return segment if isinstance(segment, NodeSegment) else None


def _has_interface(name: str, segment: NodeSegment | None) -> bool:
    return segment is not None and attached(name, segment)
