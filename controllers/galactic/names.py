"""Names: identifiers in text form, interface names, annotations, labels.

Identifiers are 48 bits for a VPC and 16 bits for an attachment; 0 and all-ones are never assigned. They are written
in lower-case hex in CRDs (12 and 4 digits) and in base62 in interface names and NADs.
"""

import hashlib
import string
from typing import Final

from galactic.errors import Rejected

GROUP: Final = "galactic.datumapis.com"
VERSION: Final = "v1alpha"
API_VERSION: Final = f"{GROUP}/{VERSION}"

PREFIX_ANNOTATION: Final = f"{GROUP}/srv6-prefix"
"""On a Node: its SRv6 prefix, from which the operator makes the NodeSegment."""
NOT_READY_TAINT: Final = f"{GROUP}/agent-not-ready"
"""On a Node that the kubelet registered with it: the operator removes it when the NodeSegment is Ready."""
ATTACHMENT_ANNOTATION: Final = f"k8s.v1alpha.{GROUP}/vpc-attachment"
"""On a Pod: the VPCAttachment that attaches it."""
VPC_ANNOTATION: Final = f"k8s.v1alpha.{GROUP}/vpc"
"""On a Pod: the VPC, ``NAME`` or ``namespace/NAME``, in which it gets an attachment of its own. The webhook adds
ATTACHMENT_ANNOTATION with a generated name; the operator makes the attachment, and the Pod owns it. That of a
StatefulSet's Pod has the Pod's name, and the StatefulSet owns it."""
ACCEPTED_ANNOTATION: Final = f"k8s.v1alpha.{GROUP}/accepted-networks"
"""On a Pod with VPC_ANNOTATION: ``spec.acceptedNetworks`` of its attachment, with commas in between."""
SERVICE_VPC_ANNOTATION: Final = f"{GROUP}/vpc"
"""On a headless Service: the VPC, ``NAME`` or ``namespace/NAME``, whose addresses of the selected Pods it publishes."""
ADDRESSES_LABEL: Final = f"{GROUP}/addresses"
"""In the selector of such a Service, with the value ADDRESSES_OF_VPC: no Pod has it, so Kubernetes' own controller
publishes no address of the default network. The webhook adds it."""
ADDRESSES_OF_VPC: Final = "vpc"
ATTACHMENT_LABEL: Final = f"{GROUP}/attachment"
"""On a Pod, set by the webhook: GENERATED where the operator makes the attachment (VPC_ANNOTATION), else a value
derived from the attachment's name. One selector matches the Pods with generated attachments, another those that share
an attachment."""
GENERATED: Final = "generated"
COPIED_ANNOTATION: Final = f"{GROUP}/labels-of-pod"
"""On an attachment that the operator made: the labels that it has from its Pod, with commas in between."""
STATEFUL_SET_LABEL: Final = f"{GROUP}/statefulset"
"""On the attachment of a StatefulSet's Pod: the StatefulSet, as a label value."""
ORDINAL_LABEL: Final = f"{GROUP}/ordinal"
"""Beside it: the Pod's ordinal."""
VPC_LABEL: Final = f"{GROUP}/vpc"
"""On a VPCAttachment in use, and on every NAD: the VPC's identifier, 12 hex digits."""
CARRIER_PREFIX: Final = f"node.{GROUP}/"
"""On a VPCAttachment, a label for each Node with a pod that carries it: the prefix, then the Node as a label value."""
NETWORKS_ANNOTATION: Final = "k8s.v1.cni.cncf.io/networks"
"""On a Pod: the networks that Multus attaches."""

LABEL_LENGTH: Final = 63
VPC_BITS: Final = 48
FUNCTION_BITS: Final = 16
VPC_MAX: Final = (1 << VPC_BITS) - 1
FUNCTION_MAX: Final = (1 << FUNCTION_BITS) - 1

_DIGITS: Final = string.digits + string.ascii_lowercase + string.ascii_uppercase
_VALUES: Final = {digit: value for value, digit in enumerate(_DIGITS)}
_VPC_WIDTH: Final = 9  # base62 digits that hold 48 bits
_FUNCTION_WIDTH: Final = 3  # base62 digits that hold 16 bits
ENDS: Final = "HVEMWIJ"
"""Last letters of interface names: host end, VRF, and the ends of a gateway's way out in the VRF and in the table main.
With published addresses: the gateway's own VRF, and the ends of the pair that joins it with the VPC's.
"""


def base62(number: int) -> str:
    """The shortest base62 form, digits ``0-9a-zA-Z`` in that order: 1234 is ``jU``."""
    if number < 0:
        raise ValueError(f"base62 has no negative numbers: {number}")
    text = ""
    while number or not text:
        number, digit = divmod(number, 62)
        text = _DIGITS[digit] + text
    return text


def from_base62(text: str) -> int:
    """The number that ``text`` writes in base62. Raises Rejected on an empty text or a foreign digit."""
    number = 0
    for digit in text:
        if digit not in _VALUES:
            raise Rejected(f"{text!r} is not base62: {digit!r} is not one of 0-9a-zA-Z")
        number = number * 62 + _VALUES[digit]
    if not text:
        raise Rejected("an empty text is not base62")
    return number


def vpc_hex(vpc: int) -> str:
    """A VPC identifier as CRDs and topics write it: 12 lower-case hex digits."""
    return f"{vpc:012x}"


def function_hex(function: int) -> str:
    """An attachment identifier (the SID's function) as CRDs and messages write it: 4 lower-case hex digits."""
    return f"{function:04x}"


def parse_vpc(text: str) -> int:
    """A VPC identifier from its 12 hex digits. Raises Rejected on any other form, 0 and all-ones included."""
    return _parse_hex(text, 12, VPC_MAX, "VPC identifier")


def parse_function(text: str) -> int:
    """An attachment identifier from its 4 hex digits. Raises Rejected on any other form, 0 and all-ones included."""
    return _parse_hex(text, 4, FUNCTION_MAX, "attachment identifier")


def _parse_hex(text: str, width: int, limit: int, noun: str) -> int:
    if len(text) != width or text.strip("0123456789abcdef"):
        raise Rejected(f"{text!r} is not a {noun}: write {width} lower-case hex digits")
    number = int(text, 16)
    if number in (0, limit):
        raise Rejected(f"{text!r} is not a {noun}: 0 and all-ones are never assigned")
    return number


def label_value(name: str) -> str:
    """An object's name as the value of a label: itself where it fits, else its beginning and a hash of all of it."""
    if len(name) <= LABEL_LENGTH:
        return name
    digest = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
    return f"{name[: LABEL_LENGTH - len(digest) - 1].rstrip('-.')}-{digest}"


def carrier_label(node: str) -> str:
    """The label of the attachments that pods on a Node carry."""
    return f"{CARRIER_PREFIX}{label_value(node)}"


def host_end(vpc: int, function: int) -> str:
    """The host end of an attachment's veth pair, e.g. ``G0000000jU00GH``."""
    return _interface(vpc, function, "H")


def exit_end(vpc: int, function: int) -> str:
    """The end in the VRF of the veth pair by which a VPCGateway leads out, e.g. ``G0000000jU00GE``."""
    return _interface(vpc, function, "E")


def main_end(vpc: int, function: int) -> str:
    """Its other end, which is in no VRF: packets there are looked up in the table main."""
    return _interface(vpc, function, "M")


def gateway_vrf(vpc: int, function: int) -> str:
    """The VRF of a VPCGateway with SNAT, between the VPC's and the table main, e.g. ``G0000000jU00GW``."""
    return _interface(vpc, function, "W")


def inner_end(vpc: int, function: int) -> str:
    """The end in the gateway's VRF of the veth pair that joins it with the VPC's."""
    return _interface(vpc, function, "I")


def join_end(vpc: int, function: int) -> str:
    """Its other end, which is in the VPC's VRF."""
    return _interface(vpc, function, "J")


def vrf(vpc: int) -> str:
    """The VRF of a VPC on a node. It is per VPC, so its attachment digits are ``000``."""
    return _interface(vpc, 0, "V")


def _interface(vpc: int, function: int, end: str) -> str:
    return f"G{base62(vpc).rjust(_VPC_WIDTH, '0')}{base62(function).rjust(_FUNCTION_WIDTH, '0')}{end}"


def parse_interface(name: str) -> tuple[int, int, str] | None:
    """(vpc, function, end) of one of our interface names, ``end`` one of ENDS; None for other names."""
    if len(name) != 2 + _VPC_WIDTH + _FUNCTION_WIDTH or name[0] != "G" or name[-1] not in ENDS:
        return None
    try:
        vpc = from_base62(name[1 : 1 + _VPC_WIDTH])
        function = from_base62(name[1 + _VPC_WIDTH : -1])
    except Rejected:
        return None
    return (vpc, function, name[-1]) if vpc <= VPC_MAX and function <= FUNCTION_MAX else None
