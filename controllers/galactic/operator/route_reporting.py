"""Reports ``Routed=False`` when the router has not published an endpoint within PATIENCE_SECONDS."""

import time
from collections.abc import Callable
from typing import Final

from galactic.crds.nodesegment import NodeSegment, SegmentEndpoint
from galactic.crds.vpcattachment import VpcAttachment
from galactic.kube.api import Key
from galactic.kube.conditions import State
from galactic.operator.state import Caches

PATIENCE_SECONDS: Final = 20.0
"""Longer than a router takes to start, or another to take over."""


def arrived(old: NodeSegment | None, new: NodeSegment | None) -> set[Key]:
    """The attachments that the new NodeSegment reports with another epoch than the old one, or alone."""
    before = {(endpoint.attachment, endpoint.epoch) for endpoint in old.status.endpoints} if old else set()
    endpoints = new.status.endpoints if new else ()
    names = (
        endpoint.attachment.partition("/")
        for endpoint in endpoints
        if (endpoint.attachment, endpoint.epoch) not in before
    )
    return {(namespace, name) for namespace, _, name in names}


class Unpublished:
    """Remembers since when the router has not published each attachment's endpoint.

    The time is the operator's own: an epoch orders ADDs, and is no time of day, as the node's clock may be wrong.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[Key, tuple[int, float]] = {}  # the unpublished epoch, and when it was first seen

    def state(self, caches: Caches, key: Key, attachment: VpcAttachment | None) -> tuple[State | None, bool]:
        """The condition Routed (None: no problem), and whether to check again after PATIENCE_SECONDS.

        ``attachment`` None: the attachment was deleted.
        """
        unpublished = attachment and _unpublished(caches, key, attachment)
        if not unpublished:
            self._since.pop(key, None)
            return None, False
        node, epoch = unpublished
        now = self._clock()
        previous, since = self._since.get(key, (epoch, now))
        if previous != epoch:
            since = now
        self._since[key] = epoch, since
        if now - since < PATIENCE_SECONDS:
            return None, True
        message = (
            f"attached on node {node}, but no router has published its routes, so other nodes do not reach it; check "
            "that galactic-router runs, and Events here: the router reports what it rejects"
        )
        return State("False", "NotRouted", message), True


def _unpublished(caches: Caches, key: Key, attachment: VpcAttachment) -> tuple[str, int] | None:
    """The node that reports the attachment, and its epoch; None if the router has published that or a newer one."""
    pods = [caches.pods.get(carrier) for carrier in caches.carriers(key)]
    nodes = {pod.node for pod in pods if pod and pod.live and pod.node}
    published = attachment.status.endpoint
    if not nodes or (published is not None and published.node in nodes):
        return None
    newest: tuple[str, SegmentEndpoint] | None = None
    for node in sorted(nodes):
        segment = caches.segments.get(("", node))
        for endpoint in segment.status.endpoints if isinstance(segment, NodeSegment) else ():
            if endpoint.attachment == "/".join(key) and (newest is None or newest[1].epoch < endpoint.epoch):
                newest = node, endpoint
    if newest is None or (published is not None and published.epoch >= newest[1].epoch):
        return None
    return newest[0], newest[1].epoch
