"""UDP between two network namespaces: ``datagrams.py NETNS_OF_SERVER ADDRESS NETNS_OF_CLIENT BYTES``.

Datagrams of that size are sent five times a second, by a socket as programs make it, until one arrives or for 60 s.
One line of JSON: the size of the first that arrived (0: none), and how many were sent.
"""

import json
import socket
import sys
import time

from galactic_lab.kernel import namespaces

PAUSE = 0.2
SECONDS = 60.0


def socket_in(netns: str, address: str) -> socket.socket:
    """A UDP socket that belongs to that namespace."""
    namespaces.enter(netns, namespaces.CLONE_NEWNET)
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)


def main() -> None:
    server, address, client, size = sys.argv[1:]
    receiving = socket_in(server, address)
    receiving.bind((address, 0))
    receiving.settimeout(PAUSE)
    sending = socket_in(client, address)
    sent, arrived = 0, 0
    deadline = time.monotonic() + SECONDS
    while not arrived and time.monotonic() < deadline:
        try:
            sending.sendto(bytes(int(size)), receiving.getsockname())
            sent += 1
            arrived = len(receiving.recv(1 << 16))
        except TimeoutError:
            continue
    sys.stdout.write(json.dumps({"arrived": arrived, "sent": sent}) + "\n")


if __name__ == "__main__":
    main()
