"""The election among routers without Kubernetes: an advisory lock of the database, held by a connection.

PostgreSQL gives it to one session at a time and takes it back when that session ends. A holder that is frozen, or whose
cable is cut, is not there to end it: so the holder speaks every second, and the server is told, by
``idle_session_timeout`` and keepalives, to end a session that has not for 4 s. The holder itself gives up after 3 s
without an answer, so that it does so first.
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
_MINE: Final = """
    SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted)
    """


class AdvisoryLock:
    """One candidate."""

    def __init__(self, url: str, key: int = KEY) -> None:
        self._url, self._key = url, key

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Waits for the lock, calls ``lead``, cancels it when the lock may be lost.

        Raises Unreachable when the database is away or the connection breaks, and what ``lead`` raises.
        """
        async with session(
            self._url, ANSWER_SECONDS, options=_OPTIONS, application_name="galactic-router lock"
        ) as it:
            while not await it.do(self._attempt(it.connection)):  # noqa: ASYNC110 - another process has it
                await asyncio.sleep(BEAT_SECONDS)
            work = asyncio.ensure_future(lead())
            try:
                while not work.done():
                    await asyncio.wait({work}, timeout=BEAT_SECONDS)
                    if not await it.do(self._mine(it.connection)):
                        raise Unreachable("postgres", "the lock is not ours any more")
            finally:
                work.cancel()
                await asyncio.wait({work})
            work.result()

    async def _attempt(self, connection: Connection) -> bool:
        return bool(await _value(connection, "SELECT pg_try_advisory_lock(%s)", self._key))

    async def _mine(self, connection: Connection) -> bool:
        return bool(await _value(connection, _MINE))


async def _value(connection: Connection, query: str, *parameters: Any) -> Any:
    found = await connection.execute(query.encode(), parameters or None)
    row = await found.fetchone()
    assert row is not None
    return row[0]
