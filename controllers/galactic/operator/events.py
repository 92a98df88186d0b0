"""Events on objects, for ``kubectl describe``.

They are recorded on a transition, at a limited rate, and no reconciler waits for one.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import structlog

from galactic.crds.model import Meta
from galactic.errors import GalacticError
from galactic.kube.api import Api, Terminating
from galactic.kube.events import event_body, involved
from galactic.kube.resources import EVENTS, Resource

log = structlog.get_logger(__name__)
COMPONENT: Final = "galactic-operator"
BURST: Final = 10
"""Events that an object may cause at once."""
REFILL_SECONDS: Final = 60.0
"""After this time the object may cause one more."""
WAITING: Final = 2000
"""The most Events that wait to be written; later ones are dropped."""
OBJECTS: Final = 20_000
"""Objects whose rate is remembered."""


@dataclass(slots=True)
class _Budget:
    left: float
    at: float
    last: tuple[str, str] = ("", "")


class Events:
    """Writes Events in one task: ``run`` never returns by itself."""

    def __init__(self, api: Api, clock: Callable[[], float] = time.monotonic) -> None:
        self._api, self._clock = api, clock
        self._budgets: OrderedDict[str, _Budget] = OrderedDict()
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(WAITING)
        self._writing = False
        self.dropped = 0
        self.written = 0

    @property
    def idle(self) -> bool:
        """Whether every Event was written."""
        return self._queue.empty() and not self._writing

    def record(
        self, resource: Resource, meta: Meta, type_: Literal["Normal", "Warning"], reason: str, message: str
    ) -> bool:
        """Queues an Event on the object. False if it repeats the previous one or exceeds the object's budget."""
        at = self._clock()
        budget = self._budgets.setdefault(meta.uid, _Budget(BURST, at))
        self._budgets.move_to_end(meta.uid)
        if len(self._budgets) > OBJECTS:
            self._budgets.popitem(last=False)
        budget.left = min(BURST, budget.left + (at - budget.at) / REFILL_SECONDS)
        budget.at = at
        if budget.last == (reason, message):
            return False
        if budget.left < 1 or self._queue.full():
            self.dropped += 1
            return False
        budget.left -= 1
        budget.last = (reason, message)
        self._queue.put_nowait(
            event_body(involved(resource, meta), type_, reason, message, component=COMPONENT)
        )
        return True

    async def run(self) -> None:
        while True:
            event = await self._queue.get()
            self._writing = True
            try:
                await self._api.create(EVENTS, event, event["metadata"]["namespace"])
                self.written += 1
            except Terminating:
                log.debug("event dropped, the namespace is being deleted", reason=event["reason"])
            except GalacticError as error:
                self.dropped += 1
                log.info("event dropped", reason=event["reason"], error=str(error))
            finally:
                self._writing = False
