"""galactic-router-inspect: the tables of the routers that run beside it, as JSON.

It asks the processes and not the broker: with the router's own credentials it would disconnect the router from a broker
that takes the user for the client identifier (docs/broker.md), and a standby knows what the leader does not.

A router answers on an abstract unix socket: it needs no file in a read-only root, is visible in its own network
namespace only (a pod's), and serves only its own user and root.
"""

import argparse
import asyncio
import json
import os
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from galactic.messages import Route
from galactic.names import vpc_hex
from galactic.router.rib.networks import Network

log = structlog.get_logger(__name__)
PROGRAM: Final = "galactic-router-inspect"
PREFIX: Final = "galactic-router/"
SECONDS: Final = 10.0
_CREDENTIALS: Final = struct.Struct("=iII")  # struct ucred: process, user, group


class Router(Protocol):
    """The tables of a router; ``controller.Router``."""

    @property
    def term(self) -> int: ...

    @property
    def vpcs(self) -> frozenset[int]: ...

    def table(self, vpc: int) -> tuple[int, Mapping[Network, Route]]:
        """Revision and routes of a VPC."""


def answer(replica: str, router: Router, vpcs: Sequence[str]) -> dict[str, Any]:
    """The tables of these VPCs (hex), or of all, as the router publishes them."""
    wanted = {vpc_hex(vpc): vpc for vpc in sorted(router.vpcs)}
    return {
        "replica": replica,
        "term": router.term,
        "vpcs": {
            text: {
                "revision": revision,
                "routes": [
                    {
                        "network": route.network,
                        "sid": route.segments[0] if route.segments else "",
                        "cluster": route.cluster,
                        "node": route.node,
                        "function": route.function,
                        "epoch": route.epoch,
                    }
                    for route in routes.values()
                ],
            }
            for text, vpc in wanted.items()
            if not vpcs or text in vpcs
            for revision, routes in (router.table(vpc),)
        },
    }


class InspectionServer:
    """Answers requests. The router routes without it as well: its failures are logged."""

    def __init__(self, replica: str, router: Router) -> None:
        self._replica, self._router = replica, router

    async def run(self) -> None:
        """For ever, if the socket can be made."""
        try:
            server = await asyncio.start_unix_server(self._handle, f"\0{PREFIX}{self._replica}")
        except OSError as error:
            log.warning("inspection unavailable: cannot listen on the socket", error=str(error))
            return
        async with server:
            await server.serve_forever()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, ValueError, TimeoutError):
            async with asyncio.timeout(SECONDS):
                if _user(writer.get_extra_info("socket")) in (0, os.geteuid()):
                    request = json.loads(await reader.readline())
                    writer.write(json.dumps(answer(self._replica, self._router, request["vpcs"])).encode())
                    await writer.drain()
        writer.close()


def _user(peer: socket.socket) -> int:
    """The user that connected (unix(7), SO_PEERCRED)."""
    _, user, _ = _CREDENTIALS.unpack(
        peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return int(user)


def beside(listed: str) -> list[str]:
    """The replicas in this network namespace, of /proc/net/unix."""
    words = (line.split()[-1] for line in listed.splitlines() if line.strip())
    return sorted({word[1 + len(PREFIX) :] for word in words if word.startswith(f"@{PREFIX}")})


def ask(replica: str, vpcs: Sequence[str]) -> dict[str, Any]:
    """One router's answer. Raises OSError, ValueError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(SECONDS)
        stream.connect(f"\0{PREFIX}{replica}")
        stream.sendall(json.dumps({"vpcs": [*vpcs]}).encode() + b"\n")
        stream.shutdown(socket.SHUT_WR)
        with stream.makefile("rb") as reply:
            tables = json.loads(reply.read())
    assert isinstance(tables, dict)
    return tables


def main(
    arguments: Sequence[str] | None = None,
    unix: Callable[[], str] = lambda: Path("/proc/net/unix").read_text("utf-8", "replace"),
) -> None:
    """The console script. Exit code 1 where no router answers."""
    parser = argparse.ArgumentParser(
        PROGRAM, description="The tables of the routers in this container, as JSON."
    )
    parser.add_argument("vpc", nargs="*", help="identifiers, 12 hex digits; all VPCs if left out")
    given = parser.parse_args(arguments)
    replies = []
    for replica in beside(unix()):
        try:
            replies.append(ask(replica, given.vpc))
        except (OSError, ValueError) as error:  # one that has just ended
            sys.stderr.write(f"{PROGRAM}: {replica}: {error}\n")
    if not replies:
        sys.stderr.write(
            f"{PROGRAM}: no router answers here; is galactic-router running in this container?\n"
        )
        raise SystemExit(1)
    json.dump(replies, sys.stdout)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
