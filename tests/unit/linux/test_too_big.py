"""Packet-too-big messages about encapsulated packets: parsed as quoted, and answered to the inner source."""

import socket
import struct
from ipaddress import IPv6Address, ip_address

import pytest

from galactic.linux.too_big import _checksum, answer, parse

ROUTER = IPv6Address("fd09::1")
LOOPBACK, SID = IPv6Address("2001:db8:ff01:100:ffff:ffff:ffff:ffff"), IPv6Address("2001:db8:ff02:100::4d2:2a")
SRH = struct.pack("!BBBBBBH", 4, 2, 4, 0, 0, 0, 0) + SID.packed


def ipv4(protocol=17, payload=b"\x30\x39\x00\x50" + bytes(1400), fragment=0x4000):
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 7, fragment, 63, protocol, 0)
    return head + ip_address("10.1.1.1").packed + ip_address("10.1.1.2").packed + payload


def ipv6(following=17, payload=b"\x30\x39\x00\x50" + bytes(1400)):
    head = struct.pack("!IHBB", 6 << 28, len(payload), following, 63)
    return head + ip_address("2001:10::1").packed + ip_address("2001:10::2").packed + payload


def report(inner, following, *, mtu=1400, srh=b"", kind=2, source=LOOPBACK):
    """The message from its ICMPv6 header on, as a router makes it: 1280 bytes with its IPv6 header at most."""
    first = 43 if srh else following
    outer = struct.pack("!IHBB", 6 << 28, len(srh) + len(inner), first, 62) + source.packed + SID.packed
    return (struct.pack("!BBHI", kind, 0, 0, mtu) + outer + srh + inner)[:1240]


@pytest.mark.parametrize(
    ("inner", "following", "srh", "sender", "destination"),
    [
        pytest.param(ipv4(), 4, b"", "10.1.1.1", "10.1.1.2", id="IPv4"),
        pytest.param(ipv6(), 41, b"", "2001:10::1", "2001:10::2", id="IPv6"),
        pytest.param(ipv4(), 4, SRH, "10.1.1.1", "10.1.1.2", id="IPv4-encap"),
        pytest.param(ipv6(), 41, SRH, "2001:10::1", "2001:10::2", id="IPv6-encap"),
        pytest.param(ipv4(fragment=0x2000), 4, b"", "10.1.1.1", "10.1.1.2", id="first-fragment"),
        pytest.param(ipv4(1, bytes([8]) + bytes(99)), 4, b"", "10.1.1.1", "10.1.1.2", id="echo"),
    ],
)
def test_what_a_router_quotes(inner, following, srh, sender, destination):
    if srh:
        srh = bytes([following]) + srh[1:]
    found = parse(report(inner, following, srh=srh), ROUTER)
    assert found is not None
    assert (found.router, found.mtu, found.overhead) == (ROUTER, 1400, 40 + len(srh))
    assert (found.source, found.segment) == (LOOPBACK.packed, SID.packed)
    assert (str(found.sender), str(found.destination)) == (sender, destination)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"", id="empty"),
        pytest.param(report(ipv4(), 4, kind=1), id="another-type"),
        pytest.param(report(ipv4(), 6), id="not-encapsulated"),
        pytest.param(report(ipv4(), 41), id="not-the-family-it-says"),
        pytest.param(report(ipv4(), 4)[: 8 + 40 + 24], id="too-little-quoted"),
        pytest.param(report(ipv6(), 41)[: 8 + 40 + 44], id="too-little-quoted-of-IPv6"),
        pytest.param(report(ipv4(), 4)[:8] + bytes(80), id="no-IPv6-header"),
        pytest.param(report(ipv4(fragment=0x2001), 4), id="later-fragment"),
        pytest.param(report(ipv4(1, bytes([3, 4]) + bytes(99)), 4), id="about-an-error"),
        pytest.param(report(ipv6(58, bytes([2, 0]) + bytes(99)), 41), id="about-an-IPv6-error"),
        pytest.param(report(bytes([0x41]) + ipv4()[1:], 4), id="IPv4-header-too-short"),
    ],
)
def test_what_is_not_answered(message):
    assert parse(message, ROUTER) is None


def test_no_bytes_break_the_parser():
    whole = report(ipv6(), 43, srh=SRH)
    for length in range(len(whole)):
        parse(whole[:length], ROUTER)
    for at in range(8, 120):
        parse(whole[:at] + b"\xff" + whole[at + 1 :], ROUTER)


def test_an_answer_to_ipv4():
    about = parse(report(ipv4(), 4), ROUTER)
    packet = answer(about, 1360)
    assert len(packet) == 576
    assert packet[12:20] == ip_address("10.1.1.2").packed + ip_address("10.1.1.1").packed
    kind, code, _, unused, mtu = struct.unpack_from("!BBHHH", packet, 20)
    assert (packet[9], kind, code, unused, mtu) == (1, 3, 4, 0, 1360)
    assert _checksum(packet[20:]) == b"\0\0"
    assert packet[28:] == about.inner[: 576 - 28]
    assert socket.ntohs(int.from_bytes(packet[2:4], "little")) == 576


def test_an_answer_to_ipv6():
    about = parse(report(ipv6(), 41), ROUTER)
    packet = answer(about, 1360)
    assert packet[8:40] == ip_address("2001:10::2").packed + ip_address("2001:10::1").packed
    assert struct.unpack_from("!BB", packet, 40) == (2, 0)
    assert int.from_bytes(packet[44:48], "big") == 1360
    assert packet[48:] == about.inner
    assert len(packet) <= 1280
    assert int.from_bytes(packet[4:6], "big") == len(packet) - 40
    pseudo = packet[8:40] + struct.pack("!II", len(packet) - 40, 58)
    assert _checksum(pseudo + packet[40:]) == b"\0\0"
