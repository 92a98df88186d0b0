"""The host is prepared and kept so: checks, conditions, repairs and their metrics."""

import asyncio
import itertools
from ipaddress import IPv6Address, IPv6Network
from types import SimpleNamespace

import pytest

from galactic.errors import NotYet, Unreachable
from galactic.linux.firewall import Installed
from galactic.linux.foreign_chains import Dropping
from galactic.linux.preflight import Finding, Preflight
from galactic.linux.underlay import Underlay
from galactic.node.dataplane import setup
from galactic.node.dataplane.setup import LOST_SECONDS, HostSetup
from galactic.node.state.checkpoint import Checkpoint
from galactic.node.state.epoch import Clock
from galactic.node.state.store import Store

SPACE = IPv6Network("2001:db8:ff00::/40")
PREFIX = IPv6Network("2001:db8:ff01:100::/56")
GOOD = Preflight("6.1", "encap.red", (Finding("VRF", ok=True, message="VRF devices"),))
NO_VRF = Preflight("6.1", "encap", (Finding("VRF", ok=False, message="no VRF devices: modprobe vrf"),))


class HostAdapter:
    """A machine in memory. ``broken`` chains are what the next filter() finds to mend."""

    def __init__(self):
        self.kernel, self.loaded = GOOD, ""
        self.network = Underlay("eth0", 1500)
        self.broken = ("IPv6 PREROUTING",)
        self.refuses = ""
        self.backend, self.missing, self.tracked = "nft", "", ""
        self.foreign = ()
        self.done = []

    async def preflight(self):
        self.done.append("preflight")
        return self.kernel

    def modules(self):
        return self.loaded

    async def underlay(self):
        self.done.append("underlay")
        if self.network is None:
            raise NotYet("no IPv6 route to anywhere", reason="NoUnderlay")
        return self.network

    async def filter(self, prefix, uplinks, known=None):
        self.uplinks = uplinks
        self.done.append("mend" if known else "filter")
        if self.refuses:
            raise Unreachable("iptables", self.refuses)
        changed, self.broken = self.broken, ()
        return Installed(
            self.backend, "others have rules there", changed, self.missing, "as it was", self.tracked
        )

    def intact(self, installed):
        self.done.append("intact")
        return not self.broken

    def dropping(self, prefix, uplinks):
        return self.foreign


@pytest.fixture
def machine():
    return HostAdapter()


@pytest.fixture
def store(tmp_path):
    made = Store("c", Checkpoint(tmp_path), Clock())
    made.set_prefix(PREFIX)
    return made


@pytest.fixture
def clock(monkeypatch):
    """The monotonic clock, to be set. What costs processor time costs none of it."""
    now = [1000.0]
    monkeypatch.setattr(setup, "time", SimpleNamespace(monotonic=lambda: now[0], process_time=lambda: 0.0))
    return now


@pytest.fixture
def drifted():
    return []


@pytest.fixture
def host_setup(machine, store, drifted):
    return HostSetup(machine, store, SPACE, drifted.append)


def conditions(host_setup):
    return {condition.type: (condition.status, condition.reason) for condition in host_setup.conditions()}


async def test_nothing_is_done_again_while_nothing_changes(host_setup, machine, clock):
    await host_setup.check()
    machine.done.clear()
    for _ in range(5):
        clock[0] += 3
        assert setup.CHECK_SECONDS[0] <= await host_setup.check() <= setup.CHECK_SECONDS[1]
    assert set(machine.done) == {"intact", "underlay"}


async def test_the_packet_filter_follows_the_uplinks(host_setup, machine, clock, drifted):
    """It is written at once, and does not count as drift. It waits for the underlay: it would drop packets from
    there.
    """
    machine.network = None
    await host_setup.check()
    assert "filter" not in machine.done
    for others in ((), ("eth1",), ("eth1", "eth2")):
        machine.network, machine.broken = Underlay("eth0", 1500, (), others), ("IPv6 PREROUTING",)
        clock[0] += setup.UNDERLAY_SECONDS + 1
        machine.done.clear()
        await host_setup.check()
        assert machine.done[-1] == "filter"
        assert machine.uplinks == ("eth0", *others)
    assert drifted == []
    (underlay,) = (condition for condition in host_setup.conditions() if condition.type == "Underlay")
    assert underlay.message == "eth0, MTU 1500; SRv6 packets also come by eth1, eth2"
    machine.network = None
    clock[0] += setup.UNDERLAY_SECONDS + 1
    await host_setup.check()
    assert machine.done[-1] == "intact"


async def test_settings_changed_by_another_program_are_restored_and_counted(
    host_setup, machine, clock, drifted
):
    await host_setup.check()
    assert drifted == []  # at the start it is not drift
    machine.broken = ("IPv4 INPUT", "IPv6 PREROUTING")
    clock[0] += 3
    await host_setup.check()
    assert (drifted, machine.broken) == ([2], ())
    assert machine.done[-1] == "mend"


async def test_looks_come_within_ten_seconds_whatever_they_cost(
    host_setup, machine, clock, drifted, monkeypatch
):
    monkeypatch.setattr(setup.time, "process_time", iter(range(1000)).__next__)
    for _ in range(6):
        machine.broken = ("IPv4 INPUT",)
        clock[0] += 10
        assert await host_setup.check() <= setup.CHECK_SECONDS[1]
    await host_setup.check()
    assert await host_setup.check() == setup.CHECK_SECONDS[1]
    assert len(drifted) == 5


async def test_another_backend_is_noticed_now_and_then_and_is_not_drift(host_setup, machine, clock, drifted):
    await host_setup.check()
    machine.backend, machine.broken = "legacy", ()
    clock[0] += setup.FULL_CHECK_SECONDS + 1
    await host_setup.check()
    assert (host_setup.backend, drifted) == ("legacy", [])
    assert conditions(host_setup)["PacketFilter"] == (True, "LegacyTables")


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        pytest.param(("vrf 1", 3), True, id="module-loaded"),
        pytest.param(("", 3), False, id="nothing-happened"),
        pytest.param(("", setup.PREFLIGHT_SECONDS[0] + 1), True, id="soon"),
        pytest.param(("", setup.PREFLIGHT_SECONDS[1] + 1), True, id="now-and-then"),
    ],
)
async def test_what_the_kernel_lacked_is_tried_again(host_setup, machine, clock, event, expected):
    machine.kernel = NO_VRF
    await host_setup.check()
    assert host_setup.problem == "no VRF devices: modprobe vrf"
    assert conditions(host_setup)["VRF"] == (False, "Missing")
    machine.kernel, (machine.loaded, seconds) = GOOD, event
    clock[0] += seconds
    await host_setup.check()
    assert (host_setup.problem is None) is expected
    assert host_setup.encap == ("encap.red" if expected else "encap")


async def test_what_the_kernel_lacks_for_long_is_tried_once_a_minute(host_setup, machine, clock):
    machine.kernel = NO_VRF
    for _ in range(5):
        await host_setup.check()
        clock[0] += setup.PREFLIGHT_SECONDS[1] + 1
    await host_setup.check()
    machine.kernel = GOOD
    clock[0] += setup.PREFLIGHT_SECONDS[1] - 1
    await host_setup.check()
    assert host_setup.problem is not None
    clock[0] += 2
    await host_setup.check()
    assert host_setup.problem is None


@pytest.mark.parametrize(
    ("field", "condition"),
    [
        pytest.param("missing", ("SourceValidation", "Checked"), id="forged-sources"),
        pytest.param("tracked", ("Untracked", "NotTracked"), id="connection-tracking"),
    ],
)
async def test_a_missing_module_of_the_filter_is_a_condition(host_setup, machine, clock, field, condition):
    kind, fine = condition
    setattr(machine, field, "the kernel lacks xt_devgroup")
    await host_setup.check()
    assert conditions(host_setup)[kind] == (False, "Missing")
    assert host_setup.problem is None
    setattr(machine, field, "")
    clock[0] += setup.MISSING_SECONDS + 1
    await host_setup.check()
    assert conditions(host_setup)[kind] == (True, fine)


DOCKER = Dropping(
    "legacy", "ip filter", "FORWARD", "policy drop", "IPv4 packets between pods", (("from", "G"), ("to", "G"))
)


async def test_a_chain_of_others_that_drops_is_a_condition_with_the_remedy(host_setup, machine, clock):
    await host_setup.check()
    assert conditions(host_setup)["PacketFilter"] == (True, "NftTables")
    machine.foreign = (DOCKER,)
    clock[0] += setup.FOREIGN_SECONDS[0] + 1
    await host_setup.check()
    (condition,) = (state for state in host_setup.conditions() if state.type == "PacketFilter")
    assert (condition.status, condition.reason) == (False, "ForeignDrop")
    assert condition.message == (
        "chain FORWARD of the legacy table ip filter (policy drop) drops IPv4 packets between pods: "
        "iptables-legacy -t filter -I FORWARD -i G+ -j ACCEPT; iptables-legacy -t filter -I FORWARD -o G+ -j ACCEPT"
    )
    assert host_setup.problem is None  # pods are attached: the other families' packets pass
    machine.foreign = ()
    clock[0] += setup.FOREIGN_SECONDS[0] + 1
    await host_setup.check()
    assert conditions(host_setup)["PacketFilter"] == (True, "NftTables")


async def test_chains_of_others_are_looked_for_each_minute_however_long_that_takes(
    host_setup, machine, clock, monkeypatch
):
    spent = itertools.count(step=30)
    monkeypatch.setattr(setup.time, "process_time", lambda: float(next(spent)))
    await host_setup.check()
    machine.foreign = (DOCKER,)
    clock[0] += setup.FOREIGN_SECONDS[0] + 1
    await host_setup.check()
    assert conditions(host_setup)["PacketFilter"] == (True, "NftTables"), "it took its share of the time"
    clock[0] += 60
    await host_setup.check()
    assert conditions(host_setup)["PacketFilter"] == (False, "ForeignDrop")


async def test_a_contested_filter_is_put_back_once_a_minute_and_reported(host_setup, machine, clock):
    await host_setup.check()
    for _ in range(setup.CONTESTED):
        assert conditions(host_setup)["PacketFilter"] == (True, "NftTables")
        machine.broken = ("IPv6 PREROUTING",)
        clock[0] += 5
        await host_setup.check()
    assert conditions(host_setup)["PacketFilter"] == (False, "Contested")
    machine.broken, machine.done[:] = ("IPv6 PREROUTING",), []
    for _ in range(11):
        clock[0] += 5
        await host_setup.check()
    assert "mend" not in machine.done
    clock[0] += 6
    await host_setup.check()
    assert machine.done.count("mend") == 1
    assert conditions(host_setup)["PacketFilter"] == (False, "Contested")
    clock[0] += setup.CONTESTED_SECONDS + 1
    await host_setup.check()
    assert conditions(host_setup)["PacketFilter"] == (True, "NftTables")


@pytest.mark.parametrize(
    ("underlay", "expected"),
    [
        pytest.param(Underlay("eth0", 1500), (True, "Found"), id="fine"),
        pytest.param(Underlay("eth0", 1320), (True, "Found"), id="just-large-enough"),
        pytest.param(Underlay("eth0", 1319), (False, "MTUTooSmall"), id="too-small"),
        pytest.param(
            Underlay("eth0", 1500, (IPv6Address("2001:db8:ff01::1"),)),
            (False, "AddressInSRv6Space"),
            id="overlap",
        ),
        pytest.param(None, (False, "NoUnderlay"), id="no-route"),
    ],
)
async def test_the_underlay_is_judged(host_setup, machine, clock, underlay, expected):
    machine.network = underlay
    await host_setup.check()
    assert conditions(host_setup)["Underlay"] == expected
    assert all(condition.message for condition in host_setup.conditions())


async def test_an_underlay_that_stays_away_is_reported_and_nothing_else_changes(host_setup, machine, clock):
    await host_setup.check()
    network, machine.network = machine.network, None
    facts = host_setup.host()
    for seconds, expected in ((6, (True, "Found")), (LOST_SECONDS, (False, "NoUnderlay"))):
        clock[0] += seconds
        await host_setup.check()
        assert conditions(host_setup)["Underlay"] == expected
        assert host_setup.problem is None, "pods are attached"
        assert host_setup.host() == facts
    (text,) = (one.message for one in host_setup.conditions() if one.type == "Underlay")
    assert "restore the routes and addresses of eth0" in text
    machine.network = network
    clock[0] += 6
    await host_setup.check()
    assert conditions(host_setup)["Underlay"] == (True, "Found")


async def test_a_refused_filter_is_reported_and_tried_again(host_setup, machine, clock, drifted):
    machine.refuses = "Permission denied"
    assert await host_setup.check() < 2
    assert host_setup.problem == "iptables: Permission denied"
    assert conditions(host_setup)["PacketFilter"] == (False, "NotInPlace")
    machine.refuses = ""
    clock[0] += 1
    await host_setup.check()
    assert host_setup.problem is None
    assert drifted == []


async def test_a_new_prefix_is_acted_upon_at_once(machine, drifted, tmp_path, monkeypatch):
    monkeypatch.setattr(setup, "BACKOFF_SECONDS", (10.0**6, 10.0**6))  # no look but for the prefix
    store = Store("c", Checkpoint(tmp_path), Clock())
    host_setup = HostSetup(machine, store, SPACE, drifted.append)
    running = asyncio.create_task(host_setup.run())
    async with asyncio.timeout(120):
        while not machine.done:
            await asyncio.sleep(0)
        assert "filter" not in machine.done
        store.set_prefix(PREFIX)
        while "filter" not in machine.done:
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait({running})


async def test_a_reported_transaction_is_checked_at_once(host_setup, machine, clock):
    """Without waiting for the next check, with nft's tables alone: legacy ones have no reports."""
    await host_setup.check()
    for backend, expected in (("nft", True), ("legacy", False)):
        waiting = asyncio.create_task(host_setup._changed_meanwhile())
        await asyncio.sleep(0)
        host_setup._installed = Installed(backend, "", (), "", "")
        host_setup.on_external_change()
        done, _ = await asyncio.wait([waiting], timeout=0.1 if not expected else 60)
        assert bool(done) is expected
        waiting.cancel()
