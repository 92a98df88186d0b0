"""The admissions of a standalone router: a YAML file with the import policy, read again when it changes."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog
import yaml

from galactic.errors import Rejected
from galactic.names import parse_vpc
from galactic.router.metrics import RouterMetrics
from galactic.router.rib.import_policy import ClusterVpc, Policy, Unlisted
from galactic.router.rib.vpc_tables import VpcTables

log = structlog.get_logger(__name__)
POLL_SECONDS: Final = 2.0
_VPC: Final = re.compile(r"[a-z0-9.-]+/[a-z0-9.-]+")


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


def _listed(key: object, entry: object) -> tuple[int, frozenset[str | ClusterVpc]]:
    if not isinstance(key, str):  # YAML reads 000000001234 as a number, and as an octal one
        raise Rejected(f"vpcs: {key!r} is not text; write the 12 hex digits in quotes")
    try:
        vpc = parse_vpc(key)
    except Rejected as error:
        raise Rejected(f"vpcs: {error}") from error
    members = entry.get("clusters") if isinstance(entry, dict) and entry.keys() == {"clusters"} else None
    if not isinstance(members, list):
        raise Rejected(f"vpcs.{key}: give `clusters`, a list of names")
    return vpc, frozenset(_member(f"vpcs.{key}.clusters[{i}]", member) for i, member in enumerate(members))


def _member(place: str, member: object) -> str | ClusterVpc:
    """A cluster by its name, or one VPC of it."""
    if isinstance(member, str) and member:
        return member
    match member:
        case {"name": str(cluster), "vpc": str(vpc), **rest} if cluster and _VPC.fullmatch(vpc) and not rest:
            return ClusterVpc(cluster, vpc)
    raise Rejected(
        f"{place}: {member!r}; give the cluster's name, or its `name` and a `vpc` as namespace/name"
    )


class AdmissionsFile:
    """The policy in a file. After a change that cannot be read the policy before stays in force."""

    def __init__(self, path: Path, *, poll_seconds: float = POLL_SECONDS) -> None:
        """Raises Rejected when there is nothing to begin with."""
        self._path, self._poll_seconds = path, poll_seconds
        self._text = b""
        self.policy = Policy()
        self.policy = self._read()

    async def changes(self, changed: Callable[[Policy], None], problem: Callable[[str | None], None]) -> None:
        """Calls ``changed`` with each new policy and ``problem`` with what is wrong with the file (None: nothing)."""
        reported: str | None = None
        while True:
            await asyncio.sleep(self._poll_seconds)
            error_text = None
            try:
                policy = await asyncio.to_thread(self._read)
            except Rejected as error:
                error_text = f"{error}; the policy that was read before stays in force"
            if error_text != reported:
                reported = error_text
                problem(error_text)
                if error_text is not None:
                    log.error("admissions cannot be read", file=str(self._path), error=error_text)
            if error_text is None and policy != self.policy:
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


class AdmissionsReload:
    """Each new policy goes to the tables."""

    def __init__(self, file: AdmissionsFile, tables: VpcTables, metrics: RouterMetrics) -> None:
        self._file, self._tables, self._metrics = file, tables, metrics

    async def run(self) -> None:
        """For ever."""
        await self._file.changes(self._tables.set_policy, self._report)

    def _report(self, problem: str | None) -> None:
        self._metrics.admissions(valid=problem is None)
