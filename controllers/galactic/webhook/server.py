"""HTTPS for the API server: one review a request, answered in time or refused clearly."""

import asyncio
import re
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Self

import structlog
from aiohttp import web
from cryptography import x509

from galactic.errors import GalacticError, Rejected, Unreachable
from galactic.webhook.configuration import MUTATE, TIMEOUT_SECONDS, VALIDATE
from galactic.webhook.metrics import Metrics
from galactic.webhook.review import Answer, Request, parse, rendered

log = structlog.get_logger(__name__)
MARGIN_SECONDS: Final = 1.0
"""A request is answered so long before the API server's time-out."""
ANSWER_SECONDS: Final = TIMEOUT_SECONDS - MARGIN_SECONDS
"""For a client that names no time-out."""
LONGEST_BODY: Final = 16 << 20
"""An object has at most 3 MiB in a request, and an update has the old one as well."""
KEEP_ALIVE_SECONDS: Final = 300.0
"""Longer than the API server keeps an idle connection (90 s): closing one could lose a request under way."""

Decision = Callable[[Request], Awaitable[Answer]]


class Certificate:
    """The TLS context, into which a new certificate is loaded while it is in use."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._loaded: tuple[bytes, bytes] | None = None
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2

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


class Server:
    """``async with server:`` listens. ``mutate`` and ``validate`` decide."""

    def __init__(
        self, port: int, certificate: Certificate, metrics: Metrics, *, mutate: Decision, validate: Decision
    ) -> None:
        self._port, self._certificate, self._metrics = port, certificate, metrics
        app = web.Application(client_max_size=LONGEST_BODY)
        app.add_routes([web.post(MUTATE, self._handler(mutate)), web.post(VALIDATE, self._handler(validate))])
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, keepalive_timeout=KEEP_ALIVE_SECONDS
        )

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, None, self._port, ssl_context=self._certificate.context)
        await site.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def _handler(self, decide: Decision) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handler(request: web.Request) -> web.Response:
            started = time.monotonic()
            try:
                review = parse(await request.read())
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

        return handler


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
