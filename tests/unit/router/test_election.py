"""Elections: by a Lease that its holder no longer renews, or by a lock; no result while the server is away."""

import asyncio
import heapq
from contextlib import asynccontextmanager
from itertools import count

import pytest

from galactic.errors import Unreachable
from galactic.kube.memory import MemoryApi
from galactic.kube.resources import LEASES, NAMESPACES
from galactic.messages import Leader, encode
from galactic.router.egress.retained import Retained
from galactic.router.leader.election import (
    BROKER_SECONDS,
    OFFER_AFTER_SECONDS,
    OFFER_AGAIN_SECONDS,
    OFFER_SECONDS,
    TERMS,
    Alone,
    LeaseElection,
    LockElection,
)
from galactic.router.leader.leadership import CONTESTED_SECONDS, Leadership

LOOK = 1.2 * TERMS.retry
"""The longest pause between two looks."""


class Server(MemoryApi):
    """Requests of clients in ``cut`` fail, and all while it is ``down``. Each takes ``seconds``."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False
        self.cut: set[str] = set()
        self.seconds = 0.0

    @property
    def lease(self) -> dict:
        (lease,) = self.all(LEASES)
        return lease

    @property
    def writes(self) -> int:
        return sum(verb in ("create", "replace") for verb, *_ in self.requests)

    def seen_by(self, own: str) -> "View":
        return View(self, own)


class View:
    def __init__(self, server: Server, own: str) -> None:
        self.server, self.own = server, own

    async def find(self, *arguments: object) -> dict | None:
        await self._way()
        return await self.server.find(*arguments)

    async def list(self, *arguments: object, **options: object) -> tuple:
        await self._way()
        return await self.server.list(*arguments, **options)

    async def create(self, *arguments: object) -> dict:
        await self._way()
        return await self.server.create(*arguments)

    async def replace(self, *arguments: object) -> dict:
        await self._way()
        return await self.server.replace(*arguments)

    async def _way(self) -> None:
        await asyncio.sleep(self.server.seconds)
        if self.server.down or self.own in self.server.cut:
            raise Unreachable("kube-apiserver", "away")


class Time:
    """A clock that the test advances, with ``asyncio.sleep`` by it: a slow machine misses no timer."""

    def __init__(self, turn) -> None:
        self.now, self._turn = 1000.0, turn
        self._numbers, self._sleepers = count(), []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        if not seconds:
            await self._turn(0)
            return
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._numbers), woken))
        await woken

    async def passes(self, seconds: float) -> None:
        """Advances the clock, and runs all timers within that time in order."""
        until = self.now + seconds
        await self._settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            self.now, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                woken.set_result(None)
            await self._settle()
        self.now = until

    async def _settle(self) -> None:
        for _ in range(20):
            await self._turn(0)


@pytest.fixture
def time(monkeypatch) -> Time:
    found, timeout = Time(asyncio.sleep), asyncio.timeout
    monkeypatch.setattr(asyncio, "sleep", found.sleep)
    monkeypatch.setattr(asyncio, "timeout", lambda _: timeout(None))  # all answers are immediate
    return found


@asynccontextmanager
async def candidate(election):
    """Yields the election's results so far, and the task, which ends it when cancelled."""
    leading: list[bool] = []
    task = asyncio.create_task(election.run(leading.append))
    try:
        yield leading, task
    finally:
        task.cancel()
        await asyncio.wait({task})


def by_lease(server: Server, own: str, time: Time) -> LeaseElection:
    return LeaseElection(server.seen_by(own), own, namespace="ns", terms=TERMS, clock=time)


def test_a_dead_leader_is_followed_within_five_seconds() -> None:
    assert LOOK + TERMS.duration + LOOK <= 4.5, "and half a second to claim and to read what is retained"
    assert TERMS.duration == int(TERMS.duration), "leaseDurationSeconds is an integer"


async def test_one_is_chosen_and_the_next_when_it_dies(time) -> None:
    server = Server()
    async with candidate(by_lease(server, "a", time)) as (a, _):
        await time.passes(LOOK)
        assert a
        async with candidate(by_lease(server, "b", time)) as (b, _):
            await time.passes(4 * LOOK)
            assert all(a)
            assert len(b) > 3
            assert not any(b)
            server.cut.add("a")  # dead, as far as the API server can see
            leading = len(a)
            await time.passes(TERMS.duration - LOOK)
            assert not any(b), "too early: it may have renewed just before"
            await time.passes(3 * LOOK)
            assert b[-1]
            assert len(a) == leading, "one without an answer gets no result"
            server.cut.clear()
            await time.passes(LOOK)
            assert not a[-1]


async def test_an_api_server_that_was_away_changes_no_leader(time) -> None:
    server = Server()
    async with candidate(by_lease(server, "a", time)) as (a, _):
        await time.passes(LOOK)
        async with candidate(by_lease(server, "b", time)) as (b, _):
            await time.passes(2 * LOOK)
            server.down = True
            await time.passes(1.5 * TERMS.duration)
            server.cut.add("a")
            server.down = False
            leading, writes = len(b), server.writes
            await time.passes(LOOK)
            assert len(b) > leading, "the other is the first to look"
            server.cut.clear()
            await time.passes(8 * LOOK)
            assert server.writes > writes + 5
            assert all(a)
            assert not any(b)


async def test_a_slow_api_server_does_not_take_the_lease_from_one_to_the_other() -> None:
    """Every answer takes as long as the lease lasts where all is well."""
    server, clock = Server(), asyncio.get_running_loop().time
    async with candidate(LeaseElection(server.seen_by("a"), "a", namespace="ns", clock=clock)) as (a, _):
        await asyncio.sleep(LOOK)
        async with candidate(LeaseElection(server.seen_by("b"), "b", namespace="ns", clock=clock)) as (b, _):
            await asyncio.sleep(LOOK)
            server.seconds = TERMS.duration
            await asyncio.sleep(600.0)
            assert len(a) > 40
            assert all(a)
            assert not any(b)
            assert server.lease["spec"]["leaseTransitions"] == 0
            server.seconds = 0.0
            await asyncio.sleep(60.0)
            assert server.lease["spec"]["leaseDurationSeconds"] == TERMS.duration, "quick again"
            assert all(a)


async def test_one_that_ends_leaves_the_lease_to_the_next(time) -> None:
    server = Server()
    async with candidate(by_lease(server, "a", time)) as (a, task):
        await time.passes(LOOK)
        assert a
        task.cancel()
        await asyncio.wait({task})
        assert server.lease["spec"]["holderIdentity"] == ""
        async with candidate(by_lease(server, "b", time)) as (b, _):
            await time.passes(LOOK)
            assert b
            assert all(b)


async def test_one_that_could_not_lead_leaves_the_lease_to_the_next(time) -> None:
    """A router without a broker records nothing: another one shall, or the operator."""
    server, connected = Server(), {"a": True, "b": False}
    server.put(NAMESPACES, {"metadata": {"name": "kube-system"}})
    elections = {name: by_lease(server, name, time) for name in connected}
    for name, election in elections.items():
        election.connected = lambda name=name: connected[name]
    async with candidate(elections["a"]) as (first, _):
        await time.passes(LOOK)
        assert first[-1] is True
        assert elections["a"].owner == server.stored(NAMESPACES, "kube-system")["metadata"]["uid"]
        async with candidate(elections["b"]) as (second, _):
            connected["a"] = False
            await time.passes(BROKER_SECONDS - LOOK)
            assert server.lease["spec"]["holderIdentity"] == "a", "a broker may be away for a moment"
            await time.passes(3 * LOOK)
            assert server.lease["spec"]["holderIdentity"] == ""
            assert not any(second)
            writes = server.writes
            await time.passes(60)
            assert server.writes == writes, "nobody asks for it"
            connected["b"] = True
            await time.passes(2 * LOOK)
            assert server.lease["spec"]["holderIdentity"] == "b"
            assert second[-1] is True
            connected["a"] = True
            await time.passes(2 * LOOK)
            assert first[-1] is False


def first_leads(time):
    """Two routers with the broker, of which "a" leads; and which of them have it, to be changed."""
    server, connected = Server(), {"a": True, "b": True}
    elections = {name: by_lease(server, name, time) for name in connected}
    for name, election in elections.items():
        election.connected = lambda name=name: connected[name]
        election.leads = lambda name=name: name == "a"
    return server, elections, connected


async def test_a_leader_that_alone_lost_the_broker_hands_over(time) -> None:
    """It knows nothing of the others' brokers: so it offers the Lease, and one with a broker takes it."""
    server, elections, connected = first_leads(time)
    async with candidate(elections["a"]) as (first, _):
        await time.passes(LOOK)
        async with candidate(elections["b"]) as (second, _):
            connected["a"] = False
            await time.passes(OFFER_AFTER_SECONDS - LOOK)
            assert server.lease["spec"]["holderIdentity"] == "a", "the broker may be away for all"
            assert not any(second)
            await time.passes(LOOK + OFFER_SECONDS)
            assert server.lease["spec"]["holderIdentity"] == "b"
            assert second[-1] is True
            await time.passes(OFFER_SECONDS + LOOK)
            assert first[-1] is False


async def test_a_leader_goes_on_while_no_router_has_the_broker(time) -> None:
    """It records endpoints; each offer costs two writes, and no other replica is chosen."""
    server, elections, connected = first_leads(time)
    async with candidate(elections["a"]) as (first, _):
        await time.passes(LOOK)
        async with candidate(elections["b"]) as (second, _):
            connected |= {"a": False, "b": False}
            offered = False
            for _ in range(int(3 * OFFER_AGAIN_SECONDS / LOOK)):
                await time.passes(LOOK)
                offered |= server.lease["spec"]["holderIdentity"] == ""
            assert offered
            assert server.lease["spec"]["holderIdentity"] == "a"
            assert all(first), "nothing changes for the leader"
            assert not any(second)
            connected["b"] = True
            await time.passes(OFFER_AGAIN_SECONDS + 2 * LOOK)
            assert server.lease["spec"]["holderIdentity"] == "b"
            assert first[-1] is False


class Lock:
    """A lock in a database that can go away, as seen by one of its clients."""

    def __init__(self, free: asyncio.Lock) -> None:
        self.free, self.broken = free, asyncio.Event()

    async def run(self, lead) -> None:
        if self.broken.is_set():
            raise Unreachable("postgres", "away")
        async with self.free:
            work, lost = asyncio.create_task(lead()), asyncio.create_task(self.broken.wait())
            try:
                await asyncio.wait({work, lost}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                work.cancel()
                lost.cancel()
                await asyncio.wait({work, lost})
        raise Unreachable("postgres", "the connection broke")


async def test_a_lock_chooses_one_and_its_loss_is_not_reported(until) -> None:
    free = asyncio.Lock()
    first, second = Lock(free), Lock(free)
    one, other = LockElection(first, retry=0.01), LockElection(second, retry=0.01)
    async with candidate(one) as (a, _):
        await until(lambda: a == [True])
        async with candidate(other) as (b, _):
            await asyncio.sleep(0.05)
            assert b == []
            first.broken.set()
            await until(lambda: b == [True])
            assert a == [True]
            one.deposed()  # as the broker's retained claim shows
            first.broken.clear()
            await asyncio.sleep(0.05)
            assert a == [True]
            second.broken.set()
            await until(lambda: a == [True, True])


async def test_a_lock_is_given_back_when_another_claim_is_retained(until) -> None:
    lock = Lock(asyncio.Lock())
    election = LockElection(lock, retry=0.01)
    async with candidate(election) as (leading, _):
        await until(lambda: leading == [True])
        election.deposed()
        await until(lambda: leading == [True, True])


async def test_what_is_no_fault_of_the_database_ends_the_router(until) -> None:
    class Broken:
        async def run(self, _lead) -> None:
            raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        await LockElection(Broken()).run(lambda _: None)


async def test_alone_is_chosen_at_once(until) -> None:
    async with candidate(Alone()) as (leading, _):
        await until(lambda: leading == [True])


@pytest.mark.parametrize(
    ("shortest", "longest"),
    [pytest.param(TERMS.retry, LOOK, id="lease"), pytest.param(0.01, 0.12, id="lock")],
)
async def test_no_two_pauses_are_alike(monkeypatch, shortest: float, longest: float) -> None:
    """Candidates that began together would else ask together for ever."""
    pauses: list[float] = []
    turn = asyncio.sleep

    async def noted(seconds: float) -> None:
        if seconds:
            pauses.append(seconds)
        await turn(0)

    monkeypatch.setattr(asyncio, "sleep", noted)
    away = Lock(asyncio.Lock())
    away.broken.set()
    lease = shortest == TERMS.retry
    async with candidate(by_lease(Server(), "a", lambda: 0.0) if lease else LockElection(away, retry=0.02)):
        while len(pauses) < 50:
            await turn(0)
    assert shortest <= min(pauses) < max(pauses) <= longest
    assert len({*pauses}) == len(pauses)
    assert max(pauses) - min(pauses) > (longest - shortest) / 2


class Contested:
    """An election that always chooses this router, and a broker where another's claim is always higher."""

    owner = ""
    open = close = begin = end = lambda *_: None

    def __init__(self, turn) -> None:
        self.turn, self.published = turn, []

    async def run(self, chosen) -> None:
        while True:
            chosen(True)
            await self.turn(0)

    def deposed(self) -> None:
        """The next answer is again that it is chosen."""

    async def publish(self, leader: Leader) -> None:
        self.published.append(leader)

    async def leave(self, replica: str) -> None: ...

    def read(self, then) -> None:
        then(Retained(leader=self.published[-1]))

    @asynccontextmanager
    async def adopted(self, _):
        yield

    async def lead(self) -> None:
        self.leadership._leader_arrived(encode(Leader("another", self.published[-1].term + 1)))
        await asyncio.Event().wait()


async def test_a_router_that_is_outdone_each_time_claims_less_and_less_often(monkeypatch) -> None:
    """Two routers, each elected by an election of its own, depose each other ever more slowly."""
    pauses: list[float] = []
    turn = asyncio.sleep

    async def noted(seconds: float) -> None:
        pauses.append(seconds)
        await turn(0)

    monkeypatch.setattr(asyncio, "sleep", noted)
    contested = Contested(turn)
    leadership = contested.leadership = Leadership("a", contested, contested, contested, contested)
    running = asyncio.create_task(leadership.run())
    while len(pauses) < 11:
        await turn(0)
    running.cancel()
    await asyncio.wait({running})
    shortest, longest = CONTESTED_SECONDS
    for number, pause in enumerate(pauses[:11]):
        expected = min(shortest * 2**number, longest)
        assert 0.5 * expected <= pause <= 1.5 * expected
        assert pause != expected
    terms = [leader.term for leader in contested.published]
    assert terms == sorted({*terms}), "each above all that were heard"
