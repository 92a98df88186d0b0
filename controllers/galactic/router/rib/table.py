"""The route table: a pure function of what the nodes claim, and of the table in force.

``table(segments, attachments, held)`` decides two questions, each on its own:

*Which endpoint does an attachment have?* The one with the newest epoch; of two equal ones the one in force, then the
first by node name. But the last word of a node that is gone does not count against one that is there: see ``absent``.
(``winner``)

*Which attachment has a network?* The one that has it in the table in force keeps it for as long as it claims it, on
whatever node: moving does not lose it, and a rival's clock cannot take it. A network that nobody has goes to the
claimant with the lowest (epoch, cluster, function): the one that was attached first. (``holder``)

So "the holder keeps it" is data and not memory: ``held`` is the retained table in the broker (and
``VPCAttachment.status.endpoint`` where that is lost), which a restarted router reads before it decides anything. For
one ``held`` the order of the input does not matter, and ``table(s, a, table(s, a, held)) == table(s, a, held)``,
which is why a router that restarts changes nothing. Both questions are local, to an attachment and to a network: that
is what lets ``store`` answer them for what changed alone and arrive at the same table.

``horizon`` is the newest epoch (ns) that is believed of a claim that is not in force yet. Below it no epoch is too
far ahead to be overtaken: the next ADD takes the highest epoch known plus one.

``absent`` are the nodes that are offline. What such a node says and is not in force yet counts only where no other says
that it has the attachment (docs/design/late-messages.md).
"""

from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from galactic.messages import Route
from galactic.router.rib.import_policy import OPEN, Policy, admits, refusals
from galactic.router.rib.networks import Network
from galactic.router.rib.path import (
    Admission,
    Attachment,
    EndpointPath,
    Holder,
    Identity,
    NodeRef,
    Rejection,
    Segment,
    admission,
)

Held = Mapping[Network, Route]
"""The table of one VPC as it is in force."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """A network that an endpoint claims and another attachment of the VPC has."""

    network: Network
    claim: EndpointPath
    holder: EndpointPath

    @property
    def sentence(self) -> str:
        """For people."""
        has = self.holder
        return f"{self.network} is held by {has.attachment or has.sid} on node {has.origin.node}"


@dataclass(frozen=True, slots=True)
class VpcTable:
    """One VPC: its routes, the endpoint of each attachment, and what was left out."""

    routes: dict[Network, Route] = field(default_factory=dict)
    endpoints: dict[Holder, EndpointPath] = field(default_factory=dict)
    rejections: tuple[Rejection, ...] = ()
    conflicts: tuple[Conflict, ...] = ()


@dataclass(frozen=True, slots=True)
class Tables:
    """All VPCs by identifier, and what was rejected before it came to any."""

    vpcs: dict[int, VpcTable]
    rejections: tuple[Rejection, ...]


def table(  # noqa: PLR0917
    segments: Mapping[NodeRef, Segment],
    attachments: Mapping[str, Attachment] | None,
    held: Mapping[int, Held],
    horizon: int,
    policy: Policy = OPEN,
    absent: AbstractSet[NodeRef] = frozenset(),
) -> Tables:
    """Every VPC's table. ``attachments`` None: standalone, nothing to check endpoints against."""
    admissions = [admission(origin, segment, attachments) for origin, segment in segments.items()]
    candidates: dict[int, dict[Holder, list[EndpointPath]]] = {}
    for identity, claims in _by_identity(admissions).items():
        candidates.setdefault(identity.vpc, {})[Holder(identity.cluster, identity.function)] = claims
    rejections = sorted(
        (rejection for admitted in admissions for rejection in admitted.rejections),
        key=lambda rejection: (rejection.origin, rejection.attachment, rejection.reason, rejection.message),
    )
    return Tables(
        {
            vpc: vpc_table(vpc, claims, held.get(vpc, {}), horizon, policy, absent)
            for vpc, claims in candidates.items()
        },
        tuple(rejections),
    )


def vpc_table(  # noqa: PLR0917
    vpc: int,
    candidates: Mapping[Holder, Collection[EndpointPath]],
    held: Held,
    horizon: int,
    policy: Policy = OPEN,
    absent: AbstractSet[NodeRef] = frozenset(),
) -> VpcTable:
    """One VPC's table from the claims of each attachment in it."""
    present = {attachment.cluster for attachment in candidates}
    every = (claim for claims in candidates.values() for claim in claims)
    clusters = policy.clusters(vpc, present, every, held, horizon)
    endpoints: dict[Holder, EndpointPath] = {}
    rejections: list[Rejection] = []
    claimants: dict[Network, list[EndpointPath]] = {}
    for attachment in sorted(candidates):
        if not admits(clusters, attachment.cluster):
            rejections += refusals(candidates[attachment], clusters)
            continue
        chosen, losers = winner(candidates[attachment], held, horizon, absent)
        rejections += losers
        if chosen is not None:
            endpoints[attachment] = chosen
            for network in chosen.networks:
                claimants.setdefault(network, []).append(chosen)
    routes: dict[Network, Route] = {}
    conflicts: list[Conflict] = []
    for network in sorted(claimants):
        has, others = holder(claimants[network], held.get(network))
        routes[network] = has.route(network)
        conflicts += (Conflict(network, claim, has) for claim in others)
    return VpcTable(routes, endpoints, tuple(rejections), tuple(conflicts))


def winner(
    candidates: Iterable[EndpointPath], held: Held, horizon: int, absent: AbstractSet[NodeRef] = frozenset()
) -> tuple[EndpointPath | None, list[Rejection]]:
    """The endpoint of one attachment, and why not the others."""
    eligible: list[tuple[EndpointPath, bool]] = []
    rejections: list[Rejection] = []
    for claim in sorted(candidates, key=lambda claim: claim.origin):
        in_force = claim.in_force(held)
        if claim.pending and not in_force:
            rejections.append(_rejection(claim, claim.pending, "the attachment is not ready"))
        elif claim.epoch > horizon and not in_force:
            rejections.append(_rejection(claim, "EpochInFuture", f"epoch {claim.epoch} is too far ahead"))
        else:
            eligible.append((claim, in_force))
    if not eligible:
        return None, rejections
    # Of equals the first: by node name.
    chosen, _ = max(
        eligible, key=lambda pair: (pair[1] or pair[0].origin not in absent, pair[0].epoch, pair[1])
    )
    for claim, _ in eligible:
        if claim is not chosen:
            message = f"epoch {claim.epoch} on {claim.origin.node}, {chosen.epoch} on {chosen.origin.node}"
            if claim.epoch > chosen.epoch:
                message += f"; {claim.origin.node} is offline, and {chosen.origin.node} is not"
            rejections.append(_rejection(claim, "StaleEpoch", message))
    return chosen, rejections


def holder(claimants: Iterable[EndpointPath], held: Route | None) -> tuple[EndpointPath, list[EndpointPath]]:
    """Of the endpoints that claim a network (one an attachment, at least one) the one that has it, and the others."""
    ranked = sorted(claimants, key=lambda claim: (not _keeps(claim, held), claim.epoch, claim.holder))
    return ranked[0], ranked[1:]


def _keeps(claim: EndpointPath, held: Route | None) -> bool:
    return held is not None and claim.holder == holder_of(held)


def holder_of(route: Route) -> Holder | None:
    """The attachment that a route leads to."""
    try:
        return Holder(route.cluster, int(route.function, 16))
    except ValueError:
        return None  # somebody else wrote into the retained table


def _rejection(claim: EndpointPath, reason: str, message: str) -> Rejection:
    return Rejection(claim.origin, claim.attachment, reason, message)


def _by_identity(admissions: Iterable[Admission]) -> dict[Identity, list[EndpointPath]]:
    """The claims of many nodes, gathered by attachment."""
    gathered: dict[Identity, list[EndpointPath]] = {}
    for admitted in admissions:
        for candidate in admitted.claims.values():
            gathered.setdefault(candidate.identity, []).append(candidate)
    return gathered
