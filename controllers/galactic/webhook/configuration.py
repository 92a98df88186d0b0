"""The two webhook configurations, as a pure function of the API server's version.

Pods that request no attachment must not depend on the webhook. From Kubernetes 1.28 on the API server itself selects
them by ``matchConditions``. An older one can only select by label, and a Pod requests an attachment by annotation: it
sends all Pods, which the webhook answers at once. ``failurePolicy`` is Fail there as well: a Pod that starts without
the attachment that it requests, unnoticed, is worse than one that waits. The label IGNORED excludes a namespace, and
the setting ``pod_failure_policy: Ignore`` changes the policy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from galactic.kube.namespaces import ADMISSION_LABEL, IGNORED, KUBE_SYSTEM, NAMED_NAMESPACES
from galactic.kube.resources import (
    MUTATING_WEBHOOKS,
    NODE_SEGMENTS,
    PODS,
    VALIDATING_WEBHOOKS,
    VPC_ATTACHMENTS,
    VPCS,
    Resource,
)
from galactic.names import ATTACHMENT_ANNOTATION, GROUP, VERSION, VPC_ANNOTATION
from galactic.webhook.nodesegment import NO_IDENTITIES, Identities

MUTATE, VALIDATE = "/mutate", "/validate"
TIMEOUT_SECONDS: Final = 10
"""The API server waits so long for an answer: Kubernetes' default."""
POD_TIMEOUT_SECONDS: Final = 15
"""The same for Pods, whose attachment may have to become ready first. Kubernetes allows 30."""
MATCH_CONDITIONS: Final = (1, 28)
NAME_LABEL: Final = "kubernetes.io/metadata.name"
INJECT: Final = "cert-manager.io/inject-ca-from"

Policy = Literal["Fail", "Ignore"]


def _annotated(variable: str) -> str:
    names = (
        f"'{name}' in {variable}.metadata.annotations" for name in (ATTACHMENT_ANNOTATION, VPC_ANNOTATION)
    )
    return f"has({variable}.metadata.annotations) && ({' || '.join(names)})"


# In CEL. The API server does not call the webhook, and so does not depend on it, where these are false, as when the
# operator removes a finalizer.
_CONCERNED: Final = (
    f"({_annotated('object')}) || (request.operation == 'UPDATE' && {_annotated('oldObject')})"
)
_SPECIFIED: Final = "request.operation == 'CREATE' || object.spec != oldObject.spec"
_STAYS: Final = "!has(object.metadata.deletionTimestamp)"


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """The webhook's address for the API server: a URL, or a Service.

    ``bundle``: the CAs (PEM) of the serving certificate. None: another program enters them, cert-manager's injector if
    ``inject`` names one of its Certificates (namespace/name).
    """

    namespace: str
    service: str
    url: str = ""
    bundle: str | None = None  # base64
    inject: str = ""

    def client(self, path: str) -> dict[str, Any]:
        """The ``clientConfig`` for a path."""
        address: dict[str, Any] = (
            {"url": self.url.rstrip("/") + path}
            if self.url
            else {"service": {"namespace": self.namespace, "name": self.service, "path": path, "port": 443}}
        )
        return address | ({"caBundle": self.bundle} if self.bundle is not None else {})

    @property
    def names(self) -> tuple[str, ...]:
        """The names that the serving certificate must have."""
        if self.url:
            host = self.url.split("://", 1)[1].split("/", 1)[0]
            return (host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0],)
        name = f"{self.service}.{self.namespace}.svc"
        return name, f"{name}.cluster.local"


def configurations(
    name: str,
    client_config: ClientConfig,
    version: tuple[int, int],
    pod_policy: Policy = "Fail",
    nodes: Identities = NO_IDENTITIES,
) -> tuple[tuple[Resource, dict[str, Any]], ...]:
    """The manifests, for an API server of that version; (0, 0): unknown, and treated as old.

    ``nodes``: users whose name contains their node's.
    """
    metadata = {
        "name": name,
        "labels": {"app.kubernetes.io/part-of": "galactic"},
        "annotations": {INJECT: client_config.inject} if client_config.inject else {},
    }
    conditions = version >= MATCH_CONDITIONS

    def when(**expressions: str) -> dict[str, Any]:
        all_ = [
            {"name": name.replace("_", "-"), "expression": text} for name, text in sorted(expressions.items())
        ]
        return {"matchConditions": all_} if conditions else {}

    pods = {
        "namespaceSelector": {"matchExpressions": excluded(client_config.namespace, version)},
        "failurePolicy": pod_policy,
        "timeoutSeconds": POD_TIMEOUT_SECONDS,
    } | when(asks_for_an_attachment=_CONCERNED)
    everywhere = {"namespaceSelector": {}, "failurePolicy": "Fail"}
    mutating = [
        _webhook("pods", client_config.client(MUTATE), [_rule(PODS, ["CREATE"])], pods)
        | {"reinvocationPolicy": "IfNeeded"}
    ]
    validate = client_config.client(VALIDATE)
    validating = [
        _webhook("pods", validate, [_rule(PODS, ["CREATE", "UPDATE"])], pods),
        _webhook(
            "kinds",
            validate,
            [_rule(VPCS), _rule(VPC_ATTACHMENTS)],
            everywhere | when(is_about_the_specification=_SPECIFIED) | {"sideEffects": "NoneOnDryRun"},
        ),
        _webhook(
            "nodes",
            validate,
            [_rule(NODE_SEGMENTS)],
            everywhere | when(stays=_STAYS, is_to_be_judged=f"{_SPECIFIED} || {nodes.foreign}"),
        ),
        # Status writes of other nodes alone are sent: the node and the operator can write it while no webhook runs.
        _webhook(
            "node-statuses",
            validate,
            [_rule(NODE_SEGMENTS, ["UPDATE"], subresource="status")],
            everywhere | when(stays=_STAYS, is_of_another_node=nodes.foreign),
        ),
    ]
    return (
        (MUTATING_WEBHOOKS, _configuration(MUTATING_WEBHOOKS, metadata, mutating)),
        (VALIDATING_WEBHOOKS, _configuration(VALIDATING_WEBHOOKS, metadata, validating)),
    )


def excluded(namespace: str, version: tuple[int, int]) -> list[dict[str, Any]]:
    """The excluded namespaces: kube-system, Galactic's own, and those with the label."""
    ignored = {"key": ADMISSION_LABEL, "operator": "NotIn", "values": [IGNORED]}
    named = {"key": NAME_LABEL, "operator": "NotIn", "values": [KUBE_SYSTEM, namespace]}
    return [ignored, named] if version >= NAMED_NAMESPACES else [ignored]


def merged(stored: Mapping[str, Any], desired: Mapping[str, Any]) -> dict[str, Any] | None:
    """The configuration that replaces the stored one; None where that is sufficient.

    Where ``desired`` has no CAs, those that another program entered stay.
    """
    bundles = {
        webhook["name"]: webhook.get("clientConfig", {}).get("caBundle")
        for webhook in stored.get("webhooks") or ()
    }
    webhooks = []
    for webhook in desired["webhooks"]:
        client = dict(webhook["clientConfig"])
        if "caBundle" not in client and bundles.get(webhook["name"]):
            client["caBundle"] = bundles[webhook["name"]]
        webhooks.append({**webhook, "clientConfig": client})
    meta = stored["metadata"]
    same = _covers(stored.get("webhooks"), webhooks) and all(
        _covers(meta.get(part) or {}, desired["metadata"][part]) for part in ("labels", "annotations")
    )
    if same:
        return None
    metadata = {
        **meta,
        **{
            part: {**(meta.get(part) or {}), **desired["metadata"][part]}
            for part in ("labels", "annotations")
        },
    }
    return {**desired, "metadata": metadata, "webhooks": webhooks}


def _covers(stored: Any, desired: Any) -> bool:
    """Whether ``stored`` has all of ``desired``; the API server adds defaults to what it stores."""
    if isinstance(desired, Mapping):
        return isinstance(stored, Mapping) and all(
            _covers(stored.get(key), value) for key, value in desired.items()
        )
    if isinstance(desired, list):
        return (
            isinstance(stored, list)
            and len(stored) == len(desired)
            and all(_covers(present, value) for present, value in zip(stored, desired, strict=True))
        )
    return bool(stored == desired)


def _configuration(
    resource: Resource, metadata: Mapping[str, Any], webhooks: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": dict(metadata),
        "webhooks": list(webhooks),
    }


def _webhook(
    name: str, client: Mapping[str, Any], rules: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "name": f"{name}.{GROUP}",
        "clientConfig": dict(client),
        "rules": list(rules),
        "matchPolicy": "Equivalent",
        "sideEffects": "None",
        "timeoutSeconds": TIMEOUT_SECONDS,
        "admissionReviewVersions": ["v1"],
        **options,
    }


def _rule(
    resource: Resource, operations: Sequence[str] = ("CREATE", "UPDATE"), *, subresource: str = ""
) -> dict[str, Any]:
    return {
        "apiGroups": [resource.group],
        "apiVersions": [VERSION if resource.group else "v1"],
        "operations": list(operations),
        "resources": [f"{resource.plural}/{subresource}" if subresource else resource.plural],
        "scope": "Namespaced" if resource.namespaced else "Cluster",
    }
