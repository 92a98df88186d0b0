"""Two nodes with a pod each, and a router between them: by Galactic's plan, routed without it, or by a tunnel.
``counted`` is by the plan as well; ``inside`` reads its counters meanwhile, a hundred times as often as a node does.

All worlds have the same veths: pod, node, router, node, pod. Each has namespaces of its own: ``NAME-p1``, ``NAME-n1``,
``NAME-r``, ``NAME-n2`` and ``NAME-p2``.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

PODS: Final = {4: {1: "10.1.1.1", 2: "10.1.1.2"}, 6: {1: "2001:10:1:1::1", 2: "2001:10:1:1::2"}}
MTU: Final = {"galactic": 1460, "rule": 1460, "rules": 1460, "routed": 1500, "vxlan": 1430, "geneve": 1430}
"""Of the pods' interfaces, in an underlay of 1500: a tunnel over IPv6 takes 70 bytes."""
PLAN: Final = Path(__file__).with_name("plan.py")


def ip(namespace: str, *lines: str) -> None:
    """Runs ip's commands in a namespace."""
    batch = "\n".join(lines) + "\n"
    subprocess.run(["ip", "-n", namespace, "-batch", "-"], input=batch, text=True, check=True)


def inside(namespace: str, *argv: str) -> None:
    subprocess.run(["ip", "netns", "exec", namespace, *argv], check=True)


def make(name: str) -> None:
    """Makes the world of that name."""
    for place in ("p1", "n1", "r", "n2", "p2"):
        subprocess.run(["ip", "netns", "add", f"{name}-{place}"], check=True)
        ip(f"{name}-{place}", "link set lo up")
    inside(f"{name}-r", "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1", "net.ipv4.ip_forward=1")
    for number in (1, 2):
        node, router = f"{name}-n{number}", f"{name}-r"
        forwarding = (
            "net.ipv6.conf.all.forwarding=1",
            "net.ipv4.ip_forward=1",
            "net.ipv4.conf.all.rp_filter=0",
        )
        inside(node, "sysctl", "-qw", *forwarding, "net.ipv4.conf.default.rp_filter=0")
        ip(router, f"link add near{number} type veth peer name eth0 netns {node}")
        ip(
            router,
            f"addr add fd0a:{number}::1/64 dev near{number} nodad",
            f"addr add 192.168.{number}.1/24 dev near{number}",
            f"link set near{number} up",
            f"route add 2001:db8:ff0{number}:100::/56 via fd0a:{number}::2",
        )
        ip(
            node,
            f"addr add fd0a:{number}::2/64 dev eth0 nodad",
            f"addr add 192.168.{number}.2/24 dev eth0",
            "link set eth0 up",
            f"route add default via fd0a:{number}::1",
            f"route add default via 192.168.{number}.1",
        )
    for number in (1, 2):
        WORLDS[name](name, number)


def _pod(name: str, number: int) -> None:
    """A pod as another CNI plugin makes it: a veth, a host route, and the same gateways as Galactic's."""
    node, pod = f"{name}-n{number}", f"{name}-p{number}"
    mtu = MTU[name]
    ip(node, f"link add cali1 mtu {mtu} type veth peer name galactic0 mtu {mtu} netns {pod}")
    ip(
        node,
        "addr add 169.254.1.1/32 dev cali1",
        "addr add fe80::1/64 dev cali1 nodad",
        "link set cali1 up",
        f"route add {PODS[4][number]}/32 dev cali1",
        f"route add {PODS[6][number]}/128 dev cali1",
    )
    ip(
        pod,
        f"addr add {PODS[4][number]}/24 dev galactic0 noprefixroute",
        f"addr add {PODS[6][number]}/64 dev galactic0 nodad noprefixroute",
        "link set galactic0 up",
        "route add 169.254.1.1/32 dev galactic0",
        "route add 10.1.1.0/24 via 169.254.1.1 dev galactic0",
        "route add 2001:10:1:1::/64 via fe80::1 dev galactic0",
    )


def _routed(name: str, number: int) -> None:
    """The underlay routes the pods' addresses."""
    _pod(name, number)
    ip(
        f"{name}-r",
        f"route add {PODS[4][number]}/32 via 192.168.{number}.2",
        f"route add {PODS[6][number]}/128 via fd0a:{number}::2",
    )


def _tunnel(kind: str, options: str) -> Callable[[str, int], None]:
    """Pods' addresses are routed into a tunnel over IPv6, whose other end has a fixed link-layer address."""

    def build(name: str, number: int) -> None:
        _pod(name, number)
        far = 3 - number
        local = f"local fd0a:{number}::2 dev eth0 " if kind == "vxlan" else ""
        ip(
            f"{name}-n{number}",
            f"link add tunnel address 02:00:00:00:00:0{number} mtu {MTU[name]} type {kind} id 42 "
            f"{local}remote fd0a:{far}::2 {options}",
            f"addr add 10.9.0.{number}/24 dev tunnel",
            f"addr add fd0b::{number}/64 dev tunnel nodad",
            "link set tunnel up",
            f"neigh add 10.9.0.{far} lladdr 02:00:00:00:00:0{far} dev tunnel",
            f"neigh add fd0b::{far} lladdr 02:00:00:00:00:0{far} dev tunnel",
            f"route add {PODS[4][far]}/32 via 10.9.0.{far} dev tunnel",
            f"route add {PODS[6][far]}/128 via fd0b::{far} dev tunnel",
        )

    return build


def _galactic(name: str, number: int, rules: int = 0, peers: int = 0) -> None:
    """By the node controller's own plan, packet filter included.

    ``rules``: so many in each direction of a policy that selects the pod, each with so many peers.
    """
    given = {"number": number, "netns": f"/run/netns/{name}-p{number}", "rules": rules, "peers": peers}
    inside(f"{name}-n{number}", sys.executable, str(PLAN), json.dumps(given))


def _one_rule(name: str, number: int) -> None:
    _galactic(name, number, rules=1, peers=1)


def _many_rules(name: str, number: int) -> None:
    _galactic(name, number, rules=100, peers=1000)


WORLDS: Final[dict[str, Callable[[str, int], None]]] = {
    "galactic": _galactic,
    "counted": _galactic,
    "rule": _one_rule,
    "rules": _many_rules,
    "routed": _routed,
    "vxlan": _tunnel("vxlan", "dstport 4789 nolearning"),
    "geneve": _tunnel("geneve", "dstport 6081"),
}
