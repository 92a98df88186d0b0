"""Start, health and end of a controller.

``launch`` sets up logs, serves metrics and health (``monitoring``), runs the controller's coroutine and cancels it on
SIGTERM or SIGINT, so that a controller is one coroutine that cleans up on cancellation.
"""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry

from galactic import __version__
from galactic.errors import GalacticError
from galactic.garbage import set_survivors_aside
from galactic.monitoring import Monitoring
from galactic.settings import Settings

log = structlog.get_logger(__name__)
GRACE_SECONDS: Final = 10.0
GRACE_STEPS: Final = 100


class Health:
    """The process' problems by name. Without one it is healthy.

    ``stopping`` is set at the signal to end, before the work is cancelled.
    """

    def __init__(self) -> None:
        self._problems: dict[str, str] = {}
        self._tolerable: set[str] = set()
        self.stopping = asyncio.Event()

    def set(self, name: str, problem: str | None, *, ready: bool = False) -> None:
        """Reports a problem; None: it is over. ``ready``: the process can work, or take over, in spite of it."""
        (self._tolerable.add if ready else self._tolerable.discard)(name)
        if problem is None:
            self._problems.pop(name, None)
        else:
            self._problems[name] = problem

    @property
    def problems(self) -> dict[str, str]:
        return dict(self._problems)

    @property
    def obstacles(self) -> dict[str, str]:
        """The problems in spite of which the process is not ready."""
        return {name: problem for name, problem in self._problems.items() if name not in self._tolerable}


def launch(
    settings: Settings,
    program: str,
    main: Callable[[Health], Coroutine[Any, Any, None]],
    registry: CollectorRegistry,
    *,
    drain: float = 0.0,
) -> None:
    """Runs ``main`` until it returns, fails or is stopped by a signal. Exit code 0 after a clean stop, 1 after a
    failure. ``drain``: seconds between the signal, from which on it is not ready, and the end of its work.
    """
    configure_logs(settings.log_level, settings.log_format)
    log.info("starting", program=program, version=__version__, cluster=settings.cluster)
    set_survivors_aside()
    sys.exit(asyncio.run(_run(settings, program, main, registry, drain=drain)))


def configure_logs(level: str, style: str) -> None:
    """One format on standard error for all loggers, those of libraries included."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    console = style == "console"
    last: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("aiohttp.access", "kubernetes", "asyncio"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))


async def _run(
    settings: Settings,
    program: str,
    main: Callable[[Health], Coroutine[Any, Any, None]],
    registry: CollectorRegistry,
    *,
    drain: float,
) -> int:
    health = Health()
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    monitoring = Monitoring(settings, health, registry)
    try:
        await monitoring.start()
    except GalacticError as error:
        log.error("failed", program=program, error=str(error))  # noqa: TRY400 - one sentence, as below
        return 1
    monitored = asyncio.create_task(monitoring.run(), name="metrics and health")
    work = asyncio.create_task(main(health), name=program)
    stop = asyncio.create_task(stopped.wait(), name="stop")
    try:
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            log.info("stopping", program=program, drain_seconds=drain)
            health.set("stopping", "it ends")
            health.stopping.set()
            await asyncio.wait({work}, timeout=drain)
            work.cancel()
            await _grace(work)
    finally:
        stop.cancel()
        monitored.cancel()
        await monitoring.close()
    return _code(work, program)


async def _grace(work: "asyncio.Task[None]") -> None:
    """Waits GRACE_SECONDS for the task to end. In steps: a process that is suspended meanwhile loses one of them, not
    all.
    """
    for _ in range(GRACE_STEPS):
        done, _ = await asyncio.wait({work}, timeout=GRACE_SECONDS / GRACE_STEPS)
        if done:
            return


def _code(work: "asyncio.Task[None]", program: str) -> int:
    if not work.done():
        log.error("did not stop within the grace period", program=program, seconds=GRACE_SECONDS)
        return 1
    error = None if work.cancelled() else work.exception()
    if error is None:
        log.info("stopped", program=program)
        return 0
    if isinstance(error, GalacticError):
        log.error("failed", program=program, error=str(error))
    else:
        log.error("failed", program=program, exc_info=error)
    return 1
