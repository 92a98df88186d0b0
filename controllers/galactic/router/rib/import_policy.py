"""Which clusters may be in which VPC, where a router serves several (docs/design/joining.md).

A VPC identifier is a number, and numbers can be guessed. So a cluster is in a VPC because somebody wrote down that
it may (``Policy.vpcs``), or because the VPC is its own. Whose it is, is decided like who holds a network: who has
routes in the table in force keeps it for as long as it claims any; else who was attached first. Pure.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from galactic.messages import Route
from galactic.names import vpc_hex
from galactic.router.rib.path import EndpointPath, Rejection

Clusters = frozenset[str] | None
"""Names of clusters; None: every one."""


class Unlisted(StrEnum):
    """Who may be in a VPC that the admissions do not list."""

    FIRST = "first"  # one cluster, whose VPC it is
    NOBODY = "nobody"
    ANYBODY = "anybody"


@dataclass(frozen=True, slots=True)
class Policy:
    """The clusters of each VPC that is listed, and what goes for the others."""

    unlisted: Unlisted = Unlisted.FIRST
    vpcs: Mapping[int, frozenset[str]] = field(default_factory=dict)

    def clusters(
        self,
        vpc: int,
        present: Iterable[str],
        claims: Iterable[EndpointPath],
        held: Mapping[Any, Route],
        horizon: int,
    ) -> Clusters:
        """Those that may be in this VPC. ``claims`` are all that there are in it, by the clusters ``present``."""
        if (listed := self.vpcs.get(vpc)) is not None:
            return listed
        if self.unlisted is not Unlisted.FIRST:
            return None if self.unlisted is Unlisted.ANYBODY else frozenset()
        if len(set(present)) < 2:
            return None
        return _owner(claims, held, horizon)


OPEN: Final = Policy(Unlisted.ANYBODY)
"""Nobody is kept out: where a router serves one cluster (Kubernetes) others are unknown to it anyway."""


def _owner(claims: Iterable[EndpointPath], held: Mapping[Any, Route], horizon: int) -> Clusters:
    """Whose VPC it is: one cluster, or all while nobody claims anything that is to be believed."""
    first: dict[str, int] = {}
    for claim in claims:
        if claim.networks and claim.believed(held, horizon):
            cluster = claim.origin.cluster
            first[cluster] = min(claim.epoch, first.get(cluster, claim.epoch))
    if not first:
        return None
    has: dict[str, int] = {}
    for route in held.values():
        if route.cluster in first:
            has[route.cluster] = min(route.epoch, has.get(route.cluster, route.epoch))
    rivals = has or first
    return frozenset({min(rivals, key=lambda cluster: (rivals[cluster], cluster))})


def admits(clusters: Clusters, cluster: str) -> bool:
    """Whether that cluster is one of them."""
    return clusters is None or cluster in clusters


def refusals(claims: Iterable[EndpointPath], clusters: Clusters) -> list[Rejection]:
    """What the claims of a cluster that may not be in their VPC are told."""
    others = ", ".join(sorted(clusters or ())) or "no cluster"
    return [
        Rejection(
            claim.origin,
            claim.attachment,
            "NotAdmitted",
            f"cluster {claim.origin.cluster} may not be in VPC {vpc_hex(claim.vpc)}, which is for {others}; "
            "the router's admissions decide",
        )
        for claim in sorted(claims, key=lambda claim: claim.origin)
    ]
