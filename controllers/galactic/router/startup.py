"""The first view: until it is complete nothing is published, as what was not read yet must not be withdrawn.

It is complete when the API server's lists are in (in Kubernetes), the broker has sent all that it retains, and the
tables in force are installed. Then every change of the store is committed at once.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import structlog

from galactic.errors import GalacticError
from galactic.launch import Health
from galactic.messages import Route
from galactic.router.commits import Commits
from galactic.router.kubernetes.reflectors import Reflectors
from galactic.router.leader.installation import Installation
from galactic.router.leader.leadership import Leadership
from galactic.router.rib.networks import Network

if TYPE_CHECKING:
    from galactic.router.database.history_writer import HistoryWriter

log = structlog.get_logger(__name__)
RESTORE_SECONDS: Final = 30.0
"""How long a router that finds an empty broker waits for the database before it starts from nothing."""
Tables = Mapping[int, Mapping[Network, Route]]


class Startup:
    """Of one router. ``source``: where its tables are recorded besides the broker, if anywhere."""

    def __init__(
        self,
        commits: Commits,
        installation: Installation,
        leadership: Leadership,
        source: "Reflectors | HistoryWriter | None",
        health: Health,
    ) -> None:
        self._commits, self._installation, self._leadership = commits, installation, leadership
        self._source, self._health = source, health
        health.set("view", "waiting for the broker's retained messages and the API server's lists")

    async def complete(self) -> None:
        """Returns when the first view is complete."""
        history = None
        if isinstance(self._source, Reflectors):
            await self._source.synced()
        else:
            history = self._source
        retained = await self._leadership.first_read()
        tables: Tables = {vpc: table.routes() for vpc, table in retained.tables.items()}
        if history and not tables and not retained.leader:
            tables = await self._restored(history)
        await self._installation.install(tables)
        await (
            self._commits.checked()
        )  # not before: a prefix belongs to the node that has it in the tables in force
        self._health.set("view", None)

    async def _restored(self, history: "HistoryWriter") -> Tables:
        """An empty broker has no tables: the database has, and registrations of nodes that have not sent theirs yet."""
        self._health.set("view", "the broker is empty; waiting for the database")
        try:
            recorded = await history.recorded_state(RESTORE_SECONDS)
        except GalacticError as error:
            log.warning(
                "starting without tables: the broker is empty, the database unreachable", error=str(error)
            )
            return {}
        from galactic.router.database.restore import restore  # noqa: PLC0415 - psycopg again

        restore(self._commits.store.nodes, recorded)
        self._leadership.term_known(recorded.term)
        log.info("restored from the database", nodes=len(recorded.endpoints), vpcs=len(recorded.routes))
        return recorded.routes
