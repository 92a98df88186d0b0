"""A link of 1400 bytes between two nodes whose own have 1500: pods learn its MTU in both directions and families, for
TCP, UDP and echo requests, and `galactic status` names it. Answers of a pod that forwards reach the sender as well.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from story import Tenant, eventually

from galactic_lab.cluster import Lab
from galactic_lab.state import Node

SMALL, OUTER = 1400, 40
INNER = SMALL - OUTER
BEHIND = 1300
FULL = 1460
HEADERS = {4: 20, 6: 40}
HERE = Path(__file__).parent
ADDRESSES = {"one": {4: "10.1.1.1", 6: "2001:10:1:1::1"}, "two": {4: "10.1.1.2", 6: "2001:10:1:1::2"}}
ROUTES = (
    {"destination": "192.168.3.0/24", "via": "10.1.1.2"},
    {"destination": "2001:10:3:3::/64", "via": "2001:10:1:1::2"},
)
BEHIND_TWO = (
    "ip link add inner type dummy",
    f"ip link set inner mtu {BEHIND} up",
    "ip addr add 192.168.3.1/24 dev inner",
    "ip addr add 2001:10:3:3::1/64 dev inner nodad",
    "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
)


def attach(lab: Lab, node: Node, namespace: str, default: str = "") -> None:
    """The router's side of a node's link, as the lab makes it, in that namespace."""
    for words in (
        f"address add {node.gateway}/64 dev {node.name} nodad",
        f"link set {node.name} up",
        f"route add {node.prefix} via {node.address} dev {node.name}",
        f"route add {node.pods} via {node.address} dev {node.name}",
        *([f"route add default via {default}"] if default else []),
    ):
        lab.run("kernel", ["ip", "-6", "-n", namespace, *words.split()])


@pytest.fixture
def narrow(lab: Lab) -> Iterator[None]:
    """Another router between the fabric and node-2, and between the two a link of SMALL bytes."""
    fabric, far, node = lab.state.fabric, f"{lab.state.fabric}-far", lab.state.node("node-2")
    beyond = (f"{node.address}/64", str(node.prefix), str(node.pods))

    def ip(namespace: str, words: str) -> None:
        lab.run("kernel", ["ip", "-6", "-n", namespace, *words.split()])

    lab.run("kernel", ["ip", "netns", "add", far])
    try:
        lab.run("kernel", ["ip", "netns", "exec", far, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"])
        ip(fabric, f"link add narrow mtu {SMALL} type veth peer name narrow mtu {SMALL} netns {far}")
        for number, namespace in enumerate((fabric, far), 1):
            ip(namespace, f"address add fd99::{number}/64 dev narrow nodad")
            ip(namespace, "link set narrow up")
        ip(fabric, f"link set {node.name} netns {far}")
        attach(lab, node, far, "fd99::1")
        for network in beyond:
            ip(fabric, f"route replace {network} via fd99::2 dev narrow")
        yield
    finally:
        ip(far, f"link set {node.name} netns {fabric}")
        lab.run("kernel", ["ip", "netns", "delete", far])
        attach(lab, node, fabric)
        forgotten(lab)


def forgotten(lab: Lab) -> None:
    """The nodes know of no smaller link any more: stories that follow find nothing. An underlay as small ends that."""
    nodes = ("node-1", "node-2")
    for mtu in (SMALL, 1500):
        for name in nodes:
            lab.exec(name, ["ip", "link", "set", "eth0", "mtu", str(mtu)])
        for name in nodes if mtu == SMALL else ():
            eventually(f"{name} has forgotten", lambda name=name: "PathMTU" not in findings(lab, name))


def test_learned(tenants: Callable[..., Tenant], lab: Lab, request: pytest.FixtureRequest) -> None:
    blue = tenants("blue")
    blue.settle(
        {
            "one": ("node-1", "10.1.1.1/24", "2001:10:1:1::1/64"),
            "two": ("node-2", "10.1.1.2/24", "2001:10:1:1::2/64"),
        },
        routes=dict.fromkeys(("one", "two"), ROUTES),
    )
    both = [("one", ADDRESSES["two"][family]) for family in (4, 6)]
    blue.all_reach(both)
    assert "PathMTU" not in findings(lab, "node-1")

    request.getfixturevalue("narrow")
    blue.all_reach(both)
    for source, target in (("one", "two"), ("two", "one")):
        for family, address in ADDRESSES[target].items():
            streams(blue, source, target, family)
            output = echo(blue, source, address, FULL - HEADERS[family] - 8)
            assert f"mtu={INNER}" in output.replace("mtu = ", "mtu=").replace("mtu: ", "mtu="), output
            arrives(blue, source, target, family)
    eventually("galactic status names node, MTU and router", lambda: named(lab))

    # The pod forwards, and has a smaller link behind it: its own answer reaches the sender.
    for command in BEHIND_TWO:
        blue.run("two", command.split())
    for address in ("192.168.3.9", "2001:10:3:3::9"):
        eventually(
            f"one learns {BEHIND} to {address}",
            lambda address=address: (
                f"mtu={BEHIND}"
                in echo(blue, "one", address, 1300).replace("mtu = ", "mtu=").replace("mtu: ", "mtu=")
            ),
        )


def streams(blue: Tenant, source: str, target: str, family: int) -> None:
    """TCP from one to the other, in segments that fit."""
    script = [sys.executable, "-P", str(HERE / "stream.py")]
    argv = [*script, blue.netns(target), ADDRESSES[target][family], blue.netns(source), "4096000"]
    result = json.loads(blue.lab.run("kernel", argv, timeout=600).stdout.splitlines()[-1])
    assert result["error"] is None
    assert result["received"] == result["sent"] > 0
    assert result["mss"] == INNER - HEADERS[family] - 32


def arrives(blue: Tenant, source: str, target: str, family: int) -> None:
    """UDP: a datagram that fills a packet of FULL bytes arrives, in fragments."""
    size = FULL - HEADERS[family] - 8
    script = [sys.executable, "-P", str(HERE / "datagrams.py")]
    argv = [*script, blue.netns(target), ADDRESSES[target][family], blue.netns(source), str(size)]
    result = json.loads(blue.lab.run("kernel", argv, timeout=600).stdout.splitlines()[-1])
    assert result["arrived"] == size, result


def echo(blue: Tenant, source: str, address: str, payload: int) -> str:
    """The output of echo requests that must not be fragmented."""
    argv = ["ping", "-n", "-M", "do", "-c4", "-i0.3", "-W2", f"-s{payload}", address]
    done = blue.lab.run("kernel", blue.command(source, argv), check=False)
    return done.stdout + done.stderr


def findings(lab: Lab, node: str) -> str:
    program = Path(sys.executable).with_name("galactic")
    argv = [str(program), "status", "-o", "json", "--kubeconfig", str(lab.kubeconfig)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
    about = json.loads(done.stdout)["findings"]
    return json.dumps([finding for finding in about if finding["about"] == f"NodeSegment {node}"])


def named(lab: Lab) -> bool:
    """Either node names the other, and its own router as the one that has reported it."""
    return all(
        f"{SMALL} bytes to node-{far}, {lab.state.node(f'node-{far}').prefix.network_address}/64 "
        f"(reported by {lab.state.node(f'node-{near}').gateway})" in findings(lab, f"node-{near}")
        for near, far in ((1, 2), (2, 1))
    )
