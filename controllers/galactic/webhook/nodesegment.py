"""NodeSegments: refuses prefixes that do not lead to one node alone, and writes by another node."""

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
    """Patterns of user names that contain a node's name, with ``{node}`` in its place."""

    patterns: tuple[str, ...]

    def node(self, user: User) -> str | None:
        """The user's node; None for other users.

        The token of a service account that all nodes share names the node, where the API server puts it there.
        """
        for pattern in self.patterns:
            prefix, placeholder, suffix = pattern.partition(PLACE)
            if placeholder:
                if match := re.fullmatch(f"{re.escape(prefix)}(.+){re.escape(suffix)}", user.name):
                    return match[1]
            elif pattern == user.name:
                return next(iter(user.extra.get(NODE_NAME, ())), None)
        return None


def owned(name: str, node: str | None) -> None:
    """Raises Rejected when a node writes another node's segment."""
    if node is not None and node != name:
        raise Rejected(
            f"{name!r} is another node's NodeSegment; node {node} may write its own only, {node!r}",
            reason="NotYours",
            field="metadata.name",
        )


def prefixed(
    name: str, prefix: str, srv6_block: IPv6Network | None, segments: Iterable[tuple[str, str]]
) -> None:
    """Raises Rejected unless it is a /48 to /64 of the SRv6 block that overlaps no other segment.

    ``segments``: name and ``spec.prefix`` of all segments.
    """
    parsed = parse_prefix(prefix)
    if srv6_block and not parsed.subnet_of(srv6_block):
        raise Rejected(
            f"{prefix} lies outside the SRv6 block {srv6_block}; give a prefix inside it",
            reason="PrefixOutsideSpace",
            field="spec.prefix",
        )
    for neighbour, text in sorted(segments):
        if neighbour == name:
            continue
        try:
            present = parse_prefix(text)
        except Rejected:
            continue
        if present.overlaps(parsed):
            raise Rejected(
                f"{prefix} overlaps {present} of NodeSegment {neighbour}; give every node a prefix of its own",
                reason="PrefixOverlap",
                field="spec.prefix",
            )


def identities(text: str) -> Identities:
    """From the setting: patterns separated by commas."""
    patterns: Sequence[str] = [pattern.strip() for pattern in text.split(",")]
    return Identities(tuple(pattern for pattern in patterns if pattern))
