"""References to a VPC in other kinds: ``name`` and ``namespace``."""

from galactic.crds.vpc import VpcReference
from galactic.errors import Rejected
from galactic.names import GROUP


def referenced(reference: VpcReference, namespace: str) -> tuple[str, str]:
    """Namespace and name of the VPC that an object of ``namespace`` means."""
    return reference.namespace or namespace, reference.name


def check_kind(reference: VpcReference, field: str) -> None:
    """Raises Rejected where the reference is to another kind than a VPC."""
    if reference.kind != "VPC" or reference.api_version.split("/")[0] != GROUP:
        raise Rejected(
            f"{reference.api_version} {reference.kind} is not a kind to attach to; give a VPC of {GROUP}",
            reason="UnknownKind",
            field=f"{field}.kind",
        )
