"""The part of a VPCAttachment that the webhook keeps. There are many: a model is twenty times as large."""

from functools import lru_cache
from ipaddress import ip_interface
from sys import intern
from typing import NamedTuple

import msgspec

from galactic.crds.model import Condition
from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import VpcAttachment
from galactic.errors import GalacticError
from galactic.kube.api import Key
from galactic.kube.conditions import ACCEPTED, READY
from galactic.names import ATTACHMENT_LABEL, GENERATED
from galactic.validation.attachment import parse_attachment
from galactic.validation.networks import Network, PackedNetwork, host, packed


class State(NamedTuple):
    """Whether pods can use an object. ``decided``: ready, or the operator has refused its present specification."""

    ready: bool
    decided: bool
    message: str  # of the Ready condition


class AttachmentRecord(msgspec.Struct, frozen=True, gc=False):
    """``networks``: every network that leads to the attachment, or will once the operator has reconciled it; the first
    ``hosts`` of them are its addresses, those in force and the requested ones. ``generated``: made for a
    pod.
    """

    vpc: Key
    interface: str
    state: State
    networks: tuple[PackedNetwork, ...]
    hosts: int
    generated: bool

    @property
    def addresses(self) -> tuple[PackedNetwork, ...]:
        return self.networks[: self.hosts]


def record(attachment: VpcAttachment) -> AttachmentRecord:
    """The record of an attachment as the API server has it."""
    reference = attachment.spec.vpc
    vpc = _key(reference.namespace or attachment.metadata.namespace, reference.name)
    addresses = _addresses(attachment)
    generated = attachment.metadata.labels.get(ATTACHMENT_LABEL) == GENERATED
    networks = dict.fromkeys([*map(packed, addresses), *map(packed, _terminated(attachment))])
    return AttachmentRecord(
        vpc,
        intern(attachment.spec.interface.name),
        state(attachment),
        tuple(networks),
        len(addresses),
        generated,
    )


def state(item: Vpc | VpcAttachment) -> State:
    """Whether pods may use the object."""
    status = item.status
    refused = _refused(status.conditions) and status.observed_generation >= item.metadata.generation
    return _state(status.ready, status.ready or refused, message(status.conditions))


def message(conditions: tuple[Condition, ...]) -> str:
    """The message of the Ready condition."""
    return next((condition.message for condition in conditions if condition.type == READY), "")


def _addresses(attachment: VpcAttachment) -> list[Network]:
    """The addresses in force and the requested ones, as networks of one address."""
    texts = [*attachment.status.addresses]
    if not _refused(attachment.status.conditions):
        texts += attachment.spec.interface.addresses
    addresses: dict[Network, None] = {}
    for text in texts:
        try:
            addresses[host(ip_interface(text).ip)] = None
        except ValueError:
            continue
    return [*addresses]


def _terminated(attachment: VpcAttachment) -> tuple[Network, ...]:
    """The networks that the specification leads to it; none of one that was refused."""
    if _refused(attachment.status.conditions):
        return ()
    try:
        spec = parse_attachment(attachment, None)
        return spec.holds(spec.addresses or tuple(map(ip_interface, attachment.status.addresses)))
    except (GalacticError, ValueError):
        return ()


def _refused(conditions: tuple[Condition, ...]) -> bool:
    """Whether the operator has refused the specification."""
    return any(condition.type == ACCEPTED and condition.status == "False" for condition in conditions)


@lru_cache(maxsize=1 << 14)
def _key(namespace: str, name: str) -> Key:
    """The one object of equal ones: VPCs are few."""
    return namespace, name


@lru_cache(maxsize=1 << 10)
def _state(ready: bool, decided: bool, text: str) -> State:
    """The same for states."""
    return State(ready, decided, text)
