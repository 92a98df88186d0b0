"""Whether a namespace may attach to a VPC: ``VPC.spec.allowedNamespaces``."""

from collections.abc import Mapping
from typing import Any

from galactic.crds.vpc import AllowedNamespaces
from galactic.errors import Rejected


def granted(allowed: AllowedNamespaces | None, own: bool, labels: Mapping[str, str] | None) -> bool:
    """Whether a namespace with those labels (None: unknown) is let in; ``own`` says it is the VPC's own.

    Raises Rejected when the selector is malformed.
    """
    if own:
        return True
    if allowed is None or allowed.from_ == "Same":
        return False
    if allowed.from_ == "All":
        return True
    return labels is not None and allowed.selector is not None and selects(allowed.selector, labels)


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """A metav1.LabelSelector. An empty one selects everything. Raises Rejected on an operator that does not exist."""
    field = "spec.allowedNamespaces.selector"
    unknown = selector.keys() - {"matchLabels", "matchExpressions"}
    if unknown:
        raise Rejected(
            f"{min(unknown)!r} is not part of a label selector; there are matchLabels and matchExpressions",
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
        case other:
            raise Rejected(f"operator {other!r}: there are In, NotIn, Exists and DoesNotExist", field=field)


def refusal(vpc: tuple[str, str], namespace: str, field: str = "spec.vpc") -> Rejected:
    """For an attachment from elsewhere. It reads the same whether the VPC exists or not, so that nobody can probe."""
    return Rejected(
        f"VPC {vpc[0]}/{vpc[1]} does not exist or does not admit namespace {namespace}; its owner can list the "
        "namespace in the VPC's spec.allowedNamespaces",
        reason="NotGranted",
        field=field,
    )
