"""galactic-broker-credentials: certificate and passwords of the chart's own broker, kept in Secrets.

Helm makes the Secrets before any pod (templates/broker-secrets.yaml) where it can read the cluster: a pod whose Secret
is missing waits in FailedMount for up to two minutes. This program makes missing Secrets, and renews certificates. It
runs before Mosquitto in the pod. ``galactic-broker`` is for the broker alone; ``galactic-broker-node`` and
``galactic-broker-router`` have what their clients mount: ``username``, ``password``, ``ca.crt``. Passwords stay, so
that an upgrade changes none. A deleted Secret gets a new password, which its clients read with their next connection. A
chart alone cannot do that: it generates other values each time it is rendered.
"""

import asyncio
import base64
import hashlib
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import structlog
from pydantic import Field

from galactic.errors import GalacticError, Rejected
from galactic.kube.api import Api, Conflict, Object
from galactic.kube.certificates import CERT, KEY, Bundle, Lifetime, renewed
from galactic.kube.client import connect
from galactic.kube.resources import SECRETS
from galactic.launch import configure_logs
from galactic.settings import Settings, load

log = structlog.get_logger(__name__)
PROGRAM: Final = "galactic-broker-credentials"
NAME: Final = "galactic-broker"
CLIENTS: Final = ("node", "router")
LIFETIME: Final = Lifetime(timedelta(days=3650))
ITERATIONS: Final = 20_000
"""Of PBKDF2. A password has 192 random bits, so few iterations are enough."""


class CredentialsSettings(Settings):
    """Certificate and passwords for the chart's own broker."""

    namespace: str = Field(default="galactic-system", description="namespace of the broker and its Secrets")
    directory: Path = Field(
        default=Path("/etc/mosquitto"), description="where tls.crt, tls.key and passwords are written"
    )


async def credentials(api: Api, namespace: str, now: datetime) -> dict[str, bytes]:
    """The broker's files by name; makes missing Secrets first. Raises GalacticError."""
    names = tuple(f"{NAME}.{namespace}{suffix}" for suffix in ("", ".svc", ".svc.cluster.local"))
    secret = await api.find(SECRETS, NAME, namespace)
    stored: Bundle | None = None
    if secret is not None:
        try:
            stored = Bundle.of(_decoded(secret))
        except Rejected as problem:
            log.warning("Secret is malformed, replaced", secret=NAME, problem=str(problem))
    bundle = renewed(stored, names, LIFETIME, now)
    if bundle != stored:
        await _write(api, namespace, NAME, secret, bundle.data())
    lines = [await _client(api, namespace, client, bundle.ca.certificates) for client in CLIENTS]
    return {
        CERT: bundle.serving.certificates,
        KEY: bundle.serving.key,
        "passwords": "".join(lines).encode(),
    }


async def _client(api: Api, namespace: str, client: str, authorities: bytes) -> str:
    """The client's line in the broker's password file."""
    name, user = f"{NAME}-{client}", f"galactic-{client}"
    secret = await api.find(SECRETS, name, namespace)
    data = _decoded(secret) if secret is not None else {}
    password = data.get("password") or secrets.token_urlsafe(24).encode()
    complete = {"username": user.encode(), "password": password, "ca.crt": authorities}
    if data != complete:
        await _write(api, namespace, name, secret, complete)
    return f"{user}:{hashed(password, secrets.token_bytes(12))}\n"


def hashed(password: bytes, salt: bytes) -> str:
    """As ``mosquitto_passwd`` writes it: ``$7$iterations$salt$hash``, PBKDF2 with SHA-512."""
    value = hashlib.pbkdf2_hmac("sha512", password, salt, ITERATIONS)
    return f"$7${ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(value).decode()}"


async def _write(
    api: Api, namespace: str, name: str, secret: Object | None, data: Mapping[str, bytes]
) -> None:
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    if secret is None:
        meta: dict[str, Any] = {
            "name": name,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/part-of": "galactic"},
        }
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque", "data": encoded}
        await api.create(SECRETS, body, namespace)
    else:
        await api.replace(SECRETS, {**secret, "data": encoded})
    log.info("Secret written", secret=f"{namespace}/{name}")


def _decoded(secret: Object) -> dict[str, bytes]:
    return {name: base64.b64decode(value) for name, value in (secret.get("data") or {}).items()}


def write(directory: Path, files: Mapping[str, bytes]) -> None:
    """Writes the files, readable for their owner alone."""
    for name, value in files.items():
        path = directory / name
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(value)


async def _run(settings: CredentialsSettings) -> None:
    async with await connect() as kube:
        for _ in range(3):
            try:
                files = await credentials(kube, settings.namespace, datetime.now(UTC))
            except Conflict:  # another pod of the broker wrote first: its values are used
                continue
            return write(settings.directory, files)
    raise Rejected("another client changes the Secrets all the time; end it", field="namespace")


def main() -> None:
    """The console script."""
    settings = load(CredentialsSettings, program=PROGRAM)
    configure_logs(settings.log_level, settings.log_format)
    try:
        asyncio.run(_run(settings))
    except (GalacticError, OSError) as error:
        raise SystemExit(f"{PROGRAM}: {error}") from error


if __name__ == "__main__":
    main()
