"""Keeps the serving certificate, and its CAs in the webhook configurations, in a loop that repairs differences.

Replicas share the certificates through a Secret: the first replica makes them, the others read them. The API server
refuses a write onto an older state, and the replica that wrote it starts over.
"""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import structlog

from galactic.errors import GalacticError, NotYet, Rejected
from galactic.kube.api import Api, Conflict, NotFound
from galactic.kube.certificates import Bundle, Lifetime, renewed
from galactic.kube.resources import MUTATING_WEBHOOKS, SECRETS, VALIDATING_WEBHOOKS
from galactic.webhook.configuration import Address, trusting, trusts
from galactic.webhook.server import Certificate

log = structlog.get_logger(__name__)
LONGEST_PAUSE: Final = 30.0
RETRY_SECONDS: Final = 1.0
CONFIGURATIONS: Final = (MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS)
UNREGISTERED: Final = "Unregistered"
"""The reason while the API server does not ask the webhook."""


@dataclass(frozen=True, slots=True)
class Files:
    """A certificate that cert-manager or another program makes. ``ca`` None: that program enters the CAs as well."""

    certificate: Path
    key: Path
    ca: Path | None = None


@dataclass(frozen=True, slots=True)
class RegistrationConfig:
    """``name``: of the Secret. ``files`` None: certificates of our own.

    ``configurations``: name of the webhook configurations that get the CAs; empty: other programs manage them.
    """

    name: str
    address: Address
    configurations: str
    lifetime: Lifetime
    files: Files | None = None
    client_ca: Path | None = None  # PEM, of the API server's client certificate


@dataclass(frozen=True, slots=True)
class Clock:
    """The time, and how to wait."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


REAL_TIME: Final = Clock()


class Registration:
    """``run`` never returns. ``ready`` is set once a certificate is served and the webhook is registered.

    ``report`` gets the problem, or None, and whether the webhook is registered in spite of it.
    """

    def __init__(
        self,
        api: Api,
        config: RegistrationConfig,
        certificate: Certificate,
        report: Callable[[str | None, bool], None],
        clock: Clock = Clock(),
    ) -> None:
        self._api, self._config, self._certificate = api, config, certificate
        self._report, self._clock = report, clock
        self.ready = asyncio.Event()
        self._earlier_deleted = False

    @property
    def pause(self) -> float:
        """Seconds between two runs: there are several within each step of a change of certificates."""
        return min(LONGEST_PAUSE, self._config.lifetime.overlap.total_seconds() / 4)

    async def load(self) -> None:
        """Returns with a certificate in service; the API server must not call the webhook before."""
        while not await self._succeeds(self._certify):
            await self._clock.sleep(min(RETRY_SECONDS, self.pause))

    async def run(self) -> None:
        while True:
            if await self._succeeds(self.keep):
                self.ready.set()
                await self._clock.sleep(self.pause)
            else:
                await self._clock.sleep(min(RETRY_SECONDS, self.pause))

    async def keep(self) -> None:
        """Repairs what differs, once. Raises Rejected, NotYet or Unreachable."""
        authorities = await self._certify()
        if self._config.configurations:
            await self._register(authorities)
            await self._delete_earlier()

    async def _succeeds(self, work: Callable[[], Awaitable[object]]) -> bool:
        try:
            await work()
        except GalacticError as error:
            self._report(str(error), getattr(error, "reason", "") != UNREGISTERED)
            log.warning("certificates or CAs of the webhook not written, trying again", error=str(error))
            return False
        self._report(None, True)
        return True

    async def _certify(self) -> bytes | None:
        """Puts the certificate in service. The CAs (PEM) to be entered, None where another program does that."""
        files = self._config.files
        if self._config.client_ca is not None:
            self._certificate.require(_read(self._config.client_ca))
        if files is None:
            bundle = await self._bundle()
            self._certificate.load(bundle.serving.certificates, bundle.serving.key)
            return bundle.ca.certificates
        self._certificate.load(_read(files.certificate), _read(files.key))
        return _read(files.ca) if files.ca else None

    async def _bundle(self) -> Bundle:
        """The replicas' certificates, one step further if it is time for that."""
        config, namespace = self._config, self._config.address.namespace
        secret = await self._api.find(SECRETS, config.name, namespace)
        stored: Bundle | None = None
        if secret is not None:
            try:
                stored = Bundle.of(_decoded(secret.get("data") or {}))
            except Rejected as problem:
                log.warning("Secret is malformed, replaced", secret=config.name, problem=str(problem))
        bundle = renewed(stored, config.address.names, config.lifetime, self._clock.now())
        if bundle == stored:
            return bundle
        try:
            if secret is None:
                await self._api.create(SECRETS, self._secret(bundle), namespace)
            else:
                await self._api.replace(SECRETS, {**secret, "data": _encoded(bundle)})
        except Conflict:
            raise NotYet("another replica wrote the Secret first") from None
        except NotFound:
            raise NotYet(f"namespace {namespace} does not exist") from None
        log.info(
            "certificates renewed", secret=f"{namespace}/{config.name}", expiry=bundle.expiry.isoformat()
        )
        return bundle

    def _secret(self, bundle: Bundle) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": self._config.name,
                "namespace": self._config.address.namespace,
                "labels": {"app.kubernetes.io/part-of": "galactic"},
            },
            "type": "kubernetes.io/tls",
            "data": _encoded(bundle),
        }

    async def _register(self, authorities: bytes | None) -> None:
        """Enters the CAs. Raises NotYet while the API server does not ask the webhook, or does not trust it."""
        name = self._config.configurations
        problems = []
        for resource in CONFIGURATIONS:
            stored = await self._api.find(resource, name)
            if stored is None:
                problems.append(f"{resource.kind} {name} does not exist; `helm upgrade` makes it")
            elif authorities is None and not trusts(stored):
                problems.append(f"{resource.kind} {name} has no caBundle; another program enters it")
            elif authorities is not None and (changed := trusting(stored, authorities)) is not None:
                try:
                    await self._api.replace(resource, changed)
                except Conflict:
                    raise NotYet(f"another replica wrote the {resource.kind} first") from None
        if problems:
            raise NotYet("; ".join(problems), reason=UNREGISTERED)

    async def _delete_earlier(self) -> None:
        """Deletes the configurations that the webhooks of earlier versions made, under the Service's name."""
        if self._earlier_deleted or self._config.configurations == self._config.name:
            return
        for resource in CONFIGURATIONS:
            await self._api.delete(resource, self._config.name)
        self._earlier_deleted = True


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotYet(f"{path}: {error.strerror}") from error


def _encoded(bundle: Bundle) -> dict[str, str]:
    return {name: base64.b64encode(value).decode() for name, value in bundle.data().items()}


def _decoded(data: dict[str, str]) -> dict[str, bytes]:
    try:
        return {name: base64.b64decode(value, validate=True) for name, value in data.items()}
    except ValueError as error:
        raise Rejected(f"not base64: {error}", reason="InvalidSecret") from error
