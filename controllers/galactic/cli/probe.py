"""The programs inside the connectivity test's pods: one answers with its name, one connects and compares names.

They need neither the API server nor a shell nor privileges. The probe's result is its exit code and, after a failure,
its last lines of output: Kubernetes makes them the container's termination message
(``terminationMessagePolicy: FallbackToLogsOnError``).
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from galactic.errors import Rejected

PORT: Final = 17666
TRY_SECONDS: Final = 2.0
PAUSE_SECONDS: Final = 0.25
REFUSALS: Final = 3
"""Attempts that must get no answer from an address that must not be reached."""
LONGEST_NAME: Final = 64


@dataclass(frozen=True, slots=True)
class Target:
    """An address and the name that must answer there; empty: no answer."""

    address: str
    expected: str

    def __str__(self) -> str:
        return f"{self.address}={self.expected}"


@dataclass(frozen=True, slots=True)
class Result:
    """The name that answered; ``found`` is empty for no answer."""

    target: Target
    found: str

    @property
    def right(self) -> bool:
        return self.found == self.target.expected


def target(text: str) -> Target:
    """``ADDRESS=NAME``, or ``ADDRESS=`` for no answer. Raises Rejected."""
    address, equals, name = text.partition("=")
    try:
        parsed = str(ip_address(address))
    except ValueError as error:
        raise Rejected(f"{text!r} begins with no address", field="--ask") from error
    if not equals or len(name) > LONGEST_NAME:
        raise Rejected(f"{text!r}: write ADDRESS=NAME, or ADDRESS= for no answer", field="--ask")
    return Target(parsed, name)


async def answer(name: str, port: int = PORT) -> None:
    """Answers each connection with this name, over IPv4 and IPv6, for ever."""

    async def handle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(f"{name}\n".encode())
            await writer.drain()
        writer.close()

    both = socket.create_server(("::", port), family=socket.AF_INET6, backlog=64, dualstack_ipv6=True)
    server = await asyncio.start_server(handle, sock=both)
    async with server:
        await server.serve_forever()


async def answering_name(address: str, port: int = PORT, seconds: float = TRY_SECONDS) -> str:
    """The name that answers at an address; empty for no answer."""
    writer = None
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(address, port)
            line = await reader.readline()
    except (OSError, TimeoutError):
        return ""
    finally:
        if writer is not None:
            writer.close()
    return line.decode(errors="replace").strip()[:LONGEST_NAME]


async def results(targets: Sequence[Target], patience: float, port: int = PORT) -> list[Result]:
    """Retries targets that must answer for at most ``patience`` seconds, then tries those that must not."""
    deadline = time.monotonic() + patience

    async def reached(one: Target) -> Result:
        name = ""
        while name != one.expected:
            name = await answering_name(one.address, port)
            if name != one.expected and time.monotonic() >= deadline:
                break
            if name != one.expected:
                await asyncio.sleep(PAUSE_SECONDS)
        return Result(one, name)

    async def silent(one: Target) -> Result:
        for _ in range(REFUSALS):
            if name := await answering_name(one.address, port):
                return Result(one, name)
        return Result(one, "")

    expected = [target for target in targets if target.expected]
    refused = [target for target in targets if not target.expected]
    reachable = await asyncio.gather(*map(reached, expected))
    return [*reachable, *await asyncio.gather(*map(silent, refused))]
