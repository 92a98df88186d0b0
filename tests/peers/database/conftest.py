"""A PostgreSQL of the tests' own: one server a test process, a database a test."""

import itertools
import os
from collections.abc import Callable, Iterator

import psycopg
import pytest
from waits import until

from galactic.router.database import session
from galactic_lab.controlplane.postgres import Postgres, temporary

_numbers = itertools.count(1)
PATIENCE_SECONDS = 120


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long time-outs, for slow machines."""
    monkeypatch.setattr(session, "CONNECT_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setitem(session._KEEPALIVES, "connect_timeout", PATIENCE_SECONDS)
    monkeypatch.setitem(session._KEEPALIVES, "tcp_user_timeout", 1000 * PATIENCE_SECONDS)


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    with temporary() as running:
        yield running


@pytest.fixture
def url(server: Postgres) -> str:
    """An empty database on the server that all tests of this process share."""
    name = f"t{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return server.url(name)


@pytest.fixture
def own_server() -> Iterator[Postgres]:
    """A server to be killed and stopped."""
    with temporary() as running:
        yield running


@pytest.fixture(name="until")
def _until() -> Callable[..., object]:
    return until
