"""Identifiers and their holders: VPCs among all live ones, attachments among their VPC's live ones.

One process assigns identifiers, from memory that has every live object before the first assignment
(``galactic.operator.reconcile``). Nothing else runs between a check and its claim. There is no other concurrency
control than that, and the resource version of each status write.
"""

import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator
from hashlib import blake2b
from math import gcd
from typing import Final, Generic, TypeVar

from galactic.errors import NotYet, Rejected
from galactic.names import FUNCTION_MAX, VPC_MAX
from galactic.validation.holders import named, remedy

H = TypeVar("H")
RESTING: Final = 1024
"""Released identifiers that are not assigned again while others are free."""


class Identifiers(Generic[H]):
    """Numbers from 1 to ``limit - 1`` and their holders. 0 and ``limit`` (all-ones) are never assigned.

    ``candidates`` yields, for a holder's seed, the numbers in the order to try.
    """

    def __init__(self, limit: int, candidates: Callable[[str], Iterator[int]], noun: str) -> None:
        self._limit, self._candidates, self._noun = limit, candidates, noun
        self._holders: dict[int, H] = {}
        self._numbers: dict[H, int] = {}
        self._resting: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._holders)

    def of(self, holder: H) -> int | None:
        """The holder's number."""
        return self._numbers.get(holder)

    def holder(self, number: int) -> H | None:
        return self._holders.get(number)

    def claim(self, holder: H, number: int) -> bool:
        """The holder gets that number in place of its present one; False if another holds it."""
        if not 0 < number < self._limit:
            raise ValueError(f"{number:#x} is reserved or too large for a {self._noun}")
        present = self._holders.get(number)
        if present is not None:
            return present == holder
        self.release(holder)
        self._holders[number] = holder
        self._numbers[holder] = number
        self._resting.pop(number, None)
        return True

    def allocate(self, holder: H, seed: str) -> int:
        """The holder's number: its present one, or a free one. Raises NotYet when none is left."""
        number = self._numbers.get(holder)
        if number is not None:
            return number
        if len(self._holders) >= self._limit - 1:
            raise NotYet(
                f"all {self._limit - 1} {self._noun}s are in use; delete some", reason="IdentifiersExhausted"
            )
        spare = len(self._holders) + len(self._resting) < self._limit - 1
        for number in self._candidates(seed):
            if number not in self._holders and not (spare and number in self._resting):
                self.claim(holder, number)
                return number
        raise AssertionError("the candidates are all numbers there are")

    def release(self, holder: H) -> int | None:
        """Releases the holder's number, which then rests before it is assigned again."""
        number = self._numbers.pop(holder, None)
        if number is not None:
            del self._holders[number]
            self._resting[number] = None
            if len(self._resting) > RESTING:
                self._resting.popitem(last=False)
        return number


def vpc_identifiers() -> Identifiers[tuple[str, str]]:
    """For VPCs: random, so that VPCs differ in clusters that share a network later."""

    def candidates(_seed: str) -> Iterator[int]:
        while True:
            yield 1 + secrets.randbelow(VPC_MAX - 1)

    return Identifiers(VPC_MAX, candidates, "VPC identifier")


def functions() -> Identifiers[tuple[str, str]]:
    """For the attachments of one VPC: numbers in an order that follows from the seed, the object's UID.

    A successor of the same name has another UID, and so another number, also after a restart. Double hashing keeps the
    order free of clusters: in a VPC half full the second candidate is as likely to be free as the first.
    """

    def candidates(seed: str) -> Iterator[int]:
        span = FUNCTION_MAX - 1
        digest = blake2b(seed.encode(), digest_size=16).digest()
        start, stride = int.from_bytes(digest[:8], "big") % span, int.from_bytes(digest[8:], "big") % span
        while gcd(stride, span) != 1:  # only then the sequence contains every number
            stride += 1
        for step in range(span):
            yield 1 + (start + step * stride) % span

    return Identifiers(FUNCTION_MAX, candidates, "attachment identifier")


def identifier_taken(identifier: str, holder: tuple[str, str], asker: str) -> Rejected:
    """The refusal of an identifier that another VPC has. ``asker``: the namespace of the VPC that requests it."""
    return Rejected(
        f"{identifier} is the identifier of {named('VPC', holder, asker)}; {remedy(holder, asker)}",
        reason="IdentifierTaken",
        field="spec.identifier",
    )
