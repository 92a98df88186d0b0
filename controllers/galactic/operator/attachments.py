"""The reconciler of VPCAttachments: admission, the definition for Multus, conditions, the finalizer."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from galactic.crds.model import Meta
from galactic.crds.vpcattachment import AttachmentStatus, VpcAttachment
from galactic.errors import NotYet, Rejected
from galactic.kube.api import Key, NotFound, Terminating
from galactic.kube.conditions import (
    ACCEPTED,
    ATTACHED,
    CONFLICT,
    DELETING,
    GRANTED,
    NETWORKS_ACCEPTED,
    READY,
    RETAINED,
    ROUTED,
    State,
    conditions,
    now,
    reason_of,
    stamp,
)
from galactic.kube.resources import NADS, PODS, VPC_ATTACHMENTS
from galactic.names import VPC_ANNOTATION, VPC_LABEL, function_hex, vpc_hex
from galactic.operator.addresses import Held
from galactic.operator.admission import Admission, Admitted
from galactic.operator.attached import InterfaceCheck, Interfaces, not_attached
from galactic.operator.carriers import carriers, detached, marks, owners
from galactic.operator.carriers import configuration as granted_configuration
from galactic.operator.context import FINALIZER, ReconcileContext
from galactic.operator.ending import EndingPods
from galactic.operator.nad import configuration, definition, labels
from galactic.operator.objects import Invalid, status_of
from galactic.operator.policies.index import PolicyIndex
from galactic.operator.route_reporting import PATIENCE_SECONDS, Unpublished
from galactic.operator.stand_in import StandIn
from galactic.operator.statefulsets import Retention, may_carry, retention, stateful
from galactic.operator.vpcs import Vpcs

LEAVING: Final = State(
    "False",
    "Detached",
    "the VPC no longer admits this namespace, and its spec.allowedNamespaces.whenRevoked is Detach: no pod carries the "
    "attachment, and nodes detach running pods after 60 s",
)
CHECK_SECONDS: Final = 0.05
"""The shortest time between two checks of a pod within its grace."""


class Attachments:
    """``evict`` gets the Pods that run without their interface, if the rules ask for evictions."""

    def __init__(
        self, context: ReconcileContext, vpcs: Vpcs, policies: PolicyIndex, evict: Callable[[Key], None]
    ) -> None:
        self._context, self._policies, self._evict = context, policies, evict
        self._admission = Admission(context, vpcs)
        self._unpublished = Unpublished()
        self._stand_in = StandIn(context)
        self._interfaces = Interfaces(context.rules.unattached_after)
        self._ending = EndingPods()

    async def reconcile(self, key: Key) -> None:
        context = self._context
        attachment = context.caches.attachments.get(key)
        if attachment is None:
            self._unpublished.state(context.caches, key, None)
            self._stand_in.forget(key)
            self._interfaces.forget(key)
            self._ending.forget(key)
            self._admission.release(key)
            return
        meta = attachment.metadata
        if isinstance(attachment, Invalid):
            await self._write(meta, status_of(AttachmentStatus, attachment), None, attachment.problem)
            return
        attachment = await self._stand_in.record(key, attachment)
        meta = attachment.metadata
        if meta.deletion_timestamp is None:
            admitted: Admitted | None = None
            problem: Rejected | NotYet | None = None
            try:
                admitted = self._admission.admit(key, attachment)
            except (Rejected, NotYet) as error:
                problem = error
            if admitted:
                try:
                    problem = await self._define(key, meta, admitted)
                except Terminating:  # the attachment goes with its namespace: no condition is written
                    await self._keep_finalizer(key)
                    return
            unrouted = self._unrouted(key, attachment)
            if (kept := self._retention(attachment)).release:
                await context.api.delete(VPC_ATTACHMENTS, meta.name, meta.namespace, uid=meta.uid)
                return
            leaving = detached(context.caches, attachment)
            # Of pods that leave, a missing interface is no fault.
            check = InterfaceCheck() if leaving else self._interfaces.check(context.caches, key)
            pod_states = {ROUTED: unrouted, RETAINED: kept.state} | (
                {ATTACHED: check.state} if check.decided else {}
            )
            if leaving:
                self._interfaces.forget(key)
                self._record_leaving(attachment)
                pod_states[GRANTED] = LEAVING
            await self._settle(meta, attachment.status, admitted, problem, pod_states)
            if kept.again is not None:
                context.dirty(("attachment", key), kept.again)
            self._record_sharing(key, meta)
            self._record_unattached(key, check)
        await self._keep_finalizer(key)

    async def _settle(
        self,
        meta: Meta,
        before: AttachmentStatus,
        admitted: Admitted | None,
        problem: Rejected | NotYet | None,
        pod_states: Mapping[str, State | None],
    ) -> None:
        """Writes the status, unless the attachment goes with its pod a moment later."""
        key = meta.namespace, meta.name
        left = self._ending.left(self._context.caches, key, meta)
        if left and problem is None and not pod_states.get(GRANTED):
            self._context.dirty(("attachment", key), left)
        else:
            await self._write(meta, before, admitted, problem, pod_states)

    def _retention(self, attachment: VpcAttachment) -> Retention:
        """Whether it outlasts its pod, and for how long."""
        context = self._context
        if not stateful(attachment.metadata):
            return Retention()
        return retention(context.caches, attachment, context.rules.scaled_down_retention, context.clock())

    def _unrouted(self, key: Key, attachment: VpcAttachment) -> State | None:
        """The condition Routed; checked again later while the router has not published the endpoint."""
        context = self._context
        if context.rules.router_outside:
            return None
        state, again = self._unpublished.state(context.caches, key, attachment)
        if again:
            context.dirty(("attachment", key), PATIENCE_SECONDS)
        return state

    async def _define(self, key: Key, meta: Meta, admitted: Admitted) -> NotYet | None:
        """Makes or repairs the NetworkAttachmentDefinition. What it waits for, if anything. Raises Terminating."""
        api, nads = self._context.api, self._context.caches.nads
        config = configuration(
            meta,
            admitted.spec,
            vpc=admitted.vpc,
            function=admitted.function,
            addresses=admitted.addresses,
            networks=admitted.networks,
            mtu=self._context.rules.mtu,
        )
        marks = labels(admitted.vpc)
        desired = definition(meta, config, marks)
        if nads.get(key) is None:
            if self._context.caches.terminating(meta.namespace):
                raise Terminating(f"namespace {meta.namespace} is being deleted")
            try:  # Conflict: another client made one a moment ago, and the watch is behind; tried again
                nads.set(await api.create(NADS, desired, meta.namespace))
            except NotFound:
                return NotYet(
                    "the kind NetworkAttachmentDefinition is not installed; install Multus",
                    reason="MultusMissing",
                )
        actual = nads.get(key)
        if actual is None:
            return NotYet("the NetworkAttachmentDefinition was just deleted", reason="Pending")
        own = f'"attachment":"{meta.namespace}/{meta.name}"' in actual.config
        if actual.owner != meta.uid and (actual.owner or not own):
            return NotYet(
                f"a NetworkAttachmentDefinition {'/'.join(key)} that does not belong to this attachment has its name; "
                "rename one of them",
                reason="NameTaken",
            )
        unmarked = marks.items() - actual.labels.items()
        if actual.config != config or actual.owner != meta.uid or unmarked:
            patch = {
                "metadata": {
                    "labels": desired["metadata"]["labels"],
                    "ownerReferences": desired["metadata"]["ownerReferences"],
                },
                "spec": desired["spec"],
            }
            nads.set(await api.patch(NADS, meta.name, patch, meta.namespace))
        return None

    async def _write(
        self,
        meta: Meta,
        before: AttachmentStatus,
        admitted: Admitted | None,
        problem: Rejected | NotYet | None,
        pod_states: Mapping[str, State | None] = MappingProxyType({ROUTED: None}),
    ) -> None:
        states: dict[str, State | None] = {GRANTED: None, DELETING: None, **pod_states}
        unattached = before.endpoint is None  # of an attached one the router reports conflicts
        if unattached:
            states[CONFLICT] = None
        after: dict[str, Any] = {"ready": problem is None, "observedGeneration": meta.generation}
        if admitted:
            addresses = [str(address) for address in admitted.addresses]
            after |= {"identifier": function_hex(admitted.function), "addresses": addresses}
            states[NETWORKS_ACCEPTED] = _declined(admitted)
            states[ACCEPTED] = (
                State("True", "AddressOutsideNetworks", admitted.warning)
                if admitted.warning
                else State("True", "Valid", "the specification is valid")
            )
            if admitted.revoked and states[GRANTED] is None:
                states[GRANTED] = State(
                    "False",
                    "Revoked",
                    "the VPC no longer admits this namespace; an attached pod stays attached",
                )
        if admitted or before.carriers:
            closed = problem is not None or admitted is None or admitted.revoked
            leaving = states[GRANTED] is LEAVING
            bound = () if leaving else carriers(self._context.caches, meta, before, closed=closed)
            after["carriers"] = [carrier.model_dump(by_alias=True) for carrier in bound]
        after |= self._rules(meta, before)
        if problem is None and admitted:
            after |= {"vpc": "/".join(admitted.spec.vpc), **_recorded(admitted)}
            after["configuration"] = granted_configuration(
                admitted.spec,
                vpc=admitted.vpc,
                addresses=admitted.addresses,
                networks=admitted.networks,
                mtu=self._context.rules.mtu,
                peers=admitted.peers,
                before=before.configuration,
            )
            text = f"a pod can be attached, with {', '.join(after['addresses'])}"
            states[READY] = State("True", "Ready", text)
        elif problem is not None:
            reason = reason_of(problem)
            states[READY] = State("False", reason, str(problem))
            if not admitted:
                states[ACCEPTED] = State(
                    "False" if isinstance(problem, Rejected) else "Unknown", reason, str(problem)
                )
            if isinstance(problem, Held) and unattached:
                states[CONFLICT] = State("True", reason, str(problem))
        time = stamp(self._context.clock())
        after["conditions"] = conditions(before.conditions, states, meta.generation, time)
        await self._context.status(VPC_ATTACHMENTS, meta, before, after)
        if problem is not None and _generated(meta):
            self._record_on_pods(meta, problem)

    def _rules(self, meta: Meta, before: AttachmentStatus) -> dict[str, list[str]]:
        """The rules in force for it; kinds of an earlier version, without rules, lose nothing."""
        rules = list(self._policies.rules_of((meta.namespace, meta.name)))
        return {"policies": rules} if rules or before.policies else {}

    def _record_on_pods(self, meta: Meta, problem: Rejected | NotYet) -> None:
        """The user of a generated attachment reads the Pod's Events."""
        caches = self._context.caches
        for key in caches.carriers((meta.namespace, meta.name)):
            if (pod := caches.pods.get(key)) is not None:
                self._context.events.record(PODS, pod.metadata, "Warning", reason_of(problem), str(problem))

    def _record_leaving(self, attachment: VpcAttachment) -> None:
        """An Event on each pod that is taken out of the VPC."""
        caches, meta = self._context.caches, attachment.metadata
        for carrier in attachment.status.carriers or ():
            pod = caches.pods.get((meta.namespace, carrier.pod))
            if pod is not None and pod.metadata.uid == carrier.uid:
                message = (
                    f"VPCAttachment {meta.name}: the VPC no longer admits namespace {meta.namespace}; node "
                    f"{carrier.node} detaches the pod after 60 s"
                )
                self._context.events.record(PODS, pod.metadata, "Warning", LEAVING.reason, message)

    def _record_sharing(self, key: Key, meta: Meta) -> None:
        """Two pods may name one attachment by mistake. While one replaces another, the old one is being deleted."""
        caches = self._context.caches
        pods = [caches.pods.get(carrier) for carrier in caches.carriers(key)]
        names = sorted(
            pod.metadata.name for pod in pods if pod and pod.live and pod.metadata.deletion_timestamp is None
        )
        if len(names) > 1:
            message = (
                f"pods {', '.join(names)} use it: the newest gets the traffic, the others are not reached; delete "
                f"the surplus ones, or give each an attachment of its own by the annotation {VPC_ANNOTATION}"
            )
            self._context.events.record(VPC_ATTACHMENTS, meta, "Warning", "Shared", message)

    def _record_unattached(self, key: Key, check: InterfaceCheck) -> None:
        """An Event on each Pod that runs without its interface: the user of a pod reads the Pod's Events."""
        for pod in check.lacking:
            state = not_attached((pod,))
            self._context.events.record(PODS, pod.metadata, "Warning", state.reason, state.message)
            if self._context.rules.evict_unattached:
                self._evict((pod.metadata.namespace, pod.metadata.name))
        if check.again is not None:
            self._context.dirty(("attachment", key), max(check.again, CHECK_SECONDS))

    async def _keep_finalizer(self, key: Key) -> None:
        """The finalizer, while a pod uses the attachment; with it the label by which nodes select attachments of VPCs.

        An endpoint counts as a user, for pods without the label. The pod of a generated attachment has the label: an
        endpoint without a pod is one that a dead node left.
        """
        context = self._context
        attachment = context.caches.attachments.get(key)
        if attachment is None or isinstance(attachment, Invalid):
            return
        meta, endpoint = attachment.metadata, attachment.status.endpoint
        pods = self._users(key, meta)
        attached = endpoint is not None and not _generated(meta)
        in_use = (bool(pods) or attached) and not context.caches.terminating(key[0])
        if meta.deletion_timestamp is not None and in_use:
            user = f"pod {'/'.join(pods[0])}" if pods else "its pod"
            if endpoint is not None:
                user += f" on node {endpoint.node}"
            state = State("True", "InUse", f"waits for {user} to end; delete the pod")
            states = {DELETING: state}
            leaving: dict[str, Any] = {}
            if detached(context.caches, attachment):  # its deletion does not keep a pod in the VPC
                self._record_leaving(attachment)
                states[GRANTED], leaving = LEAVING, {"carriers": []}
            after = conditions(attachment.status.conditions, states, meta.generation, now())
            await context.status(VPC_ATTACHMENTS, meta, attachment.status, leaving | {"conditions": after})
            if leaving:
                await self._unmark(key)
            return
        vpc = context.allocator.vpcs.of(vpc) if (vpc := context.allocator.vpc_of(key)) else None
        written = context.caches.attachments.get(key)  # with the carriers of this round
        bound = written.status.carriers if isinstance(written, VpcAttachment) else None
        selected: Mapping[str, str | None] = marks(meta, bound or ())
        if in_use and vpc is not None:
            selected = {VPC_LABEL: vpc_hex(vpc), **selected}
        await context.finalizer(VPC_ATTACHMENTS, meta, in_use, selected)

    async def _unmark(self, key: Key) -> None:
        """Takes the labels away by which nodes select the attachment, and keeps the finalizer."""
        written = self._context.caches.attachments.get(key)
        if written is not None:
            meta = written.metadata
            await self._context.finalizer(
                VPC_ATTACHMENTS, meta, FINALIZER in meta.finalizers, marks(meta, ())
            )

    def _users(self, key: Key, meta: Meta) -> list[Key]:
        """The Pods that use the attachment. Of a generated one its owner alone: a namesake waits for its deletion.

        Of a StatefulSet's one that is being deleted those that carry it: a Pod that came later waits for the next.
        """
        caches = self._context.caches
        users = caches.carriers(key)
        attachment = caches.attachments.get(key)
        if stateful(meta) and isinstance(attachment, VpcAttachment):
            bound = {carrier.uid for carrier in attachment.status.carriers or ()}
            pods = [(pod, cached) for pod in users if (cached := caches.pods.get(pod)) is not None]
            deleted = meta.deletion_timestamp is not None
            return [
                pod
                for pod, cached in pods
                if (cached.metadata.uid in bound if deleted else may_carry(cached, attachment))
            ]
        if not _generated(meta):
            return users
        own = owners(meta)
        return [pod for pod in users if (cached := caches.pods.get(pod)) and cached.metadata.uid in own]


def _recorded(admitted: Admitted) -> dict[str, list[str]]:
    recorded = admitted.acceptance.recorded
    return {} if recorded is None else {"acceptedNetworks": [str(network) for network in recorded]}


def _declined(admitted: Admitted) -> State | None:
    """The condition NetworksAccepted: networks that the VPC's owner added later, and that the pod does not route."""
    if not admitted.acceptance.declined:
        return None
    networks, vpc = ", ".join(map(str, admitted.acceptance.declined)), "/".join(admitted.spec.vpc)
    return State(
        "False",
        "NetworksDeclined",
        f"VPC {vpc} got {networks}, itself or by a peering, after the attachment was ready: the pod has no route to "
        "what is outside status.acceptedNetworks; to accept it, give spec.acceptedNetworks",
    )


def _generated(meta: Meta) -> bool:
    return bool(owners(meta)) or stateful(meta)
