"""A verdict follows from the places that a flow's packets pass: host end, VRF, and the device behind."""

import struct
from ipaddress import ip_address, ip_network

import pytest

from galactic.errors import Rejected
from galactic.linux.capture import FRAGMENT, Sighting, Tuple5, parse, program
from galactic.names import host_end, vrf
from galactic.node.dataplane.flows import FILTERED, FLOWS, FORGED, NO_ROUTE, UNDELIVERED, Flows, parsed

VPC = 1234
POD, OTHER, VRF = host_end(VPC, 1), host_end(VPC, 2), vrf(VPC)
OWN = [ip_network("10.1.1.1/32"), ip_network("192.168.3.0/24"), ip_network("fd00::1/128")]
SID = bytes.fromhex("20010db8ff020100") + VPC.to_bytes(6, "big") + b"\0\2"
ELSEWHERE = bytes.fromhex("20010db8ff020100") + (VPC + 1).to_bytes(6, "big") + b"\0\2"


def flow(source: str, destination: str, protocol: int = 17) -> Tuple5:
    return Tuple5(protocol, ip_address(source), 1000, ip_address(destination), 53)


OUT, BACK = flow("10.1.1.1", "10.1.1.2"), flow("10.1.1.2", "10.1.1.1")


def seen(device: str, outgoing: bool, of: Tuple5 = OUT, segment: bytes = b"") -> Sighting:
    return Sighting(device, outgoing, of, 100, segment)


FROM_POD, IN_VRF = seen(POD, False), seen(VRF, True)
AWAY, ABROAD = seen("eth0", True, segment=SID), seen("eth0", True, segment=ELSEWHERE)


NOWHERE, PEER = {"10.1.1.2": None}, {"10.1.1.2": VPC + 1}


@pytest.mark.parametrize(
    ("sightings", "routes", "lost", "expected"),
    [
        pytest.param([FROM_POD, IN_VRF, AWAY], {}, 0, ("passed", "", 0), id="leaves-encapsulated"),
        pytest.param([FROM_POD, IN_VRF, seen(OTHER, True)], {}, 0, ("passed", "", 0), id="to-a-neighbour"),
        pytest.param([FROM_POD, IN_VRF], NOWHERE, 0, ("dropped", NO_ROUTE, 1), id="no-route"),
        pytest.param([FROM_POD, IN_VRF], {}, 0, ("dropped", FILTERED, 1), id="behind-the-vrf"),
        pytest.param([FROM_POD], {}, 0, ("dropped", FILTERED, 1), id="before-the-vrf"),
        pytest.param(
            [FROM_POD, IN_VRF, FROM_POD, IN_VRF, AWAY], {}, 0, ("dropped", FILTERED, 1), id="one-of-two"
        ),
        pytest.param(
            [FROM_POD, IN_VRF], {}, 5, ("unknown", "packets were too many to see all", 0), id="lost"
        ),
        pytest.param(
            [FROM_POD, IN_VRF, ABROAD], {}, 0, ("dropped", FILTERED, 1), id="equal-addresses-elsewhere"
        ),
        pytest.param([FROM_POD, IN_VRF, ABROAD], PEER, 0, ("passed", "", 0), id="into-a-peer"),
        pytest.param(
            [FROM_POD, IN_VRF, seen("eth0", True)], {"10.1.1.2": 0}, 0, ("passed", "", 0), id="out-of-all"
        ),
        pytest.param([FROM_POD, IN_VRF, AWAY, AWAY], {}, 0, ("passed", "", 0), id="cut-by-offload"),
    ],
)
def test_of_what_the_pod_sends(sightings, routes, lost, expected) -> None:
    flows = Flows(POD, OWN)
    for sighting in sightings:
        flows.add(sighting)
    (result,) = flows.results(routes, lost)
    assert (result["verdict"], result["why"], result["dropped"]) == expected
    assert result["direction"] == "sent"
    assert flows.destinations() == ["10.1.1.2"]


def test_from_a_peer_on_this_node_a_packet_passes_another_vrf() -> None:
    flows = Flows(POD, OWN)
    flows.add(seen(vrf(VPC + 1), True, BACK))
    flows.add(seen(POD, True, BACK))
    (result,) = flows.results({}, 0)
    assert (result["packets"], result["verdict"], result["direction"]) == (1, "passed", "received")


def test_a_source_that_is_not_the_pods_is_forged_and_a_termination_is_not() -> None:
    for source, why in (("10.1.1.9", FORGED), ("192.168.3.7", FILTERED)):
        flows = Flows(POD, OWN)
        flows.add(seen(POD, False, flow(source, "10.1.1.2")))
        assert [result["why"] for result in flows.results({}, 0)] == [why]


def test_of_what_the_pod_receives() -> None:
    flows = Flows(POD, OWN)
    for _ in range(2):
        flows.add(seen(VRF, True, BACK))
    flows.add(seen(POD, True, BACK))
    (result,) = flows.results({}, 0)
    assert (result["direction"], result["verdict"], result["why"]) == ("received", "dropped", UNDELIVERED)
    flows.add(seen(POD, True, BACK))
    assert [result["verdict"] for result in flows.results({}, 0)] == ["passed"]


def test_in_closing_only_later_places_count() -> None:
    flows = Flows(POD, OWN)
    flows.add(FROM_POD)
    for sighting in (IN_VRF, AWAY, FROM_POD, seen(VRF, True, BACK)):
        flows.add(sighting, closing=True)
    (result,) = flows.results({}, 0)
    assert (result["packets"], result["verdict"]) == (1, "passed")


def test_fragments_and_the_gateway_count_nowhere() -> None:
    flows = Flows(POD, OWN)
    flows.add(seen(POD, False, flow("10.1.1.1", "10.1.1.2", FRAGMENT)))
    flows.add(seen(POD, False, flow("fe80::2", "fe80::1", 58)))
    flows.add(seen(POD, False, flow("fe80::2", "ff02::1:ff00:1", 58)))
    assert flows.results({}, 0) == []


def test_flows_are_bounded() -> None:
    flows = Flows(POD, OWN)
    for number in range(FLOWS + 2):
        flows.add(seen(POD, False, OUT._replace(source_port=number)))
    assert len(flows.results({}, 0)) == FLOWS
    assert flows.more == 2


@pytest.mark.parametrize(
    "text", ["", "x", f"{POD}@5", f"{POD}@0@10.1.1.1", f"{POD}@61@10.1.1.1", f"{POD}@5@x"]
)
def test_text_of_another_form_is_answered(text: str) -> None:
    with pytest.raises(Rejected, match=r"DEVICE@SECONDS|seconds"):
        parsed(text)


def test_a_device_that_is_no_host_end_is_answered() -> None:
    with pytest.raises(Rejected, match="no host end"):
        Flows("eth0", OWN)


# -- packets -----------------------------------------------------------------------------------------------------------

UDP = struct.pack("!HHHH", 1000, 53, 12, 0) + b"data"


def ipv4(payload: bytes, protocol: int = 17, fragment: int = 0) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, fragment, 64, protocol, 0)
    return head + ip_address("10.1.1.1").packed + ip_address("10.1.1.2").packed + payload


def ipv6(payload: bytes, following: int = 17, source: str = "fd00::1", destination: str = "fd00::2") -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(payload), following, 64)
    return head + ip_address(source).packed + ip_address(destination).packed + payload


ROUTING = bytes((4, 2, 4, 0, 0, 0, 0, 0)) + SID


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        pytest.param(ipv4(UDP), (17, "10.1.1.1", 1000, "10.1.1.2", 53, 32, b""), id="IPv4"),
        pytest.param(ipv6(UDP), (17, "fd00::1", 1000, "fd00::2", 53, 52, b""), id="IPv6"),
        pytest.param(ipv4(b"\x08\0rest", 1), (1, "10.1.1.1", 8, "10.1.1.2", 0, 26, b""), id="echo-request"),
        pytest.param(ipv4(UDP, fragment=1), (FRAGMENT, "10.1.1.1", 0, "10.1.1.2", 0, 32, b""), id="fragment"),
        pytest.param(
            ipv6(ipv4(UDP), 4, "2001:db8:ff01:100::1", str(ip_address(SID))),
            (17, "10.1.1.1", 1000, "10.1.1.2", 53, 32, SID),
            id="encapsulated",
        ),
        pytest.param(
            ipv6(ROUTING + ipv4(UDP), 43, "2001:db8:ff01:100::1", str(ip_address(SID))),
            (17, "10.1.1.1", 1000, "10.1.1.2", 53, 32, SID),
            id="with-a-routing-header",
        ),
        pytest.param(
            ipv6(bytes((17, 0, 0, 0, 0, 0, 0, 0)) + UDP, 44),
            (17, "fd00::1", 1000, "fd00::2", 53, 60, b""),
            id="first",
        ),
    ],
)
def test_a_packets_flow(packet: bytes, expected: tuple) -> None:
    found = parse(packet)
    assert found
    (protocol, source, sport, destination, dport), size, segment = found
    assert (protocol, str(source), sport, str(destination), dport, size, segment) == expected


@pytest.mark.parametrize("packet", [b"", b"\x45", b"\x60", bytes(200), b"\x45" + bytes(10)])
def test_what_is_no_packet_is_none(packet: bytes) -> None:
    assert parse(packet) is None


def run(instructions, packet: bytes, index: int, ethertype: int) -> int:
    """The kernel's classic BPF, as far as the filter uses it."""
    at, loaded = 0, 0
    while True:
        code, true, false, operand = instructions[at]
        at += 1
        if code == 0x06:
            return operand
        if code == 0x05:
            at += operand
        elif code == 0x15:
            at += true if loaded == operand else false
        else:
            size = {0x20: 4, 0x28: 2, 0x30: 1}[code]
            if operand >= 0xFFFFF000:
                loaded = {0xFFFFF000: ethertype, 0xFFFFF008: index}[operand]
            elif operand + size > len(packet):
                return 0
            else:
                loaded = int.from_bytes(packet[operand : operand + size], "big")


@pytest.mark.parametrize(
    ("packet", "index", "accepted"),
    [
        pytest.param(ipv4(UDP), 3, True, id="source4"),
        pytest.param(ipv6(UDP), 3, True, id="source6"),
        pytest.param(ipv6(UDP, source="fd00::3"), 3, False, id="others"),
        pytest.param(ipv6(UDP, source="fd00::3", destination="fd00::1"), 3, True, id="destination6"),
        pytest.param(ipv6(UDP, source="fd00::3"), 7, True, id="at-the-host-end"),
        pytest.param(ipv6(ipv4(UDP), 4, "2001:db8::1", "2001:db8::2"), 3, True, id="encapsulated4"),
        pytest.param(ipv6(ipv6(UDP), 41, "2001:db8::1", "2001:db8::2"), 3, True, id="encapsulated6"),
        pytest.param(ipv6(ROUTING + ipv6(UDP), 43), 3, True, id="outer-source"),
        pytest.param(
            ipv6(ROUTING + ipv4(UDP), 43, "2001:db8::1", "2001:db8::2"), 3, True, id="routing-header4"
        ),
        pytest.param(
            ipv6(ipv6(UDP, source="fd00::9"), 41, "2001:db8::1", "2001:db8::2"), 3, False, id="inner-others"
        ),
    ],
)
def test_the_kernels_filter(packet: bytes, index: int, accepted: bool) -> None:
    instructions = program(7, [ip_address("10.1.1.1"), ip_address("fd00::1")])
    assert all(true < 256 and false < 256 for _, true, false, _ in instructions)
    ethertype = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
    assert bool(run(instructions, packet, index, ethertype)) is accepted
