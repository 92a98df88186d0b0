"""The pictures of docs/concepts.md."""

from typing import Final

from galactic import names, srv6
from reference.drawing import BLUE, GREEN, GREY, LINE, ORANGE, Drawing

PREFIX: Final = "2001:db8:ff01:100::/56"
VPC: Final = 1234
FUNCTION: Final = 42


def pictures() -> dict[str, str]:
    return {
        "overview.svg": overview(),
        "packet.svg": packet(),
        "writers.svg": writers(),
        "numbering.svg": numbering(),
    }


def overview() -> str:
    """Pods of two VPCs, on two nodes, with an IPv6 network between them."""
    it = Drawing(760, 330, "Two VPCs with the same addresses on two nodes")
    for x, node, pods in (
        (20, "node-1", (("web", BLUE, "10.1.1.1"), ("one", GREEN, "10.1.1.1"))),
        (500, "node-2", (("api", BLUE, "10.1.1.2"), ("two", GREEN, "10.1.1.2"))),
    ):
        it.frame(x, 20, 240, 290, node)
        for number, (name, colour, address) in enumerate(pods):
            it.box(x + 15 + 110 * number, 50, 100, 50, colour, f"pod {name}", address)
            vpc = "blue" if colour == BLUE else "green"
            it.box(x + 15 + 110 * number, 150, 100, 50, colour, "VRF", f"VPC {vpc}")
            it.arrow([(x + 65 + 110 * number, 100), (x + 65 + 110 * number, 148)], both=True)
            it.arrow([(x + 65 + 110 * number, 200), (x + 65 + 110 * number, 248)], both=True)
        it.box(x + 15, 250, 210, 45, GREY, "underlay", "plain IPv6")
    it.arrow([(260, 272), (498, 272)], both=True)
    it.box(290, 180, 180, 76, ORANGE, "IPv6: to the SID of api", "10.1.1.1 → 10.1.1.2", "ping")
    it.words(380, 296, "any routed IPv6 network", middle=True)
    return it.text


def packet() -> str:
    """The hops of a packet."""
    it = Drawing(760, 420, "A packet's way from one pod to another")
    it.frame(20, 20, 310, 380, "node-1, 2001:db8:ff01:100::/56")
    it.frame(430, 20, 310, 380, "node-2, 2001:db8:ff02:100::/56")
    left = (
        (BLUE, "pod web", "10.1.1.2 via 169.254.1.1"),
        (GREY, "veth", f"host end {names.host_end(VPC, FUNCTION)}"),
        (BLUE, f"VRF {names.vrf(VPC)}", "10.1.1.2 encap seg6 segs SID of api"),
        (GREY, "rule 999 → table main", "node-2's prefix, via the underlay"),
    )
    right = (
        (BLUE, "pod api", "10.1.1.2 on galactic0"),
        (GREY, "veth", "a host route for each address"),
        (BLUE, f"VRF {names.vrf(VPC)}", "10.1.1.2 dev host end of api"),
        (ORANGE, "SID of api: End.DT46", "outer header off, look up in the VRF"),
    )
    for number, (colour, *words) in enumerate(left):
        it.box(50, 55 + 88 * number, 260, 56, colour, *words)
        it.number(50, 55 + 88 * number, number + 1)
        if number:
            it.arrow([(180, 23 + 88 * number), (180, 53 + 88 * number)])
    for number, (colour, *words) in enumerate(right):
        it.box(460, 55 + 88 * number, 260, 56, colour, *words)
        it.number(460, 55 + 88 * number, 9 - number)
        if number:
            it.arrow([(590, 55 + 88 * number), (590, 25 + 88 * number)])
    it.arrow([(310, 347), (458, 347)])
    it.number(380, 347, 5)
    it.words(380, 375, "wrapped,", middle=True)
    it.words(380, 375 + LINE, "plain IPv6", middle=True)
    return it.text


def writers() -> str:
    """The programs, the objects and messages that they write, and their readers."""
    it = Drawing(760, 400, "Who writes what")
    it.box(20, 30, 120, 50, GREY, "user", "kubectl")
    it.box(
        250,
        20,
        260,
        70,
        BLUE,
        "API server",
        "VPC, VPCAttachment, NodeSegment,",
        "NetworkAttachmentDefinition",
    )
    it.box(590, 30, 150, 50, GREEN, "operator", "and webhooks")
    it.arrow([(140, 55), (248, 55)])
    it.arrow([(590, 55), (512, 55)], both=True)
    it.words(590, 104, "identifiers, addresses,")
    it.words(590, 104 + LINE, "NADs, conditions")
    it.box(20, 300, 200, 70, GREEN, "node controller", "on every node;", "writes into the kernel")
    it.box(290, 300, 180, 70, ORANGE, "MQTT broker", "the same, faster")
    it.box(590, 300, 150, 70, GREEN, "router", "one leads")
    it.arrow([(120, 298), (270, 92)], both=True)
    it.words(30, 150, "NodeSegment.status:")
    it.words(30, 150 + LINE, "the list of attachments")
    it.arrow([(650, 298), (480, 92)], both=True)
    it.words(590, 190, "VPCAttachment.status")
    it.words(590, 190 + LINE, ".endpoint: node and SID")
    it.arrow([(220, 322), (288, 322)])
    it.words(254, 290, "endpoints", middle=True)
    it.arrow([(290, 350), (222, 350)])
    it.words(254, 388, "routes", middle=True)
    it.arrow([(470, 322), (588, 322)])
    it.words(529, 315, "endpoints", middle=True)
    it.arrow([(590, 350), (472, 350)])
    it.words(529, 368, "route tables", middle=True)
    return it.text


def numbering() -> str:
    """A SID, part by part, as the code composes it."""
    it = Drawing(760, 250, "The parts of a SID")
    sid = srv6.sid(srv6.parse_prefix(PREFIX), VPC, FUNCTION)
    parts = (
        (20, 270, GREEN, "the node's prefix", "2001:db8:ff01:01", "your choice, /48 to /64"),
        (290, 80, GREY, "version", "00", ""),
        (370, 220, BLUE, "VPC identifier", names.vpc_hex(VPC), "48 bits"),
        (590, 150, ORANGE, "attachment", names.function_hex(FUNCTION), "16 bits: the function"),
    )
    for x, width, colour, title, value, below in parts:
        it.box(x, 70, width, 56, colour, title, value)
        it.words(x + width / 2, 146, below, GREY, middle=True)
    it.words(380, 40, f"SID {sid}", middle=True, bold=True)
    it.words(20, 190, f"Host end of its veth pair: {names.host_end(VPC, FUNCTION)}; VRF: {names.vrf(VPC)}.")
    it.words(20, 190 + LINE + 4, "The same two numbers in base62, so that they fit into 15 characters.", GREY)
    return it.text
