"""Sends frames and listens for them in network namespaces of the lab's kernel, as one short process there.

Standard input and output are JSON; ``wired.Wire`` is the other half. Frames carry marks, ``galactic:NAME;`` anywhere
in them. The output counts each mark at each listener. Listeners are open before the first frame is sent; they are
closed when every expected mark has come, or time is up.
"""

import fcntl
import json
import os
import re
import select
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from galactic_lab.kernel import namespaces

EVERYTHING = 0x0003  # ETH_P_ALL
OUTGOING = 4  # PACKET_OUTGOING
MARK = re.compile(rb"galactic:([\w-]+);")
BUFFER = 1 << 22
HARDWARE_ADDRESS = 0x8927  # SIOCGIFHWADDR
FORCED_BUFFER = 33  # SO_RCVBUFFORCE: beyond the system's limit
AGAIN_SECONDS = 1.0
OWN = f"/proc/self/fd/{os.open('/proc/self/ns/net', os.O_RDONLY)}"


@contextmanager
def inside(netns: str) -> Iterator[None]:
    """Sockets that are made meanwhile belong to that namespace for their life."""
    namespaces.enter(netns, namespaces.CLONE_NEWNET)
    yield
    namespaces.enter(OWN, namespaces.CLONE_NEWNET)


def listener(what: dict[str, Any]) -> socket.socket:
    """Everything that a namespace (or a device in it) receives, or one UDP port of all its addresses."""
    with inside(what["netns"]):
        if "udp" in what:
            made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            made.bind(("::", what["udp"]))
        else:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EVERYTHING))
            made.setsockopt(socket.SOL_SOCKET, FORCED_BUFFER, BUFFER)
            if "device" in what:
                made.bind((what["device"], EVERYTHING))
    made.setblocking(False)
    return made


def sender(netns: str, device: str) -> socket.socket:
    with inside(netns):
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        made.bind((device, EVERYTHING))
    return made


def marks_of(listening: socket.socket) -> Iterator[str]:
    """The marks of frames that have arrived by now."""
    with suppress(BlockingIOError):
        while True:
            data, address = listening.recvfrom(65536)
            if listening.family == socket.AF_PACKET and address[2] == OUTGOING:
                continue
            for mark in MARK.findall(data):
                yield mark.decode()


def exchange(request: dict[str, Any]) -> dict[str, Any]:
    """Listens, sends, and goes on listening until everything expected has come."""
    listeners = {name: listener(where) for name, where in request["listen"].items()}
    senders = {
        (frame["netns"], frame["device"]): sender(frame["netns"], frame["device"])
        for frame in request["send"]
    }
    counts = {name: Counter[str]() for name in listeners}
    names = {made: name for name, made in listeners.items()}

    def listen(seconds: float) -> None:
        for made in select.select(list(names), [], [], seconds)[0]:
            counts[names[made]].update(marks_of(made))

    for command in request["first"]:
        with inside(command["netns"]):
            subprocess.run(command["argv"], check=True)

    def send(marks: set[str] | None = None) -> float:
        """All, or those with these marks; returns when."""
        for frame_ in request["send"]:
            frame = bytes.fromhex(frame_["frame"])
            if marks is None or not marks.isdisjoint(map(bytes.decode, MARK.findall(frame))):
                senders[frame_["netns"], frame_["device"]].send(frame)
                listen(0)
        return time.monotonic()

    sent = send()
    deadline = sent + request["seconds"]
    awaited = [tuple(pair) for pair in request["until"]]
    while awaited and (left := deadline - time.monotonic()) > 0:
        listen(min(left, AGAIN_SECONDS) if request["again"] else left)
        awaited = [(name, mark) for name, mark in awaited if not counts[name][mark]]
        if request["again"] and time.monotonic() - sent >= AGAIN_SECONDS:
            sent = send({mark for _, mark in awaited})
    listen(0)
    return {"arrived": counts, "missing": awaited}


def connect(one: dict[str, Any]) -> str:
    """The outcome of a TCP connection: ``connected``, or the error's text."""
    with inside(one["netns"]):
        made = socket.socket(socket.AF_INET6 if ":" in one["address"] else socket.AF_INET)
    with made:
        made.settimeout(one["seconds"])
        try:
            made.connect((one["address"], one["port"]))
        except OSError as error:
            return str(error)
    return "connected"


def device_address(netns: str, device: str) -> str:
    """The hardware address of a device."""
    with inside(netns):
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with made:
        answer = fcntl.ioctl(made, HARDWARE_ADDRESS, struct.pack("256s", device.encode()))
    return answer[18:24].hex(":")


def main() -> None:
    request = json.load(sys.stdin)
    if "addresses" in request:
        json.dump([device_address(*end) for end in request["addresses"]], sys.stdout)
    elif "connect" in request:
        json.dump([connect(target) for target in request["connect"]], sys.stdout)
    else:
        json.dump(exchange(request), sys.stdout)


if __name__ == "__main__":
    main()
