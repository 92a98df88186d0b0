"""From a request to an answer: which facts it depends on, and which decision they go to."""

import secrets
import string
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv6Network
from typing import Any, Final, TypeVar

import structlog

from galactic.crds.model import Model, parse
from galactic.crds.nodesegment import NodeSegment
from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import Interface, VpcAttachment
from galactic.errors import GalacticError, NotYet, Rejected, Unreachable
from galactic.kube.api import Key
from galactic.kube.conditions import ACCEPTED, READY
from galactic.kube.resources import NODE_SEGMENTS, PODS, VPC_ATTACHMENTS, VPCS
from galactic.names import NETWORKS_ANNOTATION
from galactic.validation.attachment import outside
from galactic.validation.grants import granted, refusal
from galactic.validation.networks import Network, parse_networks
from galactic.webhook import multus, nodesegment, pod, vpc, vpcattachment
from galactic.webhook.cluster import Cluster
from galactic.webhook.nodesegment import Identities
from galactic.webhook.review import YES, Answer, Request

log = structlog.get_logger(__name__)
POD_NAME: Final = "authentication.kubernetes.io/pod-name"
SERVICE_ACCOUNT: Final = "system:serviceaccount:"
Handler = Callable[[Request], Awaitable[Answer]]
T = TypeVar("T", bound=Model)
K = TypeVar("K", Vpc, VpcAttachment)
When = Callable[[Key, Callable[[K], bool], float], Awaitable[K | None]]


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that answers depend on. ``patience``: seconds for which a pod waits for its attachment, ``grace``
    after the operator has refused that: what it lacks may have been applied a moment later.
    """

    identities: Identities
    srv6_block: IPv6Network | None = None
    strict: bool = False
    patience: float = 10.0
    grace: float = 2.0


class Dispatcher:
    """Answers requests. Raises nothing but Unreachable, when there can be no answer."""

    def __init__(self, cluster: Cluster, rules: Rules) -> None:
        self._cluster, self._rules = cluster, rules

    async def mutate(self, request: Request) -> Answer:
        """What is to be added to a Pod."""
        return await self._answered(request, self._completed)

    async def validate(self, request: Request) -> Answer:
        """Whether it may be as it is."""
        handlers = {
            PODS.plural: self._pod,
            VPCS.plural: self._vpc,
            VPC_ATTACHMENTS.plural: self._attachment,
            NODE_SEGMENTS.plural: self._segment,
        }
        handler = handlers.get(request.resource)
        return YES if handler is None else await self._answered(request, handler)

    async def _answered(self, request: Request, handler: Handler) -> Answer:
        if request.going or request.operation not in ("CREATE", "UPDATE"):
            return YES
        try:
            return await handler(request)
        except Unreachable:
            raise
        except GalacticError as problem:
            return Answer(refusal=problem)

    # Pods

    async def _completed(self, request: Request) -> Answer:
        asking = pod.parse(request.new, request.namespace)
        if request.operation != "CREATE" or request.resource != PODS.plural or not asking.concerned:
            return YES
        pod.checked(asking)
        if asking.vpc:
            await self._open(asking.vpc, asking.namespace, pod.VPC_FIELD)
            name = asking.attachment or pod.attachment_name(asking, _letters(pod.SUFFIX))
            return pod.mutated(asking, name, Interface().name)
        found = await self._cluster.attachment((asking.namespace, asking.attachment))
        if found is None:
            pod.ready(asking, None)
            raise AssertionError("what is not there is not ready")
        return pod.mutated(asking, asking.attachment, found.spec.interface.name)

    async def _pod(self, request: Request) -> Answer:
        asking = pod.parse(request.new, request.namespace)
        if request.operation == "UPDATE":
            pod.updated(pod.parse(request.old or {"metadata": {}}, request.namespace), asking)
            return YES
        if not asking.concerned:
            return YES
        pod.checked(asking)
        there = multus.networks(asking.annotations.get(NETWORKS_ANNOTATION, ""))
        if multus.position(there, asking.attachment, asking.namespace) is None:
            raise NotYet(
                f"{multus.FIELD}: lacks {asking.attachment!r}, which Galactic's mutating webhook adds; "
                "something skipped or undid that: see the MutatingWebhookConfigurations",
                reason="NotMutated",
            )
        key = (asking.namespace, asking.attachment)
        if asking.vpc:
            found = await self._cluster.attachment(key)
            pod.fresh(asking, None if found is None else _fact(found))
            await self._vpc_ready(asking.vpc, asking.namespace)
            return YES
        found = await self._when_ready(self._cluster.attachment_when, key)
        pod.ready(asking, None if found is None else _fact(found))
        return pod.shared(asking, await self._others(asking))

    async def _others(self, asking: pod.Pod) -> list[str]:
        """Pods that live and have the same attachment; none where that cannot be told, as it is for a warning only."""
        try:
            found = await self._cluster.pods(asking.namespace, pod.label(asking.attachment))
        except GalacticError as problem:
            log.warning("cannot tell whether the attachment is shared", error=str(problem))
            return []
        names = []
        for thing in found:
            other = pod.parse(thing, asking.namespace)
            going = thing["metadata"].get("deletionTimestamp")
            if other.attachment == asking.attachment and not other.over and not going:
                names.append(other.name)
        return [name for name in names if name != asking.name]

    async def _when_ready(self, when: When[K], key: Key) -> K | None:
        """The object once it is ready, or as it is when the pod has waited long enough; None where none is there."""
        found = await when(key, _decided, self._rules.patience)
        if found is None or found.status.ready or not _decided(found):
            return found
        return await when(key, lambda one: one.status.ready, min(self._rules.grace, self._rules.patience))

    async def _vpc_ready(self, key: Key, namespace: str) -> None:
        found = await self._when_ready(self._cluster.vpc_when, key)
        if found is None and key[0] != namespace:
            raise refusal(key, namespace, pod.VPC_FIELD)
        if found is None or not found.status.ready:
            state = "does not exist; make it" if found is None else f"is not ready{_why(found)}"
            raise NotYet(
                f"{pod.VPC_FIELD}: VPC {'/'.join(key)} {state}. {pod.CONVERGES}", reason="VPCNotReady"
            )

    # The kinds

    async def _vpc(self, request: Request) -> Answer:
        old = _old(request)
        if old is not None and request.new.get("spec") == old.get("spec"):
            return YES
        new, rules = parse(Vpc, request.new), self._rules
        before = _stored(Vpc, old)
        key = (request.namespace, request.name)
        ranges = await self._cluster.ranges()
        if before is None:
            taken = self._cluster.identified(new.spec.identifier, key)
            return vpc.created(new, rules.srv6_block, ranges, taken)
        return vpc.updated(before, new, rules.srv6_block, ranges, self._cluster.used(key))

    async def _attachment(self, request: Request) -> Answer:
        old = _old(request)
        if old is not None and request.new.get("spec") == old.get("spec"):
            return YES
        new, rules = parse(VpcAttachment, request.new), self._rules
        checked = vpcattachment.checked(new, _stored(VpcAttachment, old), rules.srv6_block)
        wanted = checked.plan
        key = (request.namespace, request.name)
        if checked.vpc:
            await self._open(wanted.vpc, request.namespace, "spec.vpc")
        if not checked.networks:
            return YES
        vpcattachment.unheld(wanted, lambda network: self._cluster.holder(wanted.vpc, network, key))
        networks = _networks(await self._cluster.vpc(wanted.vpc))
        if networks is not None and outside(wanted, wanted.addresses, networks):
            # Unless the VPC has just got the network that they are in.
            networks = _networks(await self._cluster.vpc(wanted.vpc, _not_enough))
        return YES if networks is None else vpcattachment.placed(wanted, networks, strict=rules.strict)

    async def _open(self, key: Key, namespace: str, field: str) -> None:
        """Raises Rejected unless the namespace may attach to the VPC, alike for one that is not there."""
        if key[0] == namespace:
            return
        if await self._granted(key, namespace, live=False) or await self._granted(key, namespace, live=True):
            return
        raise refusal(key, namespace, field)

    async def _granted(self, key: Key, namespace: str, *, live: bool) -> bool:
        found = await (self._cluster.vpc(key, _not_enough) if live else self._cluster.vpc(key))
        labels = await self._cluster.labels(namespace, live=live)
        try:
            return found is not None and granted(found.spec.allowed_namespaces, False, labels)
        except (
            Rejected
        ) as problem:  # a selector that cannot be read admits nobody, and is its owner's business
            log.info("unreadable selector", vpc=key, problem=str(problem))
            return False

    async def _segment(self, request: Request) -> Answer:
        nodesegment.owned(request.name, await self._node(request))
        old = _old(request)
        if request.subresource or (old is not None and request.new.get("spec") == old.get("spec")):
            return YES
        prefix = parse(NodeSegment, request.new).spec.prefix
        nodesegment.prefixed(request.name, prefix, self._rules.srv6_block, self._cluster.segments())
        return YES

    async def _node(self, request: Request) -> str | None:
        """The node that asks, None for everybody else."""
        identities, user = self._rules.identities, request.user
        if (node := identities.node(user)) is not None or user.name not in identities.patterns:
            return node
        # A service account that all nodes share, on a server whose tokens tell the pod, but not yet the node. One that
        # tells neither may have been copied from anywhere (before Kubernetes 1.21 each account has one, in a Secret).
        pods, account = user.extra.get(POD_NAME, ()), user.name.removeprefix(SERVICE_ACCOUNT)
        for name in pods:
            if (node := await self._cluster.node_of(name, account.partition(":")[0])) is not None:
                return node
            raise Rejected(
                f"{user.name!r} asks as pod {name!r}, which is on no node; use the token of a pod that runs",
                reason="NotYours",
                field="metadata.name",
            )
        raise Rejected(
            f"{user.name!r} asks with a token that tells no pod; use the one that the chart's DaemonSet mounts",
            reason="NotYours",
            field="metadata.name",
        )


def _decided(found: Vpc | VpcAttachment) -> bool:
    """Whether it is ready, or the operator has refused its present specification."""
    status = found.status
    refused = any(one.type == ACCEPTED and one.status == "False" for one in status.conditions)
    return status.ready or (refused and status.observed_generation >= found.metadata.generation)


def _fact(found: VpcAttachment) -> pod.Attachment:
    return pod.Attachment(found.spec.interface.name, found.status.ready, _message(found))


def _message(found: Vpc | VpcAttachment) -> str:
    return next((one.message for one in found.status.conditions if one.type == READY), "")


def _why(found: Vpc) -> str:
    return f" ({message})" if (message := _message(found)) else ""


def _old(request: Request) -> dict[str, Any] | None:
    return request.old if request.operation == "UPDATE" else None


def _stored(kind: type[T], old: dict[str, Any] | None) -> T | None:
    """What was there before; None for one that no longer fits its model, of which everything counts as touched."""
    if old is None:
        return None
    try:
        return parse(kind, old)
    except Rejected:
        return None


def _networks(found: Vpc | None) -> tuple[Network, ...] | None:
    """The VPC's networks; None for one that is yet to come, or whose networks will not do, as its conditions say."""
    try:
        return None if found is None else parse_networks(found.spec.networks, None)
    except Rejected:
        return None


def _not_enough(_: Vpc) -> bool:
    return False


def _letters(count: int) -> str:
    return "".join(secrets.choice(string.ascii_lowercase) for _ in range(count))
