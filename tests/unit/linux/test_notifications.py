"""All that arrived is one value; a buffer that overflowed is everything, and any other error is raised."""

import enum
import errno
import os
import socket

import pytest

from galactic.errors import Unreachable
from galactic.linux.notifications import Notifications


class Part(enum.Flag):
    ONE = enum.auto()
    TWO = enum.auto()
    NEVER = enum.auto()


EVERYTHING = Part.ONE | Part.TWO | Part.NEVER
PARTS = {b"1": Part.ONE, b"2": Part.TWO}


class Parts(Notifications[Part]):
    def _kinds(self, datagram: bytes) -> Part:
        return PARTS.get(datagram, Part(0))


class Scripted(socket.socket):
    """Gives its answers one after the other: datagrams, or the numbers of errors; then there is nothing to read."""

    answers: list[bytes | int]

    def recv(self, *_: int) -> bytes:
        answer = self.answers.pop(0) if self.answers else errno.EAGAIN
        if isinstance(answer, bytes):
            return answer
        raise OSError(answer, os.strerror(answer))


def notified(*answers: bytes | int) -> Parts:
    made = Scripted(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setblocking(False)
    made.answers = [*answers]
    return Parts(made, EVERYTHING, "the kernel's part")


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([b"1"], Part.ONE),
        ([b"1", b"2"], Part.ONE | Part.TWO),
        ([b"1", b"other"], Part.ONE),
        ([errno.ENOBUFS], EVERYTHING),
        ([b"1", errno.ENOBUFS, b"2"], EVERYTHING),
        ([b"other", b"2"], Part.TWO),
    ],
)
async def test_what_arrived(answers: list[bytes | int], expected: Part) -> None:
    with notified(*answers) as parts:
        assert await anext(parts) == expected


@pytest.mark.parametrize("answers", [[errno.ENODEV], [b"1", errno.ENODEV]])
async def test_another_error_is_raised(answers: list[bytes | int]) -> None:
    with notified(*answers) as parts, pytest.raises(Unreachable, match="the kernel's part"):
        await anext(parts)
