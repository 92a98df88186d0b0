"""kopf's part: it watches the kinds with few objects, and fills their caches (``reflectors`` has the other kinds).

There are only ``on.event`` handlers: kopf then writes neither annotations nor finalizers onto users' objects.

kopf asks once for the kinds that the API server serves, and never watches one that is missing then. For a moment after
its start an API server names no custom resource, so kopf is started only when all of ours are named (``served``).

kopf does not report three things, which the reconciler's own lists repair. First, that the initial list is complete: an
index (``kopf.index``) is filled before any handler runs, but only with kinds that the API server served when kopf
asked. So ``Reconciler.restore`` lists every kind when it begins to lead, and assigns no identifier before all live ones
are known. Second, deletions while a watch was interrupted: after a 410 kopf lists again and reports the objects that
exist, never those that do not. Third, an API server with older data than before, after a restoration of etcd: kopf goes
on watching from the newest resource version that it saw, and gets nothing until the server's numbers have passed it.
Our reflectors notice that (``reflectors``), and kopf is started again.
"""

import asyncio
import contextlib
import json
import logging
import signal
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, cast

import kopf
import structlog

from galactic.backoff import Backoff
from galactic.errors import GalacticError
from galactic.kube.api import key_of
from galactic.kube.resources import NAMESPACES, NODE_SEGMENTS, NODES, VPCS, Resource
from galactic.operator.state import Caches

log = structlog.get_logger(__name__)
WATCHED: Final = (VPCS, NODE_SEGMENTS, NODES, NAMESPACES)
"""The kinds with few objects. Attachments, definitions and Pods may be thousands: see ``reflectors``."""
WATCH_SECONDS: Final = 300
"""The API server ends a watch after this time. kopf ends one that is silent for 70 s; bookmarks come every 60 s."""
BACKOFF_SECONDS: Final = (2.0, 30.0)
"""Before kopf is started again."""
SERVED_SECONDS: Final = (0.2, 10.0)
"""Between two questions for the kinds that the API server serves."""
LASTING_SECONDS: Final = 60.0
"""A watch that ran for this time was a success."""


class Memo(Protocol):
    """kopf passes it to the handlers as ``memo``."""

    @property
    def caches(self) -> Caches: ...


class Discovery(Protocol):
    """The API server's own paths."""

    async def text(self, path: str) -> str: ...


def registry() -> kopf.OperatorRegistry:
    """All handlers."""
    handlers = kopf.OperatorRegistry()
    kopf.on.startup(registry=handlers)(_configure)
    kopf.on.login(registry=handlers)(_login)
    for resource in WATCHED:
        kopf.on.event(
            resource.group, resource.version, resource.plural, id=resource.plural, registry=handlers
        )(_update(resource))
    return handlers


def _update(resource: Resource) -> Any:
    async def update(event: kopf.RawEvent, memo: Any, **_: Any) -> None:
        cache = memo.caches.of(resource)
        changed: Any = event["object"]
        if event["type"] == "DELETED":
            meta = changed["metadata"]
            cache.remove(key_of(changed), meta.get("uid", ""), meta.get("resourceVersion", ""))
        else:
            cache.set(changed)

    return update


class _NoDifference(kopf.DiffBaseStorage):
    """kopf would copy every object at every event, to compare it with a copy that no handler uses."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> kopf.BodyEssence:  # noqa: ARG002
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:  # noqa: ARG002
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None: ...


async def _configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)  # it logs every handled event
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
    # Pauses between attempts of a request. After the last, kopf starts the watch again at once, however long the API
    # server stays away.
    settings.networking.error_backoffs = (0.5, 1, 2)
    settings.queueing.idle_timeout = 1.0
    settings.queueing.exit_timeout = 0.5


async def _login(**keywords: Any) -> kopf.ConnectionInfo | None:
    # kopf's default imports the synchronous client with all of its models.
    return kopf.login_with_service_account(**keywords) or kopf.login_with_kubeconfig(**keywords)


async def served(discovery: Discovery) -> None:
    """Returns when the API server names all watched kinds in the two places where kopf looks for them."""
    backoff = Backoff(*SERVED_SECONDS)
    while True:
        try:
            missing = await _missing(discovery)
        except GalacticError as error:
            log.warning("kinds not read, trying again", error=str(error))
        else:
            if not missing:
                return
            log.warning("kinds not served yet, trying again", kinds=missing)
        await asyncio.sleep(backoff.pause())


async def _missing(discovery: Discovery) -> list[str]:
    """The watched kinds that discovery lacks: in ``/apis``, or in the list of their version."""
    groups = json.loads(await discovery.text("/apis")).get("groups") or ()
    named = {version["groupVersion"] for group in groups for version in group["versions"]}
    kinds = {(resource.api_version, resource.plural) for resource in WATCHED if resource.group}
    for version in {version for version, _ in kinds} & named:
        listed = json.loads(await discovery.text(f"/apis/{version}")).get("resources") or ()
        kinds -= {(version, entry["name"]) for entry in listed}
    return sorted(plural for _, plural in kinds)


async def watch(
    memo: Memo,
    discovery: Discovery,
    resynced: Callable[[], Awaitable[None]],
    set_back: asyncio.Event | None = None,
) -> None:
    """Never returns: fills the caches. SIGTERM and SIGINT cancel the task that it runs in.

    kopf ends when a watch fails in a way that it does not know, such as a restart of the API server, and when
    ``set_back`` is set: the API server has older data than before. It is then started again, and ``resynced`` is
    awaited, because events may have been missed.
    """
    older = set_back or asyncio.Event()
    task = asyncio.current_task()
    assert task
    loop, backoff = asyncio.get_running_loop(), Backoff(*BACKOFF_SECONDS, spread=0)
    while True:
        await served(discovery)
        began = loop.time()
        try:
            parts = await kopf.spawn_tasks(
                registry=registry(),
                memo=memo,
                clusterwide=True,
                standalone=True,
                stop_flag=older,
                settings=kopf.OperatorSettings(),
            )
            _cancel_on_signals(task)
            await kopf.run_tasks(parts, ignored=cast("Any", _Everything()))
        except Exception as error:  # noqa: BLE001 - any error is logged, and the watch starts again
            log.warning("watch ended, starting it again", error=str(error) or type(error).__name__)
        if loop.time() - began > LASTING_SECONDS:
            backoff.succeeded()
        await asyncio.sleep(backoff.pause())
        if older.is_set():
            older.clear()
            for cache in memo.caches.by_kind:
                cache.forget_versions()
        with contextlib.suppress(GalacticError):
            await resynced()


class _Everything:
    """The tasks that kopf does not cancel when it ends: by default it cancels all that are younger than itself."""

    def __contains__(self, _task: object) -> bool:
        return True


def _cancel_on_signals(task: "asyncio.Task[Any]") -> None:
    """Kopf handles signals itself, and waits for tasks for up to 5 s then. On cancellation it ends at once."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
