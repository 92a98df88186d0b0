"""Attachments that go with their pods: while Kubernetes deletes them, their status is worth no write.

A pod that ends loses its endpoint, then its sandbox, then its object, and the garbage collector deletes the attachment
that was made for it: within a second or two the status would change three times.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from galactic.crds.model import Meta
from galactic.kube.api import Key
from galactic.operator.carriers import owners
from galactic.operator.state import Caches

ENDING_SECONDS: Final = 10.0
"""An attachment that is there for longer, because its pod ends slowly or the garbage collector is away, has a status
that is true.
"""
LEAST_SECONDS: Final = 0.001
"""A timer may fire as much too early."""


def _loop_time() -> float:
    """Seconds, as the queue's delays count them."""
    return asyncio.get_running_loop().time()


class EndingPods:
    """Remembers since when each attachment's pod has been ending."""

    def __init__(self, clock: Callable[[], float] = _loop_time) -> None:
        self._clock = clock
        self._since: dict[Key, float] = {}

    def forget(self, key: Key) -> None:
        """The attachment was deleted."""
        self._since.pop(key, None)

    def left(self, caches: Caches, key: Key, meta: Meta) -> float:
        """Seconds for which a write may wait; 0 where a pod stays, or the attachment is a user's own."""
        own = owners(meta)
        pods = [caches.pods.get(pod) for pod in caches.carriers(key)]
        stays = any(
            pod is not None and pod.metadata.uid in own and pod.metadata.deletion_timestamp is None
            for pod in pods
        )
        if stays or not own:
            self._since.pop(key, None)
            return 0.0
        now = self._clock()
        left = self._since.setdefault(key, now) + ENDING_SECONDS - now
        return left if left > LEAST_SECONDS else 0.0
