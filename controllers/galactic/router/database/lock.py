"""The election among routers without Kubernetes: an advisory lock of the database, held by a connection.

PostgreSQL gives the lock to one session at a time and takes it back when that session ends. A holder that is frozen or
cut off cannot end it. So the holder sends a query every second, and ``idle_session_timeout`` and keepalives make the
server end a session that is silent for 4 s. The holder itself gives up after 3 s without an answer, which is earlier.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from galactic.errors import Unreachable
from galactic.router.database.session import Connection, session

KEY: Final = 0x67616C02
BEAT_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 2.0
IDLE_MS: Final = 4_000
_OPTIONS: Final = (
    f"-c idle_session_timeout={IDLE_MS} "
    "-c tcp_keepalives_idle=1 -c tcp_keepalives_interval=1 -c tcp_keepalives_count=3"
)
_OWNED: Final = """
    SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted)
    """


class AdvisoryLock:
    """One candidate."""

    def __init__(self, url: str, key: int = KEY) -> None:
        self._url, self._key = url, key

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Waits for the lock, calls ``lead``, cancels it when the lock may be lost.

        Raises Unreachable if the database is unreachable or the connection breaks, and whatever ``lead`` raises.
        """
        async with session(
            self._url, ANSWER_SECONDS, options=_OPTIONS, application_name="galactic-router lock"
        ) as database:
            while not await database.do(self._attempt(database.connection)):  # noqa: ASYNC110 - held by another process
                await asyncio.sleep(BEAT_SECONDS)
            work = asyncio.ensure_future(lead())
            try:
                while not work.done():
                    await asyncio.wait({work}, timeout=BEAT_SECONDS)
                    if not await database.do(self._owned(database.connection)):
                        raise Unreachable("postgres", "this router lost the lock")
            finally:
                work.cancel()
                await asyncio.wait({work})
            work.result()

    async def _attempt(self, connection: Connection) -> bool:
        return bool(await _value(connection, "SELECT pg_try_advisory_lock(%s)", self._key))

    async def _owned(self, connection: Connection) -> bool:
        return bool(await _value(connection, _OWNED))


async def _value(connection: Connection, query: str, *parameters: Any) -> Any:
    cursor = await connection.execute(query.encode(), parameters or None)
    row = await cursor.fetchone()
    assert row is not None
    return row[0]
