"""Runs one command inside the lab's kernel: ``remote.py SOCKET HEADER-JSON -- argv…`` (see ``agent`` for the wire).

Streams, exit status and signals pass through. The command ends with this process, also when that is killed. As it runs
for every command, it imports little, and nothing of galactic.
"""

import json
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import Final

STDIN, STDOUT, STDERR, EXIT, SIGNAL, WINDOW, ERROR = range(7)
FORWARDED: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
LOST: Final = 255


def frame(kind: int, payload: bytes = b"") -> bytes:
    return bytes([kind]) + len(payload).to_bytes(4, "big") + payload


def read_exactly(stream: socket.socket, count: int) -> bytes:
    """Raises EOFError when the other end closes first."""
    data = bytearray()
    while len(data) < count:
        chunk = stream.recv(count - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)


def read_frame(stream: socket.socket) -> tuple[int, bytes]:
    head = read_exactly(stream, 5)
    return head[0], read_exactly(stream, int.from_bytes(head[1:], "big"))


def write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def window() -> bytes:
    columns, lines = os.get_terminal_size(0)
    return b"%d %d" % (lines, columns)


def send(stream: socket.socket, message: bytes) -> None:
    """Sends it unless the command has ended, whose output is still to be read."""
    with suppress(OSError):
        stream.sendall(message)


def pump(stream: socket.socket, terminal: bool) -> int:  # noqa: C901, PLR0912  (one loop, three sources)
    """Moves bytes both ways until the command ends; its exit status, 128 + n for signal n."""
    wake, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    for number in (*FORWARDED, *((signal.SIGWINCH,) if terminal else ())):
        signal.signal(number, lambda *_: None)
    poll = select.poll()
    for descriptor in (stream.fileno(), wake, 0):
        poll.register(descriptor, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == wake:
                for number in os.read(wake, 64):
                    resized = number == signal.SIGWINCH
                    send(stream, frame(WINDOW, window()) if resized else frame(SIGNAL, b"%d" % number))
            elif descriptor == 0:
                try:
                    data = os.read(0, 65536)
                except OSError:
                    data = b""
                send(stream, frame(STDIN, data))
                if not data:
                    poll.unregister(0)
            else:
                kind, payload = read_frame(stream)
                if kind in (STDOUT, STDERR):
                    try:
                        write_all(kind, payload)
                    except BrokenPipeError:  # the reader is gone, as in `… | head`
                        return 128 + signal.SIGPIPE
                elif kind == EXIT:
                    status = int(payload)
                    return status if status >= 0 else 128 - status
                elif kind == ERROR:
                    sys.stderr.write(f"galactic lab: {payload.decode()}\n")
                    return LOST


def main(argv: list[str]) -> int:
    path, header, _, *command = argv
    request = json.loads(header) | {"argv": command}
    terminal = bool(request.get("tty"))
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        stream.connect(path)
        if terminal:
            request["window"] = window().decode()
        body = json.dumps(request).encode()
        stream.sendall(len(body).to_bytes(4, "big") + body)
        if not terminal:
            return pump(stream, terminal=False)
        import termios  # noqa: PLC0415  (only a terminal pays for it)
        import tty  # noqa: PLC0415

        before = termios.tcgetattr(0)
        try:
            tty.setraw(0)
            return pump(stream, terminal=True)
        finally:
            termios.tcsetattr(0, termios.TCSADRAIN, before)
    except (OSError, EOFError) as error:
        sys.stderr.write(f"galactic lab: the lab's kernel does not answer: {error or 'connection closed'}\n")
        return LOST


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
