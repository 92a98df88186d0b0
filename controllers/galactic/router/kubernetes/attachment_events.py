"""Events on VPCAttachments: paths of theirs that the router rejects.

A node may register anything any number of times, so Events are limited: one in ten minutes for an attachment and
reason, and five a second for all. The metrics and the log have the others.

A node that is a moment behind is not accused. A path may overtake the status that names its carrier, so ``NotCarried``
makes an Event only if it still holds after LAG_SECONDS. A node learns of a change of an attachment or of its prefix
after the router, so reasons in MOMENTARY make one only if they hold after MOMENT_SECONDS, and then again every
REPEAT_SECONDS for as long as they do: ``galactic status`` takes the Event of the last minutes for what is so now.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

import structlog

from galactic.crds.model import Meta
from galactic.errors import GalacticError
from galactic.kube.api import Api
from galactic.kube.events import event_body, involved
from galactic.kube.resources import EVENTS, VPC_ATTACHMENTS
from galactic.router.ingress.rejection_log import MOMENTARY, SAME_SECONDS, SILENT, RejectionLog
from galactic.router.kubernetes.record import AttachmentRecord
from galactic.router.kubernetes.status_writer import Attachments
from galactic.router.rib.path import Rejection

log = structlog.get_logger(__name__)
PAUSE_SECONDS: Final = 0.2
WAITING: Final = 100
TIMERS: Final = 10_000
"""Rejections that are confirmed later; others are counted and logged alone."""
LAG_SECONDS: Final = 5.0
"""For ``status.carriers`` to arrive."""
MOMENT_SECONDS: Final = 30.0
"""For a node to follow a change: its watch of the API server, then the pod's addresses, then its registration."""
REPEAT_SECONDS: Final = 240.0
COMPONENT: Final = "galactic-router"


class Rejections(Protocol):
    """Those that hold now; ``rib.registrations.Registrations``."""

    def rejection(self, like: Rejection) -> Rejection | None: ...


class AttachmentEvents:
    """Makes Events. ``enqueue`` notes rejections, ``run`` works them off."""

    def __init__(
        self,
        api: Api,
        attachments: Attachments,
        rejections: Rejections,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api, self._attachments, self._clock = api, attachments, clock
        self._rejections = rejections
        self._timers: dict[tuple[str, str], asyncio.TimerHandle] = {}
        self._made: dict[tuple[str, str], float] = {}
        self._log = RejectionLog()
        self._waiting: asyncio.Queue[Rejection] = asyncio.Queue(WAITING)

    def enqueue(self, rejections: Iterable[Rejection]) -> None:
        """These paths are rejected."""
        for rejection in rejections:
            self._log.note((rejection,))
            key = rejection.attachment, rejection.reason
            if rejection.reason in MOMENTARY:
                if key not in self._timers and len(self._timers) < TIMERS:
                    self._confirm_later(key, rejection, MOMENT_SECONDS)
                continue
            known = self._attachments.record(rejection.attachment)
            if known is None or rejection.reason in SILENT or self._waiting.full():
                continue
            if self._clock() - self._made.get(key, -SAME_SECONDS) >= SAME_SECONDS:
                self._made[key] = self._clock()
                if rejection.reason == "NotCarried":
                    asyncio.get_running_loop().call_later(LAG_SECONDS, self._confirm, rejection)
                else:
                    self._waiting.put_nowait(rejection)
        if len(self._made) > 100 * WAITING:
            recent = self._clock() - SAME_SECONDS
            self._made = {key: at for key, at in self._made.items() if at > recent}

    def resign(self) -> None:
        """Another router makes Events from now on."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _confirm_later(self, key: tuple[str, str], rejection: Rejection, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._timers[key] = loop.call_later(seconds, self._confirm_momentary, key, rejection)

    def _confirm_momentary(self, key: tuple[str, str], rejection: Rejection) -> None:
        """Notes it if it holds by now, and confirms it again later."""
        del self._timers[key]
        if (holds := self._rejections.rejection(rejection)) is None:
            return
        if not self._waiting.full():
            self._waiting.put_nowait(holds)
        self._confirm_later(key, holds, REPEAT_SECONDS)

    def _confirm(self, rejection: Rejection) -> None:
        """Notes a path without a carrier, if it has none by now."""
        known = self._attachments.record(rejection.attachment)
        if known is None or _carried(known, rejection.origin.node) or self._waiting.full():
            self._made.pop((rejection.attachment, rejection.reason), None)
        else:
            self._waiting.put_nowait(rejection)

    async def run(self) -> None:
        """Makes Events until cancelled. One that the API server refuses is given up: the rejection comes again."""
        while True:
            rejection = await self._waiting.get()
            known = self._attachments.record(rejection.attachment)
            if known is None:
                continue
            body = event(known.uid, rejection)
            try:
                await self._api.create(EVENTS, body, body["metadata"]["namespace"])
            except GalacticError as error:
                log.warning("Event not made", attachment=rejection.attachment, error=str(error))
                self._made.pop((rejection.attachment, rejection.reason), None)
            await asyncio.sleep(PAUSE_SECONDS)


def _carried(attachment: AttachmentRecord, node: str) -> bool:
    return node in (attachment.nodes or ())


def event(uid: str, rejection: Rejection) -> dict[str, Any]:
    """A core/v1 Event of type Warning on the attachment, whose UID that is."""
    namespace, _, name = rejection.attachment.partition("/")
    about = involved(VPC_ATTACHMENTS, Meta(name=name, namespace=namespace, uid=uid))
    message = f"node {rejection.origin.node}: {rejection.message}"
    return event_body(about, "Warning", rejection.reason, message, component=COMPONENT)
