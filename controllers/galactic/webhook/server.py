"""HTTPS for the API server: one review a request, answered in time or refused clearly."""

import asyncio
import re
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import structlog
from aiohttp import web
from cryptography import x509

from galactic.errors import GalacticError, NotYet, Rejected, Unreachable
from galactic.webhook.configuration import MUTATE, TIMEOUT_SECONDS, VALIDATE
from galactic.webhook.inflight import LONGEST_BODY, Inflight
from galactic.webhook.metrics import Metrics
from galactic.webhook.review import Answer, Request, parse, rendered

log = structlog.get_logger(__name__)
MARGIN_SECONDS: Final = 1.0
"""A request is answered this long before the API server's time-out."""
ANSWER_SECONDS: Final = TIMEOUT_SECONDS - MARGIN_SECONDS
"""For a client that names no time-out."""
READ_SECONDS: Final = 5.0
"""For the body of a request."""
LINGER_SECONDS: Final = 10.0
"""After an answer that came before the end of the body: a client that still sends reads the answer, not a reset."""
RETRY: Final = {"Retry-After": "1"}
"""The API server tries again after this many seconds, within the time-out of its request."""
KEEP_ALIVE_SECONDS: Final = 300.0
"""Longer than the API server keeps an idle connection (90 s): closing one could lose a request under way."""

Decision = Callable[[Request], Awaitable[Answer]]


class Certificate:
    """The TLS context, into which a new certificate is loaded while it is in use."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._loaded: tuple[bytes, bytes] | None = None
        self._trusted = b""
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        # Private CAs often lack the extensions that RFC 5280 asks for, and Python requires from 3.13 on.
        self.context.verify_flags &= ~ssl.VERIFY_X509_STRICT

    def require(self, authorities: bytes) -> None:
        """Clients need a certificate of these CAs (PEM) from the next connection on.

        A CA that was required before stays until the process ends. Raises Rejected, and changes nothing, when the PEM
        is malformed.
        """
        if authorities == self._trusted:
            return
        try:
            self.context.load_verify_locations(cadata=authorities.decode("ascii"))
        except (ssl.SSLError, ValueError) as error:
            raise Rejected(
                f"client CAs cannot be used: {error}; give certificates as PEM", reason="InvalidCertificate"
            ) from error
        self.context.verify_mode = ssl.CERT_REQUIRED
        self._trusted = authorities
        log.info(
            "clients need a certificate of these CAs", certificates=authorities.count(b"BEGIN CERTIFICATE")
        )

    def load(self, certificate: bytes, key: bytes) -> None:
        """Serves this certificate from the next connection on.

        Raises Rejected, and changes nothing, when certificate and key do not belong together.
        """
        if self._loaded == (certificate, key):
            return
        with tempfile.TemporaryDirectory() as folder:  # readable for its owner alone
            files = Path(folder, "tls.crt"), Path(folder, "tls.key")
            for path, pem in zip(files, (certificate, key), strict=True):
                path.write_bytes(pem)
            try:
                ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(*files)
                self.context.load_cert_chain(*files)
            except (ssl.SSLError, OSError) as error:
                raise Rejected(
                    f"certificate and key cannot be used: {error}", reason="InvalidCertificate"
                ) from error
        self._loaded = certificate, key
        expiry = x509.load_pem_x509_certificates(certificate)[0].not_valid_after_utc
        self._metrics.loaded(expiry)
        log.info("certificate in service", expiry=expiry.isoformat())


@dataclass(frozen=True, slots=True)
class Access:
    """``in_flight``: requests at a time. ``names``: common names of clients' certificates; none: any certificate."""

    port: int
    in_flight: int = 512
    names: frozenset[str] = frozenset()


class Server:
    """``async with server:`` listens. ``mutate`` and ``validate`` decide.

    Once ``stopping`` is set each answer closes its connection, so that the API server makes the next one elsewhere.
    """

    def __init__(
        self,
        access: Access,
        certificate: Certificate,
        metrics: Metrics,
        stopping: asyncio.Event,
        *,
        mutate: Decision,
        validate: Decision,
    ) -> None:
        self._access, self._certificate, self._metrics = access, certificate, metrics
        self._stopping = stopping
        self._inflight = Inflight(access.in_flight)
        metrics.read(lambda: len(self._inflight))
        app = web.Application(client_max_size=LONGEST_BODY)
        app.add_routes([web.post(MUTATE, self._handler(mutate)), web.post(VALIDATE, self._handler(validate))])
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=KEEP_ALIVE_SECONDS,
            lingering_time=LINGER_SECONDS,
        )

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, None, self._access.port, ssl_context=self._certificate.context)
        await site.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def _handler(self, decide: Decision) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handler(request: web.Request) -> web.Response:
            response = await answered(request)
            if self._stopping.is_set():
                response.force_close()
            return response

        async def answered(request: web.Request) -> web.Response:
            if self._access.names and not _names(request) & self._access.names:
                return self._turned_away("UnknownClient", 403)
            if (request.content_length or 0) > LONGEST_BODY:
                return self._turned_away("TooLarge", 413)
            try:
                with self._inflight.entered(request.remote or "", request.content_length):
                    return await self._answered(request, decide)
            except NotYet:
                return self._turned_away("Busy", 429)
            except web.HTTPRequestEntityTooLarge:
                return self._turned_away("TooLarge", 413)

        return handler

    def _turned_away(self, reason: str, status: int) -> web.Response:
        """Any status but 200 is a failed call to the API server, which then goes by ``failurePolicy``."""
        self._metrics.turned_away(reason)
        return web.Response(text=f"{reason}\n", status=status, headers=RETRY if status == 429 else None)

    async def _answered(self, request: web.Request, decide: Decision) -> web.Response:
        started = time.monotonic()
        try:
            async with asyncio.timeout(READ_SECONDS):
                body = await request.read()
        except TimeoutError:
            return self._turned_away("TooSlow", 408)
        try:
            review = parse(body)
        except Rejected as problem:
            self._metrics.reviewed("", "", "undecodable", time.monotonic() - started)
            return web.Response(text=f"not an AdmissionReview: {problem}\n", status=400)
        answer = await _within(decide, review, limit(request.query.get("timeout", "")))
        resource = "/".join(filter(None, (review.resource, review.subresource)))
        self._metrics.reviewed(resource, review.operation, _word(answer), time.monotonic() - started)
        if answer.refusal is not None:
            log.info(
                "refused",
                resource=resource,
                operation=review.operation,
                object=f"{review.namespace}/{review.name}",
                user=review.user.name,
                reason=str(answer.refusal),
            )
        return web.Response(body=rendered(review.uid, answer), content_type="application/json")


def _names(request: web.Request) -> set[str]:
    """The common names in the client's certificate, which TLS has verified."""
    certificate = request.get_extra_info("peercert") or {}
    return {value for part in certificate.get("subject", ()) for name, value in part if name == "commonName"}


def limit(timeout: str) -> float:
    """Seconds for an answer. ``timeout``: the API server's, from its request (``15s``)."""
    match = re.fullmatch(r"(\d+)s", timeout)
    if match is None:
        return ANSWER_SECONDS
    seconds = float(match[1])
    return max(seconds - MARGIN_SECONDS, seconds / 2)


async def _within(decide: Decision, review: Request, seconds: float) -> Answer:
    try:
        async with asyncio.timeout(seconds):
            return await decide(review)
    except TimeoutError:
        problem: GalacticError = Unreachable("kube-apiserver", f"no answer within {seconds:g} s; try again")
    except Unreachable as error:
        problem = error
    except Exception as error:
        log.exception(
            "request not answered", resource=review.resource, object=f"{review.namespace}/{review.name}"
        )
        problem = Unreachable(
            "galactic-webhook", f"internal error {type(error).__name__}; see its log, and try again"
        )
    return Answer(refusal=problem)


def _word(answer: Answer) -> str:
    if answer.refusal is not None:
        return "failed" if isinstance(answer.refusal, Unreachable) else "refused"
    return "warned" if answer.warnings else "allowed"
