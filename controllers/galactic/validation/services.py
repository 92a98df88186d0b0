"""Services that publish addresses of a VPC (docs/design/names.md): pure, shared by operator, webhook and command."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from galactic.errors import Rejected
from galactic.names import ADDRESSES_LABEL, ADDRESSES_OF_VPC, SERVICE_VPC_ANNOTATION

VPC_FIELD: Final = f"metadata.annotations[{SERVICE_VPC_ANNOTATION}]"
NO_CLUSTER_IP: Final = "None"


@dataclass(frozen=True, slots=True)
class ServicePort:
    """``target``: a number, or the name of a port of the Pod's containers."""

    name: str
    protocol: str
    target: int | str
    app_protocol: str = ""


@dataclass(frozen=True, slots=True)
class VpcService:
    """The part of a Service that decides what it publishes. ``annotation``: None without SERVICE_VPC_ANNOTATION.

    ``selector`` is the user's, without ADDRESSES_LABEL; ``excluded``: whether it has that, too.
    """

    namespace: str
    name: str
    uid: str = ""
    annotation: str | None = None
    headless: bool = False
    selector: tuple[tuple[str, str], ...] = ()
    excluded: bool = False
    ports: tuple[ServicePort, ...] = ()
    not_ready_too: bool = False

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Whether a Pod with those labels belongs to it."""
        return bool(self.selector) and all(labels.get(name) == value for name, value in self.selector)

    @property
    def vpc(self) -> tuple[str, str]:
        """The VPC as (namespace, name). Raises Rejected where the annotation names none."""
        place, slash, name = (self.annotation or "").rpartition("/")
        if not name or "/" in place or (slash and not place):
            raise Rejected(
                f"{self.annotation!r} is not the name of a VPC; write NAME or NAMESPACE/NAME",
                reason="InvalidName",
                field=VPC_FIELD,
            )
        return place or self.namespace, name


def parse_service(document: Mapping[str, Any], namespace: str = "") -> VpcService:
    """From the API server's object. Of one without the annotation only its names and ``excluded`` are kept."""
    meta, spec = document["metadata"], document.get("spec") or {}
    annotation = (meta.get("annotations") or {}).get(SERVICE_VPC_ANNOTATION)
    selector = spec.get("selector") or {}
    names = namespace or meta.get("namespace", ""), meta.get("name", ""), meta.get("uid", "")
    excluded = selector.get(ADDRESSES_LABEL) == ADDRESSES_OF_VPC
    if annotation is None:
        return VpcService(*names, excluded=excluded)
    return VpcService(
        *names,
        annotation,
        spec.get("clusterIP") == NO_CLUSTER_IP,
        tuple(sorted((name, value) for name, value in selector.items() if name != ADDRESSES_LABEL)),
        excluded,
        tuple(_port(port) for port in spec.get("ports") or ()),
        bool(spec.get("publishNotReadyAddresses")),
    )


def checked(service: VpcService) -> None:
    """Raises Rejected for an annotated Service that cannot publish addresses of a VPC."""
    _ = service.vpc
    if not service.headless:
        raise Rejected(
            "an address of a Service leads into no VPC; make it headless (None, in a new Service, as it is immutable), "
            f"or remove the annotation {SERVICE_VPC_ANNOTATION}",
            reason="NotHeadless",
            field="spec.clusterIP",
        )
    if not service.selector:
        raise Rejected(
            f"it selects no pods; give the labels of pods, or remove the annotation {SERVICE_VPC_ANNOTATION}",
            reason="NoSelector",
            field="spec.selector",
        )


def exclusive(service: VpcService) -> None:
    """Raises Rejected where Kubernetes' own controller would publish the selected Pods' other addresses as well."""
    if not service.excluded:
        raise Rejected(
            f"lacks {ADDRESSES_LABEL}: {ADDRESSES_OF_VPC}, which the webhook adds, so Kubernetes publishes the pods' "
            "addresses of the default network, and Galactic none; apply the Service again",
            reason="NotExclusive",
            field="spec.selector",
        )


def _port(port: Mapping[str, Any]) -> ServicePort:
    return ServicePort(
        port.get("name") or "",
        port.get("protocol") or "TCP",
        port.get("targetPort") or port.get("port") or 0,
        port.get("appProtocol") or "",
    )
