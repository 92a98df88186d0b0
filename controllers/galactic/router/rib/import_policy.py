"""Which clusters may be in which VPC, where a router serves several (docs/design/joining.md).

A VPC identifier is a number, and numbers can be guessed. So a cluster is in a VPC because somebody wrote down that
it may (``Policy.vpcs``), or because the VPC is its own. Whose it is, is decided like who holds a network: who has
routes in the table in force keeps it for as long as it claims any; else who was attached first. Pure, apart from
``AdmissionsFile``, which reads the policy again when its file changes.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import structlog
import yaml

from galactic.errors import Rejected
from galactic.messages import Route
from galactic.names import parse_vpc, vpc_hex
from galactic.router.rib.path import EndpointPath, Rejection

log = structlog.get_logger(__name__)
POLL_SECONDS: Final = 2.0
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


# -- the file ----------------------------------------------------------------------------------------------------------


def parse(text: str | bytes) -> Policy:
    """The policy that is written there. Raises Rejected with the place and the remedy."""
    try:
        given = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Rejected(f"not YAML: {error}") from error
    given = {} if given is None else given
    if not isinstance(given, dict) or (unknown := given.keys() - {"unlisted", "vpcs"}):
        what = ", ".join(map(repr, unknown)) if isinstance(given, dict) else type(given).__name__
        raise Rejected(f"{what}: give the keys `unlisted` and `vpcs`")
    try:
        unlisted = Unlisted(given.get("unlisted", Unlisted.FIRST))
    except ValueError as error:
        raise Rejected(f"unlisted: {given['unlisted']!r}; give {', '.join(Unlisted)}") from error
    vpcs = given.get("vpcs") or {}
    if not isinstance(vpcs, dict):
        raise Rejected("vpcs: give a mapping of VPC identifiers")
    return Policy(unlisted, dict(_listed(key, entry) for key, entry in vpcs.items()))


def _listed(key: object, entry: object) -> tuple[int, frozenset[str]]:
    if not isinstance(key, str):  # YAML reads 000000001234 as a number, and as an octal one
        raise Rejected(f"vpcs: {key!r} is not text; write the 12 hex digits in quotes")
    try:
        vpc = parse_vpc(key)
    except Rejected as error:
        raise Rejected(f"vpcs: {error}") from error
    names = entry.get("clusters") if isinstance(entry, dict) and entry.keys() == {"clusters"} else None
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise Rejected(f"vpcs.{key}: give `clusters`, a list of names")
    return vpc, frozenset(names)


class AdmissionsFile:
    """The policy in a file. A change that cannot be read leaves the policy as it was, and is told."""

    def __init__(self, path: Path, *, poll_seconds: float = POLL_SECONDS) -> None:
        """Raises Rejected when there is nothing to begin with."""
        self._path, self._poll_seconds = path, poll_seconds
        self._text = b""
        self.policy = Policy()
        self.policy = self._read()

    async def run(self, changed: Callable[[Policy], None], problem: Callable[[str | None], None]) -> None:
        """Tells of changes for ever: of each new policy, and of what is wrong with the file (None: nothing now)."""
        told: str | None = None
        while True:
            await asyncio.sleep(self._poll_seconds)
            wrong = None
            try:
                policy = await asyncio.to_thread(self._read)
            except Rejected as error:
                wrong = f"{error}; what was there before stays in force"
            if wrong != told:
                told = wrong
                problem(wrong)
                if wrong is not None:
                    log.error("admissions cannot be read", file=str(self._path), error=wrong)
            if wrong is None and policy != self.policy:
                self.policy = policy
                log.info(
                    "admissions changed",
                    file=str(self._path),
                    vpcs=len(policy.vpcs),
                    unlisted=policy.unlisted,
                )
                changed(policy)

    def _read(self) -> Policy:
        # Compared by content and not by time: a mounted ConfigMap is exchanged by a symbolic link.
        try:
            text = self._path.read_bytes()
        except OSError as error:
            raise Rejected(f"{self._path}: {error.strerror}") from error
        if text == self._text:
            return self.policy
        try:
            policy = parse(text)
        except Rejected as error:
            raise Rejected(f"{self._path}: {error}") from error
        self._text = text
        return policy
