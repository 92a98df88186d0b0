"""A node's registration as retained messages: one while it fits into one, shards and a head where it does not.

An endpoint stays in its shard for as long as there is room, so that a change publishes one shard and the head. The
single message stays as it was meanwhile: a router of the version before goes on with it.
"""

from typing import Final, NamedTuple

import msgspec

from galactic.errors import Rejected
from galactic.messages import (
    ENDPOINT_SHARDS,
    Endpoint,
    EndpointsHead,
    EndpointsShard,
    NodeEndpoints,
    encode,
)

SHARD_BYTES: Final = 64 * 1024
"""Of the endpoints of one shard, or less, if the broker takes less. One endpoint has at most 13 KiB."""
ENVELOPE: Final = 256
"""Bytes of a shard around its endpoints, more than enough."""
SINGLE: Final = ""
HEAD: Final = "head"


class Part(NamedTuple):
    """A retained message: SINGLE, HEAD, or the number of a shard. An empty payload clears it."""

    level: str
    payload: bytes


class Registration:
    """The parts of a node's registration that a broker lacks."""

    def __init__(self) -> None:
        self._where: dict[tuple[str, str], int] = {}  # (VPC, function) → shard
        self._shards: list[tuple[int, tuple[Endpoint, ...]]] = []  # sequence and endpoints
        self._confirmed: dict[str, bytes] = {}
        self._retained: set[str] = set()  # levels of shards, and HEAD

    def forget(self) -> None:
        """The broker may have lost everything, or a router may lack it: all is published again."""
        self._confirmed.clear()

    def parts(self, registration: NodeEndpoints, largest: int) -> list[Part]:
        """In the order of their publication: a head follows its shards. ``largest``: bytes of a payload.

        Raises Rejected for more endpoints than fit into ENDPOINT_SHARDS.
        """
        whole = encode(registration)
        if len(whole) <= largest:
            self._where.clear()
            return [
                Part(SINGLE, whole),
                *(Part(level, b"") for level in sorted(self._retained, reverse=True)),
            ]
        self._divide(registration, min(SHARD_BYTES, largest - ENVELOPE))
        shards = [
            Part(str(number), encode(EndpointsShard(*shard))) for number, shard in enumerate(self._shards)
        ]
        sequences = tuple(sequence for sequence, _ in self._shards)
        head = Part(HEAD, encode(EndpointsHead(registration.sequence, sequences)))
        gone = self._retained - {HEAD, *(part.level for part in shards)}
        lacking = [part for part in (*shards, head) if self._confirmed.get(part.level) != part.payload]
        return [*lacking, *(Part(level, b"") for level in sorted(gone))]

    def confirmed(self, part: Part) -> None:
        """The broker has that part."""
        if part.level == SINGLE:
            return
        self._confirmed[part.level] = part.payload
        (self._retained.add if part.payload else self._retained.discard)(part.level)

    def _divide(self, registration: NodeEndpoints, room: int) -> None:
        """``room``: bytes of the endpoints of a shard."""
        shards: list[list[Endpoint]] = [[] for _ in self._shards]
        sizes = [0] * len(shards)
        homeless: list[tuple[Endpoint, int]] = []
        for endpoint in registration.endpoints:
            size = len(msgspec.json.encode(endpoint)) + 1
            shard = self._where.get((endpoint.vpc, endpoint.function), -1)
            if 0 <= shard < len(shards) and sizes[shard] + size <= room:
                shards[shard].append(endpoint)
                sizes[shard] += size
            else:
                homeless.append((endpoint, size))
        first = 0
        for endpoint, size in homeless:
            while first < len(shards) and sizes[first] + size > room:
                first += 1
            if first == len(shards):
                shards.append([])
                sizes.append(0)
            shards[first].append(endpoint)
            sizes[first] += size
        while shards and not shards[-1]:
            shards.pop()
        if len(shards) > ENDPOINT_SHARDS:
            raise Rejected(
                f"{len(registration.endpoints)} endpoints need {len(shards)} messages of {room} bytes, and"
                f" {ENDPOINT_SHARDS} is the limit: move pods with many terminations to other nodes",
                reason="TooManyEndpoints",
            )
        self._where = {
            (endpoint.vpc, endpoint.function): number
            for number, shard in enumerate(shards)
            for endpoint in shard
        }
        before, self._shards = self._shards, []
        for number, content in enumerate(map(tuple, shards)):
            same = number < len(before) and before[number][1] == content
            self._shards.append(before[number] if same else (registration.sequence, content))
