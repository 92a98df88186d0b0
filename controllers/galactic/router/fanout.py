"""Publishes what the ledgers say, confirmed, for as long as it takes.

Per VPC one task tells changes, one after the other, and one packs the retained table; both end when there is nothing
left. While a publish is under way everything that becomes due for that VPC waits in the ledger, where newer
replaces older, and goes out as one message next: that is the debounce, the back-pressure and the bound on memory in
one, and an idle VPC is told its first change without any delay.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Final

import structlog

from galactic.bus import Bus
from galactic.diff import Diff
from galactic.errors import Rejected, Unreachable
from galactic.messages import Changes, Head, M, Message, Route, Shard, Topics, decode, encode
from galactic.names import parse_vpc, vpc_hex
from galactic.router.ledger import Ledger, Pack
from galactic.router.metrics import RouterMetrics
from galactic.router.networks import Network
from galactic.router.retained import Retained, Told, shard_number

log = structlog.get_logger(__name__)
PACK_SECONDS: Final = 0.5
"""From a change to its retained shards: design says within a second."""
URGENT: Final = 64
"""Changes under way at once, one a VPC."""
BULK: Final = 32
"""Shards under way at once. Separate from the changes, which never wait for them."""
BACKOFF_SECONDS: Final = (0.1, 5.0)
OWN: Final = 256
"""Publishes of one topic whose coming back is waited for."""


def milliseconds() -> int:
    """The wall clock in ms, as revisions and terms count."""
    return time.time_ns() // 1_000_000


class Fanout:
    """The ledgers of all VPCs. ``run`` publishes; the other methods only note what is due and never wait."""

    def __init__(
        self,
        bus: Bus,
        topics: Topics,
        metrics: RouterMetrics,
        *,
        now: Callable[[], int] = milliseconds,
        pack_seconds: float = PACK_SECONDS,
    ) -> None:
        self._bus, self._topics, self._metrics, self._now = bus, topics, metrics, now
        self._pack_seconds = pack_seconds
        self._ledgers: dict[int, Ledger] = {}
        self._since: dict[int, float] = {}
        self._telling: set[int] = set()
        self._packing: set[int] = set()
        self._stray: set[tuple[str, ...]] = set()
        self._wiping = False
        self._urgent, self._bulk = asyncio.Semaphore(URGENT), asyncio.Semaphore(BULK)
        self._up = asyncio.Event()
        self._open = asyncio.Event()
        self._own: dict[str, deque[int]] = {}  # what we published and did not hear yet, by topic
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Publishes for ever."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                self._wake_all()
                try:
                    await asyncio.Event().wait()
                finally:
                    self._tasks = None  # it takes no more: what is due from now on waits for the next leader
        finally:
            self._tasks, self._wiping = None, False
            self._telling.clear()
            self._packing.clear()

    def due(self, changes: Mapping[int, Diff[Network, Route]]) -> None:
        """These routes changed: to be told."""
        now = self._now()
        for vpc, changed in changes.items():
            self._ledgers.setdefault(vpc, Ledger(vpc)).put(changed, now)
            self._since.setdefault(vpc, time.perf_counter())
            self._wake(vpc)
        self._metrics.queued(len(self._since))

    def adopt(self, retained: Retained, told: Told) -> dict[int, dict[Network, Route]]:
        """Starts from what the broker retains and was told since, with nothing due. Returns the tables as told."""
        self._ledgers = {vpc: Ledger(vpc, found) for vpc, found in retained.tables.items()}
        self._since.clear()
        for vpc, ledger in self._ledgers.items():
            ledger.replay(told.since(vpc))
        self._stray |= retained.stray
        return {vpc: ledger.routes() for vpc, ledger in self._ledgers.items()}

    def compare(self, retained: Retained) -> None:
        """A broker came back: whatever it does not retain as it was told is published again."""
        for vpc in retained.tables.keys() | self._ledgers.keys():
            self._ledgers.setdefault(vpc, Ledger(vpc)).compare(retained.tables.get(vpc))
        self._stray |= retained.stray
        self._wake_all()

    def heard(self, parts: tuple[str, ...], payload: bytes) -> None:
        """A message below ``vpcs/``: ours comes back, or somebody else's, which is undone. Raises Rejected."""
        topic, mark = "/".join((self._topics.base, *parts)), hash(payload)
        own = self._own.get(topic)
        if own and mark in own:
            while own.popleft() != mark:
                pass
            return
        vpc = _vpc(parts[1])
        ledger = None if vpc is None else self._ledgers.get(vpc) or Ledger(vpc)
        if vpc is None or ledger is None or not self._foreign(ledger, parts[2:], payload):
            if payload:
                self._stray.add(parts)
                self._wake_all()
            raise Rejected(topic, reason="UnknownTopic")
        log.warning("somebody else wrote on a router's topic, putting it right", topic=topic)
        self._metrics.foreign()
        self._ledgers.setdefault(vpc, ledger)
        self._wake(vpc)

    @staticmethod
    def _foreign(ledger: Ledger, parts: tuple[str, ...], payload: bytes) -> bool:
        """Tells the ledger; what cannot be decoded counts as overwritten all the same. False: no such topic."""
        match parts:
            case ("changes",):
                ledger.strayed(_decoded(Changes, payload) or Changes(0, 0))
            case ("head",):
                head = _decoded(Head, payload)
                ledger.overwritten(None, head.revision if head else 0, cleared=not payload)
            case ("table", level) if shard_number(level) is not None:
                shard = _decoded(Shard, payload)
                ledger.overwritten(shard_number(level), shard.revision if shard else 0, cleared=not payload)
            case _:
                return False
        return True

    def connected(self, up: bool) -> None:
        """The broker came or went; waiting publishes are tried again at once when it came."""
        if up:
            self._up.set()
        else:
            self._up.clear()
            self._open.clear()

    def open(self, leads: bool) -> None:
        """Whether anything may be published: only after the broker was seen to know no newer leader."""
        (self._open.set if leads else self._open.clear)()

    def revision(self, vpc: int) -> int:
        """The revision at which subscribers of a VPC are told all that is due by now, or were; 0: nothing."""
        ledger = self._ledgers.get(vpc)
        return ledger.revision_due if ledger else 0

    def told(self, vpc: int) -> tuple[int, Mapping[Network, Route]]:
        """Revision and routes of a VPC as subscribers were told."""
        ledger = self._ledgers.get(vpc)
        return (ledger.revision, ledger.routes()) if ledger else (0, {})

    @property
    def vpcs(self) -> frozenset[int]:
        """Those that subscribers were told something of."""
        return frozenset(self._ledgers)

    @property
    def idle(self) -> bool:
        """Whether everything is told, packed and confirmed."""
        return not (
            self._telling or self._packing or self._stray or any(not it.idle for it in self._ledgers.values())
        )

    async def publish(self, topic: str, message: Message, *, retain: bool = False) -> None:
        """One message of any kind, until it is confirmed."""
        await self._confirmed(topic, encode(message), retain, self._urgent, gated=False)

    # -- tasks -------------------------------------------------------------------------------------------------------

    def _wake_all(self) -> None:
        for vpc in self._ledgers:
            self._wake(vpc)
        if self._tasks is not None and self._stray and not self._wiping:
            self._wiping = True
            self._tasks.create_task(self._wipe(), name="wipe")

    def _wake(self, vpc: int) -> None:
        if self._tasks is None or self._ledgers[vpc].idle:
            return
        ledger = self._ledgers[vpc]
        # Only what has something to do: one that finds nothing and wakes the other again would spin until that is done.
        for wanted, busy, work in (
            (ledger.untold, self._telling, self._tell),
            (not ledger.packed, self._packing, self._pack),
        ):
            if wanted and vpc not in busy:
                busy.add(vpc)
                self._tasks.create_task(self._work(busy, work, vpc), name=f"{work.__name__} {vpc_hex(vpc)}")

    async def _work(self, busy: set[int], work: Callable[[int], Awaitable[None]], vpc: int) -> None:
        try:
            await work(vpc)
        finally:
            busy.discard(vpc)
        if self._ledgers[vpc].idle and not self._ledgers[vpc].count:
            if vpc not in self._telling | self._packing:
                del self._ledgers[vpc]
        else:
            self._wake(vpc)

    async def _tell(self, vpc: int) -> None:
        ledger, topic = self._ledgers[vpc], self._topics.changes(vpc_hex(vpc))
        while messages := ledger.changes(self._now()):
            since = self._since.pop(vpc, None)
            for message in messages:
                await self._confirmed(topic, encode(message), False, self._urgent)
                self._metrics.told(ledger.vpc, message)
            if since is not None:
                self._metrics.converged(time.perf_counter() - since)
        self._since.pop(vpc, None)
        self._metrics.queued(len(self._since))

    async def _pack(self, vpc: int) -> None:
        ledger = self._ledgers[vpc]
        while not ledger.packed:
            # Where nothing is retained a node cannot take part at all, and what there is is small: at once.
            await asyncio.sleep(self._pack_seconds if ledger.retained else 0)
            if (pack := ledger.pack()) is not None:
                await self._publish_pack(vpc_hex(vpc), pack)
                ledger.confirmed(pack)
                self._metrics.packed(ledger.vpc, ledger.count, pack)

    async def _publish_pack(self, vpc: str, pack: Pack) -> None:
        """A head is published when all of its shards are there and withdrawn before any of them goes.

        What a joining node reads in between does not match the head's count and digest, and so is not believed.
        """
        shards = (
            self._confirmed(self._topics.table(vpc, number), encode(shard), True, self._bulk)
            for number, shard in pack.shards.items()
        )
        await _all(shards)
        head = encode(pack.head) if pack.head else b""
        await self._confirmed(self._topics.head(vpc), head, True, self._urgent)
        await _all(
            self._confirmed(self._topics.table(vpc, number), b"", True, self._bulk) for number in pack.clear
        )

    async def _wipe(self) -> None:
        while self._stray:
            parts = next(iter(self._stray))
            await self._confirmed("/".join((self._topics.base, *parts)), b"", True, self._bulk)
            self._stray.discard(parts)
        self._wiping = False

    async def _confirmed(
        self, topic: str, payload: bytes, retain: bool, window: asyncio.Semaphore, *, gated: bool = True
    ) -> None:
        """Publishes until confirmed. The order of what one task publishes is kept."""
        pause, longest = BACKOFF_SECONDS
        own, mark = self._own.setdefault(topic, deque(maxlen=OWN)), hash(payload)
        while True:
            started = time.perf_counter()
            try:
                if gated:
                    await self._open.wait()
                async with window:
                    if gated and not self._open.is_set():
                        continue
                    if not own or own[-1] != mark:
                        own.append(mark)
                    await self._bus.publish(topic, payload, retain=retain)
            except Unreachable as error:
                self._metrics.unconfirmed()
                log.debug("not confirmed, trying again", topic=topic, error=str(error))
                await self._pause(pause * random.uniform(0.5, 1.5))
                pause = min(pause * 2, longest)
            else:
                self._metrics.confirmed(time.perf_counter() - started)
                return

    async def _pause(self, seconds: float) -> None:
        """Backs off; while the broker is known to be away, until it is back."""
        if self._bus.connected:
            await asyncio.sleep(seconds)
        else:
            self._up.clear()
            await self._up.wait()


async def _all(work: Iterable[Coroutine[None, None, None]]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for one in work:
            tasks.create_task(one)


def _vpc(text: str) -> int | None:
    try:
        return parse_vpc(text)
    except Rejected:
        return None


def _decoded(kind: type[M], payload: bytes) -> M | None:
    if not payload:
        return None
    try:
        return decode(kind, payload)
    except Rejected:
        return None
