"""Rules of other programs ahead of Galactic's jump in a built-in chain: whether they can take effect on packets that
Galactic's chain decides about.

Programs such as Calico insist on the first place as Galactic does. Being behind rules that only return, or that decide
as Galactic's chain would, changes nothing: ahead of GALACTIC-FORWARD, which accepts, nothing may drop; ahead of the
others, which drop, nothing may accept. Everything unknown about a rule counts as possible.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Final

from galactic.linux import firewall_fingerprint, foreign_rules
from galactic.linux.firewall import TABLES, Backend, Place, own
from galactic.linux.firewall_fingerprint import HOOKS, LAYOUTS, legacy_table
from galactic.linux.foreign_rules import (
    ANY,
    ANY_MARK,
    INVALID,
    NFPROTO,
    UNTRACKED,
    Match,
    Packet,
    Rule,
    nft_rules_of,
)

_DEPTH: Final = 16
_RuleOf = Callable[[Packet], Rule]
_Chain = Callable[[int | str], Iterator[_RuleOf]]


def harmless(backend: Backend, place: Place) -> bool:
    """Whether the built-in chain jumps into Galactic's chain, and no rule ahead of the jump can take effect.

    False also where the kernel does not answer.
    """
    try:
        chain, start, own_chain = (_legacy if backend == "legacy" else _nft)(place)
    except (OSError, LookupError):
        return False
    effect = "DROP" if place[1] == "FORWARD" else "ACCEPT"
    return all(_passes(chain, start, own_chain, packet, effect) for packet in _packets(place))


def _packets(place: Place) -> Iterator[Packet]:
    """The packets that Galactic's chain decides about. IPv6 in PREROUTING: those of any interface to SIDs as well."""
    family, hook = place
    devices = {
        "PREROUTING": (
            ("G000000001001H", ""),
            ("G000000001000V", ""),
            *(((ANY, ""),) if family == 6 else ()),
        ),
        "INPUT": (("G000000001000V", ""),),
        "FORWARD": (
            ("G000000001000V", "G000000001001H"),
            *((("G000000001000V", ANY),) if family == 6 else ()),
        ),
        "OUTPUT": (("", "G000000001000V"), ("", ANY)),
    }
    for into, out in devices[hook]:
        # outer packets in FORWARD are INVALID, all others UNTRACKED: see ``firewall``
        states = (UNTRACKED, INVALID) if (family, hook) == (6, "FORWARD") else (UNTRACKED,)
        for state in states:
            # a packet has no mark when it comes in; behind the table raw, other tables may have set one
            marks = 0 if hook == "PREROUTING" and into != "G000000001000V" else ANY_MARK
            yield Packet("", family, hook, into=into, out=out, state=state, marks=marks)


def _passes(chain: _Chain, start: int | str, own_chain: int | str, packet: Packet, effect: str) -> bool:
    """Whether that packet reaches Galactic's chain without a rule ahead that may have that effect."""
    for rule_of in chain(start):
        rule = rule_of(packet)
        if rule.verdict == "JUMP" and rule.to == own_chain:
            return rule.match is Match.YES
        effects, packet = _effects(chain, rule, packet, 0)
        if effects & {effect, "RETURN"}:  # a RETURN of the built-in chain is its policy
            return False
    return False


def _effects(chain: _Chain, rule: Rule, packet: Packet, depth: int) -> tuple[set[str], Packet]:
    """The verdicts that a rule may end in, and the packet as it may be behind it."""
    if rule.match is Match.NO:
        return set(), packet
    kept = ~rule.cleared if rule.match is Match.YES else ANY_MARK
    packet = replace(packet, marks=((packet.marks or 0) & kept) | rule.marks)
    if rule.verdict not in ("JUMP", "GOTO"):
        ends: set[str] = set() if rule.verdict == "CONTINUE" else {rule.verdict}
        return ends, packet
    if depth > _DEPTH:
        return {"ACCEPT", "DROP"}, packet
    found: set[str] = set()
    for rule_of in chain(rule.to):
        inner = rule_of(packet)
        effects, packet = _effects(chain, inner, packet, depth + 1)
        found |= effects
        if inner.match is Match.YES and inner.verdict in ("ACCEPT", "DROP", "RETURN"):
            break
    return found - {"RETURN"}, packet


def _legacy(place: Place) -> tuple[_Chain, int, int]:
    family, parent = place
    entries, hooks = legacy_table(family, TABLES[parent])
    layout = LAYOUTS[family]
    head = firewall_fingerprint.head(layout, entries, own(parent).encode())
    if head is None:
        raise LookupError(own(parent))
    base, end = hooks[HOOKS[parent]], hooks[HOOKS[parent] + len(HOOKS)]

    def chain(position: int | str) -> Iterator[_RuleOf]:
        at, first = int(position), True
        while at != end and (first or not firewall_fingerprint.user_chain(layout, entries, at)):
            yield partial(foreign_rules.legacy, place, entries, at)
            at, first = firewall_fingerprint.next_entry(layout, entries, at), False

    return chain, base, firewall_fingerprint.next_entry(layout, entries, head)


def _nft(place: Place) -> tuple[_Chain, str, str]:
    family, parent = place
    rules = cache(partial(nft_rules_of, NFPROTO[family], TABLES[parent]))

    def chain(name: int | str) -> Iterator[_RuleOf]:
        return (partial(foreign_rules.nft, rule) for rule in rules(str(name)))

    return chain, parent, own(parent)
