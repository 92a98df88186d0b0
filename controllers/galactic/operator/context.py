"""The reconcilers' shared context: caches, allocator, queue, and writers of status and finalizers."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Network
from types import MappingProxyType
from typing import Any, Final, Literal

from galactic.crds.model import Condition, Meta, Model
from galactic.kube.api import Api, Key, NotFound
from galactic.kube.conditions import PEERED, READY, status_patch
from galactic.kube.resources import NODE_SEGMENTS, VPC_ATTACHMENTS, VPC_GATEWAYS, VPC_POLICIES, VPCS, Resource
from galactic.kube.workqueue import WorkQueue
from galactic.names import GROUP
from galactic.operator.allocator import Allocator
from galactic.operator.dropped_fields import DroppedFields
from galactic.operator.events import Events
from galactic.operator.state import Caches
from galactic.validation.networks import Network

FINALIZER: Final = f"{GROUP}/in-use"
"""On a VPC with attachments, and on an attachment with a live pod or an endpoint: it stays until these are gone."""

Kind = Literal["vpc", "attachment", "segment", "node", "pod", "service", "policy", "policyslice", "gateway"]
Item = tuple[Kind, Key]
_ITEMS: Final[Mapping[str, Kind]] = {
    VPCS.plural: "vpc",
    VPC_ATTACHMENTS.plural: "attachment",
    NODE_SEGMENTS.plural: "segment",
    VPC_POLICIES.plural: "policy",
    VPC_GATEWAYS.plural: "gateway",
}
OUTDATED_SECONDS: Final = 60.0
"""Between two writes of a status that the API server keeps a part of."""


def _first(item: Item) -> bool:
    """Attachments depend on all other kinds but Services, so these go before them."""
    return item[0] not in ("attachment", "service", "gateway")


@dataclass(frozen=True, slots=True)
class Rules:
    """The operator's settings that reconcilers need."""

    srv6_block: IPv6Network | None = None
    strict: bool = False  # refuse addresses outside the VPC's networks instead of warning
    mtu: int = 0  # of attachments; 0: the node's choice
    segments: Mapping[str, str] = field(default_factory=dict)  # Node → prefix, where it has no annotation
    pool: IPv6Network | None = None  # the other Nodes get their prefixes from it
    pool_length: int = 56
    cluster: str = "default"
    pool_rest: float = 0.0  # seconds before a prefix that was given back is given again
    router_outside: bool = False  # the router does not write endpoints into this cluster's objects
    unattached_after: float = 30.0  # seconds for which a pod may run without its VPC interface
    evict_unattached: bool = False
    namespace_networks: int = 0  # that another namespace may hold in a VPC; 0: any number
    remove_node_taint: bool = True
    set_node_taint: bool = False
    scaled_down_retention: float = (
        86400.0  # seconds for which attachments of a StatefulSet outlast a scale-down
    )
    gateway_addresses: tuple[Network, ...] = ()  # that gateways may have; empty: any
    gateway_node_selector: Mapping[str, str] = field(default_factory=dict)
    gateway_forbidden: tuple[Network, ...] = ()
    gateway_allowed: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class ReconcileContext:
    """Made once, by ``__main__``; one for all reconcilers."""

    api: Api
    caches: Caches
    events: Events
    rules: Rules
    allocator: Allocator = field(default_factory=Allocator)
    dropped_fields: DroppedFields = field(default_factory=DroppedFields)
    queue: WorkQueue[Item] = field(default_factory=lambda: WorkQueue(first=_first))
    clock: Callable[[], float] = time.time
    """Seconds since 1970."""

    def dirty(self, item: Item, delay: float = 0.0) -> None:
        """Marks an object for its reconciler, now or after ``delay`` seconds."""
        self.queue.add(item, delay)

    async def status(self, resource: Resource, meta: Meta, before: Model, after: Mapping[str, Any]) -> None:
        """Writes the changed fields of a status, and Events for changed conditions.

        Writes once more where the answer shows that the API server dropped a field, or keeps it now.
        """
        written = before.model_dump(by_alias=True, exclude_unset=True, mode="json")
        present = [Condition.model_validate(one) for one in written.get("conditions") or ()]
        version, again = meta.resource_version, True
        while again:
            after = self.dropped_fields.stated(resource, meta, present, after)
            patch = status_patch(written, after, version)
            if patch is None:
                return
            answer = await self.api.patch(
                resource, meta.name, patch, meta.namespace or None, subresource="status"
            )
            self.caches.of(resource).set(answer)
            version = answer["metadata"]["resourceVersion"]
            again = self.dropped_fields.observe(resource, patch["status"], answer)
        if self.dropped_fields.outdated(resource):  # a kind that is applied has no event
            self.dirty((_ITEMS[resource.plural], (meta.namespace, meta.name)), OUTDATED_SECONDS)
        self._record_changes(resource, meta, written.get("conditions") or (), after.get("conditions") or ())

    async def finalizer(
        self,
        resource: Resource,
        meta: Meta,
        held: bool,
        labels: Mapping[str, str | None] = MappingProxyType({}),
    ) -> None:
        """Adds or removes our finalizer, and sets those labels, in one request. None as a value removes a label."""
        metadata: dict[str, Any] = {}
        if (FINALIZER in meta.finalizers) != held:
            rest = [name for name in meta.finalizers if name != FINALIZER]
            metadata["finalizers"] = [*rest, FINALIZER] if held else rest
        if changed := {name: value for name, value in labels.items() if meta.labels.get(name) != value}:
            metadata["labels"] = changed
        if not metadata:
            return
        patch = {"metadata": metadata | {"resourceVersion": meta.resource_version}}
        try:
            answer = await self.api.patch(resource, meta.name, patch, meta.namespace or None)
        except NotFound:
            return
        if not answer["metadata"].get("deletionTimestamp") or answer["metadata"].get("finalizers"):
            self.caches.of(resource).set(answer)

    def _record_changes(self, resource: Resource, meta: Meta, before: Any, after: Any) -> None:
        old = {condition["type"]: condition for condition in before}
        for condition in after:
            previous = old.get(condition["type"], {})
            if (previous.get("status"), previous.get("reason")) == (condition["status"], condition["reason"]):
                continue
            bad = condition["status"] == ("False" if condition["type"] in GOOD else "True")
            bad = (bad or condition["reason"] in WARNINGS) and condition["reason"] not in REQUESTS
            # One that is made for a pod, and ready at once, has nothing to report.
            at_once = not previous and bool(meta.owner_references)
            if bad or condition["type"] == PEERED or (condition["type"] == READY and not at_once):
                self.events.record(
                    resource,
                    meta,
                    "Warning" if bad else "Normal",
                    condition["reason"],
                    condition["message"],
                )


WARNINGS: Final = frozenset({"AddressOutsideNetworks"})
"""Reasons of good conditions that make a Warning nevertheless."""
REQUESTS: Final = frozenset({"Requested"})
"""Reasons of conditions that wait for the owner's consent: no fault."""
GOOD: Final = frozenset(
    {
        READY,
        "Accepted",
        "Granted",
        "Routed",
        "Attached",
        "NetworksAccepted",
        "KindsCurrent",
        "Enforced",
        "Redundant",
        PEERED,
    }
)
"""Condition types that are True when all is well."""


def ready(conditions: tuple[Condition, ...]) -> Condition | None:
    """The Ready condition."""
    return next((condition for condition in conditions if condition.type == READY), None)
