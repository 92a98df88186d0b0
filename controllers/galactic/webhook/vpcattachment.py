"""VPCAttachments: checks form, networks that another holds, and immutable fields."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network
from typing import Final

from galactic.crds.vpcattachment import AttachmentSpec, Carrier, Interface, VpcAttachment
from galactic.errors import Rejected
from galactic.kube.api import Key
from galactic.validation.attachment import ParsedAttachment, outside, parse_attachment
from galactic.validation.holders import named, remedy
from galactic.validation.networks import Network, host
from galactic.webhook.review import Answer

Holder = Callable[[Network], Key | None]
"""The other attachment of the VPC that leads to a network."""
OUTSIDE: Final = "AddressOutsideNetworks"


@dataclass(frozen=True, slots=True)
class Checked:
    """An attachment that is well-formed by itself, and the parts that changed; of a new one all of them."""

    spec: ParsedAttachment
    vpc: bool  # changed
    networks: bool  # changed: addresses or routes


def checked(new: VpcAttachment, old: VpcAttachment | None, srv6_block: IPv6Network | None) -> Checked:
    """Checks the changed fields. Raises Rejected with field, value and remedy."""
    if old is None:
        return Checked(parse_attachment(new, srv6_block), vpc=True, networks=True)
    moved = reference(new) != reference(old)
    settled = old.status.ready or old.status.endpoint is not None
    if moved and settled:
        raise Rejected(
            f"{'/'.join(reference(new)[1:])} cannot replace {'/'.join(reference(old)[1:])}: immutable once the "
            "attachment is ready; set it back, or make another VPCAttachment",
            reason="Immutable",
            field="spec.vpc",
        )
    before, after = old.spec, new.spec
    if after.interface.name != before.interface.name and old.status.carriers:
        raise _carried(before.interface.name, after.interface.name, old.status.carriers)
    addresses = after.interface.addresses != before.interface.addresses
    routes = after.routes != before.routes
    # Unchanged fields are not checked: they may have been stored before a rule existed.
    spec = AttachmentSpec(
        vpc=after.vpc,
        interface=Interface.model_construct(
            name=after.interface.name if after.interface.name != before.interface.name else "galactic0",
            addresses=after.interface.addresses if addresses else (),
        ),
        routes=after.routes if routes else (),
        accepted_networks=(
            after.accepted_networks if after.accepted_networks != before.accepted_networks else None
        ),
    )
    if moved:
        parse_attachment(new.model_copy(update={"spec": spec}), srv6_block)
    else:
        unmoved = spec.model_copy(update={"vpc": spec.vpc.model_copy(update=_VPC)})
        parse_attachment(new.model_copy(update={"spec": unmoved}), srv6_block)
    changed = moved or addresses or routes
    return Checked(_complete(new, spec, srv6_block), vpc=moved, networks=changed)


def _carried(before: str, after: str, carriers: Sequence[Carrier]) -> Rejected:
    names = ", ".join(sorted(carrier.pod for carrier in carriers)[:3])
    return Rejected(
        f"{after!r} cannot replace {before!r} while pods carry the attachment ({names}): an interface keeps its name; "
        "delete these pods first, or make another VPCAttachment",
        reason="Immutable",
        field="spec.interface.name",
    )


_VPC: Final = {"kind": "VPC", "api_version": "galactic.datumapis.com/v1alpha"}


def _complete(
    new: VpcAttachment, changed: AttachmentSpec, srv6_block: IPv6Network | None
) -> ParsedAttachment:
    """The whole specification, or its changed fields where the rest is invalid."""
    for spec in (new.spec, changed):
        vpc = spec.vpc.model_copy(update=_VPC)
        try:
            return parse_attachment(
                new.model_copy(update={"spec": spec.model_copy(update={"vpc": vpc})}), srv6_block
            )
        except Rejected:
            continue
    raise AssertionError("the changed fields were checked already")


def reference(attachment: VpcAttachment) -> tuple[str, str, str]:
    """The VPC that an attachment names: kind and group, namespace, name."""
    vpc = attachment.spec.vpc
    group = vpc.api_version.split("/")[0]
    return f"{vpc.kind}.{group}", vpc.namespace or attachment.metadata.namespace, vpc.name


def placed(spec: ParsedAttachment, networks: Sequence[Network], *, strict: bool) -> Answer:
    """A warning, with ``strict`` a refusal, of addresses outside the VPC's networks."""
    foreign = outside(spec, spec.addresses, networks)
    if not foreign:
        return Answer()
    if strict:
        raise Rejected(
            f"{foreign}; give addresses inside them", reason=OUTSIDE, field="spec.interface.addresses"
        )
    return Answer(warnings=(f"spec.interface.addresses: {foreign}; other pods need a route to them",))


def unheld(spec: ParsedAttachment, holder: Holder, asker: str) -> None:
    """Raises Rejected when another attachment has one of the networks. ``asker``: the attachment's namespace."""
    for index, address in enumerate(spec.addresses):
        if other := holder(host(address.ip)):
            raise _conflict(
                str(address.ip), other, (asker, spec.vpc[0]), f"spec.interface.addresses[{index}]"
            )
    for index, route in enumerate(spec.routes):
        own = route.via is not None and route.via in {address.ip for address in spec.addresses}
        if own and (other := holder(route.destination)):
            raise _conflict(
                str(route.destination), other, (asker, spec.vpc[0]), f"spec.routes[{index}].destination"
            )


def _conflict(network: str, holder: Key, askers: tuple[str, str], field: str) -> Rejected:
    """``askers``: the namespaces of the attachment and of its VPC."""
    return Rejected(
        f"{network} is held by {named('VPCAttachment', holder, *askers)}; {remedy(holder, *askers)}",
        reason="Conflict",
        field=field,
    )
