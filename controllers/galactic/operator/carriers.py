"""Which pods carry an attachment, and what their nodes give them: pure functions (docs/design/carriers.md)."""

from collections.abc import Mapping
from typing import Any

from galactic.crds.model import Meta
from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import (
    MAX_CARRIERS,
    AttachmentStatus,
    Carrier,
    Configuration,
    ConfiguredPeer,
    ConfiguredTermination,
    VpcAttachment,
)
from galactic.kube.resources import PODS
from galactic.names import CARRIER_PREFIX, carrier_label, vpc_hex
from galactic.operator.attachment_counts import reference, settled_vpc
from galactic.operator.objects import Pod
from galactic.operator.state import Caches
from galactic.operator.statefulsets import may_carry, stateful
from galactic.validation.attachment import ParsedAttachment
from galactic.validation.grants import detaches
from galactic.validation.networks import Interface, Network


def carriers(
    caches: Caches, meta: Meta, status: AttachmentStatus, *, closed: bool = False
) -> tuple[Carrier, ...]:
    """The attachment's live pods that are bound to a node, by name.

    ``closed``: the attachment takes no new pods; those that carry it already stay. Beyond MAX_CARRIERS, a pod
    waits for another one to go.
    """
    before = {carrier.uid for carrier in status.carriers or ()}
    pods = [pod for pod in _pods(caches, meta) if not closed or pod.metadata.uid in before]
    pods.sort(key=lambda pod: (pod.metadata.uid not in before, pod.metadata.name))
    kept = sorted(pods[:MAX_CARRIERS], key=lambda pod: pod.metadata.name)
    return tuple(Carrier(pod=pod.metadata.name, uid=pod.metadata.uid, node=pod.node) for pod in kept)


def detached(caches: Caches, attachment: VpcAttachment) -> bool:
    """Whether the VPC does not admit the attachment's namespace any more, and wants its running pods detached."""
    own = attachment.metadata.namespace
    name = settled_vpc(attachment) or reference(attachment)
    vpc, namespace = caches.vpcs.get(name), caches.namespaces.get(("", own))
    return (
        name[0] != own
        and isinstance(vpc, Vpc)
        and detaches(vpc.spec.allowed_namespaces, namespace.labels if namespace else None)
    )


def owners(meta: Meta) -> frozenset[str]:
    """The UIDs of the pods that the attachment was generated for; empty for one that a user made."""
    return frozenset(owner.uid for owner in meta.owner_references if owner.kind == PODS.kind)


def marks(meta: Meta, bound: tuple[Carrier, ...]) -> Mapping[str, str | None]:
    """The labels by which nodes select the attachments of their pods; None for one that is to go."""
    desired = {carrier_label(carrier.node): "" for carrier in bound}
    stale = {name: None for name in meta.labels if name.startswith(CARRIER_PREFIX) and name not in desired}
    return desired | stale


def configuration(
    spec: ParsedAttachment,
    *,
    vpc: int,
    addresses: tuple[Interface, ...],
    networks: tuple[Network, ...],
    mtu: int,
    peers: tuple[ConfiguredPeer, ...] = (),
    before: Configuration | None = None,
) -> dict[str, Any]:
    """``status.configuration``: equal arguments give equal values.

    It has the field ``peers`` where there are any, or where it had some ``before``: a merge patch keeps what it does
    not mention.
    """
    listed = bool(peers) or (before is not None and "peers" in before.model_fields_set)
    return Configuration(
        vpc=vpc_hex(vpc),
        networks=tuple(str(network) for network in networks),
        terminations=tuple(
            ConfiguredTermination(network=str(termination.network), via=str(termination.via))
            for termination in spec.terminations(addresses)
        ),
        routes=tuple(str(route.destination) for route in spec.onward(addresses)),
        mtu=mtu,
        peers=peers,
    ).model_dump(by_alias=True, mode="json", exclude=set() if listed else {"peers"})


def _pods(caches: Caches, meta: Meta) -> list[Pod]:
    """Those that a node may attach. A generated attachment is of one pod, and a namesake waits for one of its own; or
    of one place in a StatefulSet.
    """
    own = owners(meta)
    key = meta.namespace, meta.name
    pods = [caches.pods.get(pod) for pod in caches.carriers(key)]
    able = [pod for pod in pods if pod is not None and pod.node and not pod.place.host_network]
    attachment = caches.attachments.get(key)
    if stateful(meta) and isinstance(attachment, VpcAttachment):
        return [pod for pod in able if may_carry(pod, attachment)]
    return [pod for pod in able if not own or pod.metadata.uid in own]
