"""Ports of this machine for servers that start later."""

import socket


def kept() -> socket.socket:
    """A socket bound to a port that is free on all addresses. While it is open the kernel gives that port to no other
    process; a server that sets SO_REUSEADDR as well, as nearly all do, can listen there.

    All addresses, as Mosquitto's WebSockets listen on all, whatever they are configured for: a connection that another
    program has from that port, of any address of the machine, would be in their way.
    """
    both = socket.has_dualstack_ipv6()
    holder = socket.socket(socket.AF_INET6 if both else socket.AF_INET)
    if both:
        holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("", 0))
    return holder


def number(holder: socket.socket) -> int:
    """The port of such a socket."""
    port: int = holder.getsockname()[1]
    return port
