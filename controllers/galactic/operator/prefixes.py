"""The nodes' SRv6 prefixes, in an order in which overlapping and free ones are found without a look at all of them.

Two prefixes overlap if one contains the other: those that contain a prefix are found by their own address, one lookup a
length, and those inside it stand together in the order of addresses. Prefixes that were given back rest for a while.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Iterator
from ipaddress import IPv6Network
from typing import Final

from galactic.kube.api import Key
from galactic.srv6 import LONGEST_PREFIX, SHORTEST_PREFIX

LEAST_SECONDS: Final = 0.001
"""A timer may fire as much too early."""
Interval = tuple[int, int, Key]
"""First address, the one after the last, and the key whose prefix it is."""


class PrefixIndex:
    """One prefix a key, between SHORTEST_PREFIX and LONGEST_PREFIX long. Prefixes may overlap."""

    def __init__(self) -> None:
        self._prefixes: dict[Key, IPv6Network] = {}
        self._exact: defaultdict[tuple[int, int], set[Key]] = defaultdict(set)  # (address, length) → keys
        self._ordered: list[Interval] = []

    def __getitem__(self, key: Key) -> IPv6Network:
        return self._prefixes[key]

    def get(self, key: Key) -> IPv6Network | None:
        return self._prefixes.get(key)

    def set(self, key: Key, prefix: IPv6Network | None) -> None:
        """The key's prefix from now on; None: it has none."""
        if (before := self._prefixes.pop(key, None)) is not None:
            place = int(before.network_address), before.prefixlen
            self._exact[place].discard(key)
            if not self._exact[place]:
                del self._exact[place]
            del self._ordered[bisect_left(self._ordered, _interval(before, key))]
        if prefix is not None:
            self._prefixes[key] = prefix
            self._exact[int(prefix.network_address), prefix.prefixlen].add(key)
            insort(self._ordered, _interval(prefix, key))

    def overlapping(self, prefix: IPv6Network) -> Iterator[Key]:
        """The keys whose prefixes share an address with that one."""
        first, length = int(prefix.network_address), prefix.prefixlen
        yield from self._containing(first, length)
        last = first + prefix.num_addresses
        place = bisect_left(self._ordered, (first,))
        while place < len(self._ordered) and self._ordered[place][0] < last:
            key = self._ordered[place][2]
            if self._prefixes[key].prefixlen > length:
                yield key
            place += 1

    def free(self, pool: IPv6Network, length: int, cursor: int) -> IPv6Network | None:
        """The first prefix of that length in the pool, from the address ``cursor`` on and then from the pool's first,
        that overlaps none; None where there is none.
        """
        low, high = int(pool.network_address), int(pool.network_address) + pool.num_addresses
        cursor = cursor if low <= cursor < high else low
        for begin, end in ((cursor, high), (low, cursor)):
            if (found := self._gap(begin, end, 1 << (128 - length))) is not None:
                return IPv6Network((found, length))
        return None

    def _gap(self, begin: int, end: int, size: int) -> int | None:
        """The first address at a multiple of ``size`` with so many free addresses, before ``end``."""
        covered = [self._prefixes[key] for key in self._containing(begin, LONGEST_PREFIX)]
        position = max([begin, *(int(prefix.broadcast_address) + 1 for prefix in covered)])
        position += -position % size
        place = bisect_left(self._ordered, (begin,))
        while position < end:
            if place == len(self._ordered) or self._ordered[place][0] >= position + size:
                return position
            position = max(position, self._ordered[place][1])
            position += -position % size
            place += 1
        return None

    def _containing(self, address: int, longest: int) -> Iterator[Key]:
        """The keys whose prefixes contain the address, and are no longer than that."""
        for length in range(SHORTEST_PREFIX, longest + 1):
            shift = 128 - length
            yield from self._exact.get((address >> shift << shift, length), ())


class RestingPrefixes:
    """Prefixes of the pool that were given back, until they may be given again. ``clock`` in seconds.

    An operator that starts does not know them. But it gives prefixes in the order of addresses, round and round: a free
    one above the highest that was ever given was never given. Others may have been given back just now, so all of
    these rest from the operator's start.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds, self._clock = seconds, clock
        self._index = PrefixIndex()
        self._ends: dict[Key, float] = {}
        self._started = clock()

    def add(self, prefix: IPv6Network) -> None:
        """It is given back now."""
        key = "", str(prefix)
        self._index.set(key, prefix)
        self._ends[key] = self._clock() + self._seconds

    def free(
        self, taken: PrefixIndex, pool: IPv6Network, length: int, highest: IPv6Network | None, cursor: int
    ) -> IPv6Network | float | None:
        """A prefix that is neither taken nor rests, as ``PrefixIndex.free``; the seconds until one will have rested;
        None: all are taken. ``highest``: of all that were ever given.
        """
        now = self._clock()
        for key in [key for key, end in self._ends.items() if end <= now]:
            del self._ends[key]
            self._index.set(key, None)
        at, seconds, first = cursor, None, None
        while (prefix := taken.free(pool, length, at)) is not None and prefix != first:
            first = first or prefix
            waits = [self._ends[key] - now for key in self._index.overlapping(prefix)]
            if highest is not None and prefix <= highest:
                waits.append(self._started + self._seconds - now)
            wait = max(waits, default=0.0)
            if wait < LEAST_SECONDS:
                return prefix
            seconds = wait if seconds is None else min(seconds, wait)
            at = int(prefix.broadcast_address) + 1
        return seconds


def _interval(prefix: IPv6Network, key: Key) -> Interval:
    first = int(prefix.network_address)
    return first, first + prefix.num_addresses, key
