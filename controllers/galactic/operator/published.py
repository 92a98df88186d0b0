"""The published ports of a VPCGateway: the address that each has inside the VPC, its ready pods, and their condition.

A pod sees connections from outside with an address of its own VPC, so that its answers find the node that translates
them (docs/design/gateways.md). Each published address has one, for as long as it is published.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

import structlog

from galactic.crds.vpcattachment import VpcAttachment
from galactic.crds.vpcgateway import MAX_ENDPOINTS, GatewayStatus, PublishedEntry
from galactic.errors import NotYet
from galactic.kube.api import Key
from galactic.kube.conditions import State
from galactic.operator.addresses import Addresses, Held
from galactic.operator.services.endpoints import addresses, ready
from galactic.operator.state import Caches
from galactic.validation.gateways import ParsedGateway, Publish
from galactic.validation.networks import Address, Network, host, within
from galactic.validation.policies import matches

log = structlog.get_logger(__name__)
NAMED: Final = 3
"""Entries that a condition's message names."""


@dataclass(frozen=True, slots=True)
class Published:
    """An entry of the status. ``selected``: attachments that match; ``serving``: addresses of ready pods."""

    entry: PublishedEntry
    selected: int
    serving: int


def insides(
    held: Addresses, holder: Key, status: GatewayStatus, parsed: ParsedGateway, networks: Sequence[Network]
) -> tuple[dict[Address, Address], bool]:
    """Published address → address inside; and whether one was released. None where the VPC has no free one."""
    before = {ip_address(entry.address): entry.inside for entry in status.published if entry.inside}
    own = held.held_by(holder)
    chosen: dict[Address, Address] = {}
    for address in dict.fromkeys(one.address for one in parsed.publish):
        text = before.get(address)
        if text and host(kept := ip_address(text)) in own and within(kept, networks):
            chosen[address] = kept
    released = held.claim(holder, [host(address) for address in chosen.values()])
    for address in dict.fromkeys(one.address for one in parsed.publish):
        if address in chosen:
            continue
        try:
            (free,) = held.allocate(networks, (address.version,))
        except NotYet:
            continue
        chosen[address] = free.ip
        held.claim(holder, [host(one) for one in chosen.values()])
    return chosen, released


def restored(held: Addresses, holder: Key, status: GatewayStatus) -> None:
    """Claims the addresses inside that a live gateway has; one that is held otherwise is allocated again."""
    own = {host(ip_address(entry.inside)) for entry in status.published if entry.inside}
    for network in sorted(own, key=str):
        try:
            held.claim(holder, held.held_by(holder) | {network})
        except Held as problem:
            log.warning("address inside held by an attachment, allocated again", problem=str(problem))


@dataclass(frozen=True, slots=True)
class Members:
    """The attachments of a VPC that a gateway may lead to."""

    caches: Caches
    vpc: Key
    keys: Sequence[Key]

    def published(self, one: Publish, node: str, inside: Address | None) -> Published:
        """The entry as it is now."""
        selected = [
            (key, attachment)
            for key in self.keys
            if isinstance(attachment := self.caches.attachments.get(key), VpcAttachment)
            and matches(one.selector, attachment.metadata.labels)
        ]
        serving = {
            address
            for key, attachment in selected
            if self._ready(key, attachment)
            for address in _of_family(attachment, one.address.version)
        }
        entry = PublishedEntry(
            name=one.name,
            address=str(one.address),
            port=one.port,
            protocol=one.protocol,
            node=node,
            inside=str(inside) if inside is not None else None,
            target_port=one.target,
            endpoints=tuple(map(str, sorted(serving, key=int)[:MAX_ENDPOINTS])),
        )
        return Published(entry, len(selected), len(serving))

    def _ready(self, key: Key, attachment: VpcAttachment) -> bool:
        pods = (self.caches.pods.get(pod) for pod in self.caches.carriers(key))
        return any(pod is not None and ready(pod, attachment, self.vpc) for pod in pods)


def _of_family(attachment: VpcAttachment, version: int) -> list[Address]:
    return [one.ip for one in addresses(attachment) if one.version == version][:1]


def condition(entries: Sequence[Published], reported: Callable[[str, str], bool]) -> State | None:
    """The condition Published; None without entries. ``reported``: whether a node reports the way in for an address."""
    if not entries:
        return None
    for reason, lacking in (
        ("NoNode", [one for one in entries if not one.entry.node]),
        ("AddressesExhausted", [one for one in entries if not one.entry.inside]),
        ("NoReadyPod", [one for one in entries if not one.serving]),
        ("NotReported", [one for one in entries if not reported(one.entry.node, one.entry.address)]),
    ):
        if lacking:
            return State("False", reason, _listed(reason, lacking))
    cut = [one for one in entries if one.serving > MAX_ENDPOINTS]
    if cut:
        counts = (f"{one.entry.name} to {MAX_ENDPOINTS} of {one.serving}" for one in cut)
        return State("True", "EndpointsCut", f"every port leads to ready pods; {_few(list(counts))} of them")
    return State("True", "Published", f"{len(entries)} ports lead to ready pods")


def _listed(reason: str, lacking: Sequence[Published]) -> str:
    return _few([f"{_port(one.entry)}: {_why(reason, one)}" for one in lacking])


def _few(texts: Sequence[str]) -> str:
    rest = len(texts) - NAMED
    return "; ".join(texts[:NAMED]) + (f"; and {rest} more" if rest > 0 else "")


def _port(entry: PublishedEntry) -> str:
    return f"{entry.name} ({entry.address}, {entry.port}/{entry.protocol})"


def _why(reason: str, one: Published) -> str:
    if reason == "NoNode":
        return "no node holds the address; label a Node with spec.nodeSelector"
    if reason == "AddressesExhausted":
        return "the VPC has no free address for it; add a network to the VPC's spec.networks"
    if reason == "NotReported":
        return (
            f"{one.entry.node} has not reported the way in yet; see the condition Gateways of its NodeSegment, and "
            "update a node of an earlier version"
        )
    if not one.selected:
        return "to.attachmentSelector matches no VPCAttachment of the VPC here, so connections are refused"
    return f"no pod of the {one.selected} selected VPCAttachments is Ready, so connections are refused"
