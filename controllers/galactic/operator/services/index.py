"""Which Services a change concerns."""

from collections.abc import Iterator
from typing import Final

from galactic.crds.vpcattachment import VpcAttachment
from galactic.kube.api import Key
from galactic.kube.conditions import ATTACHED
from galactic.operator.objects import Invalid, Pod
from galactic.operator.slices import Slice
from galactic.validation.services import VpcService

NONE: Final[frozenset[Key]] = frozenset()


class Index:
    """Services with the annotation, the Pods of each namespace, and the slices of each Service."""

    def __init__(self) -> None:
        self._services: dict[str, dict[Key, VpcService]] = {}
        self._pods: dict[str, dict[Key, None]] = {}
        self._slices: dict[Key, set[Key]] = {}

    def service(self, key: Key, new: VpcService | None) -> None:
        """The Service as it is now; None: it was deleted."""
        services = self._services.setdefault(key[0], {})
        services.pop(key, None)
        if new is not None and new.annotation is not None:
            services[key] = new
        if not services:
            del self._services[key[0]]

    def pod(self, key: Key, *, exists: bool) -> None:
        pods = self._pods.setdefault(key[0], {})
        if exists:
            pods[key] = None
        else:
            pods.pop(key, None)
        if not pods:
            del self._pods[key[0]]

    def slice(self, key: Key, old: Slice | None, new: Slice | None) -> Iterator[Key]:
        """Enters a change of a slice. The Services that it is, or was, of."""
        for one in (old, new):
            if one is not None:
                service = key[0], one.service
                slices = self._slices.setdefault(service, set())
                (slices.add if one is new else slices.discard)(key)
                if not slices:
                    del self._slices[service]
                yield service

    def selecting(self, namespace: str, *pods: Pod | None) -> Iterator[Key]:
        """The Services that select one of the Pods."""
        for key, service in self._services.get(namespace, {}).items():
            if any(pod is not None and service.selects(pod.backend.labels) for pod in pods):
                yield key

    def of_vpc(self, vpc: Key) -> Iterator[Key]:
        """The Services whose annotation may name the VPC."""
        for services in self._services.values():
            for key, service in services.items():
                if (service.annotation or "").rpartition("/")[2] == vpc[1]:
                    yield key

    def annotated(self, namespace: str) -> bool:
        """Whether the namespace has Services with the annotation."""
        return namespace in self._services

    def pods(self, namespace: str) -> tuple[Key, ...]:
        """The Pods with an attachment in the namespace."""
        return tuple(self._pods.get(namespace, ()))

    def slices(self, service: Key) -> tuple[Key, ...]:
        """The slices with the Service's name."""
        return tuple(sorted(self._slices.get(service, ())))


def pod_view(pod: Pod | None) -> object:
    """The part of a Pod that its Services depend on."""
    if pod is None:
        return None
    leaving = pod.metadata.deletion_timestamp is not None
    return pod.metadata.uid, pod.live, pod.node, leaving, pod.backend, pod.attachments


def attachment_view(attachment: VpcAttachment | Invalid | None) -> object:
    """The part of an attachment that the Services of its Pods depend on."""
    if not isinstance(attachment, VpcAttachment):
        return None
    status = attachment.status
    attached = [condition.status for condition in status.conditions if condition.type == ATTACHED]
    return status.vpc, status.addresses, status.carriers, attached
