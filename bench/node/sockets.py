"""Whether two sockets in two threads write routes faster than one: ``python bench/node/sockets.py [REPEATS [SIZE]]``.

Needs root, and no kernel features but seg6 encapsulation: all routes lead to ``lo`` of a network namespace of its own,
so it runs on kernels without VRFs. Half of the routes are IPv4, half IPv6. Encoded beforehand: the kernel's part alone;
encoded while they are written: with Python's part as well, of which one thread runs at a time. On a machine that has
other things to do: under ``chrt -f 10``, or the second thread gets a second share of the processors.
"""

import errno
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from parts import batch, median, route, run

from galactic.linux.namespace import Namespace
from galactic.linux.netlink import Encoder, acknowledged
from galactic.linux.objects import RouteKey, encap_key
from galactic.node.state.remote import pack

TABLE, LAST = 101, 2
SO_RCVBUFFORCE, SOL_NETLINK, NETLINK_CAP_ACK = 33, 270, 10
CHUNK = 100
"""Messages in one send, the last of which is acknowledged."""
Message = Callable[[RouteKey, bytes, bool, int], bytes]


def keyed(number: int, family: int) -> tuple[RouteKey, bytes]:
    """A route as the encoder takes it: its key and its segment."""
    made = route(number, family)
    segment = socket.inet_pton(socket.AF_INET6, made.segments[0])
    return encap_key(TABLE, pack(made.network), segment), segment


def send(link: socket.socket, messages: list[bytes]) -> None:
    """Returns when all are written. The kernel may be out of per-CPU memory for a moment."""
    last = bytearray(acknowledged(messages[-1]))
    last[8:12] = LAST.to_bytes(4, "little")
    data = b"".join([*messages[:-1], last])
    while True:
        link.send(data)
        again = False
        sequence = 0
        while sequence != LAST:
            reply = link.recv(1 << 16)
            sequence = int.from_bytes(reply[8:12], "little")
            if error := -int.from_bytes(reply[16:20], "little", signed=True):
                if error != errno.ENOMEM:
                    raise OSError(error, os.strerror(error))
                again = True
        if not again:
            return
        time.sleep(0.001)


def write(link: socket.socket, keys: list[tuple[RouteKey, bytes]], message: Message) -> None:
    for start in range(0, len(keys), CHUNK):
        send(link, [message(key, segment, False, 1) for key, segment in keys[start : start + CHUNK]])


def write_encoded(link: socket.socket, chunks: list[list[bytes]]) -> None:
    for chunk in chunks:
        send(link, chunk)


def timed(works: list[Callable[[], None]], *, together: bool) -> float:
    """Seconds for all of these, one after the other, or in a thread each."""
    started = time.perf_counter()
    if together:
        threads = [threading.Thread(target=work) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    else:
        for work in works:
            work()
    return time.perf_counter() - started


def links(namespace: Namespace, count: int) -> list[socket.socket]:
    def made() -> socket.socket:
        link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        link.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
        link.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        link.bind((0, 0))
        return link

    return [namespace.run(made) for _ in range(count)]


def once(size: int, folder: Path) -> dict[str, float]:
    """Seconds of each way, each in a namespace of its own."""
    keys = [[keyed(number, family) for number in range(size // 2)] for family in (4, 6)]
    spent = {}
    for together in (False, True):
        for encoded in (True, False):
            with Namespace.fresh() as namespace:
                run(namespace, "ip", "link", "set", "lo", "up")
                sockets = links(namespace, 2)
                encoder = Encoder(lambda name: namespace.run(lambda: socket.if_nametoindex(name)))
                message = encoder.encaps("lo", "encap.red")
                works: list[Callable[[], None]] = []
                for link, family in zip(sockets, keys, strict=True):
                    if encoded:
                        made = [message(key, segment, False, 1) for key, segment in family]
                        chunks = [made[start : start + CHUNK] for start in range(0, len(made), CHUNK)]
                        works.append(partial(write_encoded, link, chunks))
                    else:
                        works.append(partial(write, link, family, message))
                name = ("two threads" if together else "one thread") + (", encoded before" if encoded else "")
                spent[name] = timed(works, together=together)
                for link in sockets:
                    link.close()
                if any(len(shown(namespace, family)) != size // 2 for family in (4, 6)):
                    raise RuntimeError(f"{name}: not all routes are there")
    file = folder / "batch"
    routes = [route(number, family) for family in (4, 6) for number in range(size // 2)]
    lines = batch(routes, TABLE).replace("dev lo-galactic", "dev lo").splitlines(keepends=True)
    with Namespace.fresh() as namespace:
        run(namespace, "ip", "link", "set", "lo", "up")
        started = time.perf_counter()
        for number, half in enumerate((lines[: size // 2], lines[size // 2 :])):
            # ip(8) has no metrics of its own: without them the kernel compares each IPv4 route with all others.
            metric = (f" metric {1 + at}\n" for at in range(len(half)))
            file.write_text("".join(line.rstrip() + more for line, more in zip(half, metric, strict=True)))
            run(namespace, "ip", "-6" if number else "-4", "-force", "-batch", str(file))
        spent["ip -batch"] = time.perf_counter() - started
    return spent


def shown(namespace: Namespace, family: int) -> list[str]:
    return run(namespace, "ip", f"-{family}", "route", "show", "table", str(TABLE)).splitlines()


def main(repeats: int, size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rounds = [once(size, Path(folder)) for _ in range(repeats)]
    reference = median(spent["ip -batch"] for spent in rounds)
    for name in rounds[0]:
        seconds = [spent[name] for spent in rounds]
        middle = median(seconds)
        print(
            f"{name:28} {size / middle:9.0f} routes/s  {reference / middle:5.2f} x ip -batch"
            f"  ({min(seconds):.2f} to {max(seconds):.2f} s)"
        )


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[1:3]]
    main(*given, *(5, 100_000)[len(given) :])
