"""The policy rules that decide whether a packet of a VRF is looked up in its table first: read, and put in order.

The kernel's list begins with ``0: from all lookup local``, and the rule of all VRFs (l3mdev) is at 1000. So an address
that the node has too is the node's, for pods of every VPC. The kernel's documentation (networking/vrf.rst) moves
``local`` behind l3mdev, to 32765. Rules of other programs between 0 and there, as those for several uplinks and of
Kubernetes networks, would then come before ``local``, and one without a priority as well. So l3mdev comes first
instead, at 0, and ``local`` right behind it, at 0 as before: only packets of VRFs notice. `ip rule flush` spares
priority 0.

All are marked as the kernel's (RTPROT_KERNEL), because systemd-networkd deletes rules of other origin when it starts.
"""

import socket
from collections.abc import Iterator, Sequence
from ipaddress import IPv6Network, ip_network
from typing import Any, Final, NamedTuple

from pyroute2.iproute.linux import AsyncIPRoute

from galactic.linux.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST
from galactic.linux.objects import MAIN_TABLE, Family, LookupOrder, Network

FAMILIES: Final[tuple[Family, ...]] = (4, 6)
LOCAL_TABLE: Final = 255
UNDERLAY_PRIORITY: Final = 999
"""Of the rule that leads packets to the SRv6 block to the main table."""
MAIN_PRIORITY: Final = 32766
_FIRST: Final = 0
_RTM_NEWRULE: Final = 32
_RTPROT_KERNEL: Final = 2
_FR_ACT_TO_TBL, _FR_ACT_GOTO = 1, 2
_FIB_RULE_INVERT: Final = 0x2
_SELECTORS: Final = (
    "src",
    "iifname",
    "oifname",
    "fwmark",
    "tun_id",
    "flow",
    "suppress_ifgroup",
    "suppress_prefixlen",
    "uid_range",
    "ip_proto",
    "sport_range",
    "dport_range",
)


class PolicyRule(NamedTuple):
    """A policy rule without selectors but ``destination`` (None: all) and l3mdev. ``goto``: a priority, 0 for none."""

    priority: int
    table: int = 0
    destination: Network | None = None
    l3mdev: bool = False
    goto: int = 0

    def message(self, family: Family) -> dict[str, Any]:
        """The arguments of pyroute2's ``rule``."""
        fields: dict[str, Any] = {
            "family": socket.AF_INET if family == 4 else socket.AF_INET6,
            "priority": self.priority,
            "protocol": _RTPROT_KERNEL,
            "action": _FR_ACT_GOTO if self.goto else _FR_ACT_TO_TBL,
        }
        if self.table:
            fields["table"] = self.table
        if self.destination:
            fields |= {
                "dst": str(self.destination.network_address),
                "dst_len": self.destination.prefixlen,
            }
        if self.l3mdev:
            fields["l3mdev"] = 1
        if self.goto:
            fields["goto"] = self.goto
        return fields

    def __str__(self) -> str:
        """The rule as `ip rule` takes it."""
        words = [f"pref {self.priority}"]
        words += ["l3mdev"] if self.l3mdev else []
        words += [f"to {self.destination}"] if self.destination else []
        words += [f"lookup {_NAMES.get(self.table, self.table)}"] if self.table else []
        words += [f"goto {self.goto}"] if self.goto else []
        return " ".join(words)


_NAMES: Final = {MAIN_TABLE: "main", LOCAL_TABLE: "local"}
VRF: Final = PolicyRule(_FIRST, l3mdev=True)
LOCAL: Final = PolicyRule(_FIRST, LOCAL_TABLE)
MAIN: Final = PolicyRule(MAIN_PRIORITY, MAIN_TABLE)


class Step(NamedTuple):
    """A rule to add behind those of its priority, or to delete: the kernel deletes the first that is like it."""

    add: bool
    rule: PolicyRule


def parsed(message: Any) -> PolicyRule | None:
    """A rule of pyroute2's dump; None if it has another selector, or another action than a table or goto."""
    if message["action"] not in (_FR_ACT_TO_TBL, _FR_ACT_GOTO) or message["flags"] & _FIB_RULE_INVERT:
        return None
    if message["src_len"] or message["tos"]:
        return None
    if any(message.get(name) not in (None, 0xFFFFFFFF) for name in _SELECTORS):
        return None
    length, destination = message["dst_len"], None
    if length:
        destination = ip_network((message.get("dst"), length), strict=False)
    l3mdev = bool(message.get("l3mdev"))
    table = 0 if l3mdev else message.get("table") or message["table"]
    return PolicyRule(message.get("priority") or 0, table, destination, l3mdev, message.get("goto") or 0)


def order(rules: Sequence[PolicyRule]) -> LookupOrder | None:
    """The effect of a family's rules, in the kernel's order; None where none of ours is among them."""
    if not any(_ours(rule) for rule in rules):
        return None
    first = next((number for number, rule in enumerate(rules) if _all_vrfs(rule)), len(rules))
    local = next((number for number, rule in enumerate(rules) if _leads_to(LOCAL_TABLE, rule)), -1)
    block = next((rule.destination for rule in rules[:first] if _to_block(rule)), None)
    return LookupOrder(
        vrf_first=first < local,
        block=block if isinstance(block, IPv6Network) else None,
        main=any(_leads_to(MAIN_TABLE, rule) for rule in rules),
    )


def steps(rules: Sequence[PolicyRule], wanted: LookupOrder | None) -> Iterator[Step]:
    """The steps from these rules of a family to the order that is wanted; None: to none of ours.

    At no moment is there no rule to ``local``, nor l3mdev without the rule that leads the SRv6 block past it. A rule to
    ``local`` of another program, at another priority, stays where it is.
    """
    ours = [rule for rule in rules if _ours(rule)]
    local = [rule for rule in rules if rule == LOCAL]
    if wanted:
        if wanted.block:
            yield Step(True, underlay_first(wanted.block))
        yield Step(True, VRF)
    if (wanted and local) or not any(_leads_to(LOCAL_TABLE, rule) for rule in rules):
        yield Step(True, LOCAL)
    if wanted:
        yield from (Step(False, rule) for rule in local)
    yield from (Step(False, rule) for rule in sorted(ours, key=_to_block))
    if not any(_leads_to(MAIN_TABLE, rule) for rule in rules):
        yield Step(True, MAIN)


def underlay_first(block: IPv6Network) -> PolicyRule:
    """Leads packets of VRFs to ``block`` to the rule at UNDERLAY_PRIORITY: outer packets belong to the underlay."""
    return PolicyRule(_FIRST, destination=block, l3mdev=True, goto=UNDERLAY_PRIORITY)


def _all_vrfs(rule: PolicyRule) -> bool:
    return rule.l3mdev and rule.destination is None and not rule.goto


def _to_block(rule: PolicyRule) -> bool:
    return rule.priority == _FIRST and rule.l3mdev and rule.goto == UNDERLAY_PRIORITY


def _ours(rule: PolicyRule) -> bool:
    return rule == VRF or _to_block(rule)


def _leads_to(table: int, rule: PolicyRule) -> bool:
    return rule.table == table and rule.destination is None


async def read_orders(route: AsyncIPRoute) -> dict[Family, LookupOrder]:
    """The order of the policy rules, of families that have rules of ours."""
    orders = {family: order(await _rules(route, family)) for family in FAMILIES}
    return {family: present for family, present in orders.items() if present}


async def write_order(route: AsyncIPRoute, family: Family, wanted: LookupOrder | None) -> None:
    """Puts the policy rules of a family in order; None: to none of ours."""
    adding = _RTM_NEWRULE, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE  # without EXCL: also a second one like it
    for step in steps(await _rules(route, family), wanted):
        await route.rule(adding if step.add else "del", **step.rule.message(family))


async def _rules(route: AsyncIPRoute, family: Family) -> list[PolicyRule]:
    dump = await route.rule("dump", family=socket.AF_INET if family == 4 else socket.AF_INET6)
    return [rule async for message in dump if (rule := parsed(message))]


async def pending(route: AsyncIPRoute, family: Family, wanted: LookupOrder) -> list[str]:
    """The commands that do what ``write_order`` would; empty where the order is as wanted."""
    rules = await _rules(route, family)
    if order(rules) == wanted:
        return []
    flag = "-6 " if family == 6 else ""
    return [f"ip {flag}rule {'add' if step.add else 'del'} {step.rule}" for step in steps(rules, wanted)]
