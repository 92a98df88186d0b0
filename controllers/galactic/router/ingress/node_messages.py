"""Messages of nodes, decoded in turns, so that a flood from one node does not slow the others."""

import asyncio
import contextlib
from collections.abc import Callable

from galactic.errors import Rejected
from galactic.messages import MAX_PAYLOAD, SHARD_PAYLOAD
from galactic.router.ingress.decoder import Decoder, node_ref
from galactic.router.ingress.dropped_messages import DroppedMessages
from galactic.router.ingress.entitlements import EntitlementLists
from galactic.router.ingress.fair_queue import FairQueue
from galactic.router.ingress.subscriptions import Subscriptions
from galactic.router.rib.path import NodeRef


class NodeMessages:
    """From their arrival to the store."""

    def __init__(
        self,
        queue: FairQueue,
        decoder: Decoder,
        subscriptions: Subscriptions,
        dropped: DroppedMessages,
        lists: EntitlementLists | None = None,
    ) -> None:
        """``lists``, standalone: what the messages are checked against."""
        self.dropped, self.lists = dropped, lists
        self._queue, self._decoder, self._subscriptions = queue, decoder, subscriptions
        self._waiting = asyncio.Event()

    def subscribe(self) -> None:
        """Before a snapshot is read: the registrations belong to it."""
        if self.lists is not None:
            self.lists.subscribe()
        self._subscriptions.subscribe()

    async def run(self) -> None:
        """Watches for floods, and decodes what had to wait for its turn, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._subscriptions.run(), name="subscriptions")
            tasks.create_task(self._turns(), name="turns")
            if self.lists is not None:
                tasks.create_task(self.lists.run(), name="lists")

    def arrived(self, cluster: str, node: str, kind: str, payload: bytes) -> None:
        """A message on ``nodes/<cluster>/<node>/<kind>``. Raises Rejected."""
        topic, _, shard = kind.partition("/")
        if self._subscriptions.arrived(NodeRef(cluster, node), topic, len(payload)):
            self.dropped.flooded(NodeRef(cluster, node))
        ref = node_ref(cluster, node)
        largest = SHARD_PAYLOAD if shard else MAX_PAYLOAD
        if len(payload) > largest:
            raise Rejected(f"{len(payload)} bytes, {largest} at the most", reason="Oversized")
        try:
            in_time = self._queue.put(ref, kind, payload)
        except Rejected:
            self._subscriptions.lost()
            raise
        if not in_time:
            self._subscriptions.lost()
            self.dropped.superseded(ref)
        self._decode()

    def after(self, then: Callable[[], None]) -> None:
        """Calls ``then`` when everything that waits now, or what replaced it, is decoded."""
        self._queue.after(then)
        self._decode()

    def _decode(self) -> None:
        """Decodes whatever has its turn now: nearly always what has just arrived."""
        while (turn := self._queue.next_turn()) is not None:
            with self.dropped.guard("/".join(("nodes", *turn.node, turn.kind))):
                self._decoder.decode(turn.node, turn.kind, turn.payload)
            self._queue.turn_over()
        self._queue.turn_over()
        if len(self._queue):
            self._waiting.set()

    async def _turns(self) -> None:
        while True:
            self._decode()
            self._waiting.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._queue.seconds_to_next()):
                    await self._waiting.wait()
