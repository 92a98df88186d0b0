"""Echo requests from inside a network namespace (RFC 792, RFC 4443 §4.1): answers, and ICMP errors.

Every request has the given size, which distinguishes its packets from others in a counter.
"""

import asyncio
import os
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Final

from galactic.linux.namespace import Namespace
from galactic.linux.objects import Address

COUNT: Final = 3
SEND_SECONDS: Final = 0.05
"""Between two requests."""
ANSWER_SECONDS: Final = 2.0
"""After the last one."""
_HEADERS: Final = {4: 20, 6: 40}
_ICMP: Final = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence
_REQUESTS: Final = {4: 8, 6: 128}
_REPLIES: Final = {4: 0, 6: 129}
_PART: Final = 1 << 16
_ERRORS: Final[dict[int, dict[int, str]]] = {
    4: {3: "destination unreachable", 11: "time exceeded", 12: "parameter problem"},
    6: {1: "destination unreachable", 2: "packet too big", 3: "time exceeded", 4: "parameter problem"},
}
_CODES: Final[dict[int, dict[int, str]]] = {
    4: {
        0: "network unreachable",
        1: "host unreachable",
        4: "fragmentation needed",
        9: "administratively prohibited",
        10: "administratively prohibited",
        13: "administratively prohibited",
    },
    6: {0: "no route", 1: "administratively prohibited", 3: "address unreachable", 6: "route rejects it"},
}
"""Of destination unreachable."""


@dataclass(slots=True)
class Echoes:
    """The results of echo requests. ``milliseconds``: of the fastest answer. ``refused``: why the kernel did not send.

    ``errors``: ICMP errors about them, as ``ADDRESS: error``, each once.
    """

    sent: int = 0
    answered: int = 0
    milliseconds: float | None = None
    refused: str = ""
    errors: list[str] = field(default_factory=list)


async def echo(
    namespace: Namespace, source: Address, destination: Address, size: int, count: int = COUNT
) -> Echoes:
    """Sends ``count`` echo requests of ``size`` bytes, IP header included. Waits ANSWER_SECONDS for answers."""
    echoes = Echoes()
    try:
        made = namespace.run(lambda: _socket(source))
    except OSError as error:
        echoes.refused = error.strerror or str(error)
        return echoes
    with made:
        exchange = _Exchange(made, destination, size, echoes)
        await exchange.send(count)
        if echoes.sent:
            await exchange.answers()
    return echoes


def _socket(source: Address) -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    if source.version == 6:
        made = socket.socket(socket.AF_INET6, kind, socket.IPPROTO_ICMPV6)
    else:
        made = socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP)
    try:
        made.bind((str(source), 0))
    except OSError:
        made.close()
        raise
    return made


class _Exchange:
    """The requests on one raw socket, known by an identifier and eight random bytes."""

    def __init__(self, made: socket.socket, destination: Address, size: int, echoes: Echoes) -> None:
        self._socket, self._destination, self._echoes = made, destination, echoes
        self._version = destination.version
        self._identifier = int.from_bytes(os.urandom(2), "big")
        self._token = os.urandom(8)
        self._padding = bytes(max(0, size - _HEADERS[self._version] - _ICMP.size - len(self._token)))
        self._sent: dict[int, float] = {}

    async def send(self, count: int) -> None:
        for sequence in range(1, count + 1):
            if sequence > 1:
                await asyncio.sleep(SEND_SECONDS)
            try:
                self._socket.sendto(self._request(sequence), (str(self._destination), 0))
            except OSError as error:
                self._echoes.refused = error.strerror or str(error)
                continue
            self._sent[sequence] = time.monotonic()
            self._echoes.sent += 1

    def _request(self, sequence: int) -> bytes:
        rest = self._token + self._padding
        head = _ICMP.pack(_REQUESTS[self._version], 0, 0, self._identifier, sequence)
        if self._version == 6:
            return head + rest  # the kernel writes the checksum
        return _ICMP.pack(8, 0, _checksum(head + rest), self._identifier, sequence) + rest

    async def answers(self) -> None:
        """Collects answers until all have arrived, or for ANSWER_SECONDS."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while self._sent:
                    datagram, sender = await loop.sock_recvfrom(self._socket, _PART)
                    self._decode(datagram, sender[0])
        except OSError:  # TimeoutError too
            return

    def _decode(self, datagram: bytes, sender: str) -> None:
        icmp = datagram[(datagram[0] & 0x0F) * 4 :] if self._version == 4 else datagram
        if len(icmp) < _ICMP.size:
            return
        kind, code, _, identifier, sequence = _ICMP.unpack_from(icmp)
        if kind == _REPLIES[self._version]:
            known = identifier == self._identifier and icmp[_ICMP.size :].startswith(self._token)
            if known and (at := self._sent.pop(sequence, None)) is not None:
                milliseconds = round((time.monotonic() - at) * 1000, 2)
                self._echoes.answered += 1
                self._echoes.milliseconds = min(milliseconds, self._echoes.milliseconds or milliseconds)
        elif kind in _ERRORS[self._version] and self._ours(icmp[_ICMP.size :]):
            what = _ERRORS[self._version][kind]
            if what == "destination unreachable":
                what = _CODES[self._version].get(code, what)
            if (text := f"{sender}: {what}") not in self._echoes.errors:
                self._echoes.errors.append(text)

    def _ours(self, original: bytes) -> bool:
        """Whether the packet, from its IP header on, is one of these requests."""
        at = (original[0] & 0x0F) * 4 if self._version == 4 and original else _HEADERS[6]
        if len(original) < at + _ICMP.size:
            return False
        kind, _, _, identifier, _ = _ICMP.unpack_from(original, at)
        return bool(kind == _REQUESTS[self._version] and identifier == self._identifier)


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total
