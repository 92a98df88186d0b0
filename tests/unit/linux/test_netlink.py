"""Route messages: packed as the kernel's headers define, and unpacked to the same route."""

import errno
import struct
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galactic.linux.netlink import HEADER, Decoder, Encoder, Reply, acknowledged, dump_request, replies
from galactic.linux.objects import (
    UNREACHABLE_METRIC,
    Balanced,
    Direct,
    Encap,
    EndDT46,
    Other,
    Unreachable,
    Via,
    route_key,
    route_of,
)

DEVICES = {"lo-galactic": 4, "G000000001001H": 7, "G000000001000V": 5}
NAMES = {index: name for name, index in DEVICES.items()}
SEGMENT = IPv6Address("2001:db8:ff02:100::1:2").packed
V4 = IPv4Network("10.1.1.2/32")
V6 = IPv6Network("2001:10:1:1::2/128")


def decoded(*messages):
    decoder = Decoder(lambda index: NAMES.get(index, ""))
    assert decoder.feed(b"".join(messages)) is None
    return decoder.routes


@pytest.mark.parametrize(
    ("key", "target", "expected"),
    [
        pytest.param(
            route_key(101, V4),
            Encap("lo-galactic", SEGMENT, "encap.red"),
            # what `ip route replace … encap seg6 mode encap.red segs … dev …` sends, attribute by attribute
            "60000000 1800 0105 01000000 00000000"
            "02 20 00 00 00 9a fd 01 00000000"
            "0800 0100 0a010102"
            "0800 0f00 65000000"
            "0800 0400 04000000"
            "2400 1680 2000 0100 03000000 00 02 04 00 00 00 0000" + SEGMENT.hex() + "0600 1500 0500 0000",
            id="ipv4-encap-red",
        ),
        pytest.param(
            route_key(254, V6),
            EndDT46("G000000001000V", 101),
            "64000000 1800 0105 01000000 00000000"
            "0a 80 00 00 00 9a 00 01 00000000"
            "1400 0100" + V6.network_address.packed.hex() + "0800 0f00 fe000000"
            "0800 0600 00040000"
            "0800 0400 05000000"
            "1400 1680 0800 0100 10000000 0800 0900 65000000"
            "0600 1500 0700 0000",
            id="ipv6-end-dt46",
        ),
        pytest.param(
            route_key(101, IPv4Network("0.0.0.0/0"), UNREACHABLE_METRIC),
            Unreachable(),
            "34000000 1800 0105 01000000 00000000"
            "02 00 00 00 00 9a 00 07 00000000"
            "0800 0100 00000000"
            "0800 0f00 65000000"
            "0800 0600 002000ff",
            id="ipv4-unreachable-default",
        ),
        pytest.param(
            route_key(101, IPv4Network("192.168.3.0/24")),
            Via("G000000001001H", IPv4Address("10.1.1.3").packed),
            "3c000000 1800 0105 01000000 00000000"
            "02 18 00 00 00 9a 00 01 04000000"
            "0800 0100 c0a80300"
            "0800 0f00 65000000"
            "0800 0400 07000000"
            "0800 0500 0a010103",
            id="ipv4-via-onlink",
        ),
    ],
)
def test_messages_byte_for_byte(key, target, expected):
    assert Encoder(DEVICES.__getitem__).set(key, target, 1).hex() == expected.replace(" ", "")


targets = st.one_of(
    st.just(Unreachable()),
    st.builds(Direct, st.sampled_from(sorted(DEVICES))),
    st.builds(
        Encap,
        st.sampled_from(sorted(DEVICES)),
        st.binary(min_size=16, max_size=16),
        st.sampled_from(["encap", "encap.red"]),
    ),
    st.builds(
        Balanced,
        st.sampled_from(sorted(DEVICES)),
        st.lists(
            st.tuples(st.binary(min_size=16, max_size=16), st.integers(1, 256)), min_size=1, max_size=8
        ).map(tuple),
        st.sampled_from(["encap", "encap.red"]),
    ),
    st.builds(EndDT46, st.sampled_from(sorted(DEVICES)), st.integers(1, 2**32 - 1)),
)


@st.composite
def routes(draw):
    six = draw(st.booleans())
    bits = 128 if six else 32
    length = draw(st.integers(0, bits))
    number = draw(st.integers(0, 2**bits - 1)) >> (bits - length) << (bits - length)
    network = (IPv6Network if six else IPv4Network)((number, length))
    key = route_key(draw(st.integers(1, 2**32 - 1)), network, draw(st.integers(0, 2**32 - 1)))
    via = st.builds(Via, st.sampled_from(sorted(DEVICES)), st.binary(min_size=bits // 8, max_size=bits // 8))
    return key, draw(st.one_of(targets, via))


@given(st.lists(routes(), max_size=20))
def test_unpacked_is_what_was_packed(pairs):
    encoder = Encoder(DEVICES.__getitem__)
    messages = [encoder.set(key, target, number) for number, (key, target) in enumerate(pairs)]
    assert decoded(*messages) == dict(pairs)


@given(routes())
def test_a_delete_message_names_the_same_route(pair):
    key, target = pair
    message = bytearray(Encoder(DEVICES.__getitem__).delete(key, target, 1))
    struct.pack_into("=H", message, 4, 24)  # as if it had been dumped
    assert decoded(bytes(message)) == {key: target}


@given(
    st.tuples(
        st.sampled_from((V4, V6, IPv4Network("10.1.0.0/16"), IPv6Network("2001:10::/32"))),
        st.integers(1, 2**32 - 1),
        st.integers(0, 2**32 - 1),
    ),
    st.sampled_from(("encap", "encap.red")),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_messages_of_large_tables_are_the_same_bytes(place, mode, gone, sequence):
    network, table, metric = place
    key = route_key(table, network, metric or (network.version == 4))
    encoder = Encoder(DEVICES.__getitem__)
    one_by_one = encoder.delete if gone else encoder.set
    expected = one_by_one(key, Encap("lo-galactic", SEGMENT, mode), sequence)
    assert encoder.encaps("lo-galactic", mode)(key, SEGMENT, gone, sequence) == expected


@pytest.mark.parametrize(
    ("network", "metric", "same"),
    [
        pytest.param("2001:db8::/64", 1024, True, id="ipv6-1024-is-the-default"),
        pytest.param("2001:db8::/64", 1023, False, id="ipv6-another"),
        pytest.param("10.0.0.0/8", 1024, False, id="ipv4-has-no-such-default"),
    ],
)
def test_metric_zero_is_the_familys_default(network, metric, same):
    assert (route_key(5, ip_network(network), metric) == route_key(5, ip_network(network))) is same


def test_keys_decode_to_table_network_and_metric():
    assert route_of(route_key(101, V6, 7)) == (101, V6, 7)


def changed(message, at, form, value):
    copy = bytearray(message)
    struct.pack_into(form, copy, at, value)
    return bytes(copy)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(
            changed(
                Encoder(DEVICES.__getitem__).set(route_key(5, V4), Direct("lo-galactic"), 1), 19, "=B", 4
            ),
            id="type-of-service",
        ),
        pytest.param(
            changed(Encoder(DEVICES.__getitem__).set(route_key(5, V4), Unreachable(), 1), 23, "=B", 6),
            id="blackhole",
        ),
        pytest.param(
            changed(
                Encoder(DEVICES.__getitem__).set(route_key(5, V4), EndDT46("lo-galactic", 9), 1), 60, "=I", 7
            ),
            id="another-seg6local-action",
        ),
        pytest.param(
            changed(
                Encoder(DEVICES.__getitem__).set(route_key(5, V4), Encap("lo-galactic", SEGMENT, "encap"), 1),
                60,
                "=I",
                0,
            ),
            id="inline-mode",
        ),
        pytest.param(
            Encoder(lambda _: 99).set(route_key(5, V4), Direct("lo-galactic"), 1), id="device-that-is-gone"
        ),
    ],
)
def test_what_no_plan_asks_for_is_other(message):
    assert decoded(message) == {route_key(5, V4): Other()}


def test_other_peoples_routes_are_not_ours():
    message = Encoder(DEVICES.__getitem__).set(route_key(5, V4), Direct("lo-galactic"), 1)
    assert decoded(changed(message, 21, "=B", 186)) == {}


def test_a_missing_device_raises_before_anything_is_sent():
    with pytest.raises(KeyError):
        Encoder(DEVICES.__getitem__).set(route_key(5, V4), Direct("eth9"), 1)


def test_replies_are_matched_by_sequence_number():
    def answer(sequence, code):
        return HEADER.pack(36, 2, 0, sequence, 0) + struct.pack("=i", -code) + bytes(16)

    assert list(replies(answer(7, errno.ENOMEM) + answer(9, 0))) == [Reply(7, errno.ENOMEM), Reply(9, 0)]


def test_the_last_of_a_burst_asks_for_an_answer():
    message = Encoder(DEVICES.__getitem__).set(route_key(5, V4), Unreachable(), 3)
    length, kind, flags, sequence, _ = HEADER.unpack_from(acknowledged(message))
    assert (length, kind, flags & 4, sequence) == (len(message), 24, 4, 3)


def test_an_interrupted_dump_is_reported():
    decoder = Decoder(lambda _: "")
    assert decoder.feed(HEADER.pack(20, 3, 0x10, 1, 0) + bytes(4)) == Reply(1, 0)
    assert decoder.interrupted


def test_a_dump_asks_for_our_protocol_only():
    request = dump_request(2, 1, table=254, device=3)
    assert request[21] == 0x9A
    assert request.endswith(struct.pack("=HHIHHI", 8, 15, 254, 8, 4, 3))
