"""The first process of a guest: mounts file systems, and runs commands for the host.

    request   length (4 bytes, big endian), JSON {"argv", "env", "cwd", "enter": [namespace files], "tty", "window"}
    then      frames both ways: kind (1 byte), length (4), payload; kinds as in ``remote``

A command runs in a session of its own; when the connection ends, the session gets SIGHUP and, two seconds later,
SIGKILL. A client is root here: the listening address is reachable from the lab's own namespace only.
"""

import fcntl
import json
import os
import queue
import selectors
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from galactic_lab.kernel import namespaces
from galactic_lab.kernel.remote import (
    ERROR,
    EXIT,
    SIGNAL,
    STDERR,
    STDIN,
    STDOUT,
    WINDOW,
    frame,
    read_exactly,
    read_frame,
)

GRACE_SECONDS: Final = 2.0
PARTING_SECONDS: Final = 120.0
"""For the other end, which may be held up, to read all and close."""
WRITABLE: Final = ("/run", "/tmp", "/var/tmp", "/dev/shm")  # noqa: S108  (where the guest gets a tmpfs)


class Command:
    """One running command and the connection it belongs to."""

    def __init__(self, stream: socket.socket, request: dict[str, Any]) -> None:
        self._stream = stream
        self._outputs: dict[int, int] = {}
        self._typed: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        terminal = bool(request.get("tty"))
        if terminal:
            self._input, child = os.openpty()
            self._resize(request.get("window", "24 80").encode())
            self._outputs[self._input] = STDOUT
            pipes = (child, child, child)
        else:
            child_in, self._input = os.pipe()
            out, child_out = os.pipe()
            error, child_error = os.pipe()
            self._outputs |= {out: STDOUT, error: STDERR}
            pipes = (child_in, child_out, child_error)
        try:
            argv = request["argv"]
            self._process = subprocess.Popen(
                ["setsid", "-c", "-w", *argv] if terminal else argv,
                stdin=pipes[0],
                stdout=pipes[1],
                stderr=pipes[2],
                env=os.environ | request.get("env", {}),
                cwd=request.get("cwd") or "/",
                start_new_session=not terminal,
            )
        except OSError:
            for descriptor in (self._input, *self._outputs):
                if descriptor not in pipes:
                    _close(descriptor)
            raise
        finally:
            for descriptor in set(pipes):
                _close(descriptor)

    def run(self) -> None:
        """Returns when the command has ended and its output is delivered, or when the connection has ended."""
        exited, closed_at_exit = os.pipe()
        threading.Thread(target=self._wait, args=(closed_at_exit,), daemon=True).start()
        threading.Thread(target=self._feed, daemon=True).start()
        with selectors.DefaultSelector() as ready:
            ready.register(self._stream, selectors.EVENT_READ)
            ready.register(exited, selectors.EVENT_READ)
            for descriptor in self._outputs:
                ready.register(descriptor, selectors.EVENT_READ)
            try:
                done = False
                while not done or self._outputs:
                    events = ready.select(0.2 if done else None)
                    if done and not events:
                        break  # a process that the command left keeps its output open
                    for key, _ in events:
                        if key.fd == exited:
                            done = True
                            ready.unregister(exited)
                        elif key.fd in self._outputs:
                            self._forward(key.fd, ready)
                        else:
                            self._receive()
                self._stream.sendall(frame(EXIT, b"%d" % self._process.wait()))
                self._part()
            except (OSError, EOFError):
                self._end()
            finally:
                self._typed.put(b"")
                for descriptor in (exited, *self._outputs):
                    _close(descriptor)
                self._outputs.clear()

    def _part(self) -> None:
        """Closes after the other end: a close with unread bytes resets the connection, and output may be lost."""
        with suppress(OSError):
            self._stream.shutdown(socket.SHUT_WR)
            self._stream.settimeout(PARTING_SECONDS)
            while self._stream.recv(65536):
                pass

    def _feed(self) -> None:
        """Writes the input, in a thread of its own: a command that does not read must not block its output."""
        while data := self._typed.get():
            try:
                os.write(self._input, data)
            except OSError:  # the command closed its input
                break
        if self._input not in self._outputs:
            _close(self._input)

    def _wait(self, closed_at_exit: int) -> None:
        self._process.wait()
        _close(closed_at_exit)

    def _forward(self, descriptor: int, ready: selectors.DefaultSelector) -> None:
        try:
            data = os.read(descriptor, 65536)
        except OSError:  # a terminal whose last user is gone
            data = b""
        if data:
            self._stream.sendall(frame(self._outputs[descriptor], data))
            return
        ready.unregister(descriptor)
        del self._outputs[descriptor]
        if descriptor != self._input:
            _close(descriptor)

    def _receive(self) -> None:
        kind, payload = read_frame(self._stream)
        if kind == STDIN:
            self._typed.put(payload)
        elif kind == SIGNAL:
            self._signal(int(payload))
        elif kind == WINDOW:
            self._resize(payload)

    def _resize(self, size: bytes) -> None:
        lines, columns = map(int, size.split())
        fcntl.ioctl(self._input, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            self._process.send_signal(number)

    def _end(self) -> None:
        self._signal(signal.SIGHUP)
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)


def _close(descriptor: int) -> None:
    with suppress(OSError):
        os.close(descriptor)


def serve_one(stream: socket.socket) -> None:
    """Serves one connection, in a thread of its own: namespaces belong to threads, so others keep theirs."""
    with stream:
        try:
            request = json.loads(read_exactly(stream, int.from_bytes(read_exactly(stream, 4), "big")))
            if paths := request.get("enter"):
                namespaces.unshare(namespaces.CLONE_FS)
                for path in paths:
                    namespaces.enter(path)
            command = Command(stream, request)
        except (OSError, ValueError, KeyError) as error:
            with suppress(OSError):
                stream.sendall(frame(ERROR, str(error).encode()))
            return
        except EOFError:
            return
        command.run()


def serve(address: str, port: int, namespace: str) -> None:
    """Accepts connections in ``namespace`` for ever."""
    listener: list[socket.socket] = []

    def listen() -> None:
        namespaces.enter(namespace)
        made = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
        made.listen(64)
        listener.append(made)

    maker = threading.Thread(target=listen)
    maker.start()
    maker.join()
    while True:
        stream, _ = listener[0].accept()
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve_one, args=(stream,), daemon=True).start()


def prepare(config: dict[str, Any]) -> None:
    """Mounts the file systems that programs expect, and the host's folders below a new tmpfs."""
    namespaces.mount("proc", "/proc", "proc")
    namespaces.mount("sysfs", "/sys", "sysfs")
    for path in ("/dev/pts", "/dev/shm"):  # noqa: S108
        Path(path).mkdir(exist_ok=True)
    namespaces.mount("devpts", "/dev/pts", "devpts", options="mode=620,ptmxmode=666")
    for path in WRITABLE:
        namespaces.mount("tmpfs", path, "tmpfs", options="mode=1777" if path != "/run" else "mode=755")
    for path, writable in config["host"]:
        Path(path).mkdir(parents=True, exist_ok=True)
        namespaces.mount("none", path, "hostfs", 0 if writable else namespaces.MS_RDONLY, path)
    os.environ.update(config["env"])
    socket.sethostname(config["hostname"])
    for argv, stdin in config["setup"]:
        subprocess.run(argv, input=stdin.encode(), check=True)


def main() -> None:
    config = json.loads(Path(sys.argv[1]).read_text()) if len(sys.argv) > 1 else {}
    prepare(config)
    child = os.fork()
    if child == 0:
        serve(config["address"], config["port"], config["namespace"])
    print("galactic lab: the guest is up", flush=True)
    while True:  # the first process reaps all orphans
        pid, _ = os.wait()
        if pid == child:
            time.sleep(0.1)
            namespaces.power_off()


if __name__ == "__main__":
    main()
