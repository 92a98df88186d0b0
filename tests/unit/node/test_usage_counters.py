"""Traffic is counted once: over restarts, devices that are made again, and attachments that go."""

from dataclasses import replace
from ipaddress import IPv6Network, ip_interface

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from galactic.errors import Unreachable
from galactic.linux.link_counters import LinkCounters, Reading
from galactic.names import exit_end, host_end, main_end
from galactic.node.dataplane.counter_reader import CounterReader, restored
from galactic.node.state.attachment import Attachment
from galactic.node.state.checkpoint import USAGE_FILE, Checkpoint
from galactic.node.state.epoch import Clock
from galactic.node.state.gateways import Exit, Gateway
from galactic.node.state.store import Store
from galactic.node.state.usage import KEPT_RECORDS, KEPT_SECONDS, Instance, UsageCounters, UsageFile
from galactic.srv6 import sid

VPC = 1234


def attachment(function: int, epoch: int, vpc: int = VPC) -> Attachment:
    address = ip_interface(f"10.1.1.{function}/24")
    return Attachment(vpc, function, f"blue/a{function}", "c", "/n", "galactic0", (address,), epoch=epoch)


ONE = attachment(1, 100)
PLACE = Instance(VPC, 1, 100)


class World:
    """A kernel's counters, and a usage that reads them."""

    def __init__(self, boot: str = "b") -> None:
        self.usage, self.now = UsageCounters("l", boot), 0.0
        self.attached: dict = {}
        self.devices: dict[str, Reading] = {}

    def device(self, one: Attachment, index: int, **counted: int) -> None:
        self.devices[host_end(*one.key)] = Reading(index, LinkCounters(**counted))

    def read(self, seconds: float = 10.0) -> None:
        self.now += seconds
        self.usage.observe(self.now, self.attached, self.devices, host_end)

    def restart(self, boot: str = "b") -> None:
        data = msgspec.json.encode(self.usage.file())
        self.usage = UsageCounters.of(msgspec.json.decode(data, type=UsageFile), boot)

    def total(self, place: Instance = PLACE) -> int:
        return self.usage.records[place].counters.sent_bytes


@pytest.fixture
def world() -> World:
    world = World()
    world.read()
    world.attached = {ONE.key: ONE}
    world.device(ONE, 7, sent_bytes=100)
    world.read()
    return world


def test_a_device_counts_from_its_beginning_once(world: World) -> None:
    assert world.total() == 100
    world.read()
    assert world.total() == 100
    world.device(ONE, 7, sent_bytes=150)
    world.read()
    assert (world.total(), world.usage.vpcs[VPC].sent_bytes) == (150, 150)
    assert world.usage.records[PLACE].seconds == 20


def test_the_first_reading_of_a_new_ledger_only_notes_where_counters_stand() -> None:
    world = World()
    world.attached = {ONE.key: ONE}
    world.device(ONE, 7, sent_bytes=1000)
    world.read()
    assert world.total() == 0
    world.device(ONE, 7, sent_bytes=1001)
    world.read()
    assert world.total() == 1


def test_over_a_restart_nothing_is_lost_and_nothing_counts_twice(world: World) -> None:
    world.device(ONE, 7, sent_bytes=300)  # while the node controller is away
    world.restart()
    world.read()
    assert (world.total(), world.usage.vpcs[VPC].sent_bytes) == (300, 300)
    assert world.usage.id == "l"


def test_after_another_start_of_the_host_devices_begin_again(world: World) -> None:
    world.restart(boot="c")
    world.attached = {ONE.key: replace(ONE, epoch=200)}
    world.device(ONE, 7, sent_bytes=150)
    world.read()
    assert (world.total(), world.total(PLACE._replace(epoch=200))) == (100, 150)
    assert world.usage.records[PLACE].ended is not None


def test_a_device_that_was_made_again_counts_from_its_beginning(world: World) -> None:
    world.device(ONE, 8, sent_bytes=500)
    world.read()
    assert world.total() == 600
    world.device(ONE, 8, sent_bytes=20)  # the same index, and fewer: the kernel's counters began again
    world.read()
    assert world.total() == 620


def test_counters_of_policies_begin_again_by_themselves(world: World) -> None:
    for policy, total in ((3, 3), (5, 5), (1, 6), (0, 6), (2, 8)):
        world.device(ONE, 7, sent_bytes=100, policy=policy)
        world.read()
        assert world.usage.records[PLACE].counters.policy == total
    assert world.total() == 100


def test_another_epoch_of_the_same_device_is_a_record_of_its_own(world: World) -> None:
    world.attached = {ONE.key: replace(ONE, epoch=101)}
    world.device(ONE, 7, sent_bytes=130)
    world.read()
    assert (world.total(), world.total(PLACE._replace(epoch=101))) == (100, 30)
    assert world.usage.vpcs[VPC].sent_bytes == 130


def test_the_last_traffic_of_an_attachment_that_goes_is_read_before_it_goes(world: World) -> None:
    world.usage.read_traffic(world.now + 3, ONE, LinkCounters(sent_bytes=190))
    world.attached, world.devices = {}, {}
    world.read()
    record = world.usage.records[PLACE]
    assert (record.counters.sent_bytes, record.seconds, record.ended) == (190, 3, world.now)
    assert world.usage.vpcs == {}, "no attachment of it is here any more"
    world.read(KEPT_SECONDS + 1)
    assert world.usage.records == {}


def test_one_that_came_and_went_between_two_readings_is_counted(world: World) -> None:
    other = attachment(2, 101)
    world.usage.read_traffic(world.now, other, LinkCounters(sent_bytes=5))
    assert world.total(Instance(VPC, 2, 101)) == 5
    world.attached[other.key] = other  # it stays after all
    world.device(other, 9, sent_bytes=6)
    world.read()
    assert world.total(Instance(VPC, 2, 101)) == 6


def test_ended_records_are_bounded_and_the_oldest_are_given_up(world: World) -> None:
    for number in range(KEPT_RECORDS + 3):
        world.usage.read_traffic(world.now, attachment(2, 1000 + number), LinkCounters(sent_bytes=1))
    world.attached = {}
    world.read()
    assert len(world.usage.records) == KEPT_RECORDS
    assert world.usage.lost == 4


@given(
    st.lists(
        st.tuples(st.sampled_from(["traffic", "read", "restart", "remade", "settled"]), st.integers(0, 9))
    )
)
def test_the_sum_of_all_records_is_what_the_kernel_counted(steps: list[tuple[str, int]]) -> None:
    world = World()
    world.read()
    one, index, counted, sent = ONE, 7, 0, 0
    world.attached = {one.key: one}
    world.device(one, index)
    for step, amount in steps:
        match step:
            case "traffic":
                counted, sent = counted + amount, sent + amount
            case "restart":
                world.restart()
            case "remade":
                world.read()
                index, counted = index + 1, 0
            case "settled":
                one = replace(one, epoch=one.epoch + 1)
                world.attached = {one.key: one}
        world.device(one, index, sent_bytes=counted)
        if step == "read":
            world.read()
    world.read()
    assert sum(record.counters.sent_bytes for record in world.usage.records.values()) == sent
    assert world.usage.vpcs[VPC].sent_bytes == sent


# -- the task ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path) -> Checkpoint:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.prepare()
    return checkpoint


@pytest.fixture
def store(checkpoint: Checkpoint) -> Store:
    return Store("default", checkpoint, Clock())


async def test_a_round_reads_and_writes_and_a_detach_reads_its_device(checkpoint, store) -> None:
    devices: dict[str, Reading] = {}

    async def read() -> dict[str, Reading]:
        return devices

    reader = CounterReader(store, checkpoint, read, lambda device: LinkCounters(sent_bytes=77))
    await reader.round()
    one = store.attach(attachment(1, 0))
    devices[host_end(*one.key)] = Reading(7, LinkCounters(sent_bytes=50, no_route=2))
    await reader.round()
    place = Instance(VPC, 1, one.epoch)
    assert reader.usage.records[place].counters.sent_bytes == 50
    store.detach(one.key)
    assert reader.usage.records[place].counters == LinkCounters(sent_bytes=77, no_route=2)
    devices.clear()
    await reader.round()
    again = restored(checkpoint, reader.usage.boot)
    assert again.id == reader.usage.id
    assert again.records[place].counters.sent_bytes == 77


async def test_drops_of_policies_are_their_attachments(checkpoint, store) -> None:
    devices: dict[str, Reading] = {}

    async def read() -> dict[str, Reading]:
        return devices

    dropped: dict[str, int] = {"G00000000jU009H": 9}

    unreadable: list[str] = []

    async def policy_drops() -> dict[str, int]:
        if unreadable:
            raise Unreachable("nft", "busy")
        return dropped

    reader = CounterReader(store, checkpoint, read)
    reader.policy_drops = policy_drops
    await reader.round()
    one = store.attach(attachment(1, 0))
    device = host_end(*one.key)
    devices[device] = Reading(7, LinkCounters())
    dropped[device] = 4
    await reader.round()
    assert reader.usage.records[Instance(VPC, 1, one.epoch)].counters == LinkCounters(policy=4)
    dropped.clear()  # as after a restart, before the rules' part has read the kernel
    await reader.round()
    dropped[device] = 5
    await reader.round()
    assert reader.usage.vpcs[VPC].policy == 5
    unreadable.append(device)
    await reader.round()
    unreadable.clear()
    await reader.round()
    assert reader.usage.vpcs[VPC].policy == 5


async def test_what_leaves_by_a_gateway_is_counted_at_the_end_in_no_vrf(checkpoint, store) -> None:
    prefix = IPv6Network("2001:db8:ff01:100::/56")
    devices = {
        exit_end(VPC, 9): Reading(3, LinkCounters(sent_bytes=1, received_bytes=1)),
        main_end(VPC, 9): Reading(4, LinkCounters(sent_bytes=70, received_bytes=30)),
    }

    async def read() -> dict[str, Reading]:
        return devices

    def led_by(node: str) -> None:
        exit_ = Exit(node, sid(prefix, VPC, 9).address, (), True)
        store.set_gateways({VPC: Gateway("blue/way", VPC, 9, frozenset({4}), True, (), (), (exit_,))})

    reader = CounterReader(store, checkpoint, read)
    store.gateways.node = "node-1"
    store.set_prefix(prefix)
    led_by("node-1")
    assert reader.series({}, 10).gateways == [], "nothing was read yet"
    await reader.round()
    (series,) = reader.series({}, 10).gateways
    assert series.labels == ("blue", "way")
    assert (series.counters.sent_bytes, series.counters.received_bytes) == (70, 30)
    led_by("node-2")
    assert reader.series({}, 10).gateways == [], "another node leads out now"


@pytest.mark.parametrize("text", [b"{", b'{"schema": 2, "id": "x"}', b"\xff"])
def test_a_file_that_cannot_be_read_begins_a_new_ledger(checkpoint, tmp_path, text: bytes) -> None:
    (tmp_path / USAGE_FILE).write_bytes(text)
    assert restored(checkpoint, "b").fresh


async def test_a_round_that_fails_leaves_the_numbers(checkpoint, store) -> None:
    async def read() -> dict[str, Reading]:
        raise Unreachable("kernel", "busy")

    reader = CounterReader(store, checkpoint, read)
    with pytest.raises(Unreachable):
        await reader.round()
    assert reader.usage.fresh


def test_a_packet_that_was_too_big_is_its_senders(checkpoint, store) -> None:
    reader = CounterReader(store, checkpoint, lambda: None)  # type: ignore[arg-type, return-value]
    one = store.attach(attachment(1, 0))
    reader.usage.fresh = False
    reader.usage.read(0.0, one, Reading(7, LinkCounters()))
    reader.too_big(VPC, ip_interface("10.1.1.1/24").ip)
    reader.too_big(VPC, ip_interface("10.1.1.9/24").ip)
    assert reader.usage.records[Instance(VPC, 1, one.epoch)].counters.too_big == 1
    assert reader.usage.vpcs[VPC].too_big == 1
