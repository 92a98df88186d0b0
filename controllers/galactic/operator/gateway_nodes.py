"""Which nodes lead a VPC out, and which of the gateway's addresses each holds. Pure.

A change moves as little as it can: connections through a node that stays, with an address that stays there, go on.
"""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b


def chosen(current: Sequence[str], eligible: Mapping[str, bool], replicas: int, seed: str) -> tuple[str, ...]:
    """The nodes. ``eligible``: the nodes that may be chosen, and whether each is healthy now. ``seed``: the gateway's
    UID.

    Present nodes stay while they are eligible. An unhealthy one stays only where no healthy node can take its place,
    which then is the same. Further nodes are healthy ones, in an order of the gateway's own, so that gateways are
    spread.
    """
    kept = [node for node in dict.fromkeys(current) if node in eligible][:replicas]
    spare = sorted(
        (node for node, healthy in eligible.items() if healthy and node not in kept),
        key=lambda node: blake2b(f"{seed} {node}".encode(), digest_size=8).digest(),
    )
    nodes = [spare.pop(0) if not eligible[node] and spare else node for node in kept]
    return tuple(nodes + spare[: replicas - len(nodes)])


def spread(
    addresses: Iterable[str], nodes: Sequence[str], current: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """Node → the addresses it holds, of one family. ``current``: address → the node that holds it.

    An address stays on its node, unless that node would have more than its part while another has none. Others go to
    the node with the fewest, the first of several.
    """
    held: dict[str, list[str]] = {node: [] for node in nodes}
    given = list(addresses)
    if not held or not given:
        return dict.fromkeys(nodes, ())
    most = -(-len(given) // len(held))
    homeless = []
    for address in given:
        holder = held.get(current.get(address, ""))
        if holder is not None and len(holder) < most:
            holder.append(address)
        else:
            homeless.append(address)
    for address in homeless:
        min(held.values(), key=len).append(address)
    for texts in held.values():
        if not texts and len(richest := max(held.values(), key=len)) > 1:
            texts.append(richest.pop())
    return {node: tuple(sorted(texts, key=given.index)) for node, texts in held.items()}
