"""Reasons of a failed connection: a word for metrics, a sentence with a remedy for people."""

import socket
import ssl
from typing import Final

from paho.mqtt.client import WebsocketConnectionError
from paho.mqtt.reasoncodes import ReasonCode

from galactic.bus.limits import UnsuitableBroker
from galactic.errors import GalacticError

_EXPIRED: Final = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
_NAMES: Final = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_REFUSED: Final = {
    "Bad user name or password": "BadCredentials",
    "Not authorized": "NotAuthorized",
    "Banned": "NotAuthorized",
    "Client identifier not valid": "ClientIdRefused",
    "Server unavailable": "BrokerBusy",
    "Server busy": "BrokerBusy",
}
_KINDS: Final[tuple[tuple[type[BaseException], str, str], ...]] = (
    (ssl.SSLError, "TlsFailed", "no TLS with the broker: {}; is it a TLS port?"),
    (WebsocketConnectionError, "NoWebSocket", "{}; check port and path of mqtt_url"),
    (socket.gaierror, "NameUnknown", "the broker's host name is unknown: {}"),
    (ConnectionRefusedError, "ConnectionRefused", "nothing listens at that address: {}"),
    (TimeoutError, "Timeout", "the broker does not answer: {}"),
    (ConnectionError, "Lost", "{}"),
    (ValueError, "BadCredentialFiles", "{}"),
)


class Refused(GalacticError):
    """The broker answered CONNECT with a failure."""

    def __init__(self, code: ReasonCode) -> None:
        super().__init__(f"the broker refused the connection: {code}")
        self.reason = _REFUSED.get(code.getName(), "Refused")


class Lost(ConnectionError):
    """The connection ended before the broker had answered CONNECT."""


def failure(error: BaseException) -> tuple[str, str]:
    """(CamelCase reason, sentence with a remedy where there is one)."""
    if isinstance(error, Refused | UnsuitableBroker):
        remedy = {
            "BadCredentials": "; check mqtt_username and mqtt_password",
            "NotAuthorized": "; check mqtt_username, its password, and the broker's access list",
        }
        return error.reason, f"{error}{remedy.get(error.reason, '')}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return _certificate(error)
    text = str(error) or repr(error)
    if alert := _alert(text):
        return alert
    if "EOF occurred in violation" in text:
        return "Lost", f"{text}; a broker that refuses the client certificate may end so: see its log"
    for kind, reason, sentence in _KINDS:
        if isinstance(error, kind):
            return reason, sentence.format(text)
    return "Unreachable", text


def _certificate(error: ssl.SSLCertVerificationError) -> tuple[str, str]:
    problem = f"the broker's certificate is not trusted: {error.verify_message}"
    if error.verify_code in _EXPIRED:
        return "CertificateExpired", f"{problem}; renew it, or correct this machine's clock"
    if error.verify_code in _NAMES:
        return "CertificateName", f"{problem}; it must name the host of mqtt_url"
    return "UnknownAuthority", f"{problem}; check mqtt_ca_file"


def _alert(text: str) -> tuple[str, str] | None:
    """The broker's TLS alert about the client certificate; with TLS 1.3 after the handshake (RFC 8446 §6.2)."""
    upper = text.upper().replace(" ", "_")
    if "ALERT" not in upper:
        return None
    if "CERTIFICATE_EXPIRED" in upper:
        return (
            "ClientCertificateExpired",
            f"the broker refuses the client certificate: it has expired ({text})",
        )
    if "CERTIFICATE_REQUIRED" in upper or "HANDSHAKE_FAILURE" in upper:
        return (
            "ClientCertificateMissing",
            f"the broker requires a client certificate: give mqtt_cert_file ({text})",
        )
    if "UNKNOWN_CA" in upper or "CERTIFICATE" in upper:
        return (
            "ClientCertificateRefused",
            f"the broker refuses the client certificate: its CA is unknown there, or it is revoked ({text})",
        )
    return "TlsFailed", f"the broker ended TLS: {text}"
