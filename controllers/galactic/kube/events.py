"""Bodies of core/v1 Events, which ``kubectl describe`` shows."""

import time
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final, Literal

from galactic.crds.model import Meta
from galactic.kube.conditions import now
from galactic.kube.resources import Resource

LONGEST_MESSAGE: Final = 1024
"""Characters of a message that the API server takes."""
Severity = Literal["Normal", "Warning"]


def involved(resource: Resource, meta: Meta) -> dict[str, str]:
    """The ``involvedObject`` of an Event about that object."""
    reference = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "name": meta.name,
        "uid": meta.uid,
        "resourceVersion": meta.resource_version,
    }
    return reference | ({"namespace": meta.namespace} if meta.namespace else {})


def event_body(
    about: Mapping[str, str], severity: Severity, reason: str, message: str, *, component: str
) -> dict[str, Any]:
    """An Event on the object ``about``, in its namespace; about a cluster-scoped object, in ``default``."""
    seed = f"{about['uid']}|{reason}|{message}|{time.time_ns()}"
    digest = blake2b(seed.encode(), digest_size=8).hexdigest()
    moment = now()
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{about['name'][:230]}.{digest}",
            "namespace": about.get("namespace") or "default",
        },
        "involvedObject": dict(about),
        "type": severity,
        "reason": reason,
        "message": message[:LONGEST_MESSAGE],
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
        "source": {"component": component},
        "reportingComponent": component,
        "reportingInstance": component,
    }
