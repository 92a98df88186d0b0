"""Waiting for what another process does."""

import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from galactic_lab.controlplane import ports

PATIENCE_SECONDS = 300
_HELD: list[socket.socket] = []


def eventually(condition: Callable[[], object], *, unless: Callable[[], None] = lambda: None) -> None:
    """Returns when it is true; ``unless`` raises when it cannot become true any more."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        unless()
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def free_port() -> int:
    """A port without a listener. This process keeps it bound: no other process is given it."""
    holder = ports.kept()
    _HELD.append(holder)
    return ports.number(holder)


def health(port: int) -> tuple[int, str]:
    """Status and text of /healthz; (0, error) without an answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)
