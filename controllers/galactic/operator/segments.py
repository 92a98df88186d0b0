"""NodeSegments: made for Nodes, and checked against each other.

A Node's prefix is in the setting ``segments``. Else, where there is a pool, the Node gets its next prefix, and keeps it
for as long as the Node exists. Without a pool its annotation has the prefix: a node may write its own annotations, so
they do not outdo what the operator's settings say.

A NodeSegment made here is owned by its Node: when the Node is removed, Kubernetes removes the segment, and the router
then withdraws the node's routes. When only the annotation is removed the segment stays, and so do the node's pods.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv6Network
from typing import Any, Final

from galactic.crds.model import Meta
from galactic.crds.nodesegment import NodeSegment
from galactic.errors import Rejected
from galactic.kube.api import Key
from galactic.kube.conditions import ACCEPTED, MULTUS, READY, State, conditions, now
from galactic.kube.resources import NODE_SEGMENTS, NODES
from galactic.names import API_VERSION, NOT_READY_TAINT, PREFIX_ANNOTATION
from galactic.operator.context import ReconcileContext
from galactic.operator.nad import LABELS
from galactic.operator.objects import Invalid, Node
from galactic.operator.prefixes import PrefixIndex, RestingPrefixes
from galactic.operator.state import Caches
from galactic.srv6 import SHORTEST_PREFIX, parse_prefix

_MANAGED: Final = next(iter(LABELS.items()))


def _loop_time() -> float:
    """Seconds, as the queue's delays count them."""
    return asyncio.get_running_loop().time()


class Segments:
    """The reconciler of Nodes' annotations and of NodeSegments."""

    def __init__(self, context: ReconcileContext, clock: Callable[[], float] = _loop_time) -> None:
        self._context = context
        self._prefixes = PrefixIndex()
        self._resting = RestingPrefixes(context.rules.pool_rest, clock)
        # By a prefix's first 48 bits, as no prefix is shorter: the nodes that wait for a change there.
        self._refused: defaultdict[int, set[Key]] = defaultdict(set)
        self._problems: dict[tuple[str, Key], str] = {}  # reasons of refused prefixes, by what names them
        self._highest: IPv6Network | None = None  # of the pool, of all that were ever given
        self._cursor: int | None = None  # the address after the last prefix of the pool that was given

    @property
    def highest(self) -> str:
        """The highest prefix of the pool that was ever given; empty: not known here."""
        return str(self._highest or "")

    def load(self, highest: str) -> None:
        """The same as an earlier leader recorded it."""
        pool = self._context.rules.pool
        with suppress(ValueError):
            prefix = IPv6Network(highest)
            if pool is not None and prefix.subnet_of(pool):
                self._highest, self._cursor = prefix, None

    def refused(self) -> Counter[str]:
        """The number of Nodes whose prefix is refused, by reason."""
        caches = self._context.caches
        by_node = {
            key: reason
            for (_, key), reason in self._problems.items()
            if caches.nodes.get(key) is not None or caches.segments.get(key) is not None
        }
        return Counter(by_node.values())

    def changed(self, key: Key, new: NodeSegment | Invalid | None) -> None:
        """Keeps the index of prefixes, and marks dirty the segments that share an address with the changed one."""
        try:
            prefix = parse_prefix(new.spec.prefix) if isinstance(new, NodeSegment) else None
        except Rejected:
            prefix = None
        self._wake({key} | self._index(key, prefix))

    def _wake(self, keys: set[Key]) -> None:
        for key in keys:
            self._context.dirty(("segment", key))
            self._context.dirty(("node", key))

    def _index(self, key: Key, prefix: IPv6Network | None) -> set[Key]:
        """Enters the prefix, or with None removes it. The others that this concerns: those that share an address with
        the old or the new prefix.
        """
        before = self._prefixes.get(key)
        if prefix == before:
            return set()
        near: set[Key] = set()
        self._prefixes.set(key, None)
        if before is not None:
            if (pool := self._context.rules.pool) is not None and before.subnet_of(pool):
                self._resting.add(before)
            near |= {*self._prefixes.overlapping(before)} | self._refused.pop(_block(before), set())
        if prefix is not None:
            near |= {*self._prefixes.overlapping(prefix)}
            self._prefixes.set(key, prefix)
        return near

    async def reconcile_node(self, key: Key) -> None:
        """One Node: makes or updates its NodeSegment, sets and removes NOT_READY_TAINT. Problems are Events on the
        Node.
        """
        context = self._context
        node = context.caches.nodes.get(key)
        if node is None or node.metadata.deletion_timestamp is not None:
            if context.caches.segments.get(key) is None:
                self._wake(self._index(key, None))
            return
        await self._segment_for(key, node.metadata)
        await self._taint(key, node)

    async def _segment_for(self, key: Key, node: Meta) -> None:
        """Makes or updates the Node's NodeSegment."""
        context = self._context
        segment = context.caches.segments.get(key)
        source, text = self._chosen(key, node)
        try:
            if text is None and context.rules.pool is not None and segment is None:
                source, text = "pool", str(self._free(key, context.rules.pool))
            self._problems.pop(("node", key), None)
            if text is None:
                if segment is None:
                    message = (
                        f"no SRv6 prefix: pods here get no attachment; annotate it with {PREFIX_ANNOTATION}"
                    )
                    context.events.record(NODES, node, "Warning", "NoPrefix", message)
                return
            prefix = self._allowed(text, key)
        except Rejected as problem:
            self._problems["node", key] = problem.reason
            if problem.reason == "PrefixOverlap" and text is not None:
                self._refused[_block(parse_prefix(text))].add(key)
            context.events.record(NODES, node, "Warning", problem.reason, f"{source}: {problem}")
            return
        if segment is None:
            self._index(key, prefix)  # before it exists, so that no other node gets it meanwhile
            made = await context.api.create(NODE_SEGMENTS, _segment(node, prefix))
            context.caches.segments.set(made)
            context.events.record(NODES, node, "Normal", "NodeSegmentCreated", f"SRv6 prefix {prefix}")
        elif not isinstance(segment, Invalid) and self._prefixes.get(key) != prefix:
            name, value = _MANAGED
            if segment.metadata.labels.get(name) != value:
                context.events.record(
                    NODES,
                    node,
                    "Warning",
                    "PrefixIgnored",
                    f"{source}: {prefix} differs from NodeSegment {key[1]}, which a user made and which wins; "
                    "change one of them",
                )
                return
            patch = {"spec": {"prefix": str(prefix)}}
            context.caches.segments.set(await context.api.patch(NODE_SEGMENTS, key[1], patch))

    def _chosen(self, key: Key, node: Meta) -> tuple[str, str | None]:
        """The source of the Node's prefix, and the prefix; None: that of its NodeSegment, or the pool's next one."""
        rules, segment = self._context.rules, self._context.caches.segments.get(key)
        annotated, given = node.annotations.get(PREFIX_ANNOTATION), rules.segments.get(node.name)
        if annotated is None or (given is None and rules.pool is None):
            return (PREFIX_ANNOTATION, annotated) if given is None else ("segments", given)
        present = segment.spec.prefix if isinstance(segment, NodeSegment) else None
        if annotated == present:  # an earlier version went by the annotation: the node's pods keep their SIDs
            return PREFIX_ANNOTATION, annotated
        if annotated != given:
            message = (
                f"{PREFIX_ANNOTATION}: {annotated} has no effect, because the operator's "
                f"{'pool_prefix' if given is None else 'segments'} decides; remove the annotation, or give the prefix "
                "in segments"
            )
            self._context.events.record(NODES, node, "Warning", "PrefixIgnored", message)
        return "segments", given

    def _free(self, key: Key, pool: IPv6Network) -> IPv6Network:
        """A free prefix of the pool. Raises Rejected."""
        if (claimed := self._prefixes.get(key)) is not None:
            return claimed  # by an earlier try
        length = self._context.rules.pool_length
        if self._cursor is None:
            known = [prefix for prefix in (self._highest, self._given_last(pool)) if prefix is not None]
            self._highest = max(known, default=None)
            self._cursor = 0 if self._highest is None else int(self._highest.broadcast_address) + 1
        free = self._resting.free(self._prefixes, pool, length, self._highest, self._cursor)
        if isinstance(free, IPv6Network):
            self._highest = max(self._highest or free, free)
            self._cursor = int(free.broadcast_address) + 1
            return free
        if free is not None:
            self._context.dirty(("node", key), free)
            raise Rejected(
                f"all free prefixes /{length} of {pool} rest, for {free:.0f} s more: routers may have routes to the "
                "nodes that had them; wait, give the Node a prefix in segments, or make pool_prefix larger",
                reason="PoolResting",
            )
        raise Rejected(
            f"all {1 << (length - pool.prefixlen)} prefixes /{length} of {pool} are taken; give the Node a prefix in "
            "segments, or make pool_prefix larger",
            reason="PoolExhausted",
        )

    def _given_last(self, pool: IPv6Network) -> IPv6Network | None:
        """The prefix in the pool of the youngest NodeSegment."""
        given = [
            (segment.metadata.creation_timestamp, prefix)
            for key, segment in self._context.caches.segments.items()
            if isinstance(segment, NodeSegment)
            and (prefix := self._prefixes.get(key)) is not None
            and prefix.subnet_of(pool)
        ]
        return max(given)[1] if given else None

    async def _taint(self, key: Key, node: Node) -> None:
        """NOT_READY_TAINT keeps pods away from a Node on which they cannot be attached, as the settings say."""
        context = self._context
        problem = obstacle(context.caches, key, node.metadata.uid)
        if problem is None or node.held_back is bool(problem):
            return
        if not (context.rules.set_node_taint if problem else context.rules.remove_node_taint):
            return
        meta = node.metadata
        taints = [dict(taint) for taint in node.taints if taint["key"] != NOT_READY_TAINT]
        if problem:
            taints.append({"key": NOT_READY_TAINT, "effect": "NoSchedule"})
        patch = {"metadata": {"resourceVersion": meta.resource_version}, "spec": {"taints": taints}}
        context.caches.nodes.set(await context.api.patch(NODES, meta.name, patch))
        if problem:
            message = f"pods cannot be attached: {problem}; {NOT_READY_TAINT} keeps new ones away"
            context.events.record(NODES, meta, "Warning", "AgentNotReady", message)
        else:
            context.events.record(
                NODES, meta, "Normal", "NodeReady", f"pods can be attached: {NOT_READY_TAINT} is gone"
            )

    async def reconcile(self, key: Key) -> None:
        """One NodeSegment: the condition Accepted=False if its prefix is rejected. The node writes the rest of the
        status.
        """
        context = self._context
        segment = context.caches.segments.get(key)
        if segment is None or isinstance(segment, Invalid):
            return
        state: State | None = None
        self._problems.pop(("segment", key), None)
        try:
            self._allowed(segment.spec.prefix, key)
        except Rejected as problem:
            self._problems["segment", key] = problem.reason
            state = State("False", problem.reason, str(problem))
        status, meta = segment.status, segment.metadata
        if state is None and not any(condition.type == ACCEPTED for condition in status.conditions):
            return
        after = conditions(status.conditions, {ACCEPTED: state}, meta.generation, now())
        await context.status(NODE_SEGMENTS, meta, status, {"conditions": after})

    def _allowed(self, text: str, key: Key) -> IPv6Network:
        """The prefix. Raises Rejected if it is malformed, outside the SRv6 block, or overlaps an older segment's."""
        try:
            prefix = parse_prefix(text)
        except Rejected as problem:
            raise Rejected(
                str(problem).removeprefix(f"{problem.field}: "), reason="InvalidPrefix"
            ) from problem
        space = self._context.rules.srv6_block
        if space and not prefix.subnet_of(space):
            raise Rejected(
                f"{prefix} lies outside the SRv6 block {space}; give a prefix inside it",
                reason="PrefixOutsideSpace",
            )
        new = self._context.caches.segments.get(key) is None
        for neighbour in sorted({*self._prefixes.overlapping(prefix)} - {key}):
            if new or self._age(neighbour) < self._age(key):
                raise Rejected(
                    f"{prefix} overlaps {self._prefixes[neighbour]} of NodeSegment {neighbour[1]}; give every node "
                    "its own",
                    reason="PrefixOverlap",
                )
        return prefix

    def _age(self, key: Key) -> tuple[bool, str, Key]:
        """Sorts older segments first, and those that do not exist yet last."""
        segment = self._context.caches.segments.get(key)
        return segment is None, segment.metadata.creation_timestamp if segment else "", key


def obstacle(caches: Caches, key: Key, uid: str) -> str | None:
    """Why no pod can be attached on the Node of that UID; empty if one can, None if unknown.

    It is unknown for a Node that Galactic does not run on. A node controller that ended leaves its last status in the
    NodeSegment, so the state of its Pod counts as well, where there are such Pods.
    """
    segment, agent = caches.segments.get(key), caches.agent(key[1])
    if not isinstance(segment, NodeSegment):
        return None
    if any(owner.kind == "Node" and owner.uid != uid for owner in segment.metadata.owner_references):
        return None  # it belongs to the Node's deleted namesake
    conditions = {condition.type: condition for condition in segment.status.conditions}
    if agent is None and (len(caches.agents) or not conditions):
        return None
    if agent is False:
        return "galactic-node is not ready there"
    ready, multus = conditions.get(READY), conditions.get(MULTUS)
    if ready is None or ready.status != "True":
        return ready.message if ready and ready.message else "its NodeSegment is not Ready"
    return multus.message or multus.reason if multus and multus.status != "True" else ""


def _block(prefix: IPv6Network) -> int:
    return int(prefix.network_address) >> (128 - SHORTEST_PREFIX)


def _segment(node: Meta, prefix: IPv6Network) -> dict[str, Any]:
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
