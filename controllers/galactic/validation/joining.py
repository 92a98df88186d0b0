"""The proof that the user who gave a VPC its ``spec.identifier`` may join a VPC of another cluster.

The webhook knows the user, the operator does not. So the webhook records each VPC that it admits, by its UID, in a
ConfigMap of Galactic's own namespace, and the operator gives a requested identifier to a recorded VPC only.
"""

from collections.abc import Mapping
from typing import Any, Final

from galactic.errors import Rejected
from galactic.names import GROUP

RECORDS: Final = "galactic-joins"
"""The ConfigMap."""
VERB: Final = "join"
RESOURCE: Final = "identifiers"
"""The permission, of the API group GROUP: no such objects exist. The name is the identifier."""


def record(vpc: tuple[str, str], identifier: str) -> str:
    """The value of a record. Its key is the VPC's UID."""
    return f"{vpc[0]}/{vpc[1]} {identifier}"


def recorded(records: Mapping[str, Any] | None, uid: str, vpc: tuple[str, str], identifier: str) -> bool:
    """``records``: the ConfigMap's ``data``."""
    return bool(uid) and (records or {}).get(uid) == record(vpc, identifier)


def forbidden(identifier: str, user: str) -> Rejected:
    """The webhook's refusal."""
    return Rejected(
        f"{identifier}: {user} may not join a VPC by its identifier; leave it out for a VPC of this cluster, or ask an "
        f"administrator for the verb {VERB} on {RESOURCE}.{GROUP}",
        reason="JoinForbidden",
        field="spec.identifier",
    )


def unrecorded(identifier: str) -> Rejected:
    """The operator's refusal."""
    return Rejected(
        f"{identifier}: the webhook did not admit this VPC; make it again while the webhook runs, as a user with the "
        f"verb {VERB} on {RESOURCE}.{GROUP}",
        reason="JoinNotAdmitted",
        field="spec.identifier",
    )
