"""Whether the rules of an attachment let an echo request pass, by the slices that its node enforces: pure."""

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any, Final

from galactic.cli.hop import STOPS, UNKNOWN, Hop
from galactic.cli.snapshot import Snapshot
from galactic.errors import Rejected
from galactic.node.policies.classes import Access, classes
from galactic.node.policies.rules import PROTOCOLS, Addresses, Direction, Rules, part

_WAYS: Final[dict[Direction, tuple[str, str]]] = {"in": ("into", "from"), "out": ("out of", "to")}
_NAMES: Final = {number: name for name, number in PROTOCOLS.items()}


def ruled(snapshot: Snapshot, attachment: str, direction: Direction, other: str) -> Iterator[Hop]:
    """The hop of the rules; none where the attachment has none in that direction. ``other``: the other end's address.

    Whether the echo request is a reply's makes no difference: it begins what it is part of.
    """
    found = snapshot.attachments.get(attachment)
    if found is None or not found.status.policies:
        return
    into, from_ = _WAYS[direction]
    where = f"rules {into} {attachment}"
    rules, groups, sources = _read(snapshot)
    missing = [name for name in found.status.policies if name not in rules]
    if missing:
        yield Hop(where, f"PolicySlice {missing[0]} cannot be read: the rules are not known here", UNKNOWN)
        return
    own = [rules[name] for name in found.status.policies]
    for floor in (True, False):
        several = [one for one in own if one.floor == floor and one.of(direction) is not None]
        if not several:
            continue
        allowed = [rule for one in several for rule in one.of(direction) or ()]
        access = classes(allowed, groups).access(ip_address(other))
        names = ", ".join(dict.fromkeys(sources[one.name] for one in several))
        if access is not None:
            kind = "rule of spec.policies" if floor else "rule"
            yield Hop(
                where,
                f"{_words(access)} {from_} {other}, by {names}",
                STOPS,
                f"add a {kind} without ports to {names}, if echo requests are to pass",
            )
            return
        yield Hop(where, f"everything passes {from_} {other}, by {names}")


def _read(snapshot: Snapshot) -> tuple[dict[str, Rules], dict[str, frozenset[Any]], dict[str, str]]:
    rules: dict[str, Rules] = {}
    groups: dict[str, frozenset[Any]] = {}
    sources: dict[str, str] = {}
    for document in snapshot.slices:
        try:
            read = part(document)
        except Rejected:
            continue
        if isinstance(read, Addresses):
            groups[read.group] = groups.get(read.group, frozenset()) | read.addresses
        else:
            kind = "VPC" if read.floor else "VPCPolicy"
            rules[read.name] = read
            sources[read.name] = f"{kind} {document['spec'].get('source', read.name)}"
    return rules, groups, sources


def _words(access: Access) -> str:
    ports = [
        f"{_NAMES.get(protocol, protocol)} {first if first == last else f'{first}-{last}'}"
        for protocol, first, last in access or ()
    ]
    return f"only {', '.join(ports)} passes" if ports else "nothing passes"
