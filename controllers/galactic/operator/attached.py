"""Whether the pods of an attachment have their VPC interface: the condition Attached.

A pod lacks it where Multus did not call the CNI plugin when the sandbox was made (``galactic.kube.pods``). The grace is
measured by the operator's clock: a pod's own times come from the clock of its node.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from galactic.crds.nodesegment import NodeSegment
from galactic.kube.api import Key
from galactic.kube.conditions import State
from galactic.kube.pods import attached, lacks_interface
from galactic.operator.state import Caches, Pod

LISTED: Final = 5
"""Pods that a message names at the most."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """``state`` is what the condition says, None removes it; it stays as it is unless ``decided``.

    ``lacking``: the pods that have run without their interface for the grace. ``again``: seconds until the next look.
    """

    state: State | None = None
    decided: bool = True
    lacking: tuple[Pod, ...] = ()
    again: float | None = None


class Interfaces:
    """Remembers since when each pod has run without its interface. ``grace``: seconds for which it may."""

    def __init__(self, grace: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._grace, self._clock = grace, clock
        self._since: dict[
            Key, dict[str, float]
        ] = {}  # attachment → UID of the Pod → when that was first seen

    def forget(self, key: Key) -> None:
        """The attachment is gone."""
        self._since.pop(key, None)

    def verdict(self, caches: Caches, key: Key) -> Verdict:
        """Of the attachment's pods that are live now."""
        pods, name, now = tuple(_pods(caches, key)), "/".join(key), self._clock()
        lacking = [pod for pod in pods if lacks_interface(pod.place, name, _segment(caches, pod))]
        counted = [pod for pod in lacking if caches.reports(pod.node)]
        before = self._since.pop(key, {})
        since = {pod.metadata.uid: before.get(pod.metadata.uid, now) for pod in counted}
        if since:
            self._since[key] = since
        overdue = tuple(pod for pod in counted if now - since[pod.metadata.uid] >= self._grace)
        waits = [self._grace - (now - at) for at in since.values() if now - at < self._grace]
        again = min(waits) if waits else self._grace if len(counted) < len(lacking) else None
        if overdue:
            return Verdict(not_attached(overdue), lacking=overdue, again=again)
        if lacking:
            return Verdict(decided=False, again=again)
        nodes = [pod.node for pod in pods if _has(name, _segment(caches, pod))]
        if nodes:
            return Verdict(State("True", "Attached", f"a pod has its interface on node {', '.join(nodes)}"))
        return Verdict()


def not_attached(pods: tuple[Pod, ...]) -> State:
    """The condition of pods without their interface, with the remedy."""
    names = [pod.metadata.name for pod in pods[:LISTED]]
    run = f"pod {names[0]} runs" if len(pods) == 1 else f"pods {', '.join(names)} run"
    nodes = ", ".join(dict.fromkeys(pod.node for pod in pods[:LISTED]))
    remedy = f"kubectl delete pod -n {pods[0].metadata.namespace} {' '.join(names)}"
    after = "its owner makes another one" if all(pod.owned for pod in pods) else "then make it again"
    return State(
        "False",
        "PodNotAttached",
        f"{run} on {nodes} without the VPC interface: Multus did not call Galactic when the sandbox was made; "
        f"{remedy}: {after}",
    )


def changed(old: NodeSegment | None, new: NodeSegment | None) -> set[Key]:
    """The attachments that a node has begun or ceased to report."""
    before, after = (_names(segment) for segment in (old, new))
    return {(namespace, name) for namespace, _, name in (each.partition("/") for each in before ^ after)}


def _names(segment: NodeSegment | None) -> set[str]:
    return {each.attachment for each in segment.status.endpoints} if segment else set()


def _pods(caches: Caches, key: Key) -> Iterator[Pod]:
    for each in caches.carriers(key):
        pod = caches.pods.get(each)
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


def _has(name: str, segment: NodeSegment | None) -> bool:
    return segment is not None and attached(name, segment)
