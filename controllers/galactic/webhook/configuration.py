"""The two webhook configurations, which the chart makes (templates/admission.yaml): the webhook enters its CAs, and
changes nothing else.
"""

import base64
from dataclasses import dataclass
from typing import Final

from galactic.kube.api import Object

MUTATE, VALIDATE = "/mutate", "/validate"
TIMEOUT_SECONDS: Final = 10
"""The API server waits so long for an answer: Kubernetes' default."""
POD_TIMEOUT_SECONDS: Final = 15
"""The same for Pods, whose attachment may have to become ready first. Kubernetes allows 30."""


@dataclass(frozen=True, slots=True)
class Address:
    """The webhook's address for the API server: a URL, or a Service."""

    namespace: str
    service: str
    url: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names that the serving certificate must have."""
        if self.url:
            host = self.url.split("://", 1)[1].split("/", 1)[0]
            return (host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0],)
        name = f"{self.service}.{self.namespace}.svc"
        return name, f"{name}.cluster.local"


def trusting(stored: Object, authorities: bytes) -> Object | None:
    """The configuration with these CAs (PEM) in each of its webhooks; None where it has them."""
    bundle = base64.b64encode(authorities).decode()
    webhooks = stored.get("webhooks") or []
    if all(webhook["clientConfig"].get("caBundle") == bundle for webhook in webhooks):
        return None
    return {
        **stored,
        "webhooks": [
            {**webhook, "clientConfig": {**webhook["clientConfig"], "caBundle": bundle}}
            for webhook in webhooks
        ],
    }


def trusts(stored: Object) -> bool:
    """Whether each webhook of the configuration has CAs."""
    return all(webhook["clientConfig"].get("caBundle") for webhook in stored.get("webhooks") or ())
