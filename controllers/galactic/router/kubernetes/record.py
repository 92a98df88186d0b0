"""The part of a VPCAttachment that the router keeps. There are many: a model of the whole has ten times the size."""

from functools import lru_cache
from sys import intern
from typing import Any, TypeVar

import msgspec

from galactic.crds.vpcattachment import AttachedEndpoint, VpcAttachment
from galactic.errors import Rejected
from galactic.kube.api import Key
from galactic.kube.conditions import CONFLICT
from galactic.names import parse_function

T = TypeVar("T")


class RecordedEndpoint(msgspec.Struct, frozen=True, gc=False):
    """``VPCAttachment.status.endpoint``: where the attachment is."""

    cluster: str
    node: str
    sid: str
    networks: tuple[str, ...]
    epoch: int
    revision: int
    since: str

    @property
    def identity(self) -> tuple[object, ...]:
        """The fields that follow from the table, without the record's time and revision."""
        return self.cluster, self.node, self.sid, self.networks, self.epoch

    def document(self) -> dict[str, Any]:
        """The endpoint as the API server stores it."""
        return AttachedEndpoint(
            cluster=self.cluster,
            node=self.node,
            sid=self.sid,
            networks=self.networks,
            epoch=self.epoch,
            revision=self.revision,
            since=self.since,
        ).model_dump(mode="json", by_alias=True)


class AttachmentRecord(msgspec.Struct, frozen=True, gc=False):
    """``vpc``: the key of its VPC. ``function``: None while the operator has assigned none.

    ``nodes``: those of its carriers; None: the operator writes no carriers yet. ``conflict``: the message of the
    condition Conflict where that is True, else empty.
    """

    uid: str
    vpc: Key
    function: int | None
    nodes: frozenset[str] | None
    endpoint: RecordedEndpoint | None
    conflict: str


def record(attachment: VpcAttachment) -> AttachmentRecord:
    """The record of an attachment as the API server has it."""
    status = attachment.status
    carriers, endpoint = status.carriers, status.endpoint
    return AttachmentRecord(
        attachment.metadata.uid,
        vpc_key(attachment),
        _function(status.identifier),
        None if carriers is None else _shared(frozenset(carrier.node for carrier in carriers)),
        None if endpoint is None else _endpoint(endpoint),
        conflict(attachment),
    )


def conflict(attachment: VpcAttachment) -> str:
    """The message of the condition Conflict where it is True, else empty."""
    found = (
        condition.message
        for condition in attachment.status.conditions
        if condition.type == CONFLICT and condition.status == "True"
    )
    return next(found, "")


def vpc_key(attachment: VpcAttachment) -> Key:
    """The attachment's VPC. Its status counts, as spec.vpc may have been changed against the rules."""
    if attachment.status.vpc:
        namespace, _, name = attachment.status.vpc.partition("/")
        key: Key = (namespace, name)
    else:
        reference = attachment.spec.vpc
        key = (reference.namespace or attachment.metadata.namespace, reference.name)
    known: Key = _shared(key)
    return known


def _function(identifier: str | None) -> int | None:
    try:
        return parse_function(identifier) if identifier else None
    except Rejected:
        return None


def _endpoint(endpoint: AttachedEndpoint) -> RecordedEndpoint:
    return RecordedEndpoint(
        intern(endpoint.cluster),
        intern(endpoint.node),
        endpoint.sid,
        endpoint.networks,
        endpoint.epoch,
        endpoint.revision,
        endpoint.since,
    )


@lru_cache(maxsize=1 << 14)
def _shared(value: T) -> T:
    """The one object of equal ones: VPCs and nodes are few."""
    return value
