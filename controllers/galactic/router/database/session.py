"""One connection to PostgreSQL: psycopg's errors become Galactic's, and no request outlasts its time.

A stopped server (SIGSTOP, a frozen disk, a cut cable) answers nothing, not even the request to cancel a query. So a
request that takes too long ends by shutting down the socket: psycopg then fails at once.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from galactic.errors import Rejected, Unreachable

T = TypeVar("T")
Connection = psycopg.AsyncConnection[tuple[Any, ...]]
CONNECT_SECONDS: Final = 5
REQUEST_SECONDS: Final = 30.0
_KEEPALIVES: Final[dict[str, str | int]] = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "client_encoding": "utf8",
}


def parameters(url: str, **more: str | int) -> str:
    """The connection string for ``url``. Raises Rejected if it is no URL, without its text: it has a password."""
    try:
        given: dict[str, Any] = conninfo_to_dict(url)
    except psycopg.Error as error:
        raise Rejected(
            "not a connection URL; write postgresql://USER@HOST/NAME", field="database_url"
        ) from error
    merged: dict[str, Any] = {"application_name": "galactic", **_KEEPALIVES, **given, **more}
    return make_conninfo(**merged)


class Session:
    """An open connection. ``do`` is the only way to use it."""

    def __init__(self, connection: Connection, seconds: float) -> None:
        self._connection, self._seconds = connection, seconds

    @property
    def connection(self) -> Connection:
        return self._connection

    async def do(self, request: Coroutine[Any, Any, T], seconds: float | None = None) -> T:
        """The request's result. Raises Unreachable, also if it takes too long; Rejected if PostgreSQL refuses it."""
        work = asyncio.ensure_future(request)
        try:
            done, _ = await asyncio.wait({work}, timeout=self._seconds if seconds is None else seconds)
        except asyncio.CancelledError:
            await self._cut(work)
            raise
        if not done and await self._cut(work) is not None:
            raise Unreachable("postgres", "no answer in time")
        with translated():
            return work.result()

    async def _cut(self, work: asyncio.Future[Any]) -> BaseException | None:
        """Makes a running request fail. Returns its error, None if it ended just then."""
        with contextlib.suppress(OSError, psycopg.Error):
            cut = socket.socket(fileno=os.dup(self._connection.fileno()))
            try:
                cut.shutdown(socket.SHUT_RDWR)
            finally:
                cut.close()
        await asyncio.wait({work})
        return work.exception()


@asynccontextmanager
async def session(url: str, seconds: float = REQUEST_SECONDS, **more: str | int) -> AsyncIterator[Session]:
    """An open connection, in autocommit: transactions are explicit. Raises Unreachable, Rejected."""
    with translated():
        try:
            async with asyncio.timeout(2 * CONNECT_SECONDS):
                connection = await psycopg.AsyncConnection.connect(parameters(url, **more), autocommit=True)
        except TimeoutError as error:
            raise Unreachable("postgres", "no answer to a connection attempt") from error
    try:
        yield Session(connection, seconds)
    finally:
        with contextlib.suppress(psycopg.Error, OSError):
            await connection.close()


@contextmanager
def translated() -> Iterator[None]:
    """Translates psycopg's errors."""
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise Rejected(
            f"{first_line(error)}; see docs/history.md for what to grant", reason="NotGranted"
        ) from error
    except (psycopg.errors.InvalidPassword, psycopg.errors.InvalidAuthorizationSpecification) as error:
        raise Unreachable("postgres", first_line(error)) from error
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise Unreachable("postgres", first_line(error)) from error
    except psycopg.Error as error:
        raise Rejected(
            f"PostgreSQL refused: {first_line(error)}", reason="Refused", field="database"
        ) from error


def first_line(error: psycopg.Error) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
