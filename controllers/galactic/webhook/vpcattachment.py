"""VPCAttachments: what is malformed, not granted, already held, or no longer to be changed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network
from typing import Final

from galactic.crds.vpcattachment import AttachmentSpec, Interface, VpcAttachment
from galactic.errors import Rejected
from galactic.kube.api import Key
from galactic.validation.attachment import ParsedAttachment, outside, parse_attachment
from galactic.validation.networks import Network, host
from galactic.webhook.review import Answer

Holder = Callable[[Network], Key | None]
"""Which other attachment of the VPC leads to a network."""
OUTSIDE: Final = "AddressOutsideNetworks"


@dataclass(frozen=True, slots=True)
class Checked:
    """An attachment that is well-formed by itself. ``touched`` says what a change is about; of a new one all of it."""

    plan: ParsedAttachment
    vpc: bool  # touched
    networks: bool  # touched: addresses or routes


def checked(new: VpcAttachment, old: VpcAttachment | None, srv6_block: IPv6Network | None) -> Checked:
    """Judges what the change is about. Raises Rejected with field, value and remedy."""
    if old is None:
        return Checked(parse_attachment(new, srv6_block), vpc=True, networks=True)
    moved = reference(new) != reference(old)
    held = old.status.ready or old.status.endpoint is not None
    if moved and held:
        raise Rejected(
            f"{'/'.join(reference(new)[1:])} cannot replace {'/'.join(reference(old)[1:])}: immutable once the "
            "attachment is ready; set it back, or make another VPCAttachment",
            reason="Immutable",
            field="spec.vpc",
        )
    before, after = old.spec, new.spec
    addresses = after.interface.addresses != before.interface.addresses
    routes = after.routes != before.routes
    # What was not touched is left out of what is judged, as it may have been stored before there was a rule.
    spec = AttachmentSpec(
        vpc=after.vpc,
        interface=Interface.model_construct(
            name=after.interface.name if after.interface.name != before.interface.name else "galactic0",
            addresses=after.interface.addresses if addresses else (),
        ),
        routes=after.routes if routes else (),
    )
    if moved:
        parse_attachment(new.model_copy(update={"spec": spec}), srv6_block)
    else:
        untouched = spec.model_copy(update={"vpc": spec.vpc.model_copy(update=_VPC)})
        parse_attachment(new.model_copy(update={"spec": untouched}), srv6_block)
    touched = moved or addresses or routes
    return Checked(_whole(new, spec, srv6_block), vpc=moved, networks=touched)


_VPC: Final = {"kind": "VPC", "api_version": "galactic.datumapis.com/v1alpha"}


def _whole(new: VpcAttachment, touched: AttachmentSpec, srv6_block: IPv6Network | None) -> ParsedAttachment:
    """The plan of all of it, or of what was touched where the rest does not hold up."""
    for spec in (new.spec, touched):
        vpc = spec.vpc.model_copy(update=_VPC)
        try:
            return parse_attachment(
                new.model_copy(update={"spec": spec.model_copy(update={"vpc": vpc})}), srv6_block
            )
        except Rejected:
            continue
    raise AssertionError("what was touched has been judged already")


def reference(attachment: VpcAttachment) -> tuple[str, str, str]:
    """What an attachment names: kind and group, namespace, name."""
    vpc = attachment.spec.vpc
    group = vpc.api_version.split("/")[0]
    return f"{vpc.kind}.{group}", vpc.namespace or attachment.metadata.namespace, vpc.name


def placed(wanted: ParsedAttachment, networks: Sequence[Network], *, strict: bool) -> Answer:
    """A warning, with ``strict`` a refusal, when something of it lies outside the VPC's networks."""
    strangers = outside(wanted, wanted.addresses, networks)
    if not strangers:
        return Answer()
    if strict:
        raise Rejected(
            f"{strangers}; give addresses inside them", reason=OUTSIDE, field="spec.interface.addresses"
        )
    return Answer(warnings=(f"spec.interface.addresses: {strangers}; other pods need a route to them",))


def unheld(wanted: ParsedAttachment, holder: Holder) -> None:
    """Raises Rejected, naming the holder, when another attachment has one of the networks."""
    for index, address in enumerate(wanted.addresses):
        if there := holder(host(address.ip)):
            raise _held(str(address.ip), there, f"spec.interface.addresses[{index}]")
    for index, route in enumerate(wanted.routes):
        own = route.via is not None and route.via in {address.ip for address in wanted.addresses}
        if own and (there := holder(route.destination)):
            raise _held(str(route.destination), there, f"spec.routes[{index}].destination")


def _held(what: str, holder: Key, field: str) -> Rejected:
    return Rejected(
        f"{what} is held by VPCAttachment {holder[0]}/{holder[1]}; choose another, or delete that one first",
        reason="Conflict",
        field=field,
    )
