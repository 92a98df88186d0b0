"""Whether a namespace may attach to a VPC: ``VPC.spec.allowedNamespaces``."""

from collections.abc import Mapping
from typing import Any

from galactic.crds.vpc import AllowedNamespaces, AttachingNamespaces
from galactic.errors import Rejected


def granted(allowed: AllowedNamespaces | None, own: bool, labels: Mapping[str, str] | None) -> bool:
    """Whether a namespace with those labels (None: unknown) may attach. ``own``: it is the VPC's own.

    Raises Rejected when the selector is malformed.
    """
    if own:
        return True
    if allowed is None or allowed.from_ == "Same":
        return False
    if allowed.from_ == "All":
        return True
    return labels is not None and allowed.selector is not None and selects(allowed.selector, labels)


def may_terminate(allowed: AllowedNamespaces | None, own: bool, labels: Mapping[str, str] | None) -> bool:
    """Whether a namespace that may attach may terminate networks as well: ``VPC.spec.allowedTerminations``.

    Raises Rejected when the selector is malformed.
    """
    return allowed is None or granted(allowed, own, labels)


def termination_refusal(vpc: tuple[str, str], namespace: str) -> Rejected:
    """For an attachment that terminates a network without that grant."""
    return Rejected(
        f"VPC {vpc[0]}/{vpc[1]} does not let namespace {namespace} terminate networks; remove routes via the "
        "attachment's own address, or ask its owner to list the namespace in the VPC's spec.allowedTerminations",
        reason="TerminationNotGranted",
        field="spec.routes",
    )


def detaches(allowed: AttachingNamespaces | None, labels: Mapping[str, str] | None) -> bool:
    """Whether running pods of another namespace with those labels are to be detached. Not while anything is unknown:
    the namespace, or the meaning of a malformed selector.
    """
    if allowed is None or allowed.when_revoked != "Detach" or labels is None:
        return False
    try:
        return not granted(allowed, False, labels)
    except Rejected:
        return False


def selects(
    selector: Mapping[str, Any], labels: Mapping[str, str], field: str = "spec.allowedNamespaces.selector"
) -> bool:
    """Whether a metav1.LabelSelector matches; an empty one matches all. Raises Rejected on an unknown operator."""
    unknown = selector.keys() - {"matchLabels", "matchExpressions"}
    if unknown:
        raise Rejected(
            f"{min(unknown)!r} is not part of a label selector; write matchLabels or matchExpressions",
            field=field,
        )
    for name, value in (selector.get("matchLabels") or {}).items():
        if labels.get(name) != value:
            return False
    for index, expression in enumerate(selector.get("matchExpressions") or ()):
        if not _matches(expression, labels, f"{field}.matchExpressions[{index}]"):
            return False
    return True


def _matches(expression: Mapping[str, Any], labels: Mapping[str, str], field: str) -> bool:
    name, values = expression.get("key"), expression.get("values") or ()
    match expression.get("operator"):
        case "In":
            return labels.get(str(name)) in values
        case "NotIn":
            return labels.get(str(name)) not in values
        case "Exists":
            return name in labels
        case "DoesNotExist":
            return name not in labels
        case unknown:
            raise Rejected(
                f"operator {unknown!r} does not exist; write In, NotIn, Exists or DoesNotExist", field=field
            )


def refusal(vpc: tuple[str, str], namespace: str, field: str = "spec.vpc") -> Rejected:
    """For an attachment from another namespace. The text is the same for a VPC that does not exist: no probing."""
    return Rejected(
        f"VPC {vpc[0]}/{vpc[1]} does not exist or does not admit namespace {namespace}; its owner can list the "
        "namespace in the VPC's spec.allowedNamespaces",
        reason="NotGranted",
        field=field,
    )
