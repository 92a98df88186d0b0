"""The limits that a broker announces when a session begins (CONNACK, MQTT 5 §3.2.2.3): obeyed, or refused.

A broker of MQTT 3.1.1 announces none. The server's keep alive is obeyed by paho itself.
"""

from typing import Any, Final, NamedTuple

from galactic.errors import GalacticError
from galactic.messages import MAX_PAYLOAD, MIN_PAYLOAD

WINDOW: Final = 200
"""Publishes in flight at once."""
ENVELOPE: Final = 1024
"""Bytes of a PUBLISH around its payload, more than enough: topic, identifier and properties."""


class UnsuitableBroker(GalacticError):
    """The broker lacks something that nothing replaces."""

    reason = "BrokerLimits"


class Limits(NamedTuple):
    """``payload``: bytes of the largest payload. ``inflight``: publishes without PUBACK."""

    payload: int = MAX_PAYLOAD
    inflight: int = WINDOW


def limits(properties: Any) -> Limits:
    """By the properties of a CONNACK, where a property that is missing is no limit. Raises UnsuitableBroker."""

    def announced(name: str, otherwise: int) -> int:
        return int(getattr(properties, name, otherwise))

    packet = announced("MaximumPacketSize", MAX_PAYLOAD + ENVELOPE)
    if packet < MIN_PAYLOAD + ENVELOPE:
        raise UnsuitableBroker(
            f"the broker takes packets of at most {packet} bytes, and Galactic needs {MIN_PAYLOAD + ENVELOPE}:"
            " raise the broker's maximum packet size"
        )
    if not announced("RetainAvailable", 1):
        raise UnsuitableBroker(
            "the broker retains no messages, and Galactic's registrations and tables are retained: enable retained"
            " messages there"
        )
    if announced("MaximumQoS", 1) < 1:
        raise UnsuitableBroker("the broker's maximum QoS is 0, and Galactic needs 1: raise it there")
    if not announced("WildcardSubscriptionAvailable", 1):
        raise UnsuitableBroker(
            "the broker has no wildcard subscriptions, and Galactic needs them: enable them there"
        )
    return Limits(
        min(packet - ENVELOPE, MAX_PAYLOAD), max(1, min(WINDOW, announced("ReceiveMaximum", WINDOW)))
    )
