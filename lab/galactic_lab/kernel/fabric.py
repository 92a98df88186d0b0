"""The nodes' network: a router namespace with a veth to every node, and nothing else between them.

Node N has fd00:N::2/64 on ``eth0``, the router fd00:N::1 on ``node-N``; the router sends the node's SRv6 prefix there
and the control plane's prefix to ``control``. Only IPv6. A lost namespace is made again; existing ones are left alone.
"""

import subprocess
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path

from galactic_lab.state import GATEWAY, Node, State, alone


def ensure_namespace(name: str) -> None:
    """Makes a named network namespace unless it exists."""
    with alone():
        if not Path("/run/netns", name).exists():
            subprocess.run(["ip", "netns", "add", name], check=True)


@dataclass(frozen=True, slots=True)
class Step:
    """One command, with its standard input."""

    argv: list[str]
    stdin: str = ""

    def run(self) -> None:
        """Runs the command. Raises CalledProcessError; its messages go to standard error."""
        subprocess.run(self.argv, input=self.stdin.encode(), check=True)


def _batch(namespace: str, *lines: str) -> Step:
    return Step(["ip", "-6", "-n", namespace, "-batch", "-"], "\n".join(lines) + "\n")


def router(state: State, uplink: str, *, inside: bool = False) -> list[Step]:
    """The router; ``uplink``, a device of the caller's namespace or ``inside`` it, leads to the control plane."""
    name = state.fabric
    move = ["ip", "link", "set", uplink, "netns", name, "name", "control"]
    return [
        *([] if inside else [Step(["ip", "netns", "add", name]), Step(move)]),
        _batch(
            name,
            "link set lo up",
            f"address add {GATEWAY}/64 dev control nodad",
            "link set control up",
        ),
        Step(["ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"]),
    ]


def node(state: State, member: Node) -> list[Step]:
    """One node, attached to the router, which routes the SRv6 prefix to it in any case."""
    device = member.name
    steps = [
        Step(["ip", "netns", "add", member.namespace]),
        Step(
            [
                *("ip", "link", "add", device, "netns", state.fabric, "type", "veth"),
                *("peer", "name", "eth0", "netns", member.namespace),
            ]
        ),
        _batch(
            state.fabric,
            f"address add {member.gateway}/64 dev {device} nodad",
            f"link set {device} up",
            f"route add {member.prefix} via {member.address} dev {device}",
            f"route add {member.pods} via {member.address} dev {device}",
        ),
        _batch(
            member.namespace,
            "link set lo up",
            f"address add {member.address}/64 dev eth0 nodad",
            "link set eth0 up",
            f"route add default via {member.gateway} dev eth0",
        ),
    ]
    if state.latency:
        # Half at either end: A to B passes A's eth0 and the router's device to B.
        netem = ["root", "netem", "delay", f"{state.latency / 2:g}ms", "limit", "100000"]
        steps += [
            Step(["tc", "-n", member.namespace, "qdisc", "add", "dev", "eth0", *netem]),
            Step(["tc", "-n", state.fabric, "qdisc", "add", "dev", device, *netem]),
        ]
    return steps


def ensure_node(state: State, member: Node) -> None:
    """Makes the node's namespace and its link unless it is there."""
    if not Path("/run/netns", member.namespace).exists():
        for step in node(state, member):
            step.run()


def remake_node(state: State, member: Node) -> None:
    """Makes the node's namespace again: a reboot keeps no device, route or rule."""
    for argv in (
        ["ip", "-n", state.fabric, "link", "delete", member.name],
        ["ip", "netns", "delete", member.namespace],
    ):
        subprocess.run(argv, capture_output=True, check=False)  # it may not exist
    ensure_node(state, member)


def control(state: State, device: str) -> list[Step]:
    """The control plane's end, in the lab's own namespace: its address on ``device``, and routes to nodes and pods."""
    return [
        _batch(
            state.namespace,
            "link set lo up",
            f"address add {state.control}/64 dev {device} nodad",
            f"link set {device} up",
            f"route add default via {state.gateway} dev {device}",
        )
    ]


def passing(state: State, device: str, address: IPv6Address) -> list[Step]:
    """The control plane's namespace forwards packets from ``device``, the link to another lab."""
    return [
        _batch(state.namespace, f"address add {address}/64 dev {device} nodad", f"link set {device} up"),
        Step(["ip", "netns", "exec", state.namespace, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"]),
    ]
