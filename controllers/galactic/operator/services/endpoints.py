"""The endpoints of a Pod in a Service: addresses, readiness, hostname and ports, by Kubernetes' own rules."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_interface
from typing import Any, Final

from galactic.crds.vpcattachment import VpcAttachment
from galactic.kube.api import Key
from galactic.kube.conditions import ATTACHED
from galactic.operator.attachment_counts import settled_vpc
from galactic.operator.objects import Pod
from galactic.operator.slices import Endpoint, Group, Port
from galactic.validation.services import VpcService

FAMILIES: Final = {4: "IPv4", 6: "IPv6"}


@dataclass(frozen=True, slots=True)
class Placed:
    """An endpoint, and the slices that may have it."""

    group: Group
    endpoint: Endpoint


def endpoints(service: VpcService, pod: Pod, attachments: Iterable[VpcAttachment]) -> Iterator[Placed]:
    """Those of a selected Pod: one for each address that its attachments have in the Service's VPC.

    ``attachments``: all that it carries. An attachment that other Pods carry too leads to the newest of them.
    """
    if not pod.live or not pod.node:
        return
    vpc = service.vpc
    for attachment in attachments:
        if not _carries(pod, attachment, vpc):
            continue
        serving, terminating = _serving(pod, attachment), _terminating(pod)
        conditions = {
            "ready": service.not_ready_too or (serving and not terminating),
            "serving": serving,
            "terminating": terminating,
        }
        for address in addresses(attachment):
            group = Group(FAMILIES[address.version], ports(service, pod))
            body = _body(service, pod, str(address.ip), conditions)
            yield Placed(group, Endpoint(pod.metadata.uid, str(address.ip), body))


def ready(pod: Pod, attachment: VpcAttachment, vpc: Key) -> bool:
    """Whether the Pod serves at the attachment's addresses in that VPC, and goes on to."""
    live = pod.live and pod.node and not _terminating(pod)
    return bool(live) and _carries(pod, attachment, vpc) and _serving(pod, attachment)


def ports(service: VpcService, pod: Pod) -> tuple[Port, ...]:
    """The Service's ports as numbers of the Pod; one whose name no container has is left out."""
    result = []
    for port in service.ports:
        number = (
            port.target
            if isinstance(port.target, int)
            else pod.backend.ports.get((port.target, port.protocol))
        )
        if number:
            result.append(Port(port.name, port.protocol, number, port.app_protocol))
    return tuple(result)


def distinct(placed: Iterable[Placed]) -> dict[Group, dict[Key, Endpoint]]:
    """By group and (UID, address). Of several Pods with one address a ready one has it."""
    chosen: dict[tuple[str, str], Placed] = {}
    for one in placed:
        key = one.group.family, one.endpoint.address
        before = chosen.get(key)
        if before is None or _rank(one) < _rank(before):
            chosen[key] = one
    result: dict[Group, dict[Key, Endpoint]] = {}
    for one in chosen.values():
        result.setdefault(one.group, {})[one.endpoint.key] = one.endpoint
    return result


def _rank(placed: Placed) -> tuple[bool, bool, str]:
    conditions = placed.endpoint.body["conditions"]
    return not conditions["ready"], not conditions["serving"], placed.endpoint.body["targetRef"]["name"]


def _body(service: VpcService, pod: Pod, address: str, conditions: dict[str, bool]) -> dict[str, Any]:
    meta, backend = pod.metadata, pod.backend
    # StatefulSets name their Pods so, and a user may.
    named = backend.hostname and backend.subdomain == service.name
    return (
        {"addresses": [address], "conditions": conditions}
        | ({"hostname": backend.hostname} if named else {})
        | {
            "nodeName": pod.node,
            "targetRef": {"kind": "Pod", "namespace": meta.namespace, "name": meta.name, "uid": meta.uid},
        }
    )


def _carries(pod: Pod, attachment: VpcAttachment, vpc: Key) -> bool:
    carriers = attachment.status.carriers or ()
    return settled_vpc(attachment) == vpc and any(carrier.uid == pod.metadata.uid for carrier in carriers)


def _serving(pod: Pod, attachment: VpcAttachment) -> bool:
    return pod.backend.ready and _attached(attachment)


def _terminating(pod: Pod) -> bool:
    return pod.metadata.deletion_timestamp is not None


def _attached(attachment: VpcAttachment) -> bool:
    """Whether no pod of it is known to run without its VPC interface."""
    return not any(
        condition.type == ATTACHED and condition.status == "False"
        for condition in attachment.status.conditions
    )


def addresses(attachment: VpcAttachment) -> list[Any]:
    """The addresses that an attachment has, with their lengths."""
    try:
        return [ip_interface(text) for text in attachment.status.addresses]
    except ValueError:
        return []
