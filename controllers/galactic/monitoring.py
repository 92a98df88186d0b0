"""The server that a controller's metrics and health are read at.

- ``/metrics``: with ``metrics_secure`` for those alone whom the API server allows it.
- ``/healthz``: every problem, in words; 503 if there is one.
- ``/readyz``: 503 while the process can neither do its job nor take it over. A peer that is away is no such problem: a
  drain or a rolling update would stop for it.
- ``/livez``: 200 while the loop turns.
"""

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final, Protocol

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from galactic.errors import NotYet, Rejected, Unreachable
from galactic.settings import Settings

if TYPE_CHECKING:
    from galactic.kube.client import Kube
    from galactic.kube.token_access import TokenAccess

log = structlog.get_logger(__name__)
ADDRESS_SECONDS: Final = 5.0
"""Between two looks for an address that this host does not have yet."""
CERTIFICATE_SECONDS: Final = 30.0
"""Between two looks for another certificate."""
LIFETIME: Final = timedelta(days=365)
"""Of a certificate of our own. It is made again after a month."""
FORBIDDEN: Final = {"Unauthenticated": 401, "Forbidden": 403}


class Report(Protocol):
    """Problems by name."""

    @property
    def problems(self) -> Mapping[str, str]:
        """All of them."""

    @property
    def obstacles(self) -> Mapping[str, str]:
        """Those that keep the process from working."""


class Access(Protocol):
    """Decides who may read."""

    async def check(self, token: str, path: str) -> None:
        """Raises Rejected, with the reason Unauthenticated or Forbidden, NotYet or Unreachable."""

    async def close(self) -> None:
        """No more requests."""


class Monitoring:
    """``start`` listens, if it can; ``run`` goes on with it."""

    def __init__(
        self,
        settings: Settings,
        report: Report,
        registry: CollectorRegistry,
        access: Callable[[], Access] | None = None,
    ) -> None:
        """``access``: who decides with ``metrics_secure``; None: the API server."""
        self._settings, self._report, self._registry = settings, report, registry
        self._serving = False
        self._certificate = ServingCertificate(settings) if settings.metrics_secure else None
        self._access: Access | None = (access or TokenReviews)() if settings.metrics_secure else None
        app = web.Application()
        app.add_routes(
            [
                web.get("/metrics", self._metrics),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/livez", self._livez),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)

    async def start(self) -> None:
        """Raises OSError for a port that is in use, Rejected for a certificate that cannot be used."""
        if self._certificate is not None:
            self._certificate.load()
        await self._runner.setup()
        self._serving = await self._listen()

    async def run(self) -> None:
        """Serves once the host has the address, and reads the certificate again, for ever.

        Duplicate address detection takes seconds, and a controller works without its metrics.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._until_serving(), name="address of metrics and health")
            if self._certificate is not None:
                tasks.create_task(self._certificate.run(), name="certificate of metrics and health")

    async def close(self) -> None:
        """Serves no more."""
        await self._runner.cleanup()
        if self._access is not None:
            await self._access.close()

    async def _until_serving(self) -> None:
        while not self._serving:
            await asyncio.sleep(ADDRESS_SECONDS)
            self._serving = await self._listen()

    async def _listen(self) -> bool:
        """Serves, if this host has the address."""
        address, port = self._settings.metrics_address, self._settings.metrics_port
        context = self._certificate.context if self._certificate is not None else None
        if not port:
            return True
        if address is None:
            await web.TCPSite(self._runner, None, port, ssl_context=context).start()
            return True
        try:
            await web.SockSite(self._runner, _bound(address, port), ssl_context=context).start()
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            log.warning("metrics_address is not an address of this host, trying again", address=str(address))
            return False
        return True

    async def _metrics(self, request: web.Request) -> web.Response:
        if self._access is not None:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not token.strip():
                return _refusal(401, "give a token: Authorization: Bearer TOKEN")
            try:
                await self._access.check(token.strip(), "/metrics")
            except Rejected as error:
                return _refusal(FORBIDDEN.get(error.reason, 503), str(error))
            except (NotYet, Unreachable) as error:
                return _refusal(503, str(error))
        return web.Response(
            body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def _healthz(self, _request: web.Request) -> web.Response:
        return _health(self._report.problems)

    async def _readyz(self, _request: web.Request) -> web.Response:
        return _health(self._report.obstacles)

    async def _livez(self, _request: web.Request) -> web.Response:
        return _health({})


def _health(problems: Mapping[str, str]) -> web.Response:
    text = "".join(f"{name}: {problem}\n" for name, problem in problems.items()) or "ok\n"
    return web.Response(text=text, status=503 if problems else 200)


def _refusal(status: int, text: str) -> web.Response:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return web.Response(text=f"{text}\n", status=status, headers=headers)


def _bound(address: IPv4Address | IPv6Address, port: int) -> socket.socket:
    """Asyncio would hide why an address is not bound."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    return socket.create_server((str(address), port), family=family, backlog=128)


class TokenReviews:
    """Asks the API server, to which it connects for the first request."""

    def __init__(self) -> None:
        self._connection: Kube | None = None
        self._access: TokenAccess | None = None

    async def check(self, token: str, path: str) -> None:
        """See ``Access``."""
        if self._access is None:
            # Loaded by those alone who use it: 100 ms, and 15 MiB.
            from galactic.kube.client import connect  # noqa: PLC0415
            from galactic.kube.token_access import TokenAccess  # noqa: PLC0415

            self._connection = await connect()
            self._access = TokenAccess(self._connection)
        await self._access.check(token, path)

    async def close(self) -> None:
        """Ends the connection."""
        if self._connection is not None:
            await self._connection.close()


class ServingCertificate:
    """The certificate in the settings' files, read again when they change; without files a self-signed one."""

    def __init__(self, settings: Settings) -> None:
        self._files = settings.metrics_cert_file, settings.metrics_key_file
        self._names = [socket.gethostname(), *filter(None, [str(settings.metrics_address or "")])]
        self._loaded: tuple[bytes, bytes] | None = None
        self._made = datetime.min.replace(tzinfo=UTC)
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2

    def load(self) -> None:
        """Serves the certificate as it is now, from the next connection on. Raises Rejected."""
        certificate, key = self._files
        if certificate is None or key is None:
            now = datetime.now(UTC)
            if now - self._made > LIFETIME / 12:
                self._serve(*_self_signed(self._names, now))
                self._made = now
            return
        try:
            pair = certificate.read_bytes(), key.read_bytes()
        except OSError as error:
            raise Rejected(f"metrics_cert_file, metrics_key_file: {error}; give PEM files") from error
        if pair != self._loaded:
            self._serve(*pair)
            self._loaded = pair

    async def run(self) -> None:
        """For ever. A certificate that cannot be used changes nothing."""
        reported = ""
        while True:
            await asyncio.sleep(CERTIFICATE_SECONDS)
            problem = ""
            try:
                self.load()
            except Rejected as error:
                problem = str(error)
            if problem and problem != reported:
                log.error("certificate of metrics cannot be used, serving the one before", error=problem)
            reported = problem

    def _serve(self, certificate: bytes, key: bytes) -> None:
        # OpenSSL reads keys from files, and a container may have none that can be written: one in memory.
        descriptor = os.memfd_create("certificate")
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(certificate + b"\n" + key)
            path = f"/proc/self/fd/{descriptor}"
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(path)
            self.context.load_cert_chain(path)
        except (ssl.SSLError, OSError) as error:
            raise Rejected(
                f"metrics_cert_file, metrics_key_file: {error}; give a certificate and its key as PEM"
            ) from error
        finally:
            os.close(descriptor)


def _self_signed(names: list[str], now: datetime) -> tuple[bytes, bytes]:
    from galactic.kube.certificates import Pair, self_signed  # noqa: PLC0415 - loaded by those alone who use it

    pair: Pair = self_signed(names, now, LIFETIME)
    return pair.certificates, pair.key
