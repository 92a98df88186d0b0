"""Certificates made on the spot, and a Mosquitto with the listeners that a test wants."""

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from strictness import make_contexts_strict
from waits import until

from galactic.bus import client, inflight, paho
from galactic_lab.controlplane.mosquitto import Mosquitto

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    cert: Path
    key: Path

    def encrypted(self) -> Path:
        """The same key with a passphrase."""
        key = serialization.load_pem_private_key(self.key.read_bytes(), None)
        path = self.key.with_suffix(".encrypted")
        path.write_bytes(_pem(key, b"secret"))
        return path


class Authority:
    """A CA of the test's own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._builder(self._subject, self._key, NOW - 2 * DAY, NOW + DAY).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.cert = folder / f"{name}.pem"
        self.cert.write_bytes(
            certificate.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )

    def issue(self, name: str, *, hosts: tuple[str, ...] = (), expired: bool = False) -> Pair:
        """A certificate for that common name; ``hosts`` are its names and addresses as a server."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(subject, key, NOW - 2 * DAY, NOW - DAY if expired else NOW + DAY)
        if hosts:
            names = [x509.IPAddress(ip_address(h)) if h[0].isdigit() else x509.DNSName(h) for h in hosts]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        stem = self.folder / f"{self.name}-{name.replace('/', '_')}{'-expired' if expired else ''}"
        pair = Pair(stem.with_suffix(".crt"), stem.with_suffix(".key"))
        pair.cert.write_bytes(
            builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )
        pair.key.write_bytes(_pem(key))
        return pair

    def _builder(self, subject, key, start, end) -> x509.CertificateBuilder:
        """Without key usage and the identifiers of keys (RFC 5280 §4.2.1), as many private CAs make them."""
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
        )


def _pem(key, passphrase: bytes | None = None) -> bytes:
    encryption = (
        serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, encryption
    )


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path)
    yield broker
    broker.kill()


@pytest.fixture
def authority(tmp_path: Path) -> Callable[[str], Authority]:
    return lambda name: Authority(tmp_path, name)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long time-outs, for slow machines.

    But the keep-alive is short enough for a Mosquitto that stops in the middle of a WebSocket frame: it continues then.
    """
    monkeypatch.setattr(inflight, "PUBACK_SECONDS", 600.0)
    monkeypatch.setattr(paho, "KEEPALIVE_SECONDS", 60)
    monkeypatch.setattr(paho, "SAME_SECONDS", 3600.0)
    monkeypatch.setattr(client, "CONNECT_SECONDS", 60.0)


@pytest.fixture(autouse=True)
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    make_contexts_strict(monkeypatch)


@pytest.fixture(name="until")
def _until() -> Callable[..., object]:
    return until
