"""Attachments in numbers, kept up to date with each change: a scrape or a VPC's status reads no attachment."""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from galactic.crds.model import Condition
from galactic.crds.vpcattachment import VpcAttachment
from galactic.errors import Rejected
from galactic.kube.api import Key
from galactic.kube.conditions import ATTACHED, READY

NO_STATUS = "NoStatus"
"""The reason of an object without conditions."""


class Mark(NamedTuple):
    """The counted part of an attachment. ``reason``: of a Ready condition that is not True; empty: it is True.

    ``vpc``: the VPC that it belongs to; None for an attachment that does not fit its model. ``unattached``: a pod runs
    without its VPC interface. ``routed``: it has an endpoint.
    """

    reason: str
    vpc: Key | None = None
    ready: bool = False
    unattached: bool = False
    routed: bool = False


class AttachmentCounts:
    """The marks of all attachments, and how many have each."""

    def __init__(self) -> None:
        self._marks: dict[Key, Mark] = {}
        self._counts: Counter[Mark] = Counter()

    def set(self, key: Key, attachment: VpcAttachment | Rejected | None) -> None:
        """The attachment as it is now, or why it does not fit its model; None: it was deleted."""
        old = self._marks.pop(key, None)
        if old is not None:
            self._counts[old] -= 1
            if not self._counts[old]:
                del self._counts[old]
        if attachment is not None:
            mark = self._marks[key] = _shared(_mark(attachment))
            self._counts[mark] += 1

    def __iter__(self) -> Iterator[tuple[Mark, int]]:
        """Each mark, and the number of attachments that have it."""
        return iter(self._counts.items())

    def routed(self, attachments: Iterable[Key]) -> int:
        """The number of those that have an endpoint."""
        marks = self._marks
        return sum(key in marks and marks[key].routed for key in attachments)


def reference(attachment: VpcAttachment) -> Key:
    """The VPC that the specification names."""
    vpc = attachment.spec.vpc
    return vpc.namespace or attachment.metadata.namespace, vpc.name


def settled_vpc(attachment: VpcAttachment) -> Key | None:
    """The VPC that it has belonged to since it was first ready; None before."""
    namespace, _, name = (attachment.status.vpc or "").partition("/")
    return (namespace, name) if name else None


def unready_reason(conditions: tuple[Condition, ...]) -> str:
    """The reason of a Ready condition that is not True; empty: it is True."""
    for condition in conditions:
        if condition.type == READY:
            return "" if condition.status == "True" else condition.reason or NO_STATUS
    return NO_STATUS


def _mark(attachment: VpcAttachment | Rejected) -> Mark:
    if isinstance(attachment, Rejected):
        return Mark(attachment.reason)
    status = attachment.status
    return Mark(
        unready_reason(status.conditions),
        settled_vpc(attachment) or reference(attachment),
        status.ready,
        any(condition.type == ATTACHED and condition.status == "False" for condition in status.conditions),
        status.endpoint is not None,
    )


@lru_cache(maxsize=1 << 14)
def _shared(mark: Mark) -> Mark:
    """The one object of equal ones: a few a VPC."""
    return mark
