"""A router's report counts if it quotes a packet of this node: then the sender is answered, and the path is known."""

import asyncio
from contextlib import nullcontext
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network, ip_address, ip_network

import pytest

from galactic import srv6
from galactic.errors import Unreachable
from galactic.linux.too_big import TooBig
from galactic.messages import Route
from galactic.node.dataplane import path_mtu
from galactic.node.dataplane.path_mtu import FORGET_SECONDS, PAIR_SECONDS, VPC_ANSWERS_PER_SECOND, PathMTU
from galactic.node.dataplane.plan import Host
from galactic.node.state.remote import Source, entry

VPC = 1234
PREFIX = IPv6Network("2001:db8:ff01:100::/56")
HOST = Host(PREFIX, IPv6Network("2001:db8:ff00::/40"), "eth0")
SID = "2001:db8:ff02:100::4d2:2b"
OTHER = "2001:db8:ff03:100::4d2:2c"
ROUTER = IPv6Address("fd09::1")


def quoted(source="10.1.1.1", destination="10.1.1.2"):
    packed = ip_address(source).packed + ip_address(destination).packed
    if len(packed) == 8:
        return bytes([0x45, 0, 5, 180, 0, 0, 0x40, 0, 63, 17, 0, 0]) + packed + bytes(500)
    return bytes([0x60, 0, 0, 0, 5, 100, 17, 63]) + packed + bytes(500)


REPORT = TooBig(ROUTER, 1400, srv6.loopback(PREFIX).packed, ip_address(SID).packed, 40, quoted())
SIX = replace(REPORT, inner=quoted("2001:10:1:1::1", "2001:10:1:1::2"))


class Sent:
    """The packets that were sent, as (VRF, destination, MTU)."""

    def __init__(self):
        self.packets, self.accepts = [], True

    async def receive(self):
        raise Unreachable("kernel", "raw ICMPv6 socket: Operation not permitted")

    def send(self, vrf, packet, destination):
        four = destination.version == 4
        mtu = int.from_bytes(packet[26:28] if four else packet[44:48], "big")
        self.packets.append((vrf, str(destination), mtu))
        return self.accepts


@pytest.fixture
async def store(node, config):
    assert (await node.cni("ADD", config())).code == 0
    networks = {"10.1.1.2/32": SID, "2001:10:1:1::2/128": SID, "192.168.0.0/16": SID, "10.1.1.3/32": OTHER}
    table = dict(
        entry(VPC, "default", Route(network, (segment,), "default", "node-2", "002b", 1))
        for network, segment in networks.items()
    )
    node.store.set_table(VPC, Source.MQTT, 1, table)
    return node.store


@pytest.fixture
def sent():
    return Sent()


@pytest.fixture
def paths(store, sent):
    return PathMTU(lambda _: nullcontext(sent), store, lambda: HOST)


@pytest.mark.parametrize(
    ("report", "answered"),
    [
        pytest.param(REPORT, ("10.1.1.1", 1360), id="IPv4"),
        pytest.param(SIX, ("2001:10:1:1::1", 1360), id="IPv6"),
        pytest.param(replace(REPORT, overhead=64), ("10.1.1.1", 1336), id="encap"),
        pytest.param(
            replace(REPORT, inner=quoted(destination="192.168.7.7")), ("10.1.1.1", 1360), id="network"
        ),
        pytest.param(replace(REPORT, mtu=1280), ("10.1.1.1", 1240), id="least"),
        pytest.param(replace(SIX, mtu=1280), ("2001:10:1:1::1", 1280), id="IPv6-has-1280-at-least"),
    ],
)
def test_the_sender_is_answered(paths, sent, report, answered):
    assert paths.observe(report, 1.0, sent) == path_mtu.ANSWERED
    assert sent.packets == [("G0000000jU000V", *answered)]


@pytest.mark.parametrize(
    "report",
    [
        pytest.param(replace(REPORT, mtu=1279), id="smaller-than-IPv6-allows"),
        pytest.param(replace(REPORT, mtu=1501), id="larger-than-the-underlay's"),
        pytest.param(replace(REPORT, source=ip_address(SID).packed), id="not-this-node's-source"),
        pytest.param(replace(REPORT, segment=ip_address(OTHER).packed), id="another-node's-SID"),
        pytest.param(
            replace(REPORT, segment=ip_address("2001:db8:ff02:100::4d3:2b").packed), id="another-VPC"
        ),
        pytest.param(replace(REPORT, inner=quoted(source="10.1.1.9")), id="a-source-that-is-not-here"),
        pytest.param(replace(REPORT, inner=quoted(destination="10.1.1.1")), id="a-destination-that-is-here"),
        pytest.param(replace(REPORT, inner=quoted(destination="10.9.9.9")), id="no-route"),
    ],
)
def test_a_forged_report_changes_nothing(paths, sent, report):
    assert paths.observe(report, 1.0, sent) == path_mtu.FORGED
    assert sent.packets == []
    assert paths.condition(1.0).status


def test_a_path_is_a_condition_until_it_was_not_reported_for_a_while(paths, sent):
    assert paths.condition(0.0).reason == "NoSmallerLink"
    paths.observe(REPORT, 1.0, sent)
    condition = paths.condition(1.0)
    assert (condition.status, condition.reason) == (False, "SmallerLink")
    assert (
        "1400 bytes to 2001:db8:ff02:100::/64 (reported by fd09::1); eth0 has MTU 1500" in condition.message
    )
    paths.observe(REPORT, 500.0, sent)
    assert len(paths.paths(500.0 + FORGET_SECONDS - 1)) == 1
    assert paths.condition(500.0 + FORGET_SECONDS).status


def test_the_smallest_link_counts_while_it_is_known(paths, sent):
    paths.observe(REPORT, 1.0, sent)
    paths.observe(replace(REPORT, mtu=1300), 2.0, sent)
    paths.observe(REPORT, 3.0, sent)
    assert [mtu for _, _, mtu in sent.packets] == [1360, 1260, 1260]
    paths.observe(REPORT, 2.0 + FORGET_SECONDS, sent)
    assert sent.packets[-1][2] == 1360


def test_an_underlay_that_was_made_as_small_ends_the_condition(store, sent):
    host = [HOST]
    paths = PathMTU(lambda _: nullcontext(sent), store, lambda: host[0])
    paths.observe(REPORT, 1.0, sent)
    host[0] = replace(HOST, mtu=1400)
    assert paths.condition(1.0).status


def test_a_report_of_the_underlay_itself_is_answered_and_no_condition(paths, sent):
    assert paths.observe(replace(REPORT, mtu=1500), 1.0, sent) == path_mtu.ANSWERED
    assert paths.condition(1.0).status


def test_answers_are_limited(paths, sent):
    results = [paths.observe(REPORT, 1.0 + number * PAIR_SECONDS / 10, sent) for number in range(10)]
    assert results == [path_mtu.ANSWERED] + [path_mtu.LIMITED] * 9
    several = [
        replace(REPORT, inner=quoted(destination=f"192.168.1.{number % 256}")) for number in range(256)
    ]
    results = [paths.observe(report, 10.0, sent) for report in several]
    assert results.count(path_mtu.ANSWERED) == VPC_ANSWERS_PER_SECOND
    assert (
        paths.observe(replace(REPORT, inner=quoted(destination="192.168.9.9")), 10.5, sent)
        == path_mtu.ANSWERED
    )


def test_one_vpc_has_a_part_of_the_answers(paths, sent, monkeypatch):
    """Without the limit the first would have all."""
    monkeypatch.setattr(PathMTU, "_is_ours", lambda *_: True)
    others = [replace(REPORT, segment=ip_address(f"2001:db8:ff02:100::{vpc}:2b").packed) for vpc in (1, 2, 3)]
    destinations = [f"192.168.1.{number}" for number in range(256)]
    answered = [
        sum(
            paths.observe(replace(report, inner=quoted(destination=to)), 10.0, sent) == path_mtu.ANSWERED
            for to in destinations
        )
        for report in others
    ]
    assert answered == [VPC_ANSWERS_PER_SECOND, VPC_ANSWERS_PER_SECOND, 0]


async def test_a_flood_of_messages_leaves_other_tasks_their_turn(store):
    """A socket that always has a message returns it without a pause of its own."""

    class Flooded(Sent):
        read = 0

        async def receive(self):
            self.read += 1
            if self.read > 100_000:
                raise AssertionError("nothing else had a turn")

    flooded, turns = Flooded(), []
    paths = PathMTU(lambda _: nullcontext(flooded), store, lambda: HOST)
    task = asyncio.create_task(paths.run())
    for _ in range(3):
        await asyncio.sleep(0)
        turns.append(flooded.read)
    await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert turns[-1] <= 3
    assert flooded.read <= path_mtu.BURST, "then it rests"


async def test_the_socket_follows_the_node_s_prefix(store, monkeypatch):
    monkeypatch.setattr(path_mtu, "CHECK_SECONDS", 0.001)
    opened, host, second = [], [HOST], asyncio.Event()

    class Quiet(Sent):
        async def receive(self):
            await asyncio.Event().wait()

    def opening(own):
        opened.append(str(own))
        if len(opened) == 2:
            second.set()
        return nullcontext(Quiet())

    paths = PathMTU(opening, store, lambda: host[0])
    task = asyncio.create_task(paths.run())
    while not opened:
        await asyncio.sleep(0)
    host[0] = replace(HOST, prefix=ip_network("2001:db8:ff09:100::/56"))
    async with asyncio.timeout(120):
        await second.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert opened == [str(srv6.loopback(HOST.prefix)), "2001:db8:ff09:100:ffff:ffff:ffff:ffff"]


def test_an_answer_that_the_kernel_refuses_is_counted(store, sent):
    counted = []
    paths = PathMTU(lambda _: nullcontext(sent), store, lambda: HOST, counted.append)
    sent.accepts = False
    paths.observe(REPORT, 1.0, sent)
    assert counted == [path_mtu.FAILED]


async def test_without_the_socket_the_condition_names_the_capability(paths, monkeypatch):
    pauses = []

    async def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            raise TimeoutError

    monkeypatch.setattr(path_mtu.asyncio, "sleep", sleep)
    with pytest.raises(TimeoutError):
        await paths.run()
    condition = paths.condition(0.0)
    assert (condition.status, condition.reason) == (False, "NotReceived")
    assert "CAP_NET_RAW" in condition.message
