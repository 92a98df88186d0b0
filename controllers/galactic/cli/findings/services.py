"""Findings about Services that publish addresses of a VPC."""

from collections.abc import Iterator

from galactic.cli.findings.finding import PROBLEM, Finding
from galactic.cli.snapshot import Snapshot
from galactic.errors import Rejected
from galactic.validation.services import VPC_FIELD, VpcService, checked, exclusive


def services(snapshot: Snapshot) -> Iterator[Finding]:
    """Services with the annotation that publish nothing."""
    for name, service in snapshot.services.items():
        try:
            _check(snapshot, service)
        except Rejected as problem:
            remedy = "its names lead to no address until then; see docs/design/names.md"
            yield Finding(PROBLEM, f"Service {name}", problem.reason, str(problem), remedy)


def _check(snapshot: Snapshot, service: VpcService) -> None:
    checked(service)
    exclusive(service)
    vpc = "/".join(service.vpc)
    if vpc not in snapshot.vpcs and "VPC" not in snapshot.unread:
        raise Rejected(
            f"VPC {vpc} does not exist; make it, or name another", reason="VPCNotFound", field=VPC_FIELD
        )
