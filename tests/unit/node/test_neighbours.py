"""A pod that does not answer for its address is a condition; one that is new, or gone, or only late is none."""

from ipaddress import ip_address

import pytest

from galactic.errors import Unreachable
from galactic.names import host_end
from galactic.node.dataplane.neighbours import ASK_SECONDS, NAMED, ROUND_SECONDS, Neighbours

VPC = 1234
FOUR, SIX = ip_address("10.1.1.1"), ip_address("2001:10:1:1::1")
DEVICE = host_end(VPC, 42)


@pytest.fixture
async def watched(node, config):
    """A pod that is attached, and those who ask for its addresses; the clock stands at 0."""
    assert (await node.cni("ADD", config())).code == 0
    return Neighbours(node.kernel, node.store), node


class Clock:
    """Rounds, one after the other."""

    def __init__(self, neighbours):
        self.neighbours, self.now = neighbours, 0.0

    async def rounds(self, count):
        for _ in range(count):
            await self.neighbours.round(self.now)
            self.now += ROUND_SECONDS


async def test_addresses_are_asked_for_at_once_and_once_a_minute(watched):
    neighbours, node = watched
    clock = Clock(neighbours)
    await clock.rounds(1)
    assert node.kernel.solicited == [(DEVICE, FOUR), (DEVICE, SIX)]
    await clock.rounds(int(ASK_SECONDS / ROUND_SECONDS) - 1)
    assert len(node.kernel.solicited) == 2
    await clock.rounds(1)
    assert len(node.kernel.solicited) == 4
    finding = neighbours.condition()
    assert (finding.type, finding.status, finding.reason) == ("Neighbours", True, "Resolved")
    assert neighbours.failed == []


@pytest.mark.parametrize("state", ["FAILED", "INCOMPLETE", "NONE"])
async def test_two_attempts_in_a_row_are_a_finding_and_an_answer_ends_it(watched, state):
    neighbours, node = watched
    clock = Clock(neighbours)
    node.kernel.silent = {(DEVICE, SIX)}
    for tries in (1, 2):
        await clock.rounds(1)
        node.kernel.table[DEVICE, SIX] = state
        assert neighbours.condition().status, f"{tries} attempts, and the last one is not over"
    if state == "NONE":
        del node.kernel.table[DEVICE, SIX]
    await clock.rounds(1)
    finding = neighbours.condition()
    assert (finding.status, finding.reason) == (False, "NeighbourFailed")
    assert "default/blue-G 2001:10:1:1::1; no packet reaches them: `galactic trace`" in finding.message
    assert "10.1.1.1," not in finding.message
    assert neighbours.failed == [("default/blue-G", str(SIX))]
    node.kernel.silent.clear()
    await clock.rounds(2)
    assert neighbours.condition().status, "it is asked for in every round until it answers"


async def test_one_attempt_without_an_answer_is_none(watched):
    neighbours, node = watched
    clock = Clock(neighbours)
    node.kernel.silent = {(DEVICE, SIX)}
    await clock.rounds(1)
    node.kernel.silent.clear()
    await clock.rounds(1)
    node.kernel.silent = {(DEVICE, SIX)}
    await clock.rounds(int(ASK_SECONDS / ROUND_SECONDS) + 1)
    assert neighbours.condition().status


async def test_an_attempt_that_is_under_way_is_waited_for(watched):
    neighbours, node = watched
    clock = Clock(neighbours)
    await clock.rounds(1)
    for state in ("DELAY", "PROBE", "PROBE"):
        node.kernel.table[DEVICE, FOUR] = state
        await clock.rounds(1)
    assert len(node.kernel.solicited) == 2
    node.kernel.table[DEVICE, FOUR] = "FAILED"
    await clock.rounds(1)
    assert node.kernel.solicited[2:] == [(DEVICE, FOUR)], (
        "it ended without an answer, and is made again at once"
    )
    assert neighbours.condition().status


async def test_what_is_remembered_of_an_earlier_attempt_counts_for_nothing(watched):
    """It is the state after an attempt of ours that does."""
    neighbours, node = watched
    node.kernel.table[DEVICE, SIX] = "FAILED"
    clock = Clock(neighbours)
    await clock.rounds(3)
    assert neighbours.condition().status


async def silent(neighbours, node):
    node.kernel.silent = {(DEVICE, FOUR), (DEVICE, SIX)}
    clock = Clock(neighbours)
    await clock.rounds(3)
    assert not neighbours.condition().status
    return clock


async def test_a_pod_that_is_deleted_is_not_accused(watched, config):
    neighbours, node = watched
    clock = await silent(neighbours, node)
    assert (await node.cni("DEL", config())).code == 0
    await clock.rounds(1)
    assert neighbours.condition().status
    assert neighbours.failed == []


async def test_a_pod_that_is_gone_without_a_del_is_not_accused(watched):
    neighbours, node = watched
    clock = await silent(neighbours, node)
    node.kernel.remove_namespace("/ns/1")
    await clock.rounds(2)
    assert neighbours.condition().status


async def test_another_pod_with_the_same_address_begins_again(watched, config):
    neighbours, node = watched
    clock = await silent(neighbours, node)
    node.kernel.add_namespace("/ns/2")
    await node.cni("DEL", config())
    assert (await node.cni("ADD", config(), container="c2", netns="/ns/2")).code == 0
    await clock.rounds(1)
    assert neighbours.condition().status


async def test_many_are_counted_and_some_are_named(node, config):
    for number in range(1, NAMED + 2):
        node.kernel.add_namespace(f"/ns/{number}")
        body = config(str(number), last=number)
        assert (await node.cni("ADD", body, container=f"c{number}", netns=f"/ns/{number}")).code == 0
    neighbours = Neighbours(node.kernel, node.store)
    node.kernel.silent = {
        (host_end(VPC, number), ip_address(f"10.1.1.{number}")) for number in range(1, NAMED + 2)
    }
    await Clock(neighbours).rounds(3)
    message = neighbours.condition().message
    assert "default/blue-1 10.1.1.1, default/blue-2 10.1.1.2, default/blue-3 10.1.1.3 and 1 more;" in message
    assert len(neighbours.failed) == NAMED + 1


async def test_a_kernel_that_does_not_answer_accuses_no_pod(watched, monkeypatch):
    neighbours, node = watched
    clock = Clock(neighbours)
    await clock.rounds(1)

    async def away():
        raise Unreachable("kernel", "busy")

    monkeypatch.setattr(node.kernel, "neighbours", away)
    for _ in range(3):
        with pytest.raises(Unreachable):
            await neighbours.round(clock.now)
        clock.now += ROUND_SECONDS
    assert neighbours.condition().status


async def test_next_hops_of_the_underlay_are_kept(node, config):
    uplinks = []
    neighbours = Neighbours(node.kernel, node.store, lambda: uplinks)
    await neighbours.round(0.0)
    assert not node.kernel.kept_devices
    uplinks.append("eth0")
    await neighbours.round(ROUND_SECONDS)
    assert node.kernel.kept_devices == {"eth0"}


async def test_entries_that_a_pod_makes_the_kernel_forget_are_put_back_without_a_full_round(node, config):
    """It takes its interface down, again and again."""
    assert (await node.cni("ADD", config())).code == 0
    dataplane, kernel = node.sync._dataplane, node.kernel
    wanted = dict(kernel.host.neighbours)
    assert {(DEVICE, FOUR), (DEVICE, SIX)} <= set(wanted)
    kernel.host.neighbours.clear()
    assert await dataplane.verify()
    assert kernel.host.neighbours == wanted
    assert dataplane.drift.objects == 0
    kernel.host.neighbours[DEVICE, ip_address("10.9.9.9")] = None
    assert await dataplane.verify()
    assert kernel.host.neighbours == wanted
