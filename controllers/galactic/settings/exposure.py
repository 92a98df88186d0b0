"""Connections that others on the way could read: sentences for logs and conditions. No refusals, as trials use them."""

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

ENCRYPTED: Final = ("mqtts", "wss")
VERIFIED: Final = ("verify-ca", "verify-full")
DEFAULT_MODE: Final = "prefer"
"""libpq's own (PostgreSQL, "SSL Support"): encrypts if the server offers it, without a check of the server."""


def mqtt_password(url: str) -> str | None:
    """The problem of a password that is sent to the broker of this URL; None where there is none."""
    parts = urlsplit(url)
    if parts.scheme in ENCRYPTED or _local(parts.hostname or ""):
        return None
    other = "wss" if parts.scheme == "ws" else "mqtts"
    return (
        f"mqtt_url: {parts.scheme}:// sends the password of mqtt_username to {parts.hostname} unencrypted; "
        f"give {other}://"
    )


def database(url: str, environment: Mapping[str, str]) -> str | None:
    """The problem of a connection to the PostgreSQL of this URL; None where there is none.

    ``environment``: libpq's variables PGSSLMODE and PGHOST stand in for what the URL does not have.
    """
    parts = urlsplit(url)
    given = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    root = given.get("sslrootcert", environment.get("PGSSLROOTCERT", ""))
    default = "verify-full" if root == "system" else DEFAULT_MODE
    mode = given.get("sslmode") or environment.get("PGSSLMODE") or default
    text = given.get("host") or _hosts(parts.netloc) or environment.get("PGHOST", "")
    remote = [host for host in text.split(",") if not _local(host)]
    if mode in VERIFIED or not remote:
        return None
    consequence = (
        "does not check the server's certificate"
        if mode == "require"
        else "may send the password unencrypted"
    )
    return (
        f"database_url: sslmode {mode} {consequence} ({', '.join(remote)}); "
        "give sslmode=verify-full, and sslrootcert with the CA"
    )


def _hosts(netloc: str) -> str:
    """The hosts of a libpq URL, with commas in between, without their ports."""
    hosts = []
    for one in netloc.rpartition("@")[2].split(","):
        bracketed = one.startswith("[")
        hosts.append(one[1:].partition("]")[0] if bracketed else one.partition(":")[0])
    return ",".join(unquote(host) for host in hosts if host)


def _local(host: str) -> bool:
    """Whether packets to the host stay on this machine. An empty host and a path are libpq's Unix sockets."""
    if host.startswith(("/", "@")) or host in ("", "localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
