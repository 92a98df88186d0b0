"""Parts of a hash's range for the exits that answer, such that no packet of theirs goes to another one.

The range has one part an exit, in an order that does not change. The part of one that is away goes to its neighbours,
half to either; at an end of the range, all of it to the one neighbour. So a connection through an exit that stays never
moves, whichever others come and go. With equal weights the kernel would shift the borders of all.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import TypeVar

T = TypeVar("T")


def shares(exits: Sequence[T], away: AbstractSet[T]) -> list[tuple[T, int]]:
    """Each exit that answers with its weight, in their order. Where none answers, all count as answering."""
    present = [index for index, one in enumerate(exits) if one not in away]
    if not present:
        present = list(range(len(exits)))
    weights = dict.fromkeys(present, 2)
    for index in range(len(exits)):
        if index in weights:
            continue
        left = max((other for other in present if other < index), default=None)
        right = min((other for other in present if other > index), default=None)
        before, after = (left if left is not None else -1) + 1, right if right is not None else len(exits)
        width = after - before  # exits that are away between the two
        if left is None or right is None:
            weights[right if left is None else left] += 2  # type: ignore[index]
        else:
            # Of 2 * width halves the left neighbour gets the first ``width``, the right one the rest.
            for half in (2 * (index - before), 2 * (index - before) + 1):
                weights[left if half < width else right] += 1
    return [(exits[index], weights[index]) for index in present]
