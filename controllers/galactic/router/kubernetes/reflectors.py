"""Watches of VPCs, VPCAttachments, NodeSegments and Nodes, whose objects go to the indexes.

The design names kopf; this uses ``galactic.kube.informer``. The router needs of a watch what kopf's ``on.event`` does
not promise: kopf (1.45) knows when its first list is over (``Bookmark.LISTED``) but calls no handler, so nothing shows
when an empty cluster is known to be empty; and when it lists again, after a 410 or a lost connection, it reports no
objects that were deleted meanwhile, so that the routes of a removed node would stay for ever. The informer has
``synced`` for the one and reports the difference of two lists for the other.
"""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from galactic.kube.api import Key, Object
from galactic.kube.client import Kube
from galactic.kube.informer import Follower
from galactic.kube.reflector import Selection
from galactic.kube.resources import NODE_SEGMENTS, NODES_METADATA, VPC_ATTACHMENTS, VPCS
from galactic.launch import Health
from galactic.router.kubernetes.attachments import AttachmentIndex
from galactic.router.kubernetes.peers import PeerIndex
from galactic.router.kubernetes.segments import SegmentIndex


class Observer(Protocol):
    """Learns which VPCAttachments (``namespace/name``) changed, and to which resource version (empty: deleted);
    ``status_writer.StatusWriter``.
    """

    def observed(self, name: str, version: str) -> None: ...

    def disconnected(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Indexes:
    """Where the objects go. VPCs go to two."""

    attachments: AttachmentIndex
    peers: PeerIndex
    segments: SegmentIndex

    def set_vpc(self, key: Key, new: Object | None) -> None:
        """A VPC as it is now; None: it is deleted."""
        self.attachments.set_vpc(key, new)
        self.peers.set_vpc(key, new)


class Reflectors:
    """Four level-triggered watches."""

    def __init__(self, kube: Kube, indexes: Indexes, observer: Observer, health: Health) -> None:
        self._attachments, self._segments = indexes.attachments, indexes.segments
        self._observer, self._health = observer, health
        self._followers = tuple(
            Follower(kube, Selection(resource), handler, self._connected)
            for resource, handler in (
                (VPCS, indexes.set_vpc),
                (VPC_ATTACHMENTS, self._attachment),
                (NODE_SEGMENTS, indexes.segments.set_segment),
                (NODES_METADATA, indexes.segments.set_node),
            )
        )

    async def run(self) -> None:
        """Watches for ever."""
        vpcs, *others = self._followers
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(vpcs.run())
            await vpcs.synced.wait()  # else each VPC would touch all of its attachments again
            for follower in others:
                tasks.create_task(follower.run())
            # Starting does not wait for the Nodes: what is in force may stay a moment longer.
            await self._followers[-1].synced.wait()
            self._segments.nodes_listed()

    async def synced(self) -> None:
        """Returns when all objects were read once, Nodes aside."""
        for follower in self._followers[:-1]:
            await follower.synced.wait()

    def _attachment(self, key: Key, new: Object | None) -> None:
        self._attachments.set_attachment(key, new)
        version = "" if new is None else new["metadata"].get("resourceVersion", "")
        self._observer.observed("/".join(key), version)

    def _connected(self, connected: bool) -> None:
        if not connected:
            self._observer.disconnected()
        problem = None if connected else "the API server does not answer"
        self._health.set("kube-apiserver", problem, ready=True)
