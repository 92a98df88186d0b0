"""Dispatches a request: reads the objects that its answer depends on, and calls the check of its kind."""

import secrets
import string
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv6Network
from typing import Any, Final, TypeVar

import structlog

from galactic.crds.model import Model, parse
from galactic.crds.nodesegment import NodeSegment
from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import Interface, VpcAttachment
from galactic.crds.vpcgateway import VpcGateway
from galactic.crds.vpcpolicy import VpcPolicy
from galactic.errors import GalacticError, NotYet, Rejected, Unreachable
from galactic.kube.api import Key
from galactic.kube.resources import (
    NODE_SEGMENTS,
    PODS,
    SERVICES,
    VPC_ATTACHMENTS,
    VPC_GATEWAYS,
    VPC_POLICIES,
    VPCS,
)
from galactic.names import NETWORKS_ANNOTATION
from galactic.validation import multus
from galactic.validation.attachment import outside
from galactic.validation.gateways import parse_gateway
from galactic.validation.grants import granted, may_terminate, refusal, termination_refusal
from galactic.validation.holders import unnested
from galactic.validation.networks import Network, parse_networks
from galactic.validation.policies import own_floor, policy, vpc_of
from galactic.validation.references import check_kind
from galactic.validation.services import VPC_FIELD, checked, parse_service
from galactic.webhook import nodesegment, pod, vpc, vpcattachment
from galactic.webhook.annotations import unknown
from galactic.webhook.cluster import Cluster
from galactic.webhook.joins import Joins
from galactic.webhook.metadata import bounded
from galactic.webhook.nodesegment import Identities
from galactic.webhook.record import AttachmentRecord, State, state
from galactic.webhook.review import ALLOWED, Answer, Request
from galactic.webhook.service import mutated

log = structlog.get_logger(__name__)
POD_NAME: Final = "authentication.kubernetes.io/pod-name"
SERVICE_ACCOUNT: Final = "system:serviceaccount:"
Handler = Callable[[Request], Awaitable[Answer]]
T = TypeVar("T", bound=Model)
K = TypeVar("K", Vpc, AttachmentRecord)
When = Callable[[Key, Callable[[K], bool], float], Awaitable[K | None]]


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that answers depend on.

    ``patience``: seconds for which a pod waits for its attachment. ``grace``: the same once the operator has refused
    the attachment, as the object that it lacks may be applied a moment later.
    """

    identities: Identities
    srv6_block: IPv6Network | None = None
    strict: bool = False
    patience: float = 10.0
    grace: float = 2.0


class Dispatcher:
    """Answers requests. Raises Unreachable alone, when no answer is possible."""

    def __init__(self, cluster: Cluster, rules: Rules, joins: Joins) -> None:
        self._cluster, self._rules, self._joins = cluster, rules, joins

    async def mutate(self, request: Request) -> Answer:
        """The patch of a Pod or a Service."""
        handler = self._mutate_service if request.resource == SERVICES.plural else self._mutate_pod
        return await self._answered(request, handler)

    async def validate(self, request: Request) -> Answer:
        """Whether the object may be stored."""
        handlers = {
            PODS.plural: self._validate_pod,
            VPCS.plural: self._validate_vpc,
            VPC_ATTACHMENTS.plural: self._validate_attachment,
            VPC_GATEWAYS.plural: self._validate_gateway,
            NODE_SEGMENTS.plural: self._validate_segment,
            VPC_POLICIES.plural: self._validate_policy,
        }
        handler = handlers.get(request.resource)
        if handler is None:
            return ALLOWED
        answer = await self._answered(request, handler)
        written = request.resource != PODS.plural or request.operation == "CREATE"
        if answer.refusal is not None or request.subresource or request.deleting or not written:
            return answer
        return replace(answer, warnings=(*answer.warnings, *unknown(request.resource, request.new)))

    async def _answered(self, request: Request, handler: Handler) -> Answer:
        if request.deleting or request.operation not in ("CREATE", "UPDATE"):
            return ALLOWED
        try:
            return await handler(request)
        except Unreachable:
            raise
        except GalacticError as problem:
            return Answer(refusal=problem)

    async def _mutate_pod(self, request: Request) -> Answer:
        requester = pod.parse(request.new, request.namespace)
        if request.operation != "CREATE" or request.resource != PODS.plural or not requester.concerned:
            return ALLOWED
        pod.checked(requester)
        if requester.vpc:
            await self._require_grant(requester.vpc, requester.namespace, pod.VPC_FIELD)
            name = requester.attachment or pod.attachment_name(requester, _letters(pod.SUFFIX))
            interface = Interface().name
            if requester.ordinal is not None:
                earlier = await self._cluster.attachment((requester.namespace, name))
                interface = interface if earlier is None else earlier.interface
            return pod.mutated(requester, name, interface)
        current = await self._cluster.attachment((requester.namespace, requester.attachment))
        if current is None:
            pod.ready(requester, None)
            raise AssertionError("an attachment that does not exist is not ready")
        return pod.mutated(requester, requester.attachment, current.interface)

    async def _mutate_service(self, request: Request) -> Answer:
        service = parse_service(request.new, request.namespace)
        if service.annotation is not None:
            checked(service)
            await self._require_grant(service.vpc, request.namespace, VPC_FIELD)
        return mutated(service, request.new)

    async def _validate_pod(self, request: Request) -> Answer:
        requester = pod.parse(request.new, request.namespace)
        if request.operation == "UPDATE":
            pod.updated(pod.parse(request.old or {"metadata": {}}, request.namespace), requester)
            return ALLOWED
        if not requester.concerned:
            return ALLOWED
        pod.checked(requester)
        networks = multus.networks(requester.annotations.get(NETWORKS_ANNOTATION, ""))
        if multus.position(networks, requester.attachment, requester.namespace) is None:
            raise NotYet(
                f"{multus.FIELD}: lacks {requester.attachment!r}, which Galactic's mutating webhook adds; "
                "something skipped or undid that; check the MutatingWebhookConfigurations",
                reason="NotMutated",
            )
        key = (requester.namespace, requester.attachment)
        if requester.vpc:
            current = await self._cluster.attachment(key)
            pod.fresh(requester, None if current is None else _attachment_state(current))
            await self._vpc_ready(requester.vpc, requester.namespace)
            return ALLOWED
        current = await self._when_ready(self._cluster.attachment_when, key)
        state = None if current is None else _attachment_state(current)
        pod.shareable(requester, state)
        pod.ready(requester, state)
        return pod.shared(requester, await self._sharing_pods(requester))

    async def _sharing_pods(self, requester: pod.Pod) -> list[str]:
        """Live pods with the same attachment; none where the list fails, as it is for a warning only."""
        try:
            pods = await self._cluster.pods(requester.namespace, pod.label(requester.attachment))
        except GalacticError as problem:
            log.warning("pods of the attachment not listed, no warning of sharing", error=str(problem))
            return []
        names = []
        for document in pods:
            pod_ = pod.parse(document, requester.namespace)
            deleted = document["metadata"].get("deletionTimestamp")
            if pod_.attachment == requester.attachment and not pod_.over and not deleted:
                names.append(pod_.name)
        return [name for name in names if name != requester.name]

    async def _when_ready(self, when: When[K], key: Key) -> K | None:
        """The object once it is ready; after the time that a pod waits, its present state; None where it does not
        exist.
        """
        current = await when(key, _decided, self._rules.patience)
        if current is None or _state(current).ready or not _decided(current):
            return current
        return await when(
            key, lambda candidate: _state(candidate).ready, min(self._rules.grace, self._rules.patience)
        )

    async def _vpc_ready(self, key: Key, namespace: str) -> None:
        current = await self._when_ready(self._cluster.vpc_when, key)
        if current is None and key[0] != namespace:
            raise refusal(key, namespace, pod.VPC_FIELD)
        if current is None or not current.status.ready:
            state = (
                "does not exist; make it"
                if current is None
                else f"is not ready{_in_parentheses(_state(current).message)}"
            )
            raise NotYet(
                f"{pod.VPC_FIELD}: VPC {'/'.join(key)} {state}. {pod.CONVERGES}", reason="VPCNotReady"
            )

    async def _validate_vpc(self, request: Request) -> Answer:
        old = _old(request)
        bounded(request.new, old)
        if old is not None and request.new.get("spec") == old.get("spec"):
            return ALLOWED
        new, rules = parse(Vpc, request.new), self._rules
        for index, floor in enumerate(new.spec.policies):
            policy(floor, f"spec.policies[{index}]")
            own_floor(floor, (request.namespace, request.name), f"spec.policies[{index}].vpc")
        before = _stored(Vpc, old)
        key = (request.namespace, request.name)
        ranges = await self._cluster.ranges()
        if before is None:
            identifier_holder = self._cluster.identified(new.spec.identifier, key)
            answer = vpc.created(new, rules.srv6_block, ranges, identifier_holder, self._cluster.known_vpc)
        else:
            used, known = self._cluster.used(key), self._cluster.known_vpc
            answer = vpc.updated(before, new, rules.srv6_block, ranges, used, known)
        requested = new.spec.identifier
        if requested and (before is None or requested != before.status.identifier):
            await self._joins.admit(request, requested)
        return answer

    async def _validate_policy(self, request: Request) -> Answer:
        old = _old(request)
        if old is not None and request.new.get("spec") == old.get("spec"):
            return ALLOWED
        new = parse(VpcPolicy, request.new)
        check_kind(new.spec.vpc, "spec.vpc")
        policy(new.spec)
        vpc = vpc_of(new)
        before = _stored(VpcPolicy, old)
        if before is None or vpc_of(before) != vpc:
            await self._require_grant(vpc, request.namespace, "spec.vpc")
        return ALLOWED

    async def _validate_attachment(self, request: Request) -> Answer:
        old = _old(request)
        bounded(request.new, old)
        if old is not None and request.new.get("spec") == old.get("spec"):
            return ALLOWED
        new, rules = parse(VpcAttachment, request.new), self._rules
        checked = vpcattachment.checked(new, _stored(VpcAttachment, old), rules.srv6_block)
        spec = checked.spec
        key = (request.namespace, request.name)
        if checked.vpc:
            await self._require_grant(spec.vpc, request.namespace, "spec.vpc")
        if not checked.networks:
            return ALLOWED
        if spec.terminations(spec.addresses):
            await self._require_termination(spec.vpc, request.namespace)
        vpcattachment.unheld(
            spec, lambda network: self._cluster.holder(spec.vpc, network, key), request.namespace
        )
        networks = _networks(await self._cluster.vpc(spec.vpc))
        if networks is not None and outside(spec, spec.addresses, networks):
            # The VPC may have got their network a moment ago.
            networks = _networks(await self._cluster.vpc(spec.vpc, _never))
        enclosing = partial(self._cluster.enclosing, spec.vpc, namespace=request.namespace)
        unnested(spec, spec.addresses, networks or (), enclosing, request.namespace)
        return ALLOWED if networks is None else vpcattachment.placed(spec, networks, strict=rules.strict)

    async def _validate_gateway(self, request: Request) -> Answer:
        """Its form. Whether its addresses are free, and allowed, is the operator's to say (condition Accepted)."""
        old = _old(request)
        if old is None or request.new.get("spec") != old.get("spec"):
            parse_gateway(parse(VpcGateway, request.new), (), self._rules.srv6_block)
        return ALLOWED

    async def _require_grant(self, key: Key, namespace: str, field: str) -> None:
        """Raises Rejected unless the namespace may attach to the VPC; the same for a VPC that does not exist."""
        if key[0] == namespace:
            return
        if await self._granted(key, namespace, live=False) or await self._granted(key, namespace, live=True):
            return
        raise refusal(key, namespace, field)

    async def _require_termination(self, key: Key, namespace: str) -> None:
        """Raises Rejected unless the namespace may terminate networks in the VPC, as far as that exists."""
        for live in (False, True):
            current = await (self._cluster.vpc(key, _never) if live else self._cluster.vpc(key))
            labels = await self._cluster.labels(namespace, live=live)
            own = key[0] == namespace
            if current is None or may_terminate(current.spec.allowed_terminations, own, labels):
                return
        raise termination_refusal(key, namespace)

    async def _granted(self, key: Key, namespace: str, *, live: bool) -> bool:
        current = await (self._cluster.vpc(key, _never) if live else self._cluster.vpc(key))
        labels = await self._cluster.labels(namespace, live=live)
        try:
            return current is not None and granted(current.spec.allowed_namespaces, False, labels)
        except Rejected as problem:  # a malformed selector admits no namespace
            log.info("malformed selector", vpc=key, problem=str(problem))
            return False

    async def _validate_segment(self, request: Request) -> Answer:
        nodesegment.owned(request.name, await self._node(request))
        old = _old(request)
        if request.subresource or (old is not None and request.new.get("spec") == old.get("spec")):
            return ALLOWED
        prefix = parse(NodeSegment, request.new).spec.prefix
        nodesegment.prefixed(request.name, prefix, self._rules.srv6_block, self._cluster.segments())
        return ALLOWED

    async def _node(self, request: Request) -> str | None:
        """The node that writes; None for other users."""
        identities, user = self._rules.identities, request.user
        if (node := identities.node(user)) is not None or user.name not in identities.patterns:
            return node
        # A service account that all nodes share, on a server whose tokens name the pod, but not yet the node. A token
        # that names neither may be a copy (before Kubernetes 1.21 each account has one, in a Secret).
        pods, account = user.extra.get(POD_NAME, ()), user.name.removeprefix(SERVICE_ACCOUNT)
        for name in pods:
            if (node := await self._cluster.node_of(name, account.partition(":")[0])) is not None:
                return node
            raise Rejected(
                f"{user.name!r} writes as pod {name!r}, which is on no node; use the token of a running pod",
                reason="NotYours",
                field="metadata.name",
            )
        raise Rejected(
            f"{user.name!r} writes with a token that names no pod; use the one that the chart's DaemonSet mounts",
            reason="NotYours",
            field="metadata.name",
        )


def _state(item: Vpc | AttachmentRecord) -> State:
    return state(item) if isinstance(item, Vpc) else item.state


def _decided(item: Vpc | AttachmentRecord) -> bool:
    return _state(item).decided


def _attachment_state(item: AttachmentRecord) -> pod.Attachment:
    return pod.Attachment(item.interface, item.state.ready, item.state.message, item.generated)


def _in_parentheses(message: str) -> str:
    return f" ({message})" if message else ""


def _old(request: Request) -> dict[str, Any] | None:
    return request.old if request.operation == "UPDATE" else None


def _stored(kind: type[T], old: dict[str, Any] | None) -> T | None:
    """The stored object; None for one that does not fit its model, all of which then counts as changed."""
    if old is None:
        return None
    try:
        return parse(kind, old)
    except Rejected:
        return None


def _networks(item: Vpc | None) -> tuple[Network, ...] | None:
    """The VPC's networks; None for a VPC that does not exist, or whose networks its conditions report as invalid."""
    try:
        return None if item is None else parse_networks(item.spec.networks, None)
    except Rejected:
        return None


def _never(_: Vpc) -> bool:
    return False


def _letters(count: int) -> str:
    return "".join(secrets.choice(string.ascii_lowercase) for _ in range(count))
