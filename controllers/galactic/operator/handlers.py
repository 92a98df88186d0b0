"""kopf's part: it watches what there is little of, and what it sees goes into the caches (``reflectors`` has the rest).

Only ``on.event`` handlers: kopf then writes nothing onto users' objects, neither annotations nor finalizers.

Two things kopf does not tell, and the reconciler's own lists make good. First, when the initial list is complete: an
index (``kopf.index``) is filled before any handler runs, but only with kinds that the API server offered when kopf
looked, and after a restart of the API server that may be some of ours and not others. So ``Reconciler.restore`` lists
every kind when it begins to lead, and no identifier is handed out before all live ones are known. Second, what was
deleted while a watch was interrupted: after a 410 kopf lists again and tells of what is there, never of what is not.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, cast

import kopf
import structlog

from galactic.errors import GalacticError
from galactic.kube.api import key_of
from galactic.kube.resources import NAMESPACES, NODE_SEGMENTS, NODES, VPCS, Resource
from galactic.operator.state import Caches

log = structlog.get_logger(__name__)
WATCHED: Final = (VPCS, NODE_SEGMENTS, NODES, NAMESPACES)
"""Of attachments, definitions and Pods there may be thousands: see ``reflectors``."""
WATCH_SECONDS: Final = 300
"""The server ends a watch after so long. kopf takes a stream silent for 70 s for dead; bookmarks come every 60."""
RESTART_SECONDS: Final = 2.0


class Memo(Protocol):
    """What handlers get from kopf as ``memo``."""

    @property
    def caches(self) -> Caches: ...


def registry() -> kopf.OperatorRegistry:
    """All handlers."""
    handlers = kopf.OperatorRegistry()
    kopf.on.startup(registry=handlers)(_configure)
    kopf.on.login(registry=handlers)(_login)
    for resource in WATCHED:
        kopf.on.event(
            resource.group, resource.version, resource.plural, id=resource.plural, registry=handlers
        )(_seen(resource))
    return handlers


def _seen(resource: Resource) -> Any:
    async def seen(event: kopf.RawEvent, memo: Any, **_: Any) -> None:
        cache = memo.caches.of(resource)
        thing: Any = event["object"]
        if event["type"] == "DELETED":
            meta = thing["metadata"]
            cache.remove(key_of(thing), meta.get("uid", ""), meta.get("resourceVersion", ""))
        else:
            cache.set(thing)

    return seen


class _NoDifference(kopf.DiffBaseStorage):
    """Instead of a copy of every object at every event, to compare with one that nobody asks for."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> kopf.BodyEssence:  # noqa: ARG002
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:  # noqa: ARG002
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None: ...


async def _configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)  # or it tells of every event handled
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.persistence.diffbase_storage = _NoDifference()
    settings.process.ultimate_exiting_timeout = None
    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.client_timeout = WATCH_SECONDS + 30
    settings.watching.connect_timeout = 5
    settings.watching.chunk_size = 500
    settings.networking.request_timeout = 60
    settings.networking.connect_timeout = 5
    # Before it gives up on a request. A watch it then begins anew at once, however long the API server stays away.
    settings.networking.error_backoffs = (0.5, 1, 2)
    settings.queueing.idle_timeout = 1.0
    settings.queueing.exit_timeout = 0.5


async def _login(**keywords: Any) -> kopf.ConnectionInfo | None:
    # kopf's own choice would import the synchronous client, with every model it has.
    return kopf.login_with_service_account(**keywords) or kopf.login_with_kubeconfig(**keywords)


async def watch(memo: Memo, resynced: Callable[[], Awaitable[None]]) -> None:
    """Feeds the caches for ever. A signal to stop cancels the task that it runs in.

    kopf ends when a watch fails in a way it does not know (the API server restarting will do); it is then started
    again, and ``resynced`` is awaited, because something may have been missed.
    """
    task = asyncio.current_task()
    assert task
    while True:
        try:
            parts = await kopf.spawn_tasks(
                registry=registry(),
                memo=memo,
                clusterwide=True,
                standalone=True,
                settings=kopf.OperatorSettings(),
            )
            _take_signals(task)
            await kopf.run_tasks(parts, ignored=cast("Any", _Everything()))
        except Exception as error:  # noqa: BLE001 - whatever it was, it is logged and the watch begins anew
            log.warning("watch ended, beginning anew", error=str(error) or type(error).__name__)
        await asyncio.sleep(RESTART_SECONDS)
        with contextlib.suppress(GalacticError):
            await resynced()


class _Everything:
    """What kopf leaves alone when it ends: or it cancels all tasks younger than itself, whoever's they are."""

    def __contains__(self, _task: object) -> bool:
        return True


def _take_signals(task: "asyncio.Task[Any]") -> None:
    """Told by a signal, which it takes for itself, kopf waits for tasks for up to 5 s; cancelled, it ends at once."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
