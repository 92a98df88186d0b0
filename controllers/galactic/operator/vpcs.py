"""The reconciler of VPCs: identifier, networks, counts of attachments, and the finalizer."""

from collections.abc import Set as AbstractSet
from heapq import nsmallest
from typing import Any, Final

from galactic.crds.vpc import Vpc, VpcStatus
from galactic.errors import NotYet, Rejected
from galactic.kube.api import Key
from galactic.kube.conditions import (
    ACCEPTED,
    DELETING,
    PEERED,
    READY,
    State,
    conditions,
    now,
    reason_of,
)
from galactic.kube.resources import CONFIG_MAPS, VPCS
from galactic.names import parse_vpc, vpc_hex
from galactic.operator.context import FINALIZER, ReconcileContext
from galactic.operator.identifiers import identifier_taken
from galactic.operator.objects import Invalid, status_of
from galactic.operator.peering import Peers
from galactic.validation.joining import RECORDS, recorded, unrecorded
from galactic.validation.networks import Network, parse_networks
from galactic.validation.policies import policy

NAMED: Final = 5
"""Attachments that a message names."""
COUNT_SECONDS: Final = 1.0
"""The first attachment of a VPC waits so long for further ones; the VPC then gets its finalizer."""
COUNTS_SECONDS: Final = 5.0
"""Later changes of a VPC's counts wait so long, so that pods that come and go cost few writes of its status."""


def count_delay(vpc: Vpc | Invalid | None) -> float:
    """Seconds until a change of its counts is written. A VPC that waits to be deleted does not wait for counts."""
    settled = isinstance(vpc, Vpc) and vpc.metadata.deletion_timestamp is None
    return COUNTS_SECONDS if vpc and settled and FINALIZER in vpc.metadata.finalizers else COUNT_SECONDS


class Vpcs:
    def __init__(self, context: ReconcileContext) -> None:
        self._context = context
        self._networks: dict[Key, tuple[tuple[str, ...], tuple[Network, ...]]] = {}
        self.peers = Peers(context.caches, self.networks)

    def networks(self, key: Key, vpc: Vpc) -> tuple[Network, ...]:
        """The VPC's networks. Raises Rejected."""
        texts = vpc.spec.networks
        parsed = self._networks.get(key)
        if parsed is None or parsed[0] != texts:
            parsed = self._networks[key] = (texts, parse_networks(texts, self._context.rules.srv6_block))
        return parsed[1]

    async def reconcile(self, key: Key) -> None:
        context = self._context
        vpc = context.caches.vpcs.get(key)
        if vpc is None:
            self._forget(key)
            return
        meta = vpc.metadata
        allocations = context.allocator.allocated(key)
        members = allocations.members if allocations else set()
        problem: Rejected | NotYet | None = None
        try:
            if isinstance(vpc, Invalid):
                raise vpc.problem
            self.networks(key, vpc)
            for index, floor in enumerate(vpc.spec.policies):
                policy(floor, f"spec.policies[{index}]")
            await self._admitted(key, vpc)
            self._identify(key, vpc)
        except (Rejected, NotYet) as error:
            problem = error
        status = status_of(VpcStatus, vpc)
        after = self._status(key, problem, members, meta.deletion_timestamp is not None)
        peers, after["conditions"][PEERED] = self.peers.statuses(key)
        if peers or status.peers:
            after["peers"] = peers
        after["conditions"] = conditions(status.conditions, after["conditions"], meta.generation, now())
        after["observedGeneration"] = meta.generation
        await context.status(VPCS, meta, status, after)
        current = context.caches.vpcs.get(key)
        if current is not None:
            # An attachment may have been assigned while the status was written.
            allocations = context.allocator.allocated(key)
            hold = bool(allocations and allocations.members) and not context.caches.terminating(key[0])
            if hold and current.metadata.deletion_timestamp is not None:
                return  # a finalizer cannot be added during deletion; ours stays if it is present
            await context.finalizer(VPCS, current.metadata, hold)

    async def _admitted(self, key: Key, vpc: Vpc) -> None:
        """Raises Rejected unless the webhook admitted the identifier that the VPC requests.

        A VPC with an identifier in its status was admitted earlier.
        """
        requested, caches = vpc.spec.identifier, self._context.caches
        if not requested or vpc.status.identifier:
            return
        records = await self._context.api.find(CONFIG_MAPS, RECORDS, caches.namespace) or {}
        if not recorded(records.get("data"), vpc.metadata.uid, key, requested):
            raise unrecorded(requested)

    def _identify(self, key: Key, vpc: Vpc) -> int:
        """The VPC's identifier, claimed in the allocator. Raises Rejected or NotYet."""
        allocator = self._context.allocator
        requested, present = vpc.spec.identifier, vpc.status.identifier
        if requested and present and requested != present:
            raise Rejected(
                f"{requested} cannot replace {present}: immutable; set it back, or make another VPC",
                reason="Immutable",
                field="spec.identifier",
            )
        if requested:
            try:
                number = parse_vpc(requested)
            except Rejected as error:
                raise Rejected(str(error), reason="InvalidIdentifier", field="spec.identifier") from error
            if not allocator.vpcs.claim(key, number):
                allocator.blocked.add(key)
                holder = allocator.vpcs.holder(number)
                assert holder is not None
                raise identifier_taken(requested, holder, key[0])
            allocator.blocked.discard(key)
            return number
        if present and allocator.vpcs.of(key) is None:
            try:
                if allocator.vpcs.claim(key, number := parse_vpc(present)):
                    return number
            except Rejected:
                pass  # another client overwrote the status: the VPC gets a new identifier
        return allocator.vpcs.allocate(key, vpc.metadata.uid)

    def _status(
        self, key: Key, problem: Rejected | NotYet | None, members: AbstractSet[Key], deleting: bool
    ) -> dict[str, Any]:
        context = self._context
        number = context.allocator.vpcs.of(key)
        states: dict[str, State | None] = {DELETING: None}
        if problem is None and number is not None:
            states[ACCEPTED] = State("True", "Valid", "the specification is valid")
            states[READY] = State(
                "True", "Ready", f"attachments can be made; the identifier is {vpc_hex(number)}"
            )
        elif problem is not None:
            reason = reason_of(problem)
            states[ACCEPTED] = State("False", reason, str(problem))
            states[READY] = State("False", reason, str(problem))
        live = members & context.caches.attachments.keys()
        if deleting and live:
            states[DELETING] = State(
                "True", "HasAttachments", f"waits for VPCAttachments to be deleted: {_names(live)}"
            )
        elif deleting and members:
            states[DELETING] = State(
                "True",
                "StillAttached",
                f"waits for nodes to detach pods of deleted VPCAttachments: {_names(members)}",
            )
        return {
            "ready": problem is None,
            "attachments": len(live),
            "endpoints": context.caches.attachment_counts.routed(members),
            "conditions": states,
        } | ({"identifier": vpc_hex(number)} if number is not None else {})

    def _forget(self, key: Key) -> None:
        allocator = self._context.allocator
        self._networks.pop(key, None)
        allocator.blocked.discard(key)
        allocations = allocator.allocated(key)
        if allocations and allocations.members:
            return  # its attachments keep the identifier; the last one to be released leads here again
        if allocator.vpcs.release(key) is not None:
            for blocked in tuple(allocator.blocked):
                self._context.dirty(("vpc", blocked))
        allocator.forget(key)


def _names(attachments: AbstractSet[Key]) -> str:
    rest = f" and {len(attachments) - NAMED} more" if len(attachments) > NAMED else ""
    return ", ".join("/".join(attachment) for attachment in nsmallest(NAMED, attachments)) + rest
