"""A TCP connection between two network namespaces that goes on sending until its standard input ends.

``stream.py NETNS_OF_SERVER ADDRESS NETNS_OF_CLIENT [BYTES]``: numbered blocks go from client to server, in a pace that
leaves a slow machine time for other things, or BYTES of them at full speed. Prints one line of JSON at the end:
blocks sent and received, whether each was the one that had to come next, the connection's MSS, and what broke it.
"""

import json
import os
import socket
import sys
import threading
import time
from typing import Any

from galactic_lab.kernel import namespaces

BLOCK = 4096
PAUSE = 0.01
SECONDS = 180.0
"""For the last of it to arrive."""


def socket_in(netns: str, address: str) -> socket.socket:
    """A TCP socket that belongs to that namespace."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    namespaces.enter(netns, namespaces.CLONE_NEWNET)
    made = socket.socket(family)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.settimeout(SECONDS)
    return made


def block(number: int) -> bytes:
    return number.to_bytes(8, "big") * (BLOCK // 8)


def receive(listening: socket.socket, result: dict[str, Any]) -> None:
    """Receives until the other end closes the connection."""
    try:
        connection, _ = listening.accept()
        connection.settimeout(SECONDS)
        with connection, connection.makefile("rb") as stream:
            while data := stream.read(BLOCK):
                if data != block(result["received"]):
                    result["error"] = f"block {result['received']} is not what was sent"
                    return
                result["received"] += 1
    except OSError as error:
        result["error"] = f"receiving: {error}"


def main() -> None:
    server, address, client, *limit = sys.argv[1:]
    blocks = int(limit[0]) // BLOCK if limit else 0
    result: dict[str, Any] = {"sent": 0, "received": 0, "error": None}
    listening = socket_in(server, address)
    listening.bind((address, 0))
    listening.listen()
    sending = socket_in(client, address)
    thread = threading.Thread(target=receive, args=(listening, result))
    thread.start()
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    try:
        sending.connect((address, listening.getsockname()[1]))
        sys.stdout.write("connected\n")
        sys.stdout.flush()
        while result["sent"] < blocks if blocks else not ended.is_set():
            sending.sendall(block(result["sent"]))
            result["sent"] += 1
            if not blocks:
                time.sleep(PAUSE)
        result["mss"] = sending.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    except OSError as error:
        result["error"] = f"sending: {error}"
    sending.close()
    thread.join(SECONDS)
    sys.stdout.write(f"{json.dumps(result)}\n")
    sys.stdout.flush()
    os._exit(0)  # without waiting for a receiver that lost its connection


if __name__ == "__main__":
    main()
