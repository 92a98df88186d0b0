"""Each node's share of the router. No I/O.

What nodes say is state: of each topic only the newest message matters. So a node that says more than its share loses
nothing but time. Its newest message waits until the node has earned the next turn, replaced by whatever is newer still;
the others' turns come meanwhile, in the order in which they asked. At most two messages of a node are ever waiting.

A share is a token bucket of messages and one of bytes. A turn is given to whoever owes neither, and paid for
afterwards: so a large message needs no burst of its size, it only makes the next turn come later.
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
"""All nodes' waiting messages together. Beyond, a message is refused, and asked for again later."""
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

    origin: NodeRef
    kind: str
    payload: bytes


@dataclass(slots=True)
class _Lane:
    """One node: which of its topics wait, and what it has saved up at ``at``."""

    messages: float
    bytes: float
    at: float
    kinds: deque[str] = field(default_factory=deque)
    held: bool = False


class FairQueue:
    """Gives turns to nodes that have something to say. ``clock`` in seconds."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        share: Share = Share(),  # noqa: B008 - immutable
        waiting_bytes: int = WAITING_BYTES,
    ) -> None:
        self._clock, self._share, self._room = clock, share, waiting_bytes
        self._lanes: dict[NodeRef, _Lane] = {}
        self._waiting: dict[tuple[NodeRef, str], tuple[int, bytes]] = {}  # in the order in which they asked
        self._ready: deque[NodeRef] = deque()
        self._held: list[tuple[float, NodeRef]] = []
        self._marks: deque[tuple[int, Callable[[], None]]] = deque()
        self._count = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, origin: NodeRef, kind: str, payload: bytes) -> bool:
        """The newest of that topic. False when it replaced one that waited because the node is over its share.

        Raises Rejected (Overloaded) when there is no room for it.
        """
        self._count += 1
        if self._count % _FORGET_EVERY == 0:
            self._forget()
        before = self._waiting.get((origin, kind))
        self._room -= len(payload) - (len(before[1]) if before else 0)
        if self._room < 0 and payload:
            self._room += len(payload) - (len(before[1]) if before else 0)
            raise Rejected("too much is waiting already", reason="Overloaded")
        if (lane := self._lanes.get(origin)) is None:
            share = self._share
            lane = self._lanes[origin] = _Lane(share.messages_saved, share.bytes_saved, self._clock())
        if before is not None:
            self._waiting[origin, kind] = before[0], payload
            return not lane.held
        self._waiting[origin, kind] = self._count, payload
        if not lane.kinds:
            self._ready.append(origin)
        lane.kinds.append(kind)
        return True

    def take(self) -> Turn | None:
        """Whose turn it is; None when nobody's is, for ``wait`` seconds."""
        now = self._clock()
        while self._held and self._held[0][0] <= now + _INSTANT:
            _, origin = heapq.heappop(self._held)
            self._lanes[origin].held = False
            self._ready.append(origin)
        while self._ready:
            origin = self._ready.popleft()
            lane = self._lanes[origin]
            self._earn(lane, now)
            if (owes := self._owes(lane)) > 0:
                lane.held = True
                heapq.heappush(self._held, (now + owes, origin))
                continue
            kind = lane.kinds.popleft()
            _, payload = self._waiting.pop((origin, kind))
            self._room += len(payload)
            lane.messages -= 1
            lane.bytes -= len(payload)
            if lane.kinds:
                self._ready.append(origin)
            return Turn(origin, kind, payload)
        return None

    def wait(self) -> float | None:
        """Seconds until somebody's turn comes without anything being put; None: never."""
        if self._ready:
            return 0.0
        return max(0.0, self._held[0][0] - self._clock()) if self._held else None

    def after(self, then: Callable[[], None]) -> None:
        """``settled`` is to call that when everything that waits now, or what replaced it, has had its turn."""
        self._marks.append((self._count, then))

    def settled(self) -> None:
        """To be called when the turn that was taken last is dealt with."""
        oldest = next(iter(self._waiting.values()))[0] if self._waiting else self._count + 1
        while self._marks and self._marks[0][0] < oldest:
            self._marks.popleft()[1]()

    def _earn(self, lane: _Lane, now: float) -> None:
        share, passed = self._share, max(0.0, now - lane.at)
        lane.messages = min(share.messages_saved, lane.messages + passed * share.messages)
        lane.bytes = min(share.bytes_saved, lane.bytes + passed * share.bytes)
        lane.at = now

    def _owes(self, lane: _Lane) -> float:
        """Seconds until it has something saved up again; 0 when it has."""
        share = self._share
        return max(
            (1 - lane.messages) / share.messages if lane.messages < _EARNED else 0.0,
            (1 - lane.bytes) / share.bytes if lane.bytes < _EARNED else 0.0,
        )

    def _forget(self) -> None:
        """Nodes that have saved up all they may are as good as new."""
        now, share = self._clock(), self._share
        for origin, lane in list(self._lanes.items()):
            self._earn(lane, now)
            if not lane.kinds and lane.messages >= share.messages_saved and lane.bytes >= share.bytes_saved:
                del self._lanes[origin]
