"""Ports of this machine for servers that start later."""

import socket


def kept() -> socket.socket:
    """A socket bound to a free port of 127.0.0.1. While it is open the kernel gives that port to no other process; a
    server that sets SO_REUSEADDR as well, as nearly all do, can listen there.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    return holder


def number(holder: socket.socket) -> int:
    """The port of such a socket."""
    port: int = holder.getsockname()[1]
    return port
