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
    """The attachments that a node has anew."""
    before = {(each.attachment, each.epoch) for each in old.status.endpoints} if old else set()
    found = new.status.endpoints if new else ()
    names = (each.attachment.partition("/") for each in found if (each.attachment, each.epoch) not in before)
    return {(namespace, name) for namespace, _, name in names}


class Silence:
    """Since when the router says nothing of what a node has. By our own clock: an epoch orders, and is no time of
    day (the node's clock may be ahead or behind, and its epochs never go back).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[Key, tuple[int, float]] = {}  # the epoch not told, and when it was first looked at

    def state(self, caches: Caches, key: Key, attachment: VpcAttachment | None) -> tuple[State | None, bool]:
        """What condition Routed is to say (None: nothing is wrong), and whether to look again after PATIENCE_SECONDS.

        ``attachment`` None: it is gone.
        """
        found = attachment and _untold(caches, key, attachment)
        if not found:
            self._since.pop(key, None)
            return None, False
        node, epoch = found
        now = self._clock()
        known, since = self._since.get(key, (epoch, now))
        if known != epoch:
            since = now
        self._since[key] = epoch, since
        if now - since < PATIENCE_SECONDS:
            return None, True
        told = (
            f"attached on node {node}, but no router has told the others: they do not reach it yet; is "
            "galactic-router running? Events here say so if it did not believe the node"
        )
        return State("False", "NotRouted", told), True


def _untold(caches: Caches, key: Key, attachment: VpcAttachment) -> tuple[str, int] | None:
    """The node that has it and the epoch since when, unless the router has told of that or of something newer."""
    nodes = {
        pod.node for each in caches.carriers(key) if (pod := caches.pods.get(each)) and pod.live and pod.node
    }
    endpoint = attachment.status.endpoint
    if not nodes or (endpoint is not None and endpoint.node in nodes):
        return None
    newest: tuple[str, SegmentEndpoint] | None = None
    for node in sorted(nodes):
        segment = caches.segments.get(("", node))
        for each in segment.status.endpoints if isinstance(segment, NodeSegment) else ():
            if each.attachment == "/".join(key) and (newest is None or newest[1].epoch < each.epoch):
                newest = node, each
    if newest is None or (endpoint is not None and endpoint.epoch >= newest[1].epoch):
        return None
    return newest[0], newest[1].epoch
