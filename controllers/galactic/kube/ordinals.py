"""StatefulSets and the ordinals of their Pods: pure functions.

A StatefulSet names its Pods itself: ``db-0``, ``db-1``. The Pod that replaces ``db-0`` has the same name.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from galactic.kube.pods import requested_vpc
from galactic.kube.resources import STATEFUL_SETS
from galactic.names import LABEL_LENGTH

_ORDINAL: Final = re.compile(r"(.+)-(0|[1-9][0-9]*)")
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Ordinal:
    """A Pod's place in the StatefulSet that controls it. ``uid``: the StatefulSet's."""

    stateful_set: str
    uid: str
    number: int


@dataclass(frozen=True, slots=True)
class StatefulSet:
    """The part of a StatefulSet that decides which ordinals it has. ``vpc``: VPC_ANNOTATION of its template."""

    uid: str
    replicas: int
    start: int
    vpc: str

    def __contains__(self, number: int) -> bool:
        return self.start <= number < self.start + self.replicas


def parse_stateful_set(item: Mapping[str, Any]) -> StatefulSet:
    """From the API server's object. Without ``spec.replicas`` there is one, the API's default."""
    spec = item.get("spec") or {}
    replicas = spec.get("replicas")
    template = {"metadata": (spec.get("template") or {}).get("metadata") or {}}
    return StatefulSet(
        item["metadata"].get("uid", ""),
        1 if replicas is None else replicas,
        (spec.get("ordinals") or {}).get("start") or 0,
        requested_vpc(template),
    )


def ordinal(pod: str, owners: Iterable[Mapping[str, Any]]) -> Ordinal | None:
    """The place of the Pod with that name and those owner references; None for a Pod of no StatefulSet."""
    for owner in owners:
        group, _, _ = str(owner.get("apiVersion", "")).partition("/")
        if owner.get("controller") and (group, owner.get("kind")) == (
            STATEFUL_SETS.group,
            STATEFUL_SETS.kind,
        ):
            match = _ORDINAL.fullmatch(pod)
            if match and match[1] == owner.get("name") and owner.get("uid"):
                return Ordinal(match[1], str(owner["uid"]), int(match[2]))
    return None


def ordinal_attachment(pod: str) -> str:
    """The attachment of a StatefulSet's Pod: the Pod's name, or where that is no DNS label a part and a hash of it."""
    if len(pod) <= LABEL_LENGTH and _LABEL.fullmatch(pod):
        return pod
    digest = hashlib.blake2b(pod.encode(), digest_size=8).hexdigest()
    stem = pod.replace(".", "-")[: LABEL_LENGTH - 1 - len(digest)].strip("-")
    return f"{stem}-{digest}"
