"""A table of nftables that is kept as it was written, whatever other programs do to it.

The kernel raises its generation with every transaction, so an unchanged table costs a request to verify. A fingerprint
is taken by the first check after a writing: listing a large table costs more than to write a small difference. Where
the kernel's notifications are followed, transactions that do not name the table, such as kube-proxy's, cost no listing.
"""

import time
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from galactic.linux.nftables import Present, Table, difference, rewrite

log = structlog.get_logger(__name__)
LISTED_SECONDS: Final = 600.0
"""The longest time between two listings while other programs' transactions follow each other."""


class Kernel(Protocol):
    """The part of ``galactic.linux.nftables.Nftables`` that is needed here."""

    async def apply(self, script: str) -> None: ...
    async def present(self, table: str) -> Present: ...
    async def fingerprint(self, table: Table) -> str: ...
    def generation(self) -> int: ...
    @property
    def followed(self) -> bool: ...


class CountingKernel(Kernel, Protocol):
    """With the sets that count packets by device."""

    async def counted(self, table: str, name: str) -> dict[str, int]: ...


class KeptTable:
    """One table. ``repaired`` is called when another program's change is put back. Methods raise Unreachable."""

    def __init__(
        self,
        kernel: Kernel,
        name: str,
        repaired: Callable[[], None] = lambda: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kernel, self._repaired, self._now = kernel, repaired, now
        self.name: Final = name
        self.written: Table | None = None
        """As the kernel has it; None: not known."""
        self._generation: int | None = None
        self._fingerprint = ""
        self._named = False  # by a transaction, since the table was verified
        self._listed = 0.0

    def named(self) -> None:
        """The kernel has notified of a transaction that names the table, or has lost notifications."""
        self._named = True

    def forget(self) -> None:
        """The kernel may have anything: the next writing replaces the whole table."""
        self.written = None

    def assume(self, table: Table) -> None:
        """The kernel has the table already."""
        self.written = table

    async def write(self, after: Table) -> None:
        """The kernel has the table afterwards."""
        if self.written is None:
            await self._apply(rewrite(await self._kernel.present(self.name), after), after)
        elif after != self.written:
            await self._apply(difference(self.written, after), after)

    async def verify(self, *, thorough: bool = True) -> None:
        """Writes the table again where another program's transaction may have changed it. ``thorough``: takes the
        fingerprint as well, where there is none yet.
        """
        table = self.written
        if table is None or not table.chains:
            return
        generation = self._kernel.generation()
        if generation == self._generation and (self._fingerprint or not thorough):
            self._named = False
            return
        now, aware = self._now(), self._kernel.followed and not self._named
        if aware and self._fingerprint and now < self._listed + LISTED_SECONDS:
            return
        self._named, self._listed = False, now
        found = await self._kernel.fingerprint(table)
        if generation == self._generation or found == self._fingerprint:
            self._fingerprint, self._generation = found, generation
            return
        if (
            self._fingerprint
        ):  # else another table's transaction is as likely, and to write again does no harm
            log.warning("rules changed by another program are put back", table=self.name)
            self._repaired()
        await self._apply(rewrite(await self._kernel.present(self.name), table), table)

    async def _apply(self, script: str, after: Table) -> None:
        await self._kernel.apply(script)
        self.written, self._generation, self._fingerprint = after, self._kernel.generation(), ""
