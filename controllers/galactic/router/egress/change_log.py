"""The changes that the leader published since it packed the table, as a standby receives them."""

from collections.abc import Mapping
from typing import Final

from galactic.messages import Changes, Head
from galactic.names import parse_vpc
from galactic.router.egress.retained import decoded

CHANGES_MAX: Final = 4096
"""Changes of one VPC that are kept until its table is packed."""


class ChangeLog:
    """By VPC. The retained table and these changes are what its subscribers have if the leader dies now."""

    def __init__(self) -> None:
        self._vpcs: dict[int, dict[int, Changes]] = {}

    def add(self, parts: tuple[str, ...], payload: bytes) -> None:
        """One message below ``vpcs/``: a change, or a head, which ends those up to its revision. Raises Rejected."""
        vpc = parse_vpc(parts[1])
        match parts[2:]:
            case ("changes",):
                change = decoded(Changes, payload)
                changes = self._vpcs.setdefault(vpc, {})
                changes[change.previous] = change
                if len(changes) > CHANGES_MAX:
                    del changes[next(iter(changes))]
            case ("head",):
                packed = decoded(Head, payload).revision if payload else None
                changes = {
                    previous: change
                    for previous, change in self._vpcs.pop(vpc, {}).items()
                    if packed is not None and change.revision > packed
                }
                if changes:
                    self._vpcs[vpc] = changes

    def since(self, vpc: int) -> Mapping[int, Changes]:
        """The changes of a VPC, by the revision that each continues."""
        return self._vpcs.get(vpc, {})
