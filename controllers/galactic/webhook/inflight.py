"""Bounds of the requests that the webhook answers at one time: in all, of one client, and the bytes of bodies."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from galactic.errors import NotYet

LONGEST_BODY: Final = 3 << 20
"""etcd stores objects of 1.5 MiB by default, and the review of an update has two of them."""
MOST_BYTES: Final = 64 << 20
"""Of all bodies together."""


class Inflight:
    """Counts requests from their first byte to their answer.

    A client's address gets half of ``most``, so that one flooding pod leaves the other half to the API server.
    """

    def __init__(self, most: int) -> None:
        self._most, self._share = most, max(1, most // 2)
        self._clients: Counter[str] = Counter()
        self._bytes = 0

    def __len__(self) -> int:
        return self._clients.total()

    @contextmanager
    def entered(self, client: str, length: int | None) -> Iterator[None]:
        """``length``: of the body; None where the request does not state it. Raises NotYet when a bound is reached."""
        size = LONGEST_BODY if length is None else length
        if len(self) >= self._most or self._clients[client] >= self._share or self._bytes + size > MOST_BYTES:
            raise NotYet("too many requests at a time; try again", reason="Busy")
        self._clients[client] += 1
        self._bytes += size
        try:
            yield
        finally:
            self._bytes -= size
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]
