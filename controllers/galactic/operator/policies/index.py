"""Which attachments rules select, and which addresses the groups of their peers have: kept up to date with each change.

A change costs what it concerns: an attachment's is compared with the rules and groups of its VPC, a policy's with the
attachments of its namespace. Each method returns what the change makes dirty.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from galactic.kube.api import Key
from galactic.validation.policies import Policy, Selected, Selector, matches

_DIGEST: Final = 10


@dataclass(frozen=True, slots=True)
class Member:
    """An attachment, as far as rules depend on it. ``addresses``: without lengths."""

    vpc: Key
    labels: Mapping[str, str]
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """Those of a VPCPolicy, or of an entry of a VPC's ``spec.policies``.

    ``namespace``: of peers that name none. ``source``: the object, for people.
    """

    vpc: Key
    namespace: str
    role: Literal["Policy", "Floor"]
    source: str
    policy: Policy

    @property
    def name(self) -> str:
        """Of their slice. Other attachments selected, or directions: another name, so that no attachment has rules that
        were made for others. The rules themselves may change under one name.
        """
        policy = self.policy
        rules = (policy.ingress, policy.egress) if self.role == "Floor" else ()
        directions = (policy.ingress is None, policy.egress is None)
        return f"{self.role.lower()}-{_digest(self.vpc, self.source, policy.selector, directions, rules)}"

    def select(self, key: Key, member: Member) -> bool:
        """Whether the attachment is one that they restrict."""
        own = key[0] == self.namespace
        return (
            member.vpc == self.vpc
            and own == (self.role == "Policy")
            and matches(self.policy.selector, member.labels)
        )

    @property
    def groups(self) -> "frozenset[Group]":
        """The groups of their peers."""
        return frozenset(
            Group.of(self, peer)
            for rules in (self.policy.ingress, self.policy.egress)
            for rule in rules or ()
            for peer in rule.peers or ()
            if isinstance(peer, Selected)
        )


@dataclass(frozen=True, slots=True)
class Group:
    """Attachments of a VPC that match: in one namespace, or in those that ``namespaces`` matches."""

    vpc: Key
    namespace: str
    attachments: Selector
    namespaces: Selector | None

    @classmethod
    def of(cls, rules: Rules, peer: Selected) -> "Group":
        """The group that a peer of those rules means."""
        namespace = rules.namespace if peer.namespaces is None else ""
        return cls(rules.vpc, namespace, peer.attachments, peer.namespaces)

    @property
    def name(self) -> str:
        return f"group-{_digest(self.vpc, self.namespace, self.attachments, self.namespaces)}"

    def has(
        self, key: Key, member: Member, namespace: Mapping[str, str], peers: frozenset[Key] = frozenset()
    ) -> bool:
        """``namespace``: the labels of the attachment's namespace. ``peers``: VPCs whose attachments reach the VPC."""
        if member.vpc != self.vpc and member.vpc not in peers:
            return False
        if not matches(self.attachments, member.labels):
            return False
        if self.namespaces is None:
            return key[0] == self.namespace
        return matches(self.namespaces, namespace)


@dataclass(slots=True)
class Dirty:
    """The objects that a change concerns: attachments with other rules, slices, VPCPolicies with other counts."""

    attachments: set[Key] = field(default_factory=set)
    slices: set[str] = field(default_factory=set)
    policies: set[Key] = field(default_factory=set)


class PolicyIndex:
    """Keys of rules: (namespace, name) of a VPCPolicy; of a VPC's entries (namespace, name, index)."""

    def __init__(self) -> None:
        self.dirty = Dirty()
        self._members: dict[Key, Member] = {}
        self._of_vpc: defaultdict[Key, set[Key]] = defaultdict(set)
        self._of_namespace: defaultdict[str, set[Key]] = defaultdict(set)
        self._namespaces: dict[str, Mapping[str, str]] = {}
        self._peers: dict[Key, frozenset[Key]] = {}  # VPC → those that it is peered with
        self._rules: dict[tuple[Any, ...], Rules] = {}
        self._named: dict[str, Rules] = {}
        self._rules_of: defaultdict[Key, set[str]] = defaultdict(set)  # VPC → names
        self._selected: defaultdict[str, set[Key]] = defaultdict(set)
        self._selecting: defaultdict[Key, set[str]] = defaultdict(set)
        self._groups: dict[str, Group] = {}
        self._users: defaultdict[str, set[str]] = defaultdict(set)  # group → rules
        self._groups_of: defaultdict[Key, set[str]] = defaultdict(set)  # VPC → groups
        self._in: defaultdict[str, dict[Key, tuple[str, ...]]] = defaultdict(dict)

    # Reading.

    def rules_of(self, attachment: Key) -> tuple[str, ...]:
        """The names of the slices that are in force for an attachment."""
        return tuple(sorted(self._selecting.get(attachment, ())))

    def selected(self, name: str) -> frozenset[Key]:
        """The attachments that the rules of that name select."""
        return frozenset(self._selected.get(name, ()))

    def named(self, name: str) -> Rules | None:
        """The rules of that name."""
        return self._named.get(name)

    def of_policy(self, key: Key) -> Rules | None:
        """The rules of a VPCPolicy."""
        return self._rules.get(key)

    def group(self, name: str) -> tuple[Group, list[str]] | None:
        """A group that rules use, and its addresses."""
        group = self._groups.get(name)
        if group is None:
            return None
        return group, sorted({address for addresses in self._in[name].values() for address in addresses})

    def names(self) -> set[str]:
        """Of all rules and groups."""
        return {*self._named, *self._groups}

    def of_vpc(self, vpc: Key) -> set[str]:
        """The rules and groups of a VPC."""
        return {*self._rules_of.get(vpc, ()), *self._groups_of.get(vpc, ())}

    def policies(self) -> list[Key]:
        """The VPCPolicies."""
        return [(key[0], key[1]) for key in self._rules if len(key) == 2]

    def drain(self) -> Dirty:
        """The dirty objects since the last call."""
        drained, self.dirty = self.dirty, Dirty()
        return drained

    # Changes.

    def set_member(self, key: Key, member: Member | None) -> None:
        """The attachment as it is now; None: it is gone, or in no VPC."""
        old = self._members.pop(key, None)
        if old == member:
            if member is not None:
                self._members[key] = member
            return
        if old is not None:
            _discard(self._of_vpc, old.vpc, key)
            _discard(self._of_namespace, key[0], key)
        if member is not None:
            self._members[key] = member
            self._of_vpc[member.vpc].add(key)
            self._of_namespace[key[0]].add(key)
        vpcs = {one.vpc for one in (old, member) if one is not None}
        for vpc in vpcs:
            for name in self._rules_of.get(vpc, ()):
                self._select(name, key)
            for near in (vpc, *self._peers.get(vpc, ())):
                for name in self._groups_of.get(near, ()):
                    self._enter(name, key)

    def set_peers(self, vpc: Key, peers: frozenset[Key]) -> None:
        """The VPCs whose peerings with that one are in force: its rules may mean their attachments."""
        before = self._peers.pop(vpc, frozenset())
        if peers:
            self._peers[vpc] = peers
        for peer in before ^ peers:
            for name in self._groups_of.get(vpc, ()):
                for key in self._of_vpc.get(peer, ()):
                    self._enter(name, key)

    def set_namespace(self, name: str, labels: Mapping[str, str] | None) -> None:
        """The labels of a namespace; None: it is gone."""
        if self._namespaces.get(name) == labels:
            return
        self._namespaces.pop(name, None)
        if labels is not None:
            self._namespaces[name] = dict(labels)
        for key in self._of_namespace.get(name, ()):
            vpc = self._members[key].vpc
            for near in (vpc, *self._peers.get(vpc, ())):
                for group in self._groups_of.get(near, ()):
                    if self._groups[group].namespaces is not None:
                        self._enter(group, key)

    def set_rules(self, key: tuple[Any, ...], rules: Rules | None) -> None:
        """The rules of a VPCPolicy or of an entry; None: there are none."""
        old = self._rules.pop(key, None)
        if rules is not None:
            self._rules[key] = rules
        if old == rules:
            return
        if rules is not None:
            known = self._named.get(rules.name)
            self._named[rules.name] = rules
            self._rules_of[rules.vpc].add(rules.name)
            self._acquire(rules)
            if known is None:
                for member in self._candidates(rules):
                    self._select(rules.name, member)
            self.dirty.slices.add(rules.name)
        if old is not None:
            self._release(old)
        if len(key) == 2:
            self.dirty.policies.add((key[0], key[1]))

    def _release(self, old: Rules) -> None:
        """Rules that no key has any more go; groups that they used and no others use go too."""
        current = self._named.get(old.name)
        if old.name not in {one.name for one in self._sharing(old)}:
            self._named.pop(old.name, None)
            _discard(self._rules_of, old.vpc, old.name)
            for member in self._selected.pop(old.name, ()):
                _discard(self._selecting, member, old.name)
                self.dirty.attachments.add(member)
            self.dirty.slices.add(old.name)
            current = None
        kept = {group.name for group in current.groups} if current is not None else set()
        for group in old.groups:
            if group.name in kept:
                continue
            _discard(self._users, group.name, old.name)
            if group.name not in self._users:
                self._groups.pop(group.name, None)
                self._in.pop(group.name, None)
                _discard(self._groups_of, group.vpc, group.name)
                self.dirty.slices.add(group.name)

    def _sharing(self, old: Rules) -> Iterable[Rules]:
        """The rules whose name may be the same: equal entries of one VPC have one slice."""
        current = self._named.get(old.name)
        if current is None:
            return ()
        if old.role == "Policy":
            return [one for one in (self._rules.get(tuple(old.source.split("/"))),) if one is not None]
        return [one for one in self._rules.values() if one.role == "Floor" and one.vpc == old.vpc]

    def _candidates(self, rules: Rules) -> Iterable[Key]:
        of_vpc = self._of_vpc.get(rules.vpc, set())
        if rules.role == "Floor":
            return tuple(of_vpc)
        return tuple(of_vpc & self._of_namespace.get(rules.namespace, set()))

    def _acquire(self, rules: Rules) -> None:
        for group in rules.groups:
            self._users[group.name].add(rules.name)
            if group.name in self._groups:
                continue
            self._groups[group.name] = group
            self._groups_of[group.vpc].add(group.name)
            for vpc in (group.vpc, *self._peers.get(group.vpc, ())):
                for key in self._of_vpc.get(vpc, ()):
                    self._enter(group.name, key)
            self.dirty.slices.add(group.name)

    def _select(self, name: str, key: Key) -> None:
        rules, member = self._named[name], self._members.get(key)
        selected = member is not None and rules.select(key, member)
        if selected == (key in self._selected.get(name, ())):
            return
        if selected:
            self._selected[name].add(key)
            self._selecting[key].add(name)
        else:
            _discard(self._selected, name, key)
            _discard(self._selecting, key, name)
        self.dirty.attachments.add(key)
        if rules.role == "Policy":
            namespace, _, own = rules.source.partition("/")
            self.dirty.policies.add((namespace, own))

    def _enter(self, name: str, key: Key) -> None:
        group, member, inside = self._groups[name], self._members.get(key), self._in[name]
        before = inside.pop(key, None)
        after = None
        peers = self._peers.get(group.vpc, frozenset())
        if member is not None and group.has(key, member, self._namespaces.get(key[0], {}), peers):
            after = inside[key] = member.addresses
        if (before or ()) != (after or ()):
            self.dirty.slices.add(name)


def _discard(index: "defaultdict[Any, set[Any]]", key: Any, value: Any) -> None:
    values = index.get(key)
    if values is not None:
        values.discard(value)
        if not values:
            del index[key]


def _digest(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=_DIGEST).hexdigest()
