"""Our own CA and the serving certificate, and when each is renewed: a value and a pure step.

    one CA ── two CAs, the old one's certificate served ── two CAs, the new one's ── one CA

Each arrow waits for ``overlap``, so that the API server knows the new CA before the first certificate of it is
served, and every replica serves that before the old CA is removed. Clients can verify every certificate at any time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from galactic.errors import Rejected

AUTHORITY: Final = "galactic-webhook-ca"
CA_CERT, CA_KEY, CERT, KEY = "ca.crt", "ca.key", "tls.crt", "tls.key"
SKEW: Final = timedelta(minutes=5)
"""How much slower the clocks of other machines may be."""


@dataclass(frozen=True, slots=True)
class Lifetime:
    """How long a CA is valid, and the periods derived from it."""

    total: timedelta

    @property
    def renewal(self) -> timedelta:
        """The age at which a successor is made. A third is left to notice a failure."""
        return self.total * 2 / 3

    @property
    def overlap(self) -> timedelta:
        """How long each step of a change of the CA takes."""
        return min(self.total / 12, timedelta(hours=1))

    @property
    def skew(self) -> timedelta:
        return min(self.total / 24, SKEW)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate, or several with the newest first, and the newest one's key; PEM."""

    certificates: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Bundle:
    """Shared by the replicas: the CAs to trust, the newest one's key, the certificate to serve."""

    ca: Pair
    serving: Pair

    def data(self) -> dict[str, bytes]:
        """As the data of a Secret of type kubernetes.io/tls."""
        return {
            CA_CERT: self.ca.certificates,
            CA_KEY: self.ca.key,
            CERT: self.serving.certificates,
            KEY: self.serving.key,
        }

    @classmethod
    def of(cls, data: Mapping[str, bytes]) -> Self:
        """From a Secret's data. Raises Rejected where that is malformed."""
        try:
            bundle = cls(Pair(data[CA_CERT], data[CA_KEY]), Pair(data[CERT], data[KEY]))
            fitting = _fits(bundle.ca) and _fits(bundle.serving)
        except (KeyError, ValueError, TypeError) as error:
            raise Rejected(f"not a bundle of certificates: {error}", reason="InvalidSecret") from error
        if not fitting:
            raise Rejected("key and certificate do not belong together", reason="InvalidSecret")
        return bundle

    @property
    def expiry(self) -> datetime:
        """When the certificate that is served expires."""
        return _certificates(self.serving.certificates)[0].not_valid_after_utc


def renewed(bundle: Bundle | None, names: Sequence[str], lifetime: Lifetime, now: datetime) -> Bundle:
    """The bundle as it should be now, at most one step further; the same one where no step has to be made."""
    if bundle is None:
        ca = _authority(lifetime, now)
        return Bundle(ca, _serving(ca, names, lifetime, now))
    newest, *older = _certificates(bundle.ca.certificates)
    (serving,) = _certificates(bundle.serving.certificates)
    if now >= serving.not_valid_after_utc or now >= newest.not_valid_after_utc:
        return renewed(None, names, lifetime, now)  # expired: nothing is left to overlap with
    signed_by_newest = _signed(serving, newest)
    if _age(newest, lifetime, now) >= lifetime.renewal and signed_by_newest:
        ca = _authority(lifetime, now)
        return replace(bundle, ca=Pair(ca.certificates + _pem(newest), ca.key))
    foreign = _names(serving) != {str(_alternative(name).value) for name in names}
    trusted = _age(newest, lifetime, now) >= lifetime.overlap
    if foreign or (not signed_by_newest and trusted):
        return replace(bundle, serving=_serving(bundle.ca, names, lifetime, now))
    if older and signed_by_newest and _age(serving, lifetime, now) >= lifetime.overlap:
        return replace(bundle, ca=Pair(_pem(newest), bundle.ca.key))
    return bundle


def _authority(lifetime: Lifetime, now: datetime) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{AUTHORITY}-{int(now.timestamp())}")])
    certificate = (
        builder(name, name, key.public_key(), now - lifetime.skew, now + lifetime.total)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Pair(_pem(certificate), _private(key))


def _serving(ca: Pair, names: Sequence[str], lifetime: Lifetime, now: datetime) -> Pair:
    """A certificate of the newest CA, for as long as that is valid."""
    issuer, *_ = _certificates(ca.certificates)
    authority, key = _key(ca.key), ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "galactic-webhook")])
    until = issuer.not_valid_after_utc
    certificate = (
        builder(subject, issuer.subject, key.public_key(), now - lifetime.skew, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False
        )
        .sign(authority, hashes.SHA256())
    )
    return Pair(_pem(certificate), _private(key))


def self_signed(names: Sequence[str], now: datetime, lifetime: timedelta) -> Pair:
    """A serving certificate that is its own CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "galactic")])
    certificate = (
        builder(name, name, key.public_key(), now - SKEW, now + lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Pair(_pem(certificate), _private(key))


def builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, since: datetime, until: datetime
) -> x509.CertificateBuilder:
    """A certificate for that key between two times, with the fields that all of ours have (RFC 5280, 4.1)."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """Of a CA's key, or of one that proves who its holder is (RFC 5280, 4.2.1.3)."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _names(certificate: x509.Certificate) -> set[str]:
    alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in alternatives}


def _age(certificate: x509.Certificate, lifetime: Lifetime, now: datetime) -> timedelta:
    return now - (certificate.not_valid_before_utc + lifetime.skew)


def _signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _fits(pair: Pair) -> bool:
    return _key(pair.key).public_key() == _certificates(pair.certificates)[0].public_key()


def _certificates(pem: bytes) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(pem)


def _key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("not an elliptic-curve key")
    return key


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
