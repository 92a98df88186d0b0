"""The route table: a pure function of the nodes' paths, and of the table in force.

``table(segments, attachments, installed)`` decides two questions, each on its own:

*What is an attachment's best path?* The one with the newest epoch; of two equal ones the installed one, then the first
by node name. But a path that arrived late from an offline node does not count against an online node's: see
``offline``. (``best_path``)

*Which attachment owns a network?* The one that has it in the table in force keeps it for as long as its best path
announces it, on whatever node: moving does not lose it, and another attachment's clock cannot take it. A network
without an owner goes to the announcer with the lowest (epoch, cluster, function): the one that was attached first.
(``network_owner``)

So "the owner keeps it" is data and not memory: ``installed`` is the retained table in the broker (and
``VPCAttachment.status.endpoint`` where that is lost), which a restarted router reads before it decides anything. For
one ``installed`` the order of the input does not matter, and ``table(s, a, table(s, a, installed))`` equals
``table(s, a, installed)``: so a router that restarts changes nothing. Both questions are local, to an attachment and
to a network: so ``store`` can answer them for what changed alone and arrive at the same table.

``horizon`` is the newest epoch (ns) that is accepted of a path that is not installed yet. Below it no epoch is too
far ahead to be overtaken: the next ADD takes the highest epoch known plus one.

``offline`` are the nodes that are offline. A path of theirs that is not installed yet counts only where no online node
has a path of the attachment (docs/design/late-messages.md).
"""

from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

from galactic.messages import Route
from galactic.router.rib.import_policy import OPEN, Policy, admitted
from galactic.router.rib.networks import Network
from galactic.router.rib.path import (
    UNLISTED,
    Attachment,
    EndpointPath,
    Holder,
    Identity,
    NodePaths,
    NodeRef,
    Rejection,
    Segment,
    node_paths,
)

Installed = Mapping[Network, Route]
"""The table of one VPC as it is in force."""

PENDING: Final = {
    "NotReady": "the VPCAttachment is not ready",
    UNLISTED: "its cluster publishes no complete list of VPCAttachments; set publish_entitlements of its operator, or "
    "require_entitlements=false of the router",
    "NotCarried": "no pod on this node carries the VPCAttachment, as its status.carriers has it",
}
"""Why a path is pending."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """A network that ``path`` announces and another attachment of the VPC owns, by its best path ``owner``."""

    network: Network
    path: EndpointPath
    owner: EndpointPath

    @property
    def sentence(self) -> str:
        """For people."""
        owner = self.owner
        return f"{self.network} is held by {owner.attachment or owner.sid} on node {owner.origin.node}"


@dataclass(frozen=True, slots=True)
class VpcTable:
    """One VPC: its routes, the best path of each attachment, and what was left out."""

    routes: dict[Network, Route] = field(default_factory=dict)
    endpoints: dict[Holder, EndpointPath] = field(default_factory=dict)
    rejections: tuple[Rejection, ...] = ()
    conflicts: tuple[Conflict, ...] = ()


@dataclass(frozen=True, slots=True)
class Tables:
    """All VPCs by identifier, and endpoints that are no paths."""

    vpcs: dict[int, VpcTable]
    rejections: tuple[Rejection, ...]


def table(  # noqa: PLR0917
    segments: Mapping[NodeRef, Segment],
    attachments: Mapping[str, Attachment] | None,
    installed: Mapping[int, Installed],
    horizon: int,
    policy: Policy = OPEN,
    offline: AbstractSet[NodeRef] = frozenset(),
) -> Tables:
    """Every VPC's table. ``attachments`` None: standalone, nothing to check endpoints against."""
    checked = [node_paths(node, segment, attachments) for node, segment in segments.items()]
    candidates: dict[int, dict[Holder, list[EndpointPath]]] = {}
    for identity, paths in _by_identity(checked).items():
        candidates.setdefault(identity.vpc, {})[Holder(identity.cluster, identity.function)] = paths
    rejections = sorted(
        (rejection for paths in checked for rejection in paths.rejections),
        key=lambda rejection: (rejection.origin, rejection.attachment, rejection.reason, rejection.message),
    )
    return Tables(
        {
            vpc: vpc_table(vpc, by_holder, installed.get(vpc, {}), horizon, policy, offline)
            for vpc, by_holder in candidates.items()
        },
        tuple(rejections),
    )


def vpc_table(  # noqa: PLR0917
    vpc: int,
    candidates: Mapping[Holder, Collection[EndpointPath]],
    installed: Installed,
    horizon: int,
    policy: Policy = OPEN,
    offline: AbstractSet[NodeRef] = frozenset(),
) -> VpcTable:
    """One VPC's table from the paths of each attachment in it."""
    present = {holder.cluster for holder in candidates}
    all_paths = (path for paths in candidates.values() for path in paths)
    members = policy.members(vpc, present, all_paths, installed, horizon)
    best_paths: dict[Holder, EndpointPath] = {}
    rejections: list[Rejection] = []
    announcers: dict[Network, list[EndpointPath]] = {}
    for holder in sorted(candidates):
        paths, refused = admitted(candidates[holder], members, installed)
        best, rejected = best_path(paths, installed, horizon, offline)
        rejections += (*refused, *rejected)
        if best is not None:
            best_paths[holder] = best
            for network in best.networks:
                announcers.setdefault(network, []).append(best)
    routes: dict[Network, Route] = {}
    conflicts: list[Conflict] = []
    for network in sorted(announcers):
        owner, others = network_owner(announcers[network], installed.get(network))
        routes[network] = owner.route(network)
        conflicts += (Conflict(network, path, owner) for path in others)
    return VpcTable(routes, best_paths, tuple(rejections), tuple(conflicts))


def best_path(
    candidates: Iterable[EndpointPath],
    installed: Installed,
    horizon: int,
    offline: AbstractSet[NodeRef] = frozenset(),
) -> tuple[EndpointPath | None, list[Rejection]]:
    """The best path of one attachment, and why not the others."""
    eligible: list[tuple[EndpointPath, bool]] = []
    rejections: list[Rejection] = []
    for path in sorted(candidates, key=lambda path: path.origin):
        is_installed = path.is_installed(installed)
        if path.pending and not is_installed:
            rejections.append(_rejection(path, path.pending, PENDING[path.pending]))
        elif path.epoch > horizon and not is_installed:
            rejections.append(
                _rejection(
                    path,
                    "EpochInFuture",
                    f"epoch {path.epoch} is more than a day ahead of the router's clock",
                )
            )
        else:
            eligible.append((path.as_installed(installed), is_installed))
    if not eligible:
        return None, rejections
    # Of equals the first: by node name.
    best, _ = max(
        eligible, key=lambda pair: (pair[1] or pair[0].origin not in offline, pair[0].epoch, pair[1])
    )
    for path, _ in eligible:
        if path.origin != best.origin:
            message = f"epoch {path.epoch} on {path.origin.node}, {best.epoch} on {best.origin.node}"
            if path.epoch > best.epoch:
                message += f"; {path.origin.node} is offline, and {best.origin.node} is not"
            rejections.append(_rejection(path, "StaleEpoch", message))
    return best, rejections


def network_owner(
    announcers: Iterable[EndpointPath], installed: Route | None
) -> tuple[EndpointPath, list[EndpointPath]]:
    """Of the best paths that announce a network (at least one) the one that owns it, and the others."""
    ranked = sorted(announcers, key=lambda path: (not _owns(path, installed), path.epoch, path.holder))
    return ranked[0], ranked[1:]


def _owns(path: EndpointPath, installed: Route | None) -> bool:
    return installed is not None and path.holder == holder_of(installed)


def holder_of(route: Route) -> Holder | None:
    """The attachment that a route leads to."""
    try:
        return Holder(route.cluster, int(route.function, 16))
    except ValueError:
        return None  # another program wrote into the retained table


def _rejection(path: EndpointPath, reason: str, message: str) -> Rejection:
    return Rejection(path.origin, path.attachment, reason, message)


def _by_identity(checked: Iterable[NodePaths]) -> dict[Identity, list[EndpointPath]]:
    """The paths of many nodes, gathered by attachment."""
    gathered: dict[Identity, list[EndpointPath]] = {}
    for node in checked:
        for path in node.paths.values():
            gathered.setdefault(path.identity, []).append(path)
    return gathered
