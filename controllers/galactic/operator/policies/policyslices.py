"""The PolicySlices that rules and groups are to be.

A group has a power of two of slices, and an address is in the one that its hash names. So a pod's change rewrites one
slice of some hundred addresses. Where the number of slices changes, an address enters its new slice before it leaves
the old one: nodes take the union.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from zlib import crc32

from galactic.crds.policyslice import PolicySlice
from galactic.names import API_VERSION, VPC_LABEL
from galactic.operator.nad import LABELS
from galactic.operator.policies.index import Group, Rules
from galactic.validation.policies import AllowRule, Block, Ports

FULL: Final = 512
"""Addresses a slice has on average before the group gets twice as many slices."""
SPARSE: Final = 128
"""Below this average the group gets half as many."""


def rules_spec(rules: Rules, vpc: str) -> dict[str, Any]:
    """``spec`` of the slice of rules. ``vpc``: its identifier, 12 hex digits."""
    spec: dict[str, Any] = {"vpc": vpc, "role": rules.role, "source": rules.source}
    for name, allowed in (("ingress", rules.policy.ingress), ("egress", rules.policy.egress)):
        if allowed is not None:
            spec[name] = [_rule(rules, rule) for rule in allowed]
    return spec


def group_specs(group: Group, addresses: Sequence[str], vpc: str, present: int) -> dict[str, dict[str, Any]]:
    """The slices of a group by name, in the order in which they are to be written. ``present``: how many it has."""
    count = shards(len(addresses), present)
    placed: dict[int, list[str]] = {number: [] for number in range(count)}
    for address in addresses:
        placed[crc32(address.encode()) % count].append(address)
    order = sorted(placed, reverse=count > present)  # those that addresses move to come first
    if not present:
        order = sorted(placed, reverse=True)  # a node takes a group for complete once it has the first one
    return {
        f"{group.name}-{number}": {
            "vpc": vpc,
            "role": "Group",
            "source": "/".join(group.vpc),
            "group": group.name,
            "addresses": placed[number],
        }
        for number in order
    }


def shards(addresses: int, present: int) -> int:
    """How many slices a group with so many addresses has, that has ``present`` now."""
    count = max(present, 1)
    while addresses > count * FULL:
        count *= 2
    while count > 1 and addresses < count * SPARSE:
        count //= 2
    return count


def manifest(name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """A slice that does not exist yet."""
    return {
        "apiVersion": API_VERSION,
        "kind": PolicySlice.KIND,
        "metadata": {"name": name, "labels": LABELS | {VPC_LABEL: spec["vpc"]}},
        "spec": dict(spec),
    }


def base(name: str) -> str:
    """The rules or group that a slice is of."""
    role, _, rest = name.partition("-")
    return f"{role}-{rest.partition('-')[0]}"


def surplus(present: Iterable[str], wanted: Mapping[str, object]) -> list[str]:
    """The slices to delete once the wanted ones are written."""
    return sorted(set(present) - wanted.keys())


def _rule(rules: Rules, rule: AllowRule) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if rule.peers is None:
        body["anyPeer"] = True
    else:
        blocks = [_block(peer) for peer in rule.peers if isinstance(peer, Block)]
        groups = {Group.of(rules, peer).name for peer in rule.peers if not isinstance(peer, Block)}
        body |= {"blocks": blocks} if blocks else {}
        body |= {"groups": sorted(groups)} if groups else {}
    return body | ({} if rule.ports is None else {"ports": [_ports(ports) for ports in rule.ports]})


def _block(block: Block) -> dict[str, Any]:
    excepted = [str(network) for network in block.excepted]
    return {"cidr": str(block.network)} | ({"except": excepted} if excepted else {})


def _ports(ports: Ports) -> dict[str, Any]:
    if not ports.first:
        return {"protocol": ports.protocol}
    body: dict[str, Any] = {"protocol": ports.protocol, "port": ports.first}
    return body | ({"endPort": ports.last} if ports.last != ports.first else {})
