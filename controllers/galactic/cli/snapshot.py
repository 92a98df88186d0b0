"""A snapshot of Galactic's objects in the API server: the input of all commands."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from galactic.crds.model import T, parse
from galactic.crds.nodesegment import NodeSegment
from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import VpcAttachment
from galactic.crds.vpcgateway import VpcGateway
from galactic.crds.vpcpolicy import VpcPolicy
from galactic.errors import Rejected
from galactic.kube.api import NotFound, Object, Objects
from galactic.kube.client import Kube
from galactic.kube.pods import requested_attachment, requested_vpc
from galactic.kube.resources import (
    DAEMON_SETS,
    EVENTS,
    LEASES,
    NODE_SEGMENTS,
    NODES,
    PODS,
    POLICY_SLICES,
    SERVICES,
    STATEFUL_SETS,
    VPC_ATTACHMENTS,
    VPC_GATEWAYS,
    VPC_POLICIES,
    VPCS,
    Resource,
)
from galactic.refusals import refusal
from galactic.validation.services import VpcService, parse_service

WORKLOADS: Final = (Resource("apps", "v1", "replicasets", "ReplicaSet"), STATEFUL_SETS, DAEMON_SETS)
"""Workloads that recreate their pods."""
SANDBOX: Final = "FailedCreatePodSandBox"
"""The reason of the kubelet's Event about a pod that was not attached."""
LEADERS: Final = ("galactic-operator", "galactic-router")
"""Leases of the replicas' leaders."""


@dataclass(frozen=True, slots=True)
class Component:
    """One of Galactic's programs, or the broker. ``node``: for programs that run on each node."""

    name: str
    ready: int
    wanted: int
    version: str = ""
    problem: str = ""
    node: str = ""
    log: str = ""
    """The command that shows its log."""

    @property
    def kind(self) -> str:
        """The kind of program: ``router`` for ``router-2``, a lab's second router."""
        return self.name.partition("-")[0]

    @property
    def title(self) -> str:
        return f"{self.name} on {self.node}" if self.node else self.name


@dataclass(slots=True)
class Snapshot:
    """A cluster at one time. Keys are ``namespace/name``, or ``name`` for nodes and segments."""

    vpcs: dict[str, Vpc] = field(default_factory=dict)
    attachments: dict[str, VpcAttachment] = field(default_factory=dict)
    segments: dict[str, NodeSegment] = field(default_factory=dict)
    nodes: dict[str, Object] = field(default_factory=dict)
    pods: dict[str, Object] = field(default_factory=dict)
    refused: dict[str, Object] = field(default_factory=dict)
    """Pods without Galactic's annotations that ask for a VPC interface: their node refused them, in an Event."""
    services: dict[str, VpcService] = field(default_factory=dict)
    """Services with the annotation of a VPC."""
    policies: dict[str, VpcPolicy] = field(default_factory=dict)
    gateways: dict[str, VpcGateway] = field(default_factory=dict)
    slices: Objects = field(default_factory=list)
    """PolicySlices: the rules of VPCPolicies, and the addresses of their peers."""
    events: Objects = field(default_factory=list)
    leases: dict[str, Object] = field(default_factory=dict)
    components: tuple[Component, ...] = ()
    router_outside: bool = False
    """Whether a router outside the cluster serves it: no Lease of a router, no endpoint in VPCAttachments."""
    broken: dict[str, str] = field(default_factory=dict)
    """Objects that cannot be parsed, by ``kind name``, with the error."""
    unread: dict[str, str] = field(default_factory=dict)
    """Kinds that could not be listed, with the error."""
    at: float = 0.0

    @property
    def home(self) -> str:
        """The namespace of Galactic, that of its Leases."""
        return next(
            (str(lease["metadata"]["namespace"]) for lease in self.leases.values()), "galactic-system"
        )

    def vpc_of(self, attachment: VpcAttachment) -> str:
        """The VPC of an attachment: its status overrides its spec, see docs/architecture.md."""
        reference = attachment.spec.vpc
        return (
            attachment.status.vpc
            or f"{reference.namespace or attachment.metadata.namespace}/{reference.name}"
        )

    def gateway_of(self, vpc: str) -> tuple[str, VpcGateway] | None:
        """The VPCGateway of a VPC with its name; of several the one that leads out, as only one is accepted."""
        namespace, _, own = vpc.partition("/")
        own_gateways = [
            (name, gateway)
            for name, gateway in sorted(self.gateways.items())
            if gateway.metadata.namespace == namespace and gateway.spec.vpc.name == own
        ]
        return min(own_gateways, key=lambda item: not item[1].status.nodes, default=None)

    def members(self, vpc: str) -> dict[str, VpcAttachment]:
        """The attachments of a VPC."""
        return {
            name: attachment
            for name, attachment in self.attachments.items()
            if self.vpc_of(attachment) == vpc
        }

    def carriers(self, attachment: str) -> list[str]:
        """The pods that request an attachment and have not ended."""
        namespace, _, name = attachment.partition("/")
        return [
            key
            for key, pod in self.pods.items()
            if requested_attachment(pod) == name and key.startswith(f"{namespace}/") and not has_ended(pod)
        ]


def has_ended(pod: Object) -> bool:
    """Whether a Pod has ended or is being deleted."""
    phase = (pod.get("status") or {}).get("phase")
    return bool(pod["metadata"].get("deletionTimestamp")) or phase in ("Succeeded", "Failed")


def name_of(manifest: Mapping[str, Any]) -> str:
    """``namespace/name``, or the name where there is no namespace."""
    meta = manifest["metadata"]
    return f"{meta['namespace']}/{meta['name']}" if meta.get("namespace") else str(meta["name"])


async def read(kube: Kube) -> Snapshot:
    """Reads a snapshot. Kinds that may not be listed are in ``unread``. Raises Unreachable."""
    snapshot = Snapshot(at=time.time())
    lists = dict(
        zip(
            ("vpcs", "attachments", "segments", "nodes", "pods", "events", "operator", "router"),
            await asyncio.gather(
                _list(kube, snapshot, VPCS),
                _list(kube, snapshot, VPC_ATTACHMENTS),
                _list(kube, snapshot, NODE_SEGMENTS),
                _list(kube, snapshot, NODES),
                _list(kube, snapshot, PODS),
                _list(kube, snapshot, EVENTS, fields="type=Warning"),
                *(_list(kube, snapshot, LEASES, fields=f"metadata.name={name}") for name in LEADERS),
            ),
            strict=True,
        )
    )
    snapshot.vpcs = _parsed(snapshot, Vpc, lists["vpcs"])
    snapshot.attachments = _parsed(snapshot, VpcAttachment, lists["attachments"])
    snapshot.segments = _parsed(snapshot, NodeSegment, lists["segments"])
    snapshot.nodes = {name_of(node): node for node in lists["nodes"]}
    # By annotation, not by the webhook's label: a pod created without the webhook must be in the snapshot.
    snapshot.pods = {
        name_of(pod): pod for pod in lists["pods"] if requested_attachment(pod) or requested_vpc(pod)
    }
    refused = {
        (event["involvedObject"].get("namespace"), event["involvedObject"].get("name"))
        for event in lists["events"]
        if event.get("reason") == SANDBOX and refusal(event.get("message", ""))
    }
    snapshot.refused = {
        name_of(pod): pod
        for pod in lists["pods"]
        if (pod["metadata"]["namespace"], pod["metadata"]["name"]) in refused
        and name_of(pod) not in snapshot.pods
    }
    snapshot.services = {
        name_of(one): service
        for one in await _optional(kube, SERVICES)
        if (service := parse_service(one)).annotation is not None
    }
    snapshot.policies = _parsed(snapshot, VpcPolicy, await _optional(kube, VPC_POLICIES))
    snapshot.slices = await _optional(kube, POLICY_SLICES)
    snapshot.gateways = _parsed(snapshot, VpcGateway, await _optional(kube, VPC_GATEWAYS))
    snapshot.events = await _unresolved(kube, lists["events"])
    for lease in sorted((*lists["operator"], *lists["router"]), key=_renewed):
        snapshot.leases[lease["metadata"]["name"]] = lease
    return snapshot


async def _optional(kube: Kube, resource: Resource) -> Objects:
    """All objects of a kind; none if they may not be listed, or the cluster is of a version without the kind."""
    try:
        return (await kube.list(resource))[0]
    except Rejected:
        return []


async def _unresolved(kube: Kube, events: Objects) -> Objects:
    """The Events without those about refused pods of workloads that now have all pods, see ``_refused_kind``.

    One request per kind of workload, whatever the number of Events: a refused Deployment has one Event for each of its
    ReplicaSets.
    """
    kinds = [kind for kind in WORKLOADS if any(_refused_kind(event) == kind.kind for event in events)]
    lists = await asyncio.gather(*(_workloads(kube, kind) for kind in kinds))
    workloads = dict(zip((kind.kind for kind in kinds), lists, strict=True))
    return [event for event in events if _lacks_pods(workloads.get(_refused_kind(event)), event)]


def _refused_kind(event: Object) -> str:
    """The kind of the workload whose pods the webhook refused; empty for other Events."""
    kind = str((event.get("involvedObject") or {}).get("kind"))
    refusal = event.get("reason") == "FailedCreate" and "galactic" in event.get("message", "")
    return kind if refusal and any(workload.kind == kind for workload in WORKLOADS) else ""


async def _workloads(kube: Kube, kind: Resource) -> dict[str, Object] | None:
    """All workloads of a kind by UID; None if they may not be listed."""
    try:
        return {workload["metadata"]["uid"]: workload for workload in (await kube.list(kind))[0]}
    except Rejected:
        return None


def _lacks_pods(workloads: Mapping[str, Object] | None, event: Object) -> bool:
    """Whether the Event's workload lacks pods; yes if unknown."""
    if workloads is None:
        return True
    workload = workloads.get(event["involvedObject"].get("uid", ""))
    if workload is None:
        return False
    wished = (workload.get("spec") or {}).get("replicas")
    return wished is None or (workload.get("status") or {}).get("replicas", 0) < wished


def _renewed(lease: Object) -> str:
    return str((lease.get("spec") or {}).get("renewTime") or "")


async def _list(kube: Kube, snapshot: Snapshot, resource: Resource, *, fields: str = "") -> Objects:
    try:
        return (await kube.list(resource, fields=fields))[0]
    except NotFound:
        snapshot.unread[resource.kind] = "the kind is not installed"
    except Rejected as error:
        snapshot.unread[resource.kind] = str(error)
    return []


def _parsed(snapshot: Snapshot, kind: type[T], manifests: Iterable[Object]) -> dict[str, T]:
    parsed = {}
    for manifest in manifests:
        try:
            parsed[name_of(manifest)] = parse(kind, manifest)
        except Rejected as error:
            snapshot.broken[f"{manifest['kind']} {name_of(manifest)}"] = str(error)
    return parsed
