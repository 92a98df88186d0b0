"""A host beyond the fabric of a lab, for stories about VPCGateways."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from galactic_lab.cluster import Lab

OUTSIDE = {4: "198.51.100.7", 6: "2001:db8:7::7"}
ROUTER = {4: "198.51.100.1", 6: "2001:db8:7::1"}
HELD = {4: ("203.0.113.2", "203.0.113.3"), 6: ("2001:db8:cafe::2", "2001:db8:cafe::3")}
METADATA = "169.254.169.254"
NETNS = "outside"
LISTEN = """
import socket, sys, threading
listener = socket.create_server(("::", 4242), family=socket.AF_INET6, dualstack_ipv6=True)
def repeat(connection, address):
    with connection:
        connection.sendall((address.removeprefix("::ffff:") + "\\n").encode())
        while data := connection.recv(1000):
            connection.sendall(data)
while True:
    connection, (address, *_) = listener.accept()
    threading.Thread(target=repeat, args=(connection, address), daemon=True).start()
"""


@contextmanager
def host_beyond(lab: Lab) -> Iterator[None]:
    """A host beyond the fabric, which routes the gateway's addresses to the nodes that hold them: that is the story's
    to say. The nodes have IPv4 to the fabric.
    """
    fabric = lab.state.fabric
    steps = [
        f"ip netns add {NETNS}",
        f"ip -n {fabric} link add beyond type veth peer name eth0 netns {NETNS}",
        f"ip -n {NETNS} link set lo up",
        f"ip netns exec {fabric} sysctl -qw net.ipv4.ip_forward=1",
    ]
    for family, length in ((4, 24), (6, 64)):
        nodad = " nodad" if family == 6 else ""
        steps += [
            f"ip -n {fabric} address add {ROUTER[family]}/{length} dev beyond{nodad}",
            f"ip -n {NETNS} address add {OUTSIDE[family]}/{length} dev eth0{nodad}",
        ]
    steps += [f"ip -n {NETNS} address add {METADATA}/32 dev eth0"]
    steps += [f"ip -n {fabric} link set beyond up", f"ip -n {NETNS} link set eth0 up"]
    for family in (4, 6):
        steps.append(f"ip -{family} -n {NETNS} route add default via {ROUTER[family]}")
    steps.append(f"ip -n {fabric} route add {METADATA} dev beyond")
    for member in lab.state.members:
        four = f"10.200.{member.number}"
        steps += [
            f"ip -n {member.namespace} address add {four}.2/24 dev eth0",
            f"ip -n {fabric} address add {four}.1/24 dev {member.name}",
            f"ip -n {member.namespace} route add default via {four}.1",
        ]
    listener = f"setsid ip netns exec {NETNS} {sys.executable} -ISc '{LISTEN}' >/dev/null 2>&1 & echo $!"
    lab.run("kernel", ["sh", "-ec", " && ".join(steps)])
    process = lab.run("kernel", ["sh", "-c", listener]).stdout.strip()
    yield
    undo = [f"kill {process}", f"ip -n {fabric} link delete beyond", f"ip netns delete {NETNS}"]
    for member in lab.state.members:
        four = f"10.200.{member.number}"
        undo += [
            f"ip -n {member.namespace} route delete default via {four}.1",
            f"ip -n {member.namespace} address delete {four}.2/24 dev eth0",
            f"ip -n {fabric} address delete {four}.1/24 dev {member.name}",
        ]
    for family in (4, 6):
        undo += [f"ip -{family} -n {fabric} route delete {address}" for address in HELD[family]]
    lab.run("kernel", ["sh", "-c", "; ".join(undo)], check=False)


def route(lab: Lab, holders: dict[str, list[str]]) -> None:
    """The fabric routes each address to the node that holds it."""
    for name, addresses in holders.items():
        member = lab.state.node(name)
        for address in addresses:
            via = str(member.address) if ":" in address else f"10.200.{member.number}.2"
            lab.exec("fabric", ["ip", "route", "replace", address, "via", via])
