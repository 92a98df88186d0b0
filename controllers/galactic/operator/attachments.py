"""One attachment: admitted to its VPC, given an identifier and addresses, described by a definition for Multus."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_interface
from types import MappingProxyType
from typing import Any, Final

from galactic.crds.model import Meta
from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import AttachmentStatus, VpcAttachment
from galactic.errors import NotYet, Rejected
from galactic.kube.api import Key, NotFound, Terminating
from galactic.kube.conditions import (
    ACCEPTED,
    ATTACHED,
    CONFLICT,
    DELETING,
    GRANTED,
    READY,
    ROUTED,
    State,
    conditions,
    now,
    reason_of,
)
from galactic.kube.resources import NADS, PODS, VPC_ATTACHMENTS
from galactic.names import VPC_ANNOTATION, VPC_LABEL, function_hex, parse_function, parse_vpc, vpc_hex
from galactic.operator.addresses import Held
from galactic.operator.allocator import settled
from galactic.operator.attached import Interfaces, Verdict, not_attached
from galactic.operator.context import ReconcileContext
from galactic.operator.nad import configuration, definition, labels
from galactic.operator.route_reporting import PATIENCE_SECONDS, Silence
from galactic.operator.state import Invalid
from galactic.operator.vpcs import COUNT_SECONDS, Vpcs
from galactic.validation.attachment import ParsedAttachment, outside, parse_attachment
from galactic.validation.grants import granted, refusal
from galactic.validation.networks import Interface, Network, host

LOOK_SECONDS: Final = 0.05
"""At the least between two looks at a pod that waits out its grace."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """An attachment with everything it was given. ``warning`` is empty or a sentence, ``revoked`` a lost grant."""

    plan: ParsedAttachment
    vpc: int
    function: int
    addresses: tuple[Interface, ...]
    networks: tuple[Network, ...]
    warning: str
    revoked: bool


class Attachments:
    """The reconciler of VPCAttachments. ``evict`` is given the Pods that are to be replaced."""

    def __init__(self, context: ReconcileContext, vpcs: Vpcs, evict: Callable[[Key], None]) -> None:
        self._context, self._vpcs, self._evict = context, vpcs, evict
        self._silence = Silence()
        self._interfaces = Interfaces(context.rules.unattached_after)

    async def reconcile(self, key: Key) -> None:
        context = self._context
        found = context.caches.attachments.get(key)
        if found is None:
            self._silence.state(context.caches, key, None)
            self._interfaces.forget(key)
            self._leave(key)
            return
        meta = found.metadata
        if isinstance(found, Invalid):
            await self._write(meta, AttachmentStatus(), None, found.problem)
            return
        if meta.deletion_timestamp is None:
            admitted: Admitted | None = None
            problem: Rejected | NotYet | None = None
            try:
                admitted = self._admit(key, found)
            except (Rejected, NotYet) as error:
                problem = error
            if admitted:
                try:
                    problem = await self._define(key, meta, admitted)
                except Terminating:  # it goes with its namespace: nobody is told of what it lacks
                    await self._hold(key)
                    return
            silence, again = None, False
            if not context.rules.router_outside:
                silence, again = self._silence.state(context.caches, key, found)
            if again:
                context.dirty(("attachment", key), PATIENCE_SECONDS)
            verdict = self._interfaces.verdict(context.caches, key)
            await self._write(meta, found.status, admitted, problem, _said(silence, verdict))
            self._tell_sharing(key, meta)
            self._tell_unattached(key, verdict)
        await self._hold(key)

    def _admit(self, key: Key, attachment: VpcAttachment) -> Admitted:
        """Nothing is awaited here: what was seen to be free is claimed. Raises Rejected or NotYet."""
        allocator, rules = self._context.allocator, self._context.rules
        wanted = parse_attachment(attachment, rules.srv6_block)
        if settled(attachment) not in (None, wanted.vpc):
            raise Rejected(
                f"{'/'.join(wanted.vpc)} cannot replace {attachment.status.vpc}: immutable once ready; set it back, or "
                "make another attachment",
                reason="Immutable",
                field="spec.vpc",
            )
        vpc, revoked = self._door(key, wanted.vpc, attachment.status.ready)
        assert vpc.status.identifier is not None
        networks = self._vpcs.networks(wanted.vpc, vpc)
        if (previous := allocator.vpc_of(key)) != wanted.vpc:
            self._wake(allocator.assign(key, wanted.vpc))
            for changed in (previous, wanted.vpc):
                if changed is not None:
                    self._context.dirty(("vpc", changed), COUNT_SECONDS)
        allocations = allocator.of(wanted.vpc)
        try:
            addresses = self._addresses(key, attachment, wanted, networks)
            strangers = outside(wanted, addresses, networks)
            if rules.strict and (given := outside(wanted, wanted.addresses, networks)):
                raise Rejected(
                    f"{given}; give addresses inside them",
                    reason="AddressOutsideNetworks",
                    field="spec.interface.addresses",
                )
            if strangers and not wanted.addresses:
                strangers += "; what was allocated is kept for as long as the attachment lives"
            if allocations.addresses.claim(key, wanted.holds(addresses)):
                self._wake(allocations.blocked - {key})
            allocator.remember(key, addresses)
            function = self._function(key, wanted.vpc, attachment)
        except (Held, NotYet):
            allocations.blocked.add(key)
            raise
        allocations.blocked.discard(key)
        return Admitted(
            wanted, parse_vpc(vpc.status.identifier), function, addresses, networks, strangers, revoked
        )

    def _door(self, key: Key, name: Key, was_ready: bool) -> tuple[Vpc, bool]:
        """The VPC, ready to be attached to, and whether its grant to the attachment was revoked."""
        caches = self._context.caches
        vpc = caches.vpcs.get(name)
        namespace = caches.namespaces.get(("", key[0]))
        own, member = name[0] == key[0], self._context.allocator.vpc_of(key) == name
        revoked = False
        if not own:
            open_ = isinstance(vpc, Vpc) and granted(
                vpc.spec.allowed_namespaces, own, namespace.labels if namespace else None
            )
            if not open_ and not (member and was_ready and vpc is not None):
                raise refusal(name, key[0])
            revoked = not open_
        if vpc is None:
            told = f"VPC {'/'.join(name)} does not exist; make it, or name another in spec.vpc"
            raise NotYet(told, reason="VPCNotFound")
        if isinstance(vpc, Invalid) or not vpc.status.ready or not vpc.status.identifier:
            told = f"VPC {'/'.join(name)} is not ready; kubectl describe vpc -n {name[0]} {name[1]} says why"
            raise NotYet(told, reason="VPCNotReady")
        if vpc.metadata.deletion_timestamp is not None and not member:
            raise NotYet(f"VPC {'/'.join(name)} is being deleted", reason="VPCDeleting")
        return vpc, revoked

    def _addresses(
        self, key: Key, attachment: VpcAttachment, wanted: ParsedAttachment, networks: tuple[Network, ...]
    ) -> tuple[Interface, ...]:
        """The addresses in force: given ones, or those allocated before, or new ones."""
        if wanted.addresses:
            return wanted.addresses
        allocator = self._context.allocator
        allocations = allocator.of(wanted.vpc)
        before = allocator.addresses(key) or _parsed(attachment.status.addresses)
        if before:
            return before  # whatever became of the VPC's networks: a pod may be using them
        addresses = allocations.addresses.allocate(networks)
        # Free just now, so this cannot fail; they are kept even when a termination turns out to be held.
        allocations.addresses.claim(
            key, allocations.addresses.held(key) | {host(address.ip) for address in addresses}
        )
        allocator.remember(key, addresses)
        return addresses

    def _function(self, key: Key, vpc: Key, attachment: VpcAttachment) -> int:
        allocations = self._context.allocator.of(vpc)
        if allocations.functions.of(key) is None and attachment.status.identifier:
            with contextlib.suppress(Rejected):  # somebody wrote nonsense over it
                allocations.functions.claim(key, parse_function(attachment.status.identifier))
        return allocations.functions.allocate(key, attachment.metadata.uid)

    async def _define(self, key: Key, meta: Meta, admitted: Admitted) -> NotYet | None:
        """Makes the NetworkAttachmentDefinition what it has to be, or says what it waits for. Raises Terminating."""
        api, nads = self._context.api, self._context.caches.nads
        config = configuration(
            meta,
            admitted.plan,
            vpc=admitted.vpc,
            function=admitted.function,
            addresses=admitted.addresses,
            networks=admitted.networks,
            mtu=self._context.rules.mtu,
        )
        marks = labels(admitted.vpc, self._node(key))
        wanted = definition(meta, config, marks)
        if nads.get(key) is None:
            if self._context.caches.terminating(meta.namespace):
                raise Terminating(f"namespace {meta.namespace} is being deleted")
            try:  # one that another made just now the watch is about to tell of: Conflict, and tried again
                nads.set(await api.create(NADS, wanted, meta.namespace))
            except NotFound:
                return NotYet(
                    "the kind NetworkAttachmentDefinition is not installed; install Multus",
                    reason="MultusMissing",
                )
        known = nads.get(key)
        if known is None:
            return NotYet("the NetworkAttachmentDefinition was just deleted", reason="Pending")
        ours = f'"attachment":"{meta.namespace}/{meta.name}"' in known.config
        if known.owner != meta.uid and (known.owner or not ours):
            return NotYet(
                f"a NetworkAttachmentDefinition {'/'.join(key)} that is not this attachment's is in the way; "
                "rename one of them",
                reason="NameTaken",
            )
        unmarked = marks.items() - known.labels.items()
        if known.config != config or known.owner != meta.uid or unmarked:
            patch = {
                "metadata": {
                    "labels": wanted["metadata"]["labels"],
                    "ownerReferences": wanted["metadata"]["ownerReferences"],
                },
                "spec": wanted["spec"],
            }
            nads.set(await api.patch(NADS, meta.name, patch, meta.namespace))
        return None

    def _node(self, key: Key) -> str:
        """The Node that the attachment is on, or is about to be on; empty where nobody knows."""
        caches = self._context.caches
        found = caches.attachments.get(key)
        endpoint = found.status.endpoint if isinstance(found, VpcAttachment) else None
        attached = endpoint.node if endpoint else ""
        pods = [caches.pods.get(pod) for pod in caches.carriers(key)]
        nodes = [pod.node for pod in pods if pod is not None and pod.node]
        return attached if attached in nodes or not nodes else nodes[0]

    async def _write(
        self,
        meta: Meta,
        before: AttachmentStatus,
        admitted: Admitted | None,
        problem: Rejected | NotYet | None,
        said: Mapping[str, State | None] = MappingProxyType({ROUTED: None}),
    ) -> None:
        states: dict[str, State | None] = {GRANTED: None, DELETING: None, **said}
        ours = before.endpoint is None  # what is attached the router tells conflicts of
        if ours:
            states[CONFLICT] = None
        after: dict[str, Any] = {"ready": problem is None, "observedGeneration": meta.generation}
        if admitted:
            addresses = [str(address) for address in admitted.addresses]
            after |= {"identifier": function_hex(admitted.function), "addresses": addresses}
            states[ACCEPTED] = (
                State("True", "AddressOutsideNetworks", admitted.warning)
                if admitted.warning
                else State("True", "Valid", "the specification is valid")
            )
            if admitted.revoked:
                states[GRANTED] = State(
                    "False",
                    "Revoked",
                    "the VPC no longer admits this namespace; what is attached stays attached",
                )
        if problem is None and admitted:
            after["vpc"] = "/".join(admitted.plan.vpc)
            text = f"a pod can be attached, with {', '.join(after['addresses'])}"
            states[READY] = State("True", "Ready", text)
        elif problem is not None:
            reason = reason_of(problem)
            states[READY] = State("False", reason, str(problem))
            if not admitted:
                states[ACCEPTED] = State(
                    "False" if isinstance(problem, Rejected) else "Unknown", reason, str(problem)
                )
            if isinstance(problem, Held) and ours:
                states[CONFLICT] = State("True", reason, str(problem))
        after["conditions"] = conditions(before.conditions, states, meta.generation, now())
        await self._context.status(VPC_ATTACHMENTS, meta, before, after)
        if problem is not None and _generated(meta):
            self._tell_pods(meta, problem)

    def _tell_pods(self, meta: Meta, problem: Rejected | NotYet) -> None:
        """The user of a generated attachment looks at the Pod."""
        caches = self._context.caches
        for key in caches.carriers((meta.namespace, meta.name)):
            if (pod := caches.pods.get(key)) is not None:
                self._context.events.record(PODS, pod.metadata, "Warning", reason_of(problem), str(problem))

    def _tell_sharing(self, key: Key, meta: Meta) -> None:
        """Two pods may be named to one attachment by mistake; while one replaces another it is about to go."""
        caches = self._context.caches
        found = [(each, caches.pods.get(each)) for each in caches.carriers(key)]
        names = sorted(
            each[1] for each, pod in found if pod and pod.live and pod.metadata.deletion_timestamp is None
        )
        if len(names) > 1:
            told = (
                f"pods {', '.join(names)} use it: the newest gets the traffic, the others are not reached; delete "
                f"those not wanted, or give each an attachment of its own by the annotation {VPC_ANNOTATION}"
            )
            self._context.events.record(VPC_ATTACHMENTS, meta, "Warning", "Shared", told)

    def _tell_unattached(self, key: Key, verdict: Verdict) -> None:
        """The user of a pod looks at the Pod: an Event there, for each that runs without its interface."""
        for pod in verdict.lacking:
            state = not_attached((pod,))
            self._context.events.record(PODS, pod.metadata, "Warning", state.reason, state.message)
            if self._context.rules.evict_unattached:
                self._evict((pod.metadata.namespace, pod.metadata.name))
        if verdict.again is not None:
            self._context.dirty(("attachment", key), max(verdict.again, LOOK_SECONDS))

    async def _hold(self, key: Key) -> None:
        """The finalizer: there while a pod has it, so that nobody pulls the interface away under it. And the label
        by which nodes find the attachments of the VPCs they host, which comes with it: nothing else has an endpoint.

        An endpoint counts as well, for pods without the label. A generated attachment's pod has it: there, an endpoint
        without a pod is one that a dead node left.
        """
        context = self._context
        found = context.caches.attachments.get(key)
        if found is None or isinstance(found, Invalid):
            return
        meta, endpoint = found.metadata, found.status.endpoint
        pods = context.caches.carriers(key)
        if _generated(meta):  # a namesake of its pod waits for this one to go
            owners = {owner.uid for owner in meta.owner_references}
            pods = [pod for pod in pods if (it := context.caches.pods.get(pod)) and it.metadata.uid in owners]
        attached = endpoint is not None and not _generated(meta)
        in_use = (bool(pods) or attached) and not context.caches.terminating(key[0])
        if meta.deletion_timestamp is not None and in_use:
            who = f"pod {'/'.join(pods[0])}" if pods else "its pod"
            if endpoint is not None:
                who += f" on node {endpoint.node}"
            state = State("True", "InUse", f"waits for {who} to go")
            after = conditions(found.status.conditions, {DELETING: state}, meta.generation, now())
            await context.status(VPC_ATTACHMENTS, meta, found.status, {"conditions": after})
            return
        vpc = context.allocator.vpcs.of(vpc) if (vpc := context.allocator.vpc_of(key)) else None
        marks = {VPC_LABEL: vpc_hex(vpc)} if in_use and vpc is not None else {}
        await context.finalizer(VPC_ATTACHMENTS, meta, in_use, marks)

    def _leave(self, key: Key) -> None:
        vpc = self._context.allocator.vpc_of(key)
        self._wake(self._context.allocator.release(key))
        if vpc:
            self._context.dirty(("vpc", vpc), COUNT_SECONDS)

    def _wake(self, blocked: Any) -> None:
        for attachment in tuple(blocked):
            self._context.dirty(("attachment", attachment))


def _said(silence: State | None, verdict: Verdict) -> Mapping[str, State | None]:
    """The conditions about the pods of an attachment."""
    return {ROUTED: silence} | ({ATTACHED: verdict.state} if verdict.decided else {})


def _generated(meta: Meta) -> bool:
    return any(owner.kind == PODS.kind for owner in meta.owner_references)


def _parsed(texts: tuple[str, ...]) -> tuple[Interface, ...]:
    try:
        return tuple(map(ip_interface, texts))
    except ValueError:
        return ()
