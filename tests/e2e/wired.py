"""Frames made with scapy, sent and looked for inside the lab's kernel (``wire.py`` is what runs there)."""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from scapy.layers.inet import UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw
from story import ANSWER_SECONDS, Tenant

from galactic import names
from galactic_lab.cluster import Lab

PROGRAM = Path(__file__).with_name("wire.py")
PORT = 7777
SECONDS = 240.0
"""For packets that are expected. Packets that must not arrive are sent before them, on the same way."""


class Port(NamedTuple):
    """Where a frame is sent from: a device of a namespace, and the hardware addresses of it and of its neighbour."""

    netns: str
    device: str
    own: str
    neighbour: str


class Arrivals(NamedTuple):
    """The number of arrivals of each mark, by listener."""

    counts: Mapping[str, Mapping[str, int]]

    def at(self, listener: str) -> set[str]:
        return set(self.counts[listener])


def marked(mark: str) -> Packet:
    """A UDP datagram with a mark that is found again whatever is put around it."""
    return UDP(sport=PORT, dport=PORT) / Raw(f"galactic:{mark};".encode())


class Wire:
    """Sends and listens in the namespaces of a lab."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def pod(self, tenant: Tenant, name: str) -> str:
        """A Pod's namespace."""
        return tenant.netns(name)

    def node(self, name: str) -> str:
        """A node's namespace, or the fabric's."""
        state = self._lab.state
        return f"/run/netns/{state.fabric if name == 'fabric' else state.node(name).namespace}"

    def port(self, tenant: Tenant, name: str, node: str) -> Port:
        """The end of a Pod's interface that is inside it."""
        attachment = tenant.attachment(name)["status"]
        vpc = tenant.lab.get("vpc", "-n", tenant.namespace, "vpc")["status"]["identifier"]
        host_end = names.host_end(int(vpc, 16), int(attachment["identifier"], 16))
        return self.end((self.pod(tenant, name), "galactic0"), (self.node(node), host_end))

    def underlay(self, node: str) -> Port:
        """The fabric's end of the link to a node."""
        return self.end((self.node("fabric"), node), (self.node(node), "eth0"))

    def end(self, near: tuple[str, str], far: tuple[str, str]) -> Port:
        """The near one of two ends, namespace and device, of a link."""
        return Port(*near, *self._run({"addresses": [near, far]}))

    def exchange(
        self,
        send: Iterable[tuple[Port, Packet]],
        listen: Mapping[str, Mapping[str, Any]],
        until: Iterable[tuple[str, str]],
        *,
        first: Iterable[tuple[str, str]] = (),
        again: bool = False,
    ) -> Arrivals:
        """Sends packets, in order, and listens until the marks ``until`` (listener, mark) have come; fails if they do
        not. Immediately before the first packet the commands ``first`` (namespace, command) are run. ``again``: packets
        that did not arrive are sent once more each second, since a kernel limits how often it answers.
        """
        frames = [
            {
                "netns": port.netns,
                "device": port.device,
                "frame": bytes(Ether(src=port.own, dst=port.neighbour) / packet).hex(),
            }
            for port, packet in send
        ]
        wanted = [list(pair) for pair in until]
        commands = [{"netns": netns, "argv": command.split()} for netns, command in first]
        request = {"first": commands, "send": frames, "listen": listen, "until": wanted, "again": again}
        request["seconds"] = SECONDS
        answer = self._run(request)
        assert not answer["missing"], f"did not arrive: {answer['missing']}; arrived: {answer['arrived']}"
        return Arrivals(answer["arrived"])

    def connects(self, netns: str, address: str, port: int, *, seconds: float = SECONDS) -> str:
        """The outcome of a TCP connection from a namespace: ``connected``, or the error."""
        wanted = [{"netns": netns, "address": address, "port": port, "seconds": seconds}]
        return str(self._run({"connect": wanted})[0])

    def _run(self, request: dict[str, Any]) -> Any:
        argv = [sys.executable, "-P", str(PROGRAM)]
        return json.loads(
            self._lab.run("kernel", argv, stdin=json.dumps(request), timeout=ANSWER_SECONDS).stdout
        )
