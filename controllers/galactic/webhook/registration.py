"""Keeps certificate and configurations as they have to be: asked again and again, each time what differs is mended.

Replicas share the certificates through a Secret. Who comes second finds what the first one made; who writes onto an
older state than there is, is refused by the API server and looks again.
"""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import structlog
from cryptography import x509

from galactic.errors import GalacticError, NotYet, Rejected
from galactic.kube.api import Api, Conflict, NotFound
from galactic.kube.certificates import Bundle, Lifetime, renewed
from galactic.kube.namespaces import ADMISSION_LABEL, IGNORED, to_be_labelled
from galactic.kube.resources import NAMESPACES, SECRETS
from galactic.webhook.configuration import (
    ClientConfig,
    Policy,
    configurations,
    merged,
)
from galactic.webhook.metrics import Metrics
from galactic.webhook.nodesegment import NO_IDENTITIES, Identities
from galactic.webhook.server import Certificate

log = structlog.get_logger(__name__)
LONGEST_PAUSE: Final = 30.0
RETRY_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Files:
    """A certificate that others make, cert-manager or whoever filled a Secret. ``ca`` None: they enter the CAs too."""

    certificate: Path
    key: Path
    ca: Path | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be kept. ``files`` None: certificates of our own. ``configure``: the configurations, too.

    ``nodes``: users that are a node.
    """

    name: str
    client_config: ClientConfig
    configure: bool
    lifetime: Lifetime
    files: Files | None = None
    pod_policy: Policy = "Fail"
    nodes: Identities = NO_IDENTITIES


class Registration:
    """``run`` never returns. ``ready`` is set once there is a certificate and the API server asks us."""

    def __init__(
        self,
        api: Api,
        wanted: Wanted,
        certificate: Certificate,
        metrics: Metrics,
        version: tuple[int, int],
        *,
        report: Callable[[str | None], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._api, self._wanted, self._certificate, self._metrics = api, wanted, certificate, metrics
        self._version, self._report, self._now, self._sleep = version, report, now, sleep
        self._loaded: tuple[bytes, bytes] | None = None
        self.ready = asyncio.Event()

    @property
    def pause(self) -> float:
        """Seconds from one look to the next: several within each step of a change of certificates."""
        return min(LONGEST_PAUSE, self._wanted.lifetime.overlap.total_seconds() / 4)

    async def load(self) -> None:
        """Returns with a certificate in service: only then the API server may be told to ask us."""
        while not await self._done(self._certify):
            await self._sleep(min(RETRY_SECONDS, self.pause))

    async def run(self) -> None:
        while True:
            if await self._done(self.keep):
                self.ready.set()
                await self._sleep(self.pause)
            else:
                await self._sleep(min(RETRY_SECONDS, self.pause))

    async def keep(self) -> None:
        """One look. Raises Rejected, NotYet or Unreachable."""
        authorities = await self._certify()
        if self._wanted.configure:
            text = None if authorities is None else base64.b64encode(authorities).decode()
            await self._configure(replace(self._wanted.client_config, bundle=text))

    async def _done(self, work: Callable[[], Awaitable[object]]) -> bool:
        try:
            await work()
        except GalacticError as error:
            self._report(str(error))
            log.warning("certificate or configuration not kept", error=str(error))
            return False
        self._report(None)
        return True

    async def _certify(self) -> bytes | None:
        """Puts the certificate in service. The CAs (PEM) to be entered, None where others do that."""
        wanted = self._wanted
        if wanted.files is None:
            bundle = await self._bundle()
            self._load(bundle.serving.certificates, bundle.serving.key)
            return bundle.ca.certificates
        self._load(_read(wanted.files.certificate), _read(wanted.files.key))
        return _read(wanted.files.ca) if wanted.files.ca else None

    async def _bundle(self) -> Bundle:
        """What the replicas share, one step further if that is due."""
        wanted, namespace = self._wanted, self._wanted.client_config.namespace
        secret = await self._api.find(SECRETS, wanted.name, namespace)
        there: Bundle | None = None
        if secret is not None:
            try:
                there = Bundle.of(_decoded(secret.get("data") or {}))
            except Rejected as problem:
                log.warning("Secret not understood, made anew", secret=wanted.name, problem=str(problem))
        bundle = renewed(there, wanted.client_config.names, wanted.lifetime, self._now())
        if bundle == there:
            return bundle
        try:
            if secret is None:
                await self._api.create(SECRETS, self._secret(bundle), namespace)
            else:
                await self._api.replace(SECRETS, {**secret, "data": _encoded(bundle)})
        except Conflict:
            raise NotYet("another replica was faster") from None
        except NotFound:
            raise NotYet(f"namespace {namespace} does not exist") from None
        log.info(
            "certificates renewed", secret=f"{namespace}/{wanted.name}", expiry=bundle.expiry.isoformat()
        )
        return bundle

    def _secret(self, bundle: Bundle) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": self._wanted.name,
                "namespace": self._wanted.client_config.namespace,
                "labels": {"app.kubernetes.io/part-of": "galactic"},
            },
            "type": "kubernetes.io/tls",
            "data": _encoded(bundle),
        }

    def _load(self, certificate: bytes, key: bytes) -> None:
        if self._loaded != (certificate, key):
            self._certificate.load(certificate, key)
            self._loaded = certificate, key
            expiry = x509.load_pem_x509_certificates(certificate)[0].not_valid_after_utc
            self._metrics.loaded(expiry)
            log.info("certificate in service", expiry=expiry.isoformat())

    async def _configure(self, client_config: ClientConfig) -> None:
        wanted = self._wanted
        for namespace in to_be_labelled(client_config.namespace, self._version):
            found = await self._api.find(NAMESPACES, namespace)
            if found is not None and (found["metadata"].get("labels") or {}).get(ADMISSION_LABEL) != IGNORED:
                patch = {"metadata": {"labels": {ADMISSION_LABEL: IGNORED}}}
                await self._api.patch(NAMESPACES, namespace, patch)
        for resource, manifest in configurations(
            wanted.name, client_config, self._version, wanted.pod_policy, wanted.nodes
        ):
            there = await self._api.find(resource, wanted.name)
            try:
                if there is None:
                    await self._api.create(resource, manifest)
                elif (better := merged(there, manifest)) is not None:
                    await self._api.replace(resource, better)
            except Conflict:
                raise NotYet("another replica was faster") from None


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
