"""Findings about VPCGateways, and about attachments that ask for a way out that nothing gives."""

from collections.abc import Iterator
from ipaddress import ip_network

from galactic.cli.findings.finding import NOTE, PATIENCE_SECONDS, PROBLEM, Finding, by_type, has_remedy
from galactic.cli.findings.programs import log
from galactic.cli.snapshot import Snapshot
from galactic.crds.vpcattachment import VpcAttachment
from galactic.kube.pods import seconds
from galactic.validation.networks import Network


def gateways(snapshot: Snapshot) -> Iterator[Finding]:
    """VPCGateways that are not accepted, that lead nothing out, whose published ports lead nowhere, or that have fewer
    nodes than they ask for.
    """
    for name, gateway in snapshot.gateways.items():
        about, conditions = f"VPCGateway {name}", by_type(gateway.status.conditions)
        describe = f"kubectl describe vpcgw -n {name.replace('/', ' ')}"
        if not conditions:
            if snapshot.at - seconds(gateway.metadata.creation_timestamp) > PATIENCE_SECONDS:
                message = "the operator has not reconciled it yet"
                yield Finding(PROBLEM, about, "Unseen", message, log(snapshot, "operator"))
            continue
        for kind, severity in (
            ("Accepted", PROBLEM),
            ("Ready", PROBLEM),
            ("Published", NOTE),
            ("Redundant", NOTE),
        ):
            state = conditions.get(kind)
            if state is not None and state.status != "True":
                remedy = "" if has_remedy(state.message) else describe
                yield Finding(severity, about, state.reason, state.message, remedy)
                break  # the others follow from it


def ways_out(snapshot: Snapshot) -> Iterator[Finding]:
    """Attachments with routes without ``via`` out of a VPC that has no gateway, and no pod that terminates them."""
    for name, attachment in snapshot.attachments.items():
        vpc = snapshot.vpc_of(attachment)
        if vpc not in snapshot.vpcs or snapshot.gateway_of(vpc) is not None:
            continue
        wanted = [
            text for text in asked(attachment) if not _led(snapshot, vpc, ip_network(text, strict=False))
        ]
        if wanted:
            message = (
                f"asks for {', '.join(wanted)} without via, but VPC {vpc} has no VPCGateway and no attachment that "
                "terminates it: packets there are refused"
            )
            remedy = "make a VPCGateway in the VPC's namespace (docs/gateways.md), or remove the route"
            yield Finding(NOTE, f"VPCAttachment {name}", "NoWayOut", message, remedy)


def asked(attachment: VpcAttachment) -> list[str]:
    """The destinations of an attachment's routes without ``via``."""
    return [route.destination for route in attachment.spec.routes if not route.via]


def _led(snapshot: Snapshot, vpc: str, destination: Network) -> bool:
    """Whether something of the VPC or its peers has the destination or a part of it."""
    thing = snapshot.vpcs[vpc]
    texts = [*thing.spec.networks, *(text for peer in thing.status.peers for text in peer.networks)]
    if destination.prefixlen:
        parsed = (ip_network(text, strict=False) for text in texts)
        if any(
            network.version == destination.version and network.overlaps(destination) for network in parsed
        ):
            return True
    for member in snapshot.members(vpc).values():
        own = {text.partition("/")[0] for text in member.status.addresses}
        for route in member.spec.routes:
            terminated = ip_network(route.destination, strict=False)
            if (
                route.via in own
                and terminated.version == destination.version
                and terminated.overlaps(destination)
            ):
                return True
    return False
