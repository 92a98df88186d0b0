"""Each node's share of the router. No I/O.

A node's messages are state: of each topic only the newest matters. So a node that publishes more than its share loses
nothing but time. Its newest message waits until the node has earned the next turn, replaced by any newer one; the
other nodes' turns come meanwhile, in the order of arrival. At most two messages of a node ever wait.

A share is a token bucket of messages and one of bytes. A node that owes neither gets a turn, and pays for it
afterwards: so a large message needs no burst of its size, it only delays the node's next turn.
"""

import heapq
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from galactic.errors import Rejected
from galactic.router.rib.path import NodeRef

WAITING_BYTES: Final = 256 * 1024 * 1024
"""All nodes' waiting messages together. Beyond, a message is dropped, and requested again later."""
_FORGET_EVERY: Final = 1000
_INSTANT: Final = 1e-6
"""Seconds that do not matter: sums of floating-point numbers are not exact."""
_EARNED: Final = 0.99


class Share(NamedTuple):
    """Messages and bytes a second for one node, and how much of them it may save up."""

    messages: float = 100.0
    messages_saved: float = 200.0
    bytes: float = 1024.0 * 1024
    bytes_saved: float = 4096.0 * 1024


class Turn(NamedTuple):
    """One node's newest message on one of its topics."""

    node: NodeRef
    kind: str
    payload: bytes


@dataclass(slots=True)
class _Lane:
    """One node: which of its topics wait, and what it has saved up at ``at``."""

    messages: float
    bytes: float
    at: float
    kinds: deque[str] = field(default_factory=deque)
    delayed: bool = False


class FairQueue:
    """Gives turns to nodes whose messages wait. ``clock`` in seconds."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        share: Share = Share(),  # noqa: B008 - immutable
        waiting_bytes: int = WAITING_BYTES,
    ) -> None:
        self._clock, self._share, self._room = clock, share, waiting_bytes
        self._lanes: dict[NodeRef, _Lane] = {}
        self._waiting: dict[tuple[NodeRef, str], tuple[int, bytes]] = {}  # in the order of arrival
        self._ready: deque[NodeRef] = deque()
        self._delayed: list[tuple[float, NodeRef]] = []
        self._marks: deque[tuple[int, Callable[[], None]]] = deque()
        self._count = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, node: NodeRef, kind: str, payload: bytes) -> bool:
        """The newest of that topic. False when it replaced one that waited because the node is over its share.

        Raises Rejected (Overloaded) when there is no room for it.
        """
        self._count += 1
        if self._count % _FORGET_EVERY == 0:
            self._forget()
        before = self._waiting.get((node, kind))
        self._room -= len(payload) - (len(before[1]) if before else 0)
        if self._room < 0 and payload:
            self._room += len(payload) - (len(before[1]) if before else 0)
            raise Rejected("the queue of node messages is full", reason="Overloaded")
        if (lane := self._lanes.get(node)) is None:
            share = self._share
            lane = self._lanes[node] = _Lane(share.messages_saved, share.bytes_saved, self._clock())
        if before is not None:
            self._waiting[node, kind] = before[0], payload
            return not lane.delayed
        self._waiting[node, kind] = self._count, payload
        if not lane.kinds:
            self._ready.append(node)
        lane.kinds.append(kind)
        return True

    def next_turn(self) -> Turn | None:
        """The next message to decode; None: there is none for ``seconds_to_next``."""
        now = self._clock()
        while self._delayed and self._delayed[0][0] <= now + _INSTANT:
            _, node = heapq.heappop(self._delayed)
            self._lanes[node].delayed = False
            self._ready.append(node)
        while self._ready:
            node = self._ready.popleft()
            lane = self._lanes[node]
            self._earn(lane, now)
            if (seconds := self._debt(lane)) > 0:
                lane.delayed = True
                heapq.heappush(self._delayed, (now + seconds, node))
                continue
            kind = lane.kinds.popleft()
            _, payload = self._waiting.pop((node, kind))
            self._room += len(payload)
            lane.messages -= 1
            lane.bytes -= len(payload)
            if lane.kinds:
                self._ready.append(node)
            return Turn(node, kind, payload)
        return None

    def seconds_to_next(self) -> float | None:
        """Until a turn comes without a new message; None: there is none."""
        if self._ready:
            return 0.0
        return max(0.0, self._delayed[0][0] - self._clock()) if self._delayed else None

    def after(self, then: Callable[[], None]) -> None:
        """``turn_over`` calls ``then`` when everything that waits now, or what replaced it, has had its turn."""
        self._marks.append((self._count, then))

    def turn_over(self) -> None:
        """The message of the last turn is decoded."""
        oldest = next(iter(self._waiting.values()))[0] if self._waiting else self._count + 1
        while self._marks and self._marks[0][0] < oldest:
            self._marks.popleft()[1]()

    def _earn(self, lane: _Lane, now: float) -> None:
        share, passed = self._share, max(0.0, now - lane.at)
        lane.messages = min(share.messages_saved, lane.messages + passed * share.messages)
        lane.bytes = min(share.bytes_saved, lane.bytes + passed * share.bytes)
        lane.at = now

    def _debt(self, lane: _Lane) -> float:
        """Seconds until it has something saved up again; 0 when it has."""
        share = self._share
        return max(
            (1 - lane.messages) / share.messages if lane.messages < _EARNED else 0.0,
            (1 - lane.bytes) / share.bytes if lane.bytes < _EARNED else 0.0,
        )

    def _forget(self) -> None:
        """Nodes that have saved up all they may are as good as new."""
        now, share = self._clock(), self._share
        for node, lane in list(self._lanes.items()):
            self._earn(lane, now)
            if not lane.kinds and lane.messages >= share.messages_saved and lane.bytes >= share.bytes_saved:
                del self._lanes[node]
