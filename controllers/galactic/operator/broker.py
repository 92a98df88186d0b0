"""galactic-broker-credentials: certificate and passwords of the chart's own broker, made once and kept in Secrets.

Helm makes the Secrets before any pod (templates/broker-secrets.yaml), where it has a cluster to look into: a pod whose
Secret is missing waits in FailedMount for up to two minutes. This program makes what is missing, and renews. It runs
before Mosquitto in the pod. ``galactic-broker`` has what only the broker needs, ``galactic-broker-node``
and ``galactic-broker-router`` what their clients mount: ``username``, ``password``, ``ca.crt``. What is there already
stays as it is, so that an upgrade changes no password; a Secret that was deleted is made anew, and its clients read the
new password with their next connection. A chart alone cannot do that: what it makes up differs each time it is
rendered.
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
"""Of PBKDF2. The passwords have 192 random bits: it is not the iterations that guard them."""


class CredentialsSettings(Settings):
    """Certificate and passwords for the chart's own broker."""

    namespace: str = Field(default="galactic-system", description="namespace of the broker and its Secrets")
    directory: Path = Field(
        default=Path("/etc/mosquitto"), description="where tls.crt, tls.key and passwords are written"
    )


async def credentials(api: Api, namespace: str, now: datetime) -> dict[str, bytes]:
    """The broker's files by name, after everything that lacked was made. Raises GalacticError."""
    names = tuple(f"{NAME}.{namespace}{suffix}" for suffix in ("", ".svc", ".svc.cluster.local"))
    secret = await api.find(SECRETS, NAME, namespace)
    there: Bundle | None = None
    if secret is not None:
        try:
            there = Bundle.of(_decoded(secret))
        except Rejected as problem:
            log.warning("Secret not understood, made anew", secret=NAME, problem=str(problem))
    bundle = renewed(there, names, LIFETIME, now)
    if bundle != there:
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
    known = _decoded(secret) if secret is not None else {}
    password = known.get("password") or secrets.token_urlsafe(24).encode()
    wanted = {"username": user.encode(), "password": password, "ca.crt": authorities}
    if known != wanted:
        await _write(api, namespace, name, secret, wanted)
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
    log.info("made", secret=f"{namespace}/{name}")


def _decoded(secret: Object) -> dict[str, bytes]:
    return {name: base64.b64decode(value) for name, value in (secret.get("data") or {}).items()}


def write(directory: Path, files: Mapping[str, bytes]) -> None:
    """The files, for their owner alone to read."""
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
            except Conflict:  # another pod of the broker is at it as well: what it made is taken
                continue
            return write(settings.directory, files)
    raise Rejected("others keep changing the Secrets", field="namespace")


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
