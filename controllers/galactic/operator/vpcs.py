"""One VPC: its identifier, whether its networks will do, who is in it, and whether it may go."""

from typing import Any, Final

from galactic.crds.vpc import Vpc, VpcStatus
from galactic.errors import NotYet, Rejected
from galactic.kube.api import Key
from galactic.kube.conditions import (
    ACCEPTED,
    DELETING,
    READY,
    State,
    conditions,
    now,
    reason_of,
)
from galactic.kube.resources import VPCS
from galactic.names import parse_vpc, vpc_hex
from galactic.operator.context import ReconcileContext
from galactic.operator.identifiers import taken
from galactic.operator.state import Invalid
from galactic.validation.networks import Network, parse_networks

NAMED: Final = 5
"""How many holders a message names."""
COUNT_SECONDS: Final = 1.0
"""How long a change of a VPC's counts may wait for more of them."""


class Vpcs:
    """The reconciler of VPCs."""

    def __init__(self, context: ReconcileContext) -> None:
        self._context = context
        self._networks: dict[Key, tuple[tuple[str, ...], tuple[Network, ...]]] = {}

    def networks(self, key: Key, vpc: Vpc) -> tuple[Network, ...]:
        """The VPC's networks. Raises Rejected."""
        texts = vpc.spec.networks
        known = self._networks.get(key)
        if known is None or known[0] != texts:
            known = self._networks[key] = (texts, parse_networks(texts, self._context.rules.srv6_block))
        return known[1]

    async def reconcile(self, key: Key) -> None:
        context = self._context
        found = context.caches.vpcs.get(key)
        if found is None:
            self._forget(key)
            return
        meta = found.metadata
        allocations = context.allocator.known(key)
        members = sorted(allocations.members) if allocations else []
        problem: Rejected | NotYet | None = None
        try:
            if isinstance(found, Invalid):
                raise found.problem
            self.networks(key, found)
            self._identify(key, found)
        except (Rejected, NotYet) as error:
            problem = error
        status = found.status if isinstance(found, Vpc) else VpcStatus()
        after = self._status(key, problem, members, meta.deletion_timestamp is not None)
        after["conditions"] = conditions(status.conditions, after["conditions"], meta.generation, now())
        after["observedGeneration"] = meta.generation
        await context.status(VPCS, meta, status, after)
        current = context.caches.vpcs.get(key)
        if current is not None:
            allocations = context.allocator.known(key)  # another may have come while the status was written
            hold = bool(allocations and allocations.members) and not context.caches.terminating(key[0])
            if hold and current.metadata.deletion_timestamp is not None:
                return  # a finalizer cannot be added to what is being deleted; ours stays if it is there
            await context.finalizer(VPCS, current.metadata, hold)

    def _identify(self, key: Key, vpc: Vpc) -> int:
        """The VPC's identifier, entered in the allocator. Raises Rejected or NotYet."""
        allocator, wanted, has = self._context.allocator, vpc.spec.identifier, vpc.status.identifier
        if wanted and has and wanted != has:
            raise Rejected(
                f"{wanted} cannot replace {has}: immutable; set it back, or make another VPC",
                reason="Immutable",
                field="spec.identifier",
            )
        if wanted:
            try:
                number = parse_vpc(wanted)
            except Rejected as error:
                raise Rejected(str(error), reason="InvalidIdentifier", field="spec.identifier") from error
            if not allocator.vpcs.claim(key, number):
                allocator.blocked.add(key)
                holder = allocator.vpcs.holder(number)
                assert holder is not None
                raise taken("VPC", wanted, "spec.identifier", holder)
            allocator.blocked.discard(key)
            return number
        if has and allocator.vpcs.of(key) is None:
            try:
                if allocator.vpcs.claim(key, number := parse_vpc(has)):
                    return number
            except Rejected:
                pass  # somebody wrote nonsense over it: the allocator knows better, or a new one is drawn
        return allocator.vpcs.allocate(key, vpc.metadata.uid)

    def _status(
        self, key: Key, problem: Rejected | NotYet | None, members: list[Key], deleting: bool
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
        if deleting and members:
            names = ", ".join("/".join(member) for member in members[:NAMED])
            more = f" and {len(members) - NAMED} more" if len(members) > NAMED else ""
            states[DELETING] = State(
                "True", "HasAttachments", f"waits for VPCAttachments to be deleted: {names}{more}"
            )
        return {
            "ready": problem is None,
            "attachments": len(members),
            "endpoints": sum(map(self._attached, members)),
            "conditions": states,
        } | ({"identifier": vpc_hex(number)} if number is not None else {})

    def _attached(self, attachment: Key) -> bool:
        there = self._context.caches.attachments.get(attachment)
        return there is not None and not isinstance(there, Invalid) and there.status.endpoint is not None

    def _forget(self, key: Key) -> None:
        allocator = self._context.allocator
        self._networks.pop(key, None)
        allocator.blocked.discard(key)
        if allocator.vpcs.release(key) is not None:
            for blocked in tuple(allocator.blocked):
                self._context.dirty(("vpc", blocked))
        allocator.forget(key)
