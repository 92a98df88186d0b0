"""Which clusters may be in which VPC, where a router serves several (docs/design/joining.md).

A VPC identifier is a number, and numbers can be guessed. So a cluster is in a VPC because the policy lists it
(``Policy.vpcs``), or because it owns the VPC. The owner is found like that of a network: a cluster with routes in the
table in force keeps the VPC for as long as it announces any; else the one that was attached first. Pure.
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
    """Which clusters may be in a VPC that the policy does not list."""

    FIRST = "first"  # one cluster, which owns the VPC
    NOBODY = "nobody"
    ANYBODY = "anybody"


@dataclass(frozen=True, slots=True)
class Policy:
    """The clusters of each VPC that is listed, and the rule for the others."""

    unlisted: Unlisted = Unlisted.FIRST
    vpcs: Mapping[int, frozenset[str]] = field(default_factory=dict)

    def clusters(
        self,
        vpc: int,
        present: Iterable[str],
        paths: Iterable[EndpointPath],
        installed: Mapping[Any, Route],
        horizon: int,
    ) -> Clusters:
        """Those that may be in this VPC. ``paths`` are all paths in it, of the clusters ``present``."""
        if (listed := self.vpcs.get(vpc)) is not None:
            return listed
        if self.unlisted is not Unlisted.FIRST:
            return None if self.unlisted is Unlisted.ANYBODY else frozenset()
        if len(set(present)) < 2:
            return None
        return _owner(paths, installed, horizon)


OPEN: Final = Policy(Unlisted.ANYBODY)
"""Every cluster is in every VPC. A router in Kubernetes serves one cluster, and does not know the others."""


def _owner(paths: Iterable[EndpointPath], installed: Mapping[Any, Route], horizon: int) -> Clusters:
    """The cluster that owns the VPC; all clusters while none has an eligible path."""
    first: dict[str, int] = {}  # cluster → the epoch from which it has paths
    for path in paths:
        if path.networks and path.is_eligible(installed, horizon):
            cluster = path.origin.cluster
            first[cluster] = min(path.epoch, first.get(cluster, path.epoch))
    if not first:
        return None
    owned: dict[str, int] = {}  # the same of clusters with routes in force
    for route in installed.values():
        if route.cluster in first:
            owned[route.cluster] = min(route.epoch, owned.get(route.cluster, route.epoch))
    rivals = owned or first
    return frozenset({min(rivals, key=lambda cluster: (rivals[cluster], cluster))})


def allows(clusters: Clusters, cluster: str) -> bool:
    """Whether that cluster is one of them."""
    return clusters is None or cluster in clusters


def policy_rejections(paths: Iterable[EndpointPath], clusters: Clusters) -> list[Rejection]:
    """The rejections of the paths of a cluster that may not be in their VPC."""
    others = ", ".join(sorted(clusters or ())) or "no cluster"
    return [
        Rejection(
            path.origin,
            path.attachment,
            "NotAdmitted",
            f"cluster {path.origin.cluster} may not be in VPC {vpc_hex(path.vpc)}, which is for {others}; "
            "list the cluster in the router's admissions",
        )
        for path in sorted(paths, key=lambda path: path.origin)
    ]
