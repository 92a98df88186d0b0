"""Differences of the caches into the index, and what they make dirty into the queue."""

from contextlib import suppress
from typing import Final

from galactic.crds.model import Meta
from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import VpcAttachment
from galactic.crds.vpcpolicy import VpcPolicy
from galactic.errors import Rejected
from galactic.kube.api import Key
from galactic.kube.workqueue import WorkQueue
from galactic.names import CARRIER_PREFIX
from galactic.operator.attachment_counts import reference, settled_vpc
from galactic.operator.context import Item
from galactic.operator.objects import Invalid, PolicyPart
from galactic.operator.policies.index import Member, Rules
from galactic.operator.policies.policyslices import base
from galactic.operator.policies.reconciler import Policies
from galactic.validation.policies import closed, policy, vpc_of

GROUP_SECONDS: Final = 0.05
"""For which a group waits for further changes: of many pods at once they make one."""
COUNT_SECONDS: Final = 1.0
"""For which a policy's count waits for further changes."""


class PolicyChanges:
    """Gets every difference that rules depend on."""

    def __init__(self, queue: WorkQueue[Item], policies: Policies) -> None:
        self._queue, self._policies, self._index = queue, policies, policies.index
        self._floors: dict[Key, int] = {}

    def vpc(self, key: Key, old: Vpc | Invalid | None, new: Vpc | Invalid | None) -> None:
        """The VPC's own rules; and its identifier, which slices have."""
        if isinstance(new, Invalid):
            return
        floors = new.spec.policies if new is not None else ()
        for number, floor in enumerate(floors):
            field = f"spec.policies[{number}]"
            with suppress(Rejected):
                try:
                    parsed = policy(floor, field)
                except Rejected:
                    parsed = closed(floor, field)
                rules = Rules(key, key[0], "Floor", "/".join(key), parsed)
                self._index.set_rules((*key, number), rules)
        for number in range(len(floors), self._floors.pop(key, 0)):
            self._index.set_rules((*key, number), None)
        if floors:
            self._floors[key] = len(floors)
        self._index.set_peers(key, _peers(new))
        if _identifier(old) != _identifier(new):
            self._index.dirty.slices |= self._index.of_vpc(key)
        if (old is None) != (new is None):
            self._index.dirty.policies |= {
                name
                for name in self._index.policies()
                if (rules_ := self._index.of_policy(name)) and rules_.vpc == key
            }
        self._mark()

    def attachment(self, key: Key, new: VpcAttachment | Invalid | None) -> None:
        member = None
        if isinstance(new, VpcAttachment):
            labels = {
                name: one for name, one in new.metadata.labels.items() if not name.startswith(CARRIER_PREFIX)
            }
            addresses = tuple(sorted(address.partition("/")[0] for address in new.status.addresses))
            member = Member(settled_vpc(new) or reference(new), labels, addresses)
        self._index.set_member(key, member)
        self._mark()

    def namespace(self, key: Key, new: Meta | None) -> None:
        self._index.set_namespace(key[1], None if new is None else new.labels)
        self._mark()

    def policy(self, key: Key, new: VpcPolicy | Invalid | None) -> None:
        """Rules that cannot be understood let nothing pass; those of an object that does not fit its kind stay."""
        self._queue.add(("policy", key))
        if isinstance(new, Invalid):
            return
        rules = None
        if new is not None:
            with suppress(Rejected):
                try:
                    parsed = policy(new.spec)
                except Rejected:
                    parsed = closed(new.spec)
                rules = Rules(vpc_of(new), key[0], "Policy", "/".join(key), parsed)
        self._index.set_rules(key, rules)
        self._mark()

    def part(self, key: Key, old: PolicyPart | None, new: PolicyPart | None) -> None:
        self._policies.part_changed(key, old, new)
        if old is not None and (new is None or old.spec != new.spec):
            self._queue.add(("policyslice", ("", base(key[1]))), GROUP_SECONDS)

    def _mark(self) -> None:
        dirty = self._index.drain()
        for attachment in dirty.attachments:
            self._queue.add(("attachment", attachment))
        for name in dirty.slices:
            settled = name.startswith("group-") and self._index.group(name) is not None
            self._queue.add(("policyslice", ("", name)), GROUP_SECONDS if settled else 0.0)
        for key in dirty.policies:
            self._queue.add(("policy", key), COUNT_SECONDS)


def _peers(vpc: Vpc | None) -> frozenset[Key]:
    """The VPCs that its status reports peerings in force with."""
    statuses = vpc.status.peers if vpc is not None else ()
    return frozenset((one.namespace, one.name) for one in statuses if one.in_force)


def _identifier(vpc: Vpc | Invalid | None) -> str | None:
    return vpc.status.identifier if isinstance(vpc, Vpc) else None
