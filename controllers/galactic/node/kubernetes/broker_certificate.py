"""The node's client certificate at the broker: asked for, kept beside the socket, renewed at half its life.

The operator issues it (``operator.issuer``). While it does not, the node goes on with the one it has; a session that is
open does not end with its certificate. Key and certificate are one file, on a file system that a reboot empties.
"""

import asyncio
import base64
import os
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog

from galactic.backoff import Backoff
from galactic.errors import GalacticError, NotYet, Rejected, Unreachable
from galactic.kube.api import Api
from galactic.kube.client_certificates import generated, half_life, manifest, user
from galactic.kube.resources import CERTIFICATE_REQUESTS

log = structlog.get_logger(__name__)
FILE: Final = "broker.pem"
POLL_SECONDS: Final = (0.5, 10.0)
BACKOFF_SECONDS: Final = (2.0, 120.0)
LONGEST_PAUSE: Final = 600.0
"""Between two looks at the clock, which may be set meanwhile."""


class BrokerCertificate:
    """``path``: the file that each connection to the broker reads."""

    def __init__(
        self,
        api: Api,
        path: Path,
        cluster: str,
        node: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api, self._path, self._now = api, path, now
        self._cluster, self._node = cluster, node
        self.problem: str | None = None
        """Why there is no new one, for people."""
        self._request: tuple[str, bytes] | None = None  # name and private key of the one that is not answered

    async def run(self) -> None:
        """Renews it for ever."""
        backoff = Backoff(*BACKOFF_SECONDS)
        while True:
            if (seconds := self.seconds_left()) > 0:
                await asyncio.sleep(min(seconds, LONGEST_PAUSE))
                continue
            try:
                await self.renew()
            except GalacticError as error:
                pause, self.problem = backoff.pause(), f"no new certificate for the broker: {error}"
                log.warning("no new broker certificate, trying again", error=str(error), seconds=pause)
                await asyncio.sleep(pause)
            else:
                backoff.succeeded()
                self.problem = None
                log.info("broker certificate renewed", path=str(self._path))
                if self.seconds_left() <= 0:  # this machine's clock is ahead: no request a second
                    await asyncio.sleep(LONGEST_PAUSE)

    def seconds_left(self) -> float:
        """Until it is to be renewed; 0: now."""
        try:
            renewal = half_life(self._path.read_bytes(), user(self._cluster, self._node))
        except (OSError, Rejected):
            return 0.0
        return max((renewal - self._now()).total_seconds(), 0.0)

    async def renew(self) -> None:
        """Returns with a new one in the file. Raises GalacticError; a request that is not answered is kept."""
        if self._request is None:
            key, request = generated(user(self._cluster, self._node))
            name = f"galactic-broker-{self._node[:200].rstrip('.-')}-{secrets.token_hex(4)}"
            await self._api.create(CERTIFICATE_REQUESTS, manifest(name, request))
            self._request = name, key
        name, key = self._request
        pem = key + await self._answer(name)
        self._request = None
        half_life(pem, user(self._cluster, self._node))
        self._write(pem)

    async def _answer(self, name: str) -> bytes:
        """The certificate, as soon as it is issued."""
        pauses = Backoff(*POLL_SECONDS)
        while (request := await self._api.find(CERTIFICATE_REQUESTS, name)) is not None:
            status = request.get("status") or {}
            if certificate := status.get("certificate"):
                return base64.b64decode(certificate)
            for condition in status.get("conditions") or ():
                if condition["type"] in ("Denied", "Failed"):
                    self._request = None
                    raise Rejected(condition.get("message", ""), reason=condition.get("reason", "Denied"))
            self.problem = (
                f"no new certificate for the broker: the operator has not approved CertificateSigningRequest {name}; "
                "see the operator's log"
            )
            await asyncio.sleep(pauses.pause())
        self._request = None
        raise NotYet(f"the request {name} was deleted before it was answered")

    def _write(self, pem: bytes) -> None:
        partial = self._path.with_suffix(".partial")
        try:
            partial.unlink(missing_ok=True)
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(pem)
            partial.rename(self._path)
        except OSError as error:
            raise Unreachable("disk", f"{self._path}: {error.strerror}") from error
