"""NodeSegments: prefixes that cannot be routed to one node alone, and writers that are another node."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network
from typing import Final

from galactic.errors import Rejected
from galactic.srv6 import parse_prefix
from galactic.webhook.review import User

NODE_NAME: Final = "authentication.kubernetes.io/node-name"
"""In the token of a pod's service account, from Kubernetes 1.30 on."""
PLACE: Final = "{node}"


@dataclass(frozen=True, slots=True)
class Identities:
    """Whose name says which node it is: patterns with ``{node}`` in place of the node's name."""

    patterns: tuple[str, ...]

    def node(self, user: User) -> str | None:
        """The node that the user is; None for everybody else.

        A service account that all nodes share tells its node in its token, where the cluster puts it there.
        """
        for pattern in self.patterns:
            before, place, after = pattern.partition(PLACE)
            if place:
                if found := re.fullmatch(f"{re.escape(before)}(.+){re.escape(after)}", user.name):
                    return found[1]
            elif pattern == user.name:
                return next(iter(user.extra.get(NODE_NAME, ())), None)
        return None

    @property
    def foreign(self) -> str:
        """CEL, for a ``matchConditions``: whether the user is a node, and is not known to be the one of the object."""
        return " || ".join(f"({_foreign(pattern)})" for pattern in self.patterns) or "false"


def _foreign(pattern: str) -> str:
    user, extra = "request.userInfo.username", "request.userInfo.extra"
    before, place, after = pattern.partition(PLACE)
    if place:
        first, last = json.dumps(before), json.dumps(after)
        its = f"{user}.startsWith({first}) && {user}.endsWith({last})"
        return f"{its} && {user} != {first} + request.name + {last}"
    key = json.dumps(NODE_NAME)
    told = f"has({extra}) && {key} in {extra} && {extra}[{key}] == [request.name]"
    return f"{user} == {json.dumps(pattern)} && !({told})"


NO_IDENTITIES: Final = Identities(())


def owned(name: str, node: str | None) -> None:
    """Raises Rejected when a node writes another node's segment."""
    if node is not None and node != name:
        raise Rejected(
            f"{name!r} is another node's NodeSegment; node {node} may write its own only, {node!r}",
            reason="NotYours",
            field="metadata.name",
        )


def prefixed(
    name: str, prefix: str, srv6_block: IPv6Network | None, others: Iterable[tuple[str, str]]
) -> None:
    """Raises Rejected unless it is a /48 to /64 of the SRv6 block that no other segment overlaps.

    ``others``: name and ``spec.prefix`` of all segments.
    """
    parsed = parse_prefix(prefix)
    if srv6_block and not parsed.subnet_of(srv6_block):
        raise Rejected(
            f"{prefix} lies outside the SRv6 block {srv6_block}; give a prefix inside it",
            reason="PrefixOutsideSpace",
            field="spec.prefix",
        )
    for other, text in sorted(others):
        if other == name:
            continue
        try:
            there = parse_prefix(text)
        except Rejected:
            continue
        if there.overlaps(parsed):
            raise Rejected(
                f"{prefix} overlaps {there} of NodeSegment {other}; give every node a prefix of its own",
                reason="PrefixOverlap",
                field="spec.prefix",
            )


def identities(text: str) -> Identities:
    """From the setting: patterns separated by commas."""
    patterns: Sequence[str] = [one.strip() for one in text.split(",")]
    return Identities(tuple(one for one in patterns if one))
