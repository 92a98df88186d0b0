"""The parts of objects that the operator keeps, where there are as many as pods."""

from sys import intern
from typing import Any, Final

from galactic.crds.model import trimmed
from galactic.crds.nodesegment import NodeSegment, SegmentEndpoint
from galactic.kube.api import Object
from galactic.kube.pods import NETWORK_READY
from galactic.names import (
    ACCEPTED_ANNOTATION,
    ATTACHMENT_ANNOTATION,
    ATTACHMENT_LABEL,
    NETWORKS_ANNOTATION,
    PREFIX_ANNOTATION,
    VPC_ANNOTATION,
    VPC_LABEL,
)
from galactic.operator import nad as definition
from galactic.operator.backends import READY

ANNOTATIONS: Final = (PREFIX_ANNOTATION,)
"""Of Nodes and namespaces."""
LABELS: Final = (*definition.LABELS, VPC_LABEL)
"""Of definitions."""
_POD_META: Final = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "ownerReferences",
)
_POD_ANNOTATIONS: Final = (ATTACHMENT_ANNOTATION, VPC_ANNOTATION, NETWORKS_ANNOTATION, ACCEPTED_ANNOTATION)
_ANNOTATION: Final = 16 << 10
"""Characters of an annotation that is kept: longer ones count as absent."""
_CONFIGURATION: Final = 128 << 10
"""Characters of a definition: the operator's have half of it at most, with all routes and networks of an attachment."""
MOST_LABELS: Final = 128
"""Of a Pod. One with more is selected by no Service."""
_FIELDS: Final = set(SegmentEndpoint.model_fields)


def attachment(item: Object) -> Object:
    """A VPCAttachment without metadata that the operator does not read."""
    return _part(trimmed(item), "spec", "status", "metadata")


def nad(item: Object) -> Object:
    """A definition: owner, labels, and the configuration, unless it is too long to be one of the operator's."""
    meta, config = item["metadata"], (item.get("spec") or {}).get("config")
    owners = [owner for owner in meta.get("ownerReferences") or () if owner.get("controller")]
    labels = _part(meta.get("labels") or {}, *LABELS)
    return {
        "metadata": _part(meta, "resourceVersion") | {"ownerReferences": owners[:1], "labels": labels},
        "spec": {"config": config if isinstance(config, str) and len(config) <= _CONFIGURATION else ""},
    }


def pod(item: Object) -> Object:
    """A Pod: its attachment, where it runs, and since when; labels, names and ports, by which Services select it."""
    meta, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    labels = meta.get("labels") or {}
    network = [one for one in status.get("conditions") or () if one.get("type") in (NETWORK_READY, READY)]
    return {
        "metadata": _part(meta, *_POD_META)
        | {
            "annotations": _short(_part(meta.get("annotations") or {}, *_POD_ANNOTATIONS)),
            "labels": labels if len(labels) <= MOST_LABELS else _part(labels, ATTACHMENT_LABEL),
        },
        "spec": _part(spec, "nodeName", "hostNetwork", "hostname", "subdomain") | _ports(spec),
        "status": _part(status, "phase", "startTime") | {"conditions": network},
    }


def _ports(spec: Object) -> Object:
    """The ports with names of containers, by which Services may mean them."""
    parts = {}
    for name in ("containers", "initContainers"):
        ports = [
            _part(container, "restartPolicy")
            | {"ports": [_part(port, "name", "protocol", "containerPort") for port in container["ports"]]}
            for container in spec.get(name) or ()
            if container.get("ports")
        ]
        if ports:
            parts[name] = ports
    return parts


def segment(read: NodeSegment) -> NodeSegment:
    """A NodeSegment whose endpoints lack what only their node needs: container, interface and namespace."""
    endpoints = tuple(map(_endpoint, read.status.endpoints))
    return read.model_copy(update={"status": read.status.model_copy(update={"endpoints": endpoints})})


def _endpoint(endpoint: SegmentEndpoint) -> SegmentEndpoint:
    """Its set of given fields is one that all share: pydantic makes one for each model, larger than the rest."""
    return SegmentEndpoint.model_construct(
        _FIELDS,
        vpc=intern(endpoint.vpc),
        function=endpoint.function,
        attachment=endpoint.attachment,
        sid=endpoint.sid,
        networks=endpoint.networks,
        epoch=endpoint.epoch,
    )


def _short(annotations: Object) -> Object:
    return {name: text for name, text in annotations.items() if len(text) <= _ANNOTATION}


def _part(values: Any, *names: str) -> Object:
    return {name: values[name] for name in names if name in values}
