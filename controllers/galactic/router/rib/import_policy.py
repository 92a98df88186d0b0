"""Which clusters may be in which VPC, where a router serves several (docs/design/joining.md).

A VPC identifier is a number, and numbers can be guessed. So a cluster is in a VPC because the policy lists it
(``Policy.vpcs``), with any VPC object of its own or with the one that is named, or because it owns the VPC. The owner
is found like that of a network: a cluster with routes in the table in force keeps the VPC for as long as it announces
any; else the one that was attached first. Pure.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

from galactic.messages import Route
from galactic.names import vpc_hex
from galactic.router.rib.path import EndpointPath, Rejection


class ClusterVpc(NamedTuple):
    """A VPC object of a cluster: ``name`` is its namespace/name."""

    cluster: str
    name: str


Members = frozenset[str | ClusterVpc] | None
"""Clusters by name, each with all VPCs of theirs, and single VPCs of clusters; None: every cluster."""


class Unlisted(StrEnum):
    """Which clusters may be in a VPC that the policy does not list."""

    FIRST = "first"  # one cluster, which owns the VPC
    NOBODY = "nobody"
    ANYBODY = "anybody"


@dataclass(frozen=True, slots=True)
class Policy:
    """The members of each VPC that is listed, and the rule for the others."""

    unlisted: Unlisted = Unlisted.FIRST
    vpcs: Mapping[int, frozenset[str | ClusterVpc]] = field(default_factory=dict)

    def members(
        self,
        vpc: int,
        present: Iterable[str],
        paths: Iterable[EndpointPath],
        installed: Mapping[Any, Route],
        horizon: int,
    ) -> Members:
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


def _owner(paths: Iterable[EndpointPath], installed: Mapping[Any, Route], horizon: int) -> Members:
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


def allows(members: Members, cluster: str) -> bool:
    """Whether that cluster is one of them, with all VPCs of its own."""
    return members is None or cluster in members


def admitted(
    paths: Iterable[EndpointPath], members: Members, installed: Mapping[Any, Route]
) -> tuple[list[EndpointPath], list[Rejection]]:
    """The paths of an attachment that may be in their VPC, and the rejections of the others.

    Where a VPC of the cluster is named and a path's is unknown, as the cluster's list does not have it, the path may
    stay where it is installed.
    """
    allowed: list[EndpointPath] = []
    rejections: list[Rejection] = []
    for path in sorted(paths, key=lambda path: path.origin):
        if _is_admitted(path, members, installed):
            allowed.append(path)
        else:
            who, others, remedy = _words(path, members or frozenset())
            message = f"{who} may not be in VPC {vpc_hex(path.vpc)}, which is for {others}; {remedy}"
            rejections.append(Rejection(path.origin, path.attachment, "NotAdmitted", message))
    return allowed, rejections


def _is_admitted(path: EndpointPath, members: Members, installed: Mapping[Any, Route]) -> bool:
    cluster = path.origin.cluster
    if allows(members, cluster):
        return True
    if path.vpc_name:
        return ClusterVpc(cluster, path.vpc_name) in (members or ())
    return bool(_named(members, cluster)) and path.is_installed(installed)


def _named(members: Members, cluster: str) -> list[str]:
    """The names of the VPCs of that cluster that are members."""
    return [
        member.name
        for member in members or ()
        if isinstance(member, ClusterVpc) and member.cluster == cluster
    ]


def _words(path: EndpointPath, members: frozenset[str | ClusterVpc]) -> tuple[str, str, str]:
    """Who is refused, the members, and the remedy."""
    cluster, name = path.origin.cluster, path.vpc_name
    others = ", ".join(
        sorted(
            f"{member.name} of {member.cluster}" if isinstance(member, ClusterVpc) else member
            for member in members
        )
    )
    who = f"VPC {name} of cluster {cluster}" if name else f"cluster {cluster}"
    if _named(members, cluster) and not name:
        remedy = "the cluster's operator does not publish which VPC this is: upgrade it"
    else:
        remedy = f"list the {'VPC' if _named(members, cluster) else 'cluster'} in the router's admissions"
    return who, others or "no cluster", remedy
