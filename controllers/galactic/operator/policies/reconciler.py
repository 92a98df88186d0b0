"""The reconcilers of VPCPolicies (conditions) and of PolicySlices (rules and groups, for nodes)."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from galactic.crds.nodesegment import NodeSegment
from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import VpcAttachment
from galactic.crds.vpcpolicy import PolicyStatus, VpcPolicy
from galactic.errors import NotYet, Rejected
from galactic.kube.api import Key, NotFound
from galactic.kube.conditions import ACCEPTED, ENFORCED, POLICIES, State, conditions, now, reason_of
from galactic.kube.resources import POLICY_SLICES, VPC_POLICIES
from galactic.names import vpc_hex
from galactic.operator.context import ReconcileContext
from galactic.operator.objects import Invalid, PolicyPart, status_of
from galactic.operator.policies.index import PolicyIndex, Rules
from galactic.operator.policies.policyslices import base, group_specs, manifest, rules_spec, surplus
from galactic.validation.grants import granted, refusal
from galactic.validation.policies import policy, vpc_of

NAMED: Final = 3
"""Nodes that a message names."""
GROUPS_SECONDS: Final = 0.05
"""Rules wait so long for the slices of their groups, again and again."""


class Policies:
    """``index`` is kept by the triggers."""

    def __init__(self, context: ReconcileContext, index: PolicyIndex) -> None:
        self._context, self.index = context, index
        self._parts: defaultdict[str, set[str]] = defaultdict(set)

    def part_changed(self, key: Key, _old: PolicyPart | None, new: PolicyPart | None) -> None:
        """A slice came or went."""
        parts = self._parts[base(key[1])]
        (parts.discard if new is None else parts.add)(key[1])
        if not parts:
            del self._parts[base(key[1])]

    async def reconcile(self, key: Key) -> None:
        """The conditions of a VPCPolicy."""
        context = self._context
        found = context.caches.policies.get(key)
        if found is None:
            return
        meta = found.metadata
        problem: Rejected | NotYet | None = None
        try:
            if isinstance(found, Invalid):
                raise found.problem
            policy(found.spec)
            self._admitted(key, found)
        except (Rejected, NotYet) as error:
            problem = error
        rules = self.index.of_policy(key)
        selected = self.index.selected(rules.name) if rules else frozenset[Key]()
        states = {ACCEPTED: _accepted(problem, rules), ENFORCED: self._enforced(rules, selected)}
        status = status_of(PolicyStatus, found)
        after = {
            "attachments": len(selected),
            "conditions": conditions(status.conditions, states, meta.generation, now()),
            "observedGeneration": meta.generation,
        }
        await context.status(VPC_POLICIES, meta, status, after)

    def _admitted(self, key: Key, found: VpcPolicy) -> None:
        """Raises Rejected or NotYet where the namespace has no part in the VPC. The rules are in force nevertheless."""
        caches, vpc = self._context.caches, vpc_of(found)
        current = caches.vpcs.get(vpc)
        if vpc[0] != key[0]:
            namespace = caches.namespaces.get(("", key[0]))
            labels = namespace.labels if namespace else None
            if not isinstance(current, Vpc) or not granted(current.spec.allowed_namespaces, False, labels):
                raise refusal(vpc, key[0])
        elif current is None:
            raise NotYet(
                f"spec.vpc: VPC {'/'.join(vpc)} does not exist; make it, or name another",
                reason="VPCNotFound",
            )

    def _enforced(self, rules: Rules | None, selected: frozenset[Key]) -> State:
        if rules is None:
            return State("False", "NotUnderstood", "no node has the rules; mend the specification")
        if not selected:
            return State(
                "True", "NothingSelected", "spec.attachmentSelector matches no VPCAttachment of the VPC here"
            )
        lacking = sorted(self._lacking(selected))
        if lacking:
            names = ", ".join(lacking[:NAMED]) + (
                f" and {len(lacking) - NAMED} more" if len(lacking) > NAMED else ""
            )
            return State(
                "False",
                "NodesUnable",
                f"node {names} cannot enforce rules, as the condition {POLICIES} of its NodeSegment explains "
                "(without one the node is of an earlier version: upgrade it). Running pods that rules select have none "
                "there; move them to other nodes",
            )
        return State("True", "Enforced", f"the nodes of {len(selected)} attachments enforce the rules")

    def _lacking(self, selected: frozenset[Key]) -> set[str]:
        """The nodes of selected attachments that report that they cannot enforce rules."""
        caches = self._context.caches
        unable = {
            key[1]
            for key, segment in caches.segments.items()
            if isinstance(segment, NodeSegment) and unable_to_enforce(segment)
        }
        if not unable:
            return set()
        attachments = (caches.attachments.get(key) for key in selected)
        return {
            carrier.node
            for attachment in attachments
            if isinstance(attachment, VpcAttachment)
            for carrier in attachment.status.carriers or ()
            if carrier.node in unable
        }

    async def reconcile_part(self, key: Key) -> None:
        """The slices of rules, or of a group."""
        name, index, context = key[1], self.index, self._context
        wanted: dict[str, dict[str, Any]] = {}
        present = set(self._parts.get(name, ()))
        if (rules := index.named(name)) is not None:
            vpc = context.allocator.vpcs.of(rules.vpc)
            if vpc is None:
                return  # no attachment of the VPC is ready before; its identifier leads here again
            if any(not self._parts.get(group.name) for group in rules.groups):
                context.dirty(("policyslice", key), GROUPS_SECONDS)  # a node would take the group for empty
                return
            wanted = {name: rules_spec(rules, vpc_hex(vpc))}
        elif (group := index.group(name)) is not None:
            vpc = context.allocator.vpcs.of(group[0].vpc)
            if vpc is None:
                return
            count = 1 << (len(present) - 1).bit_length() if present else 0
            wanted = group_specs(*group, vpc_hex(vpc), count)
        for part, spec in wanted.items():
            await self._write(part, spec)
        for part in surplus(present, wanted):
            try:
                await context.api.delete(POLICY_SLICES, part)
            except NotFound:
                context.caches.policy_parts.remove(("", part))

    async def _write(self, name: str, spec: Mapping[str, Any]) -> None:
        api, parts = self._context.api, self._context.caches.policy_parts
        present = parts.get(("", name))
        if present is None:
            parts.set(await api.create(POLICY_SLICES, manifest(name, spec)))
        elif present.spec != spec:
            gone = dict.fromkeys(present.spec.keys() - spec.keys())
            body = {"metadata": {"resourceVersion": present.version}, "spec": {**gone, **spec}}
            parts.set(await api.patch(POLICY_SLICES, name, body))


def unable_to_enforce(segment: NodeSegment) -> bool:
    """Whether the node reports that it cannot enforce rules, or is of a version that knows none."""
    reported = {one.type: one.status for one in segment.status.conditions}
    return bool(reported) and reported.get(POLICIES) != "True"


def _accepted(problem: Rejected | NotYet | None, rules: Rules | None) -> State:
    if problem is None:
        return State("True", "Valid", "the specification is valid")
    reason = reason_of(problem)
    if isinstance(problem, NotYet):
        return State("Unknown", reason, str(problem))
    closed = "; until then nothing passes that it would restrict" if rules and reason == "Invalid" else ""
    return State("False", reason, f"{problem}{closed}")
