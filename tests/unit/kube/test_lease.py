"""Candidates for one lease, each with a network of its own: never two of them act at a time."""

import asyncio

import pytest

from galactic.errors import Unreachable
from galactic.kube.lease import RENEWALS, Candidate, Deposed, Lease, Pace, Terms
from galactic.kube.memory import MemoryApi
from galactic.kube.resources import LEASES

TERMS = Terms()


class Server(MemoryApi):
    """Requests of candidates in ``cut`` fail, those of ``mute`` hang, and so do the next ``lost`` requests."""

    def __init__(self):
        super().__init__()
        self.lost = 0
        self.cut, self.mute = set(), set()

    @property
    def lease(self):
        return self.stored(LEASES, "operator", "ns")

    def seen_by(self, own):
        return _Network(self, own)


class _Network:
    """A candidate's way to the server."""

    def __init__(self, server, own):
        self.server, self.own = server, own

    async def _deliver(self):
        await asyncio.sleep(0)
        if self.server.lost:
            self.server.lost -= 1
            await asyncio.Event().wait()
        if self.own in self.server.mute:
            await asyncio.Event().wait()
        if self.own in self.server.cut:
            raise Unreachable("kube-apiserver", "cut")

    async def find(self, *arguments):
        await self._deliver()
        return await self.server.find(*arguments)

    async def create(self, *arguments):
        await self._deliver()
        return await self.server.create(*arguments)

    async def replace(self, *arguments):
        await self._deliver()
        return await self.server.replace(*arguments)


class Contender:
    """Runs in ``task``; ``active`` while it leads."""

    def __init__(self, server, own):
        self.reports = []
        self.lease = Lease(
            server.seen_by(own),
            Candidate("ns", "operator", own),
            terms=TERMS,
            clock=asyncio.get_running_loop().time,
            report=self.reports.append,
        )
        self.active, self.task_begun = False, 0
        self.task = asyncio.create_task(self.lease.run(self.lead))

    async def lead(self):
        self.active = True
        self.task_begun += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.active = False

    async def end(self):
        self.task.cancel()
        await asyncio.wait({self.task})


async def until(true):
    async with asyncio.timeout(10 * TERMS.duration):
        while not true():
            await asyncio.sleep(0.1)


@pytest.fixture
async def candidates():
    server, made = Server(), []

    def make(own):
        made.append(Contender(server, own))
        return made[-1]

    make.server = server
    yield make
    for candidate in made:
        await candidate.end()


async def test_one_leads_and_goes_on_leading(candidates):
    all_ = [candidates(own) for own in "abc"]
    await until(lambda: any(one.active for one in all_))
    leader = next(one for one in all_ if one.active)
    for _ in range(1000):
        await asyncio.sleep(0.1)
        assert [one for one in all_ if one.active] == [leader]
        assert [one for one in all_ if one.lease.leads] == [leader]
    assert {one.lease.holder for one in all_} == {leader.lease.own}
    assert candidates.server.lease["spec"]["leaseTransitions"] == 0


async def test_a_clean_end_hands_over_at_once(candidates):
    a = candidates("a")
    await until(lambda: a.active)
    b = candidates("b")
    await asyncio.sleep(2 * TERMS.retry)
    await a.end()
    assert candidates.server.lease["spec"]["holderIdentity"] == ""
    began = asyncio.get_running_loop().time()
    await until(lambda: b.active)
    assert asyncio.get_running_loop().time() - began < 2 * TERMS.retry
    assert candidates.server.lease["spec"]["leaseTransitions"] == 1


async def test_a_holder_leaves_its_notes_to_the_next(candidates):
    """The next one has not overwritten them when its work begins."""
    a = candidates("a")
    a.lease.annotate = lambda: {"highest": "7"}
    await until(lambda: a.active)
    await until(lambda: candidates.server.lease["metadata"].get("annotations") == {"highest": "7"})
    b = candidates("b")
    b.lease.annotate = lambda: {"highest": "3"}
    read, lead = [], b.lead

    async def noting():
        read.append(dict(b.lease.annotations))
        await lead()

    b.task.cancel()
    b.task = asyncio.create_task(b.lease.run(noting))
    await a.end()
    await until(lambda: b.active)
    assert read == [{"highest": "7"}]


@pytest.mark.parametrize("how", ["cut", "mute"])
async def test_a_leader_that_is_cut_off_stops_before_another_begins(candidates, how):
    a = candidates("a")
    await until(lambda: a.active)
    b = candidates("b")
    await asyncio.sleep(2 * TERMS.retry)
    getattr(candidates.server, how).add("a")
    stopped = began = None
    async with asyncio.timeout(10 * TERMS.duration):
        while began is None:
            assert not (a.lease.leads and b.lease.leads)
            assert not (a.active and b.active)
            now = asyncio.get_running_loop().time()
            stopped = stopped or (None if a.lease.leads else now)
            began = now if b.lease.leads else None
            await asyncio.sleep(0.01)
    # deadline and duration count from one renewal or the next
    assert began - stopped > (TERMS.duration - TERMS.deadline) / 2
    getattr(candidates.server, how).clear()
    await asyncio.sleep(TERMS.duration)
    assert b.active
    assert not a.active


@pytest.mark.parametrize("other", ["nobody", "leads", "leads-and-deletes-the-lease"])
async def test_the_term_is_the_same_only_while_nobody_else_led(candidates, other):
    """So a holder knows whether its memory is still the truth."""
    server, a = candidates.server, candidates("a")
    await until(lambda: a.active)
    term = a.lease.term
    server.cut.add("a")
    await until(lambda: not a.active)
    if other != "nobody":
        b = candidates("b")
        await until(lambda: b.active)
        await b.end()
    if other == "leads-and-deletes-the-lease":
        server.remove(LEASES, "operator", "ns")
    await asyncio.sleep(1)
    server.cut.clear()
    await until(lambda: a.active)
    assert (a.lease.term == term) is (other == "nobody")


async def test_one_request_that_is_lost_does_not_cost_the_lease(candidates):
    a = candidates("a")
    await until(lambda: a.active)
    candidates.server.lost = 1
    await until(lambda: a.reports[-1])
    renewal = candidates.server.lease["spec"]["renewTime"]
    await until(lambda: candidates.server.lease["spec"]["renewTime"] != renewal)
    assert a.active
    assert candidates.server.lease["spec"]["leaseTransitions"] == 0
    assert a.task_begun == 1, "its work was never stopped"


async def test_a_time_out_is_reported_as_one(candidates):
    a = candidates("a")
    await until(lambda: a.active)
    candidates.server.mute.add("a")
    await until(lambda: not a.active)
    await until(lambda: sum(map(bool, a.reports)) > 2)
    own, terms = "no answer within 5 s", "no answer before the 10 s since the last renewal were over"
    assert [report.partition("kube-apiserver: ")[2] for report in a.reports if report][:3] == [
        own,
        terms,
        own,
    ]


@pytest.mark.parametrize(
    ("intervals", "duration"),
    [
        pytest.param([], 3, id="first"),
        pytest.param([0.5, 0.6, 0.5], 3, id="quick"),
        pytest.param([0.5, 2.0, 0.5], 6, id="one-late"),
        pytest.param([0.5, 30.0, 0.5], 15, id="no-longer-than-kubernetes"),
        pytest.param([2.0, *[0.5] * RENEWALS], 3, id="forgotten"),
    ],
)
def test_a_lease_lasts_as_long_as_renewals_take(intervals, duration):
    pace, at = Pace(Terms(duration=3.0, deadline=2.0, retry=0.5, longest=15.0)), 100.0
    pace.writing(at, 0.0)
    pace.renewed(at)
    for interval in intervals:
        at += interval
        pace.writing(at, None)
        pace.renewed(at)
    assert pace.duration == duration


def test_a_renewal_that_failed_is_a_late_one():
    pace = Pace(Terms(duration=3.0, deadline=2.0, retry=0.5, longest=15.0))
    pace.writing(0.0, 0.0)
    pace.renewed(0.0)
    for at in (1.0, 2.0, 4.0):
        pace.writing(at, None)
    assert pace.duration == 12


def test_the_next_holder_begins_with_what_the_last_one_needed():
    pace = Pace(Terms(duration=3.0, deadline=2.0, retry=0.5, longest=15.0))
    pace.writing(0.0, 9.0)
    assert pace.duration == 9


def test_an_operator_always_asks_for_as_much():
    pace = Pace(TERMS)
    pace.writing(0.0, 60.0)
    assert pace.duration == TERMS.duration == 15


async def test_a_client_that_takes_the_lease_by_force_is_obeyed(candidates):
    a = candidates("a")
    await until(lambda: a.active)
    stolen = {"holderIdentity": "z", "renewTime": "2026-01-01T00:00:00.000000Z"}
    candidates.server.change(LEASES, "operator", {"spec": stolen}, "ns")
    await until(lambda: not a.active)
    assert a.lease.holder == "z"
    await until(lambda: a.active)  # z never renews
    assert candidates.server.lease["spec"]["leaseTransitions"] == 1


async def test_a_request_under_way_ends_with_the_term(candidates):
    a = candidates("a")
    await until(lambda: a.active)
    candidates.server.cut.add("a")
    with pytest.raises(Deposed):
        await a.lease.guarded(asyncio.sleep(TERMS.duration))
    assert not a.lease.leads
    ran = []

    async def request():
        ran.append(1)

    with pytest.raises(Deposed):
        await a.lease.guarded(request())
    assert not ran


async def test_who_was_held_up_acts_no_more_before_it_has_renewed(candidates):
    a = candidates("a")
    await until(lambda: a.active)
    asyncio.get_running_loop().stand_still(TERMS.deadline)
    assert not a.lease.leads
    with pytest.raises(Deposed):
        await a.lease.guarded(asyncio.sleep(0))
    await until(lambda: a.lease.leads)


async def test_a_time_out_of_the_request_itself_is_its_own(candidates):
    a = candidates("a")
    await until(lambda: a.active)

    async def request():
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        await a.lease.guarded(request())


async def test_what_the_work_raises_ends_the_candidate_and_frees_the_lease():
    server = Server()

    async def lead():
        raise ValueError("broken")

    lease = Lease(server.seen_by("a"), Candidate("ns", "operator", "a"), terms=TERMS)
    with pytest.raises(ValueError, match="broken"):
        await lease.run(lead)
    assert server.lease["spec"]["holderIdentity"] == ""


async def test_each_candidate_reports_its_problem_and_its_end(candidates):
    a = candidates("a")
    await until(lambda: a.active)
    b = candidates("b")
    for one, network in ((a, "cut"), (b, "mute")):
        await until(lambda: one.reports[-1:] == [None])  # noqa: B023
        getattr(candidates.server, network).add(one.lease.own)
        await until(lambda: one.reports[-1])  # noqa: B023
        assert "lease operator not renewed: kube-apiserver" in one.reports[-1]
        getattr(candidates.server, network).clear()
        await until(lambda: one.reports[-1] is None)  # noqa: B023
