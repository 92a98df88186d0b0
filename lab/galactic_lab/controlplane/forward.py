"""Forwards connections from the machine into the lab's namespace, without a network device.

``forward.py NAMESPACE LISTEN=ADDRESS:PORT …`` listens where it was started (LISTEN is a port on 127.0.0.1 or the path
of a unix socket), then moves into the namespace and makes its connections from there.
"""

import asyncio
import errno
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from galactic_lab.kernel import namespaces

CONNECT_SECONDS: Final = 5.0
PAUSES: Final = (0.1, 0.4)
SILENT_SECONDS: Final = 120.0
"""How long a far end is probed without an answer: a guest that is held up is not gone."""
ALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 3),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 3),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 100),
)
"""A killed guest closes no connection; its successor answers the next probe with a reset. A guest that is held up
answers when it goes on.
"""


def listener(where: str) -> socket.socket:
    """A listening socket in the caller's namespace; a left-over unix socket is replaced."""
    if where.isdigit():
        return socket.create_server(("127.0.0.1", int(where)), backlog=128)
    Path(where).unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(where)
    Path(where).chmod(0o600)
    made.listen(128)
    return made


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    with suppress(OSError, RuntimeError):
        writer.write_eof()


async def _far(address: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the far end. A refused one is tried twice more: the far end may be starting."""
    pauses, until = iter(PAUSES), time.monotonic() + SILENT_SECONDS
    while True:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return await asyncio.open_connection(address, port)
        except OSError as error:
            if isinstance(error, TimeoutError) or error.errno == errno.EHOSTUNREACH:
                if time.monotonic() > until:
                    raise
            elif (pause := next(pauses, None)) is not None:
                await asyncio.sleep(pause)
            else:
                raise


async def _join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str, port: int) -> None:
    """Copies both ways until the far end closes or either end breaks. The near end may finish sending earlier."""
    with suppress(OSError):
        try:
            far_reader, far_writer = await _far(address, port)
        except BaseException:
            writer.close()
            raise
        far = far_writer.get_extra_info("socket")
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for level, option, value in ALIVE:
            far.setsockopt(level, option, value)
        forth = asyncio.create_task(_copy(reader, far_writer))
        back = asyncio.create_task(_copy(far_reader, writer))
        try:
            await asyncio.wait({forth, back}, return_when=asyncio.FIRST_COMPLETED)
            if not back.done() and forth.exception() is None:
                await back
        finally:
            forth.cancel()
            back.cancel()
            await asyncio.gather(forth, back, return_exceptions=True)
            far_writer.close()
            writer.close()


async def run(routes: list[tuple[socket.socket, str, int]]) -> None:
    """Serves for ever."""
    servers = []
    for made, address, port in routes:

        async def accept(
            reader: asyncio.StreamReader,
            writer: asyncio.StreamWriter,
            address: str = address,
            port: int = port,
        ) -> None:
            await _join(reader, writer, address, port)

        start = asyncio.start_unix_server if made.family == socket.AF_UNIX else asyncio.start_server
        servers.append(await start(accept, sock=made))
    await asyncio.gather(*(server.serve_forever() for server in servers))


def main() -> None:
    namespace, *pairs = sys.argv[1:]
    routes = []
    for pair in pairs:
        where, _, target = pair.partition("=")
        address, _, port = target.rpartition(":")
        routes.append((listener(where), address.strip("[]"), int(port)))
    namespaces.enter(Path("/run/netns", namespace))
    with suppress(KeyboardInterrupt):
        asyncio.run(run(routes))


if __name__ == "__main__":
    main()
