"""Namespaces whose Pods the API server does not send to the webhooks."""

from typing import Final

from galactic.names import GROUP

ADMISSION_LABEL: Final = f"{GROUP}/admission"
IGNORED: Final = "ignore"
"""The value of ADMISSION_LABEL that excludes a namespace."""
KUBE_SYSTEM: Final = "kube-system"
NAMED_NAMESPACES: Final = (1, 21)
"""The first minor of Kubernetes whose API server labels each namespace with its name."""


def to_be_labelled(namespace: str, version: tuple[int, int]) -> tuple[str, ...]:
    """The namespaces that the webhook excludes by ADMISSION_LABEL; none where the API server labels them by name."""
    return () if version >= NAMED_NAMESPACES else tuple(dict.fromkeys((KUBE_SYSTEM, namespace)))
