"""The route socket: packed messages to the kernel and back, on the event loop, without a thread.

rtnetlink handles a burst of messages inside sendto(2) and answers each failed one, whether or not it requested an
answer. So a burst requests one acknowledgement, for its last message, and is done when that arrives.
"""

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Final, TypeVar

from galactic.errors import Unreachable
from galactic.linux.namespace import Namespace, device_index, device_name
from galactic.linux.netlink import Decoder, Encoder, acknowledged, dump_request, replies
from galactic.linux.objects import (
    LOOPBACK_DEVICE,
    Direct,
    EncapJob,
    EncapMode,
    EncapSink,
    RouteKey,
    RouteTarget,
    route_of,
)

T = TypeVar("T")
BURST: Final = 100
"""Messages in one sendto(2)."""
ANSWER_TIMEOUT: Final = 30.0
"""Seconds for a burst's answer: the kernel works it off at once, but may wait for others' changes first."""
_ATTEMPTS: Final = 10
_DUMPS: Final = 3
_PART: Final = 1 << 16  # more than the largest part of a dump (32 KiB)
_SEQUENCE_MASK: Final = 0xFFFFFFFF
_TRANSIENT: Final = frozenset({errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.EINTR, errno.EBUSY})
_ALREADY_GONE: Final = frozenset({errno.ESRCH, errno.ENOENT, errno.ENODEV})

_EXISTS: Final = os.strerror(errno.EEXIST)
_TAKEN: Final = "a route of another program has its destination and metric; remove that one"

Failures = dict[RouteKey, str]
"""Routes that could not be written, with the reason."""
Job = tuple[RouteKey, RouteTarget, bool]
"""A route to write, and whether to delete it instead of creating or replacing it."""


class RouteSocket:
    """Routes of one network namespace. One write at a time; dumps use sockets of their own."""

    def __init__(self, namespace: Namespace, made: socket.socket | None = None) -> None:
        """``made``: a packed socket of that namespace, if there is one already."""
        self._namespace = namespace
        self._socket = made or namespace.netlink()
        self._socket.bind((0, 0))
        self._sequence = 0
        self._lock = asyncio.Lock()

    @property
    def port(self) -> int:
        """The netlink port of this socket's changes in notifications."""
        return int(self._socket.getsockname()[0])

    def index(self, device: str) -> int:
        """A device's index, 0 if there is none. Not cached: names and indexes come and go."""
        return device_index(self._socket, device)

    async def dump(
        self, *, table: int = 0, device: int = 0, mode: EncapMode = "encap.red", sink: EncapSink | None = None
    ) -> dict[RouteKey, RouteTarget]:
        """Galactic's routes of both families. Raises Unreachable.

        Those through ``LOOPBACK_DEVICE`` with that mode go to ``sink``, if there is one, and are not returned; more
        than once, if the table changes meanwhile.
        """
        encaps = self.index(LOOPBACK_DEVICE) if sink else 0

        def decoder(own: socket.socket) -> Decoder:
            return Decoder(lambda index: device_name(own, index), encaps=encaps, mode=mode, sink=sink)

        routes: dict[RouteKey, RouteTarget] = {}
        for family in (socket.AF_INET, socket.AF_INET6):
            for _ in range(_DUMPS):  # once more if the table changed meanwhile; then what there is will do
                with _translated("dumping routes"):
                    dumped = await self._dump(family, table, device, decoder)
                if not dumped.interrupted:
                    break
            routes |= dumped.routes
        return routes

    async def _dump(
        self, family: int, table: int, device: int, made: Callable[[socket.socket], Decoder]
    ) -> Decoder:
        loop = asyncio.get_running_loop()
        with self._namespace.netlink() as own:  # closing it ends the dump, whatever happens
            decoder = made(own)
            own.send(dump_request(family, 1, table=table, device=device))
            parts = 0
            async with asyncio.timeout(ANSWER_TIMEOUT):
                while (reply := decoder.feed(await loop.sock_recv(own, _PART))) is None:
                    parts += 1
                    if parts % 16 == 0:
                        await asyncio.sleep(0)
        if reply.errno not in (0, errno.ENOENT):  # ENOENT: no such table yet
            raise OSError(reply.errno, os.strerror(reply.errno))
        return decoder

    async def write(self, jobs: Iterable[Job]) -> Failures:
        """Executes the jobs in order, in bursts, in time linear in their number; consumes one burst at a time.

        Returns the failures. Transient ones are tried again; deleting a missing route is no failure.
        """

        def message(key: RouteKey, target: RouteTarget, gone: bool, sequence: int) -> bytes:
            return (encoder.delete if gone else encoder.set)(key, target, sequence)

        encoder = Encoder(self._present)
        return await self._write(jobs, message)

    async def create(self, device: str, routes: Mapping[RouteKey, RouteTarget]) -> Failures:
        """Sets routes on ``device`` in a namespace that others share: replaces Galactic's, and no route of another."""

        def message(key: RouteKey, target: RouteTarget, _gone: bool, sequence: int) -> bytes:
            return encoder.create(key, target, sequence)

        encoder = Encoder(self._present)
        failures = await self._write(settings(routes), message)
        present = {key for key, why in failures.items() if why == _EXISTS}
        if present:
            await self.write(deletions(dict.fromkeys(present, Direct(device))))
            again = await self._write(settings({key: routes[key] for key in present}), message)
            failures = {key: why for key, why in failures.items() if key not in present} | again
        return {key: _TAKEN if why == _EXISTS else why for key, why in failures.items()}

    async def write_encaps(self, mode: EncapMode, jobs: Iterable[EncapJob]) -> Failures:
        """As ``write``, of routes through ``LOOPBACK_DEVICE`` only, and faster."""
        try:
            message = Encoder(self._present).encaps(LOOPBACK_DEVICE, mode)
        except LookupError:
            gone = f"there is no device {LOOPBACK_DEVICE}"
            return {key: gone for key, _, delete in jobs if not delete}
        return await self._write(jobs, message)

    async def _write(
        self, jobs: Iterable[tuple[RouteKey, T, bool]], message: Callable[[RouteKey, T, bool, int], bytes]
    ) -> Failures:
        failures: Failures = {}
        async with self._lock:
            for attempt in range(_ATTEMPTS):
                again: list[tuple[RouteKey, T, bool]] = []
                iterator = iter(jobs)
                while burst := list(islice(iterator, BURST)):
                    with _translated(f"writing {len(burst)} routes"):
                        again += await self._burst(message, burst, failures)
                    await asyncio.sleep(0)
                if not again:
                    break
                jobs = again
                await asyncio.sleep(min(0.005 * 2**attempt, 0.5))
            else:
                failures |= {key: os.strerror(errno.ENOMEM) for key, _, _ in jobs}
        return failures

    def _present(self, device: str) -> int:
        index = self.index(device)
        if not index:
            raise LookupError(device)
        return index

    async def _burst(
        self,
        message: Callable[[RouteKey, T, bool, int], bytes],
        burst: list[tuple[RouteKey, T, bool]],
        failures: Failures,
    ) -> list[tuple[RouteKey, T, bool]]:
        """Sends a burst. Returns the jobs that failed for a transient reason."""
        sent: dict[int, tuple[RouteKey, T, bool]] = {}
        messages: list[bytes] = []
        for job in burst:
            key, target, delete = job
            self._sequence = sequence = self._sequence + 1 & _SEQUENCE_MASK
            try:
                messages.append(message(key, target, delete, sequence))
            except LookupError as error:
                if not delete:  # the kernel deletes a device's routes with the device
                    failures[key] = f"there is no device {error.args[0]}"
                continue
            sent[sequence] = job
        if not messages:
            return []
        messages[-1] = acknowledged(messages[-1])
        last = next(reversed(sent))
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._socket, b"".join(messages))
        again: list[tuple[RouteKey, T, bool]] = []
        done = False
        async with asyncio.timeout(ANSWER_TIMEOUT):
            while not done:
                for reply in replies(await loop.sock_recv(self._socket, _PART)):
                    done |= reply.sequence == last
                    answered = sent.get(reply.sequence)
                    if answered is None or not reply.errno:
                        continue
                    key, _, delete = answered
                    if reply.errno in _TRANSIENT:
                        again.append(answered)
                    elif not (delete and reply.errno in _ALREADY_GONE):
                        failures[key] = os.strerror(reply.errno)
        return again

    def close(self) -> None:
        self._socket.close()


class _translated:  # noqa: N801 - reads as what it does
    """Translates a socket's errors into Unreachable."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TimeoutError):
            raise Unreachable("kernel", f"{self._what}: no answer within {ANSWER_TIMEOUT:g} s") from error
        if isinstance(error, OSError):
            raise Unreachable("kernel", f"{self._what}: {error.strerror or error}") from error


def settings(routes: Mapping[RouteKey, RouteTarget]) -> Iterator[Job]:
    """Jobs that create or replace these routes."""
    return ((key, target, False) for key, target in routes.items())


def deletions(routes: Mapping[RouteKey, RouteTarget]) -> Iterator[Job]:
    """Jobs that delete these routes."""
    return ((key, target, True) for key, target in routes.items())


def route_name(key: RouteKey) -> str:
    """A route's name in messages."""
    table, network, metric = route_of(key)
    return f"route {network} table {table}" + (f" metric {metric}" if metric else "")
