"""Client certificates at the broker, one a node: their CA, the nodes' requests, and what is issued for one.

The common name is the user at the broker, ``CLUSTER/NODE``. The issuer takes nothing from a request but the public key.
"""

import base64
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from galactic.errors import Rejected
from galactic.kube.api import Object
from galactic.kube.certificates import CERT, KEY, SKEW, builder, usage
from galactic.names import GROUP

SIGNER: Final = f"{GROUP}/broker-node"
"""``spec.signerName`` of the requests."""
LIFETIME: Final = timedelta(hours=24)
AUTHORITY: Final = "galactic-broker-clients"
"""The CA's common name, and its Secret of type kubernetes.io/tls."""
AUTHORITY_LIFETIME: Final = timedelta(days=3650)
LONGEST_NAME: Final = 64
"""Characters of a common name (RFC 5280, ub-common-name)."""


def user(cluster: str, node: str) -> str:
    """The node's user at the broker. Raises Rejected where no certificate can have it."""
    name = f"{cluster}/{node}"
    if len(name) > LONGEST_NAME:
        raise Rejected(
            f"{name} has {len(name)} characters, a certificate's common name {LONGEST_NAME} at the most;"
            " shorten the cluster's name, or give the node a password",
            reason="NameTooLong",
        )
    return name


def generated(name: str) -> tuple[bytes, bytes]:
    """A new private key and a request for its public half (PKCS #10), PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(_subject(name)).sign(key, hashes.SHA256())
    return (
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        request.public_bytes(Encoding.PEM),
    )


def manifest(name: str, request: bytes) -> Object:
    """The CertificateSigningRequest of that name."""
    spec: dict[str, Any] = {
        "signerName": SIGNER,
        "request": base64.b64encode(request).decode(),
        "usages": ["digital signature", "client auth"],
    }
    return {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": name},
        "spec": spec,
    }


def authority(now: datetime) -> dict[str, bytes]:
    """A new CA, as the data of its Secret."""
    key, subject = ec.generate_private_key(ec.SECP256R1()), _subject(AUTHORITY)
    certificate = (
        builder(subject, subject, key.public_key(), now - SKEW, now + AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return {
        CERT: certificate.public_bytes(Encoding.PEM),
        KEY: key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    }


def issued(data: dict[str, bytes], request: bytes, name: str, now: datetime) -> bytes:
    """A certificate with that common name for the request's key. ``data``: of the CA's Secret.

    Raises Rejected: reason InvalidRequest for the request, InvalidAuthority for the CA.
    """
    try:
        asked = x509.load_pem_x509_csr(request)
        proven, key = asked.is_signature_valid, asked.public_key()
    except (ValueError, TypeError, InvalidSignature) as error:
        raise Rejected(f"not a certificate request: {error}", reason="InvalidRequest") from error
    if not proven or not isinstance(key, ec.EllipticCurvePublicKey):
        raise Rejected(
            "the request is not signed by its own key, or that is not an elliptic-curve key",
            reason="InvalidRequest",
        )
    try:
        issuer, signer = x509.load_pem_x509_certificate(data[CERT]), load_pem_private_key(data[KEY], None)
    except (KeyError, ValueError, TypeError) as error:
        raise Rejected(f"no CA with its key: {error}", reason="InvalidAuthority") from error
    if not isinstance(signer, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise Rejected("the CA's key is neither elliptic-curve nor RSA", reason="InvalidAuthority")
    until = min(now + LIFETIME, issuer.not_valid_after_utc)
    if until <= now:
        raise Rejected(f"the CA expired at {issuer.not_valid_after_utc}", reason="InvalidAuthority")
    certificate = (
        builder(_subject(name), issuer.subject, key, now - SKEW, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)


def half_life(pem: bytes, name: str) -> datetime:
    """When the certificate in a file of key and certificate is to be renewed. Raises Rejected unless it is of that
    common name and has its key.
    """
    try:
        certificate, key = x509.load_pem_x509_certificate(pem), load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise Rejected(f"not a certificate with its key: {error}", reason="InvalidCertificate") from error
    if certificate.subject != _subject(name) or _public(certificate.public_key()) != _public(
        key.public_key()
    ):
        raise Rejected(f"not the certificate of {name} with its key", reason="InvalidCertificate")
    since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return since + (until - since) / 2


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _public(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded
