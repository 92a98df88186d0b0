"""What makes the API server ask us: the two webhook configurations, as a pure function of what the server can do.

Pods. Those that ask for nothing of ours must not depend on us. From Kubernetes 1.28 on ``matchConditions`` let the API
server itself tell them apart. Before that it can only select by label, and what makes a Pod ours is an annotation: all
Pods come by, and are answered at once. ``failurePolicy`` is Fail there as well: a Pod that asks for an attachment and
starts without it, unnoticed, is worse than one that waits. Whoever thinks otherwise labels a namespace (IGNORED), or
says ``pod_failure_policy: Ignore``.
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
"""How long the API server waits for an answer: Kubernetes' default."""
POD_TIMEOUT_SECONDS: Final = 15
"""The same for Pods, whose attachment may have to become ready first. Kubernetes allows 30."""
MATCH_CONDITIONS: Final = (1, 28)
NAME_LABEL: Final = "kubernetes.io/metadata.name"
INJECT: Final = "cert-manager.io/inject-ca-from"

Policy = Literal["Fail", "Ignore"]


def _annotated(thing: str) -> str:
    names = (f"'{name}' in {thing}.metadata.annotations" for name in (ATTACHMENT_ANNOTATION, VPC_ANNOTATION))
    return f"has({thing}.metadata.annotations) && ({' || '.join(names)})"


# In CEL. What the API server can tell by itself, it need not ask; nor does it then depend on us, as when an operator
# takes a finalizer off.
_CONCERNED: Final = (
    f"({_annotated('object')}) || (request.operation == 'UPDATE' && {_annotated('oldObject')})"
)
_SPECIFIED: Final = "request.operation == 'CREATE' || object.spec != oldObject.spec"
_STAYS: Final = "!has(object.metadata.deletionTimestamp)"


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """How the API server reaches us: at a URL, or as a Service.

    ``bundle``: the CAs (PEM) that our certificate chains to. None: somebody else enters them, cert-manager's injector
    if ``inject`` names a Certificate of his (namespace/name).
    """

    namespace: str
    service: str
    url: str = ""
    bundle: str | None = None  # base64
    inject: str = ""

    def client(self, path: str) -> dict[str, Any]:
        """The ``clientConfig`` for a path."""
        where: dict[str, Any] = (
            {"url": self.url.rstrip("/") + path}
            if self.url
            else {"service": {"namespace": self.namespace, "name": self.service, "path": path, "port": 443}}
        )
        return where | ({"caBundle": self.bundle} if self.bundle is not None else {})

    @property
    def names(self) -> tuple[str, ...]:
        """What our certificate has to be for."""
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
    """The manifests, for an API server of that version; (0, 0): unknown, and taken for old.

    ``nodes``: whose name says which node it is.
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
            everywhere | when(is_about_the_specification=_SPECIFIED),
        ),
        _webhook(
            "nodes",
            validate,
            [_rule(NODE_SEGMENTS)],
            everywhere | when(stays=_STAYS, is_to_be_judged=f"{_SPECIFIED} || {nodes.foreign}"),
        ),
        # A status is refused to other nodes alone: the node itself and the operator write it while we are away.
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
    """The namespaces whose Pods never come by: kube-system, our own, and those labelled so."""
    ignored = {"key": ADMISSION_LABEL, "operator": "NotIn", "values": [IGNORED]}
    named = {"key": NAME_LABEL, "operator": "NotIn", "values": [KUBE_SYSTEM, namespace]}
    return [ignored, named] if version >= NAMED_NAMESPACES else [ignored]


def merged(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """The configuration that is to replace the one that is there; None when that will do.

    Where we leave out the CAs, those that somebody entered stay.
    """
    bundles = {
        one["name"]: one.get("clientConfig", {}).get("caBundle") for one in there.get("webhooks") or ()
    }
    webhooks = []
    for one in wanted["webhooks"]:
        client = dict(one["clientConfig"])
        if "caBundle" not in client and bundles.get(one["name"]):
            client["caBundle"] = bundles[one["name"]]
        webhooks.append({**one, "clientConfig": client})
    meta = there["metadata"]
    same = _covers(there.get("webhooks"), webhooks) and all(
        _covers(meta.get(part) or {}, wanted["metadata"][part]) for part in ("labels", "annotations")
    )
    if same:
        return None
    metadata = {
        **meta,
        **{
            part: {**(meta.get(part) or {}), **wanted["metadata"][part]} for part in ("labels", "annotations")
        },
    }
    return {**wanted, "metadata": metadata, "webhooks": webhooks}


def _covers(there: Any, wanted: Any) -> bool:
    """Whether everything wanted is there; the API server adds defaults to what it stores."""
    if isinstance(wanted, Mapping):
        return isinstance(there, Mapping) and all(
            _covers(there.get(key), value) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(there, list)
            and len(there) == len(wanted)
            and all(_covers(one, other) for one, other in zip(there, wanted, strict=True))
        )
    return bool(there == wanted)


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
    name: str, client: Mapping[str, Any], rules: Sequence[Mapping[str, Any]], more: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "name": f"{name}.{GROUP}",
        "clientConfig": dict(client),
        "rules": list(rules),
        "matchPolicy": "Equivalent",
        "sideEffects": "None",
        "timeoutSeconds": TIMEOUT_SECONDS,
        "admissionReviewVersions": ["v1"],
        **more,
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
