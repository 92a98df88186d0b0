"""The unix socket that the CNI plugin connects to, and the requests it left while the node controller was away.

``POST /cni/v1/<verb>``: the body is the network configuration, the headers the ``CNI_*`` variables. 200 with a CNI
result, or 500 with a CNI error object. Only root can connect.
"""

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
from aiohttp import web

from galactic.errors import GalacticError, Rejected, Unreachable
from galactic.node.cni import protocol
from galactic.node.cni.calls import Calls
from galactic.node.metrics import Metrics

log = structlog.get_logger(__name__)
MAX_BODY: Final = 1 << 20
MAX_HEADER: Final = 64 << 10
PENDING_SECONDS: Final = 5.0
"""Between readings of ``pending/``: a plugin that could not connect may write there just after one."""

BACKLOG: Final = 1024
"""Plugins that wait for a connection: when a node starts, those of all its pods do at once."""
PARTIAL: Final = ".partial"
PARTIAL_SECONDS: Final = 60.0
"""No plugin runs that long: its partial file is left over."""


class Server:
    """Serves ``calls`` on the socket at ``path``."""

    def __init__(self, path: Path, calls: Calls, metrics: Metrics) -> None:
        self._path, self._calls, self._metrics = path, calls, metrics
        self._pending = path.parent / "pending"
        self._draining = asyncio.Lock()
        metrics.expect_requests((0, *protocol.CODES))

    async def run(self) -> None:
        """Carries out pending requests, then serves until cancelled. Raises Unreachable without a socket."""
        await self.drain()
        app = web.Application(client_max_size=MAX_BODY)
        app.add_routes([web.post("/cni/v1/{verb}", self._handle)])
        runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,  # of a caller that hangs up: see Calls.answer
            max_field_size=MAX_HEADER,
            shutdown_timeout=5.0,
        )
        await runner.setup()
        try:
            await self._listen(runner)
            while True:
                await asyncio.sleep(PENDING_SECONDS)
                await self.drain()
        finally:
            await runner.cleanup()

    async def drain(self) -> None:
        """Carries out the DELs that were written while the node controller was away, oldest first."""
        async with self._draining:
            for path in self._requests():
                self._carry_out(path)
                await asyncio.sleep(0)  # there may be many, and other tasks wait

    def _requests(self) -> list[Path]:
        """The requests, oldest first. Removes what a killed plugin did not finish, after PARTIAL_SECONDS."""
        try:
            with os.scandir(self._pending) as entries:
                files = sorted(Path(entry.path) for entry in entries)
            for path in files:
                if path.suffix == PARTIAL and time.time() - path.stat().st_mtime > PARTIAL_SECONDS:
                    path.unlink(missing_ok=True)
        except FileNotFoundError:
            return []
        except OSError as error:
            log.warning("pending requests are not readable", error=str(error))
            return []
        return [path for path in files if path.suffix != PARTIAL]

    def _carry_out(self, path: Path) -> None:
        try:
            verb, headers, body = _parse(path.read_bytes())
            if verb == "del":
                self._calls.delete_later(protocol.request(verb, headers, body))
            path.unlink(missing_ok=True)
        except (OSError, ValueError, Rejected, protocol.Failure) as error:
            log.warning("invalid pending request dropped", file=path.name, error=str(error))
            with suppress(OSError):
                path.unlink(missing_ok=True)
        except GalacticError as error:
            log.warning("pending request kept for later", file=path.name, error=str(error))

    async def _listen(self, runner: web.AppRunner) -> None:
        before = os.umask(0o177)
        try:
            await web.UnixSite(runner, str(self._path), backlog=BACKLOG).start()
        except OSError as error:
            raise Unreachable("socket", f"{self._path}: {error}") from error
        finally:
            os.umask(before)
        log.info("listening", socket=str(self._path))

    async def _handle(self, request: web.Request) -> web.Response:
        verb, body, speaks, code = request.match_info["verb"], b"", "1.0.0", 0
        started = time.monotonic()
        try:
            body = await request.read()
            speaks = protocol.version(body)
            await self.drain()
            answer = await self._calls.answer(protocol.request(verb, request.headers, body))
        except web.HTTPRequestEntityTooLarge:
            code, answer = _refusal(
                protocol.Failure(protocol.INVALID_CONFIG, f"more than {MAX_BODY} bytes"), speaks
            )
        except GalacticError as error:
            code, answer = _refusal(protocol.failure(error), speaks)
            log.warning("CNI call refused", verb=verb, code=code, error=str(error))
        except Exception as error:
            log.exception("CNI call failed", verb=verb)
            code, answer = _refusal(
                protocol.Failure(protocol.TRY_AGAIN, f"internal error: {error!r}"), speaks
            )
        label = verb if verb in protocol.VERBS else "other"
        self._metrics.requests.labels(label, code).inc()
        self._metrics.request_seconds.labels(label).observe(time.monotonic() - started)
        text = msgspec.json.encode(answer) + b"\n" if answer is not None else b""
        return web.Response(body=text, status=500 if code else 200, content_type="application/json")


def _refusal(problem: protocol.Failure, speaks: str) -> tuple[int, dict[str, Any]]:
    return problem.code, protocol.error(problem, speaks)


def _parse(request: bytes) -> tuple[str, dict[str, str], bytes]:
    """(verb, headers, body) of an HTTP request as the plugin writes it. Raises ValueError."""
    if len(request) > MAX_BODY + MAX_HEADER:
        raise ValueError("too large for a CNI request")
    head, found, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode("ascii").split("\r\n")
    method, target, _ = first.split(" ")
    if not found or method != "POST" or not target.startswith("/cni/v1/"):
        raise ValueError(f"not a CNI request: {first!r}")
    headers = {name: value for name, _, value in (line.partition(": ") for line in lines)}
    return target.rpartition("/")[2], headers, body
