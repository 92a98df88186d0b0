"""NodeSegments: made from the Nodes' annotation, and checked against each other.

A NodeSegment made here is owned by its Node: when the Node is removed, Kubernetes removes the segment, and the router
then withdraws the node's routes. When only the annotation is removed the segment stays: what runs goes on.
"""

from collections import defaultdict
from ipaddress import IPv6Network
from typing import Any, Final

from galactic.crds.model import Meta
from galactic.crds.nodesegment import NodeSegment
from galactic.errors import Rejected
from galactic.kube.informer import Key
from galactic.kube.resources import NODE_SEGMENTS, NODES
from galactic.names import API_VERSION, PREFIX_ANNOTATION
from galactic.operator.conditions import ACCEPTED, State, conditions, now
from galactic.operator.desk import Desk
from galactic.operator.nad import LABELS
from galactic.operator.state import Broken
from galactic.srv6 import SHORTEST_PREFIX, parse_prefix

_MANAGED: Final = next(iter(LABELS.items()))


class Segments:
    """The reconciler of Nodes' annotations and of NodeSegments."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._prefixes: dict[Key, IPv6Network] = {}
        # By a prefix's first 48 bits, as no prefix is shorter: the segments there, and the nodes that wait for room.
        self._near: defaultdict[int, set[Key]] = defaultdict(set)
        self._refused: defaultdict[int, set[Key]] = defaultdict(set)

    def changed(self, key: Key, new: NodeSegment | Broken | None) -> None:
        """Keeps the index of prefixes, and marks those dirty that share an address with what changed."""
        try:
            prefix = parse_prefix(new.spec.prefix) if isinstance(new, NodeSegment) else None
        except Rejected:
            prefix = None
        self._wake({key} | self._index(key, prefix))

    def _wake(self, keys: set[Key]) -> None:
        for key in keys:
            self._desk.dirty(("segment", key), 0.0)
            self._desk.dirty(("node", key), 0.0)

    def _index(self, key: Key, prefix: IPv6Network | None) -> set[Key]:
        """Enters the prefix; None takes it out. Whom that concerns: those near the old prefix and near the new one."""
        before = self._prefixes.get(key)
        if prefix == before:
            return set()
        near: set[Key] = set()
        if before is not None:
            del self._prefixes[key]
            self._near[_block(before)].discard(key)
            near |= self._near[_block(before)] | self._refused.pop(_block(before), set())
        if prefix is not None:
            self._prefixes[key] = prefix
            self._near[_block(prefix)].add(key)
            near |= self._near[_block(prefix)]
        return near

    async def node(self, key: Key) -> None:
        """One Node: its annotation becomes a NodeSegment. What is wrong with it is told by an Event on the Node."""
        desk = self._desk
        node = desk.view.nodes.get(key)
        if node is None or node.deletion_timestamp is not None:
            if desk.view.segments.get(key) is None:
                self._wake(self._index(key, None))
            return
        text = node.annotations.get(PREFIX_ANNOTATION)
        if text is None:
            return
        try:
            prefix = self._allowed(text, key)
        except Rejected as problem:
            if problem.reason == "PrefixOverlap":
                self._refused[_block(parse_prefix(text))].add(key)
            desk.events.tell(NODES, node, "Warning", problem.reason, f"{PREFIX_ANNOTATION}: {problem}")
            return
        segment = desk.view.segments.get(key)
        if segment is None:
            self._index(key, prefix)  # before it exists, so that no other node gets it meanwhile
            made = await desk.api.create(NODE_SEGMENTS, _wanted(node, prefix))
            desk.view.segments.set(made)
            desk.events.tell(NODES, node, "Normal", "NodeSegmentCreated", f"SRv6 prefix {prefix}")
        elif not isinstance(segment, Broken) and self._prefixes.get(key) != prefix:
            name, value = _MANAGED
            if segment.metadata.labels.get(name) != value:
                desk.events.tell(
                    NODES,
                    node,
                    "Warning",
                    "PrefixIgnored",
                    f"{PREFIX_ANNOTATION}: {prefix} differs from NodeSegment {key[1]}, which was made by hand "
                    "and wins; change one of them",
                )
                return
            patch = {"spec": {"prefix": str(prefix)}}
            desk.view.segments.set(await desk.api.patch(NODE_SEGMENTS, key[1], patch))

    async def segment(self, key: Key) -> None:
        """One NodeSegment: a condition if its prefix will not do. The rest of the status is its node's."""
        desk = self._desk
        segment = desk.view.segments.get(key)
        if segment is None or isinstance(segment, Broken):
            return
        state: State | None = None
        try:
            self._allowed(segment.spec.prefix, key)
        except Rejected as problem:
            state = State("False", problem.reason, str(problem))
        status, meta = segment.status, segment.metadata
        if state is None and not any(condition.type == ACCEPTED for condition in status.conditions):
            return
        after = conditions(status.conditions, {ACCEPTED: state}, meta.generation, now())
        await desk.status(NODE_SEGMENTS, meta, status, {"conditions": after})

    def _allowed(self, text: str, key: Key) -> IPv6Network:
        """The prefix. Raises Rejected when it is none, lies outside the SRv6 space, or an older segment overlaps it."""
        try:
            prefix = parse_prefix(text)
        except Rejected as problem:
            message = str(problem).removeprefix(f"{problem.field}: ")
            raise Rejected(message, reason="InvalidPrefix") from problem
        space = self._desk.rules.srv6_space
        if space and not prefix.subnet_of(space):
            raise Rejected(
                f"{prefix} lies outside the SRv6 space {space}; give a prefix inside it",
                reason="PrefixOutsideSpace",
            )
        new = self._desk.view.segments.get(key) is None
        for other in sorted(self._near.get(_block(prefix), set()) - {key}):
            if self._prefixes[other].overlaps(prefix) and (new or self._age(other) < self._age(key)):
                raise Rejected(
                    f"{prefix} overlaps {self._prefixes[other]} of NodeSegment {other[1]}; give every node its own",
                    reason="PrefixOverlap",
                )
        return prefix

    def _age(self, key: Key) -> tuple[bool, str, Key]:
        """Sorts the older first, and what does not exist yet last."""
        segment = self._desk.view.segments.get(key)
        return segment is None, segment.metadata.creation_timestamp if segment else "", key


def _block(prefix: IPv6Network) -> int:
    return int(prefix.network_address) >> (128 - SHORTEST_PREFIX)


def _wanted(node: Meta, prefix: IPv6Network) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": NodeSegment.KIND,
        "metadata": {
            "name": node.name,
            "labels": dict(LABELS),
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid}],
        },
        "spec": {"prefix": str(prefix)},
    }
