"""A VPCGateway leads the pods that ask for it out of the cluster, with its own addresses, in both families; not to what
is the cluster's own; and on when one of its nodes is cut off. No host outside gets in.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from story import API, Tenant, eventually

from galactic_lab.cluster import Lab

OUTSIDE = {4: "198.51.100.7", 6: "2001:db8:7::7"}
ROUTER = {4: "198.51.100.1", 6: "2001:db8:7::1"}
HELD = {4: ("203.0.113.2", "203.0.113.3"), 6: ("2001:db8:cafe::2", "2001:db8:cafe::3")}
ROUTES = ({"destination": "0.0.0.0/0"}, {"destination": "::/0"})
METADATA = "169.254.169.254"
NETNS = "outside"
GALACTIC = Path(sys.executable).with_name("galactic")
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
ASK = """
import socket, sys
with socket.create_connection((sys.argv[1], 4242), 3) as made:
    print(made.recv(100).decode().strip())
"""


@pytest.fixture
def outside(lab: Lab) -> Iterator[None]:
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


@pytest.mark.usefixtures("outside")
def test_out(tenants: Callable[..., Tenant], lab: Lab) -> None:
    blue = tenants("blue")
    blue.settle(
        {
            "one": ("node-1", "10.1.1.1/24", "2001:10:1:1::1/64"),
            "near": ("node-2", "10.1.1.2/24", "2001:10:1:1::2/64"),
            "plain": ("node-1", "10.1.1.4/24", "2001:10:1:1::4/64"),
        },
        routes=dict.fromkeys(("one", "near"), ROUTES),
    )
    lab.kubectl("label", "node", "node-2", "node-3", "story.edge=yes", "--overwrite")
    blue.apply(gateway())
    holders = eventually("the gateway leads out by both nodes", lambda: led(blue))
    assert sorted(holders) == ["node-2", "node-3"]
    assert sorted(address for addresses in holders.values() for address in addresses) == sorted(
        (*HELD[4], *HELD[6])
    )
    route(lab, holders)

    # With the gateway's addresses, from a pod elsewhere and from one on a gateway's node.
    blue.all_reach((pod, address) for pod in ("one", "near") for address in OUTSIDE.values())
    for pod in ("one", "near"):
        for family in (4, 6):
            assert source(blue, pod, family) in HELD[family]
    here = {6 if ":" in address else 4: address for address in holders["node-2"]}
    assert {family: source(blue, "near", family) for family in (4, 6)} == here, (
        "a node that leads out does so itself"
    )

    # The trace follows packets to the address with which they leave.
    for family in (4, 6):
        code, hops = traced(blue, "one", OUTSIDE[family])
        texts = [hop["what"] for hop in hops]
        assert (code, {hop["state"] for hop in hops}) == (0, {"passes"}), hops
        assert any(f"with {address}" in text for text in texts for address in HELD[family]), hops
        assert texts[-1].startswith("answers: 3 of 3"), hops
    assert "way" in {one["name"].partition("/")[2] for one in galactic(lab, "status")[1]["gateways"]}

    # Not those that have not asked; not to the cluster's own; not in.
    assert blue.unanswered([("plain", OUTSIDE[4])])
    node = lab.state.node("node-2")
    forbidden = [METADATA, "169.254.1.2", str(node.address), str(lab.state.node("node-1").address)]
    pairs = [("one", address) for address in forbidden]
    assert set(blue.unanswered(pairs)) == set(pairs)
    for address, why in (
        (METADATA, "no gateway leads to 169.254.0.0/16"),
        (str(node.address), "cluster's own"),
    ):
        code, hops = traced(blue, "one", address)
        assert (code, hops[-1]["state"]) == (3, "stops"), hops
        assert why in hops[-1]["what"], hops
    service = lab.get("service", "kubernetes")["spec"]["clusterIP"]
    assert not connects(blue, "one", service, 443)
    for address in (*HELD[4], *HELD[6]):
        done = lab.run(
            "kernel", ["ip", "netns", "exec", NETNS, "ping", "-n", "-c1", "-W2", address], check=False
        )
        assert done.returncode != 0, done.stdout
    taken = gateway("taken", addresses=(str(node.address),), vpc="other")
    blue.apply(
        {
            "apiVersion": API,
            "kind": "VPC",
            "metadata": {"name": "other"},
            "spec": {"networks": ["10.9.0.0/24"]},
        }
    )
    blue.apply(taken)
    eventually("an address of a Node is refused", lambda: reason(blue, "taken") == "AddressInUse")

    # A node is cut off: the others lead round it, and it is used again when it is back.
    lost = lab.state.node("node-3")
    lab.exec("fabric", ["tc", "qdisc", "add", "dev", lost.name, "root", "netem", "loss", "100%"])
    try:
        left = {6 if ":" in address else 4: address for address in holders["node-2"]}
        for family in (4, 6):
            eventually(
                f"IPv{family} goes on by node-2",
                lambda family=family: source(blue, "one", family) == left[family],
            )
        assert blue.ping("one", OUTSIDE[4], count=20)
        texts = [hop["what"] for hop in traced(blue, "one", OUTSIDE[4])[1]]
        assert any(text.startswith("node-3 does not answer") and "led round" in text for text in texts), texts
    finally:
        lab.exec("fabric", ["tc", "qdisc", "del", "dev", lost.name, "root"])

    # Gone with the gateway, and nothing is left of it on a node.
    lab.kubectl("delete", "vpcgateway", "--all", "-n", blue.namespace, "--timeout=120s")
    for member in lab.state.members:
        eventually(
            f"nothing of the gateway is on {member.name}", lambda member=member: not left_on(lab, member.name)
        )
    assert blue.unanswered([("one", OUTSIDE[4])])
    lab.kubectl("label", "node", "node-2", "node-3", "story.edge-")


def gateway(
    name: str = "way", addresses: tuple[str, ...] = (*HELD[4], *HELD[6]), vpc: str = "vpc"
) -> dict[str, Any]:
    return {
        "apiVersion": API,
        "kind": "VPCGateway",
        "metadata": {"name": name},
        "spec": {
            "vpc": {"name": vpc},
            "nodeSelector": {"story.edge": "yes"},
            "replicas": 2,
            "snat": {"addresses": list(addresses)},
        },
    }


def led(blue: Tenant) -> dict[str, list[str]] | None:
    """Node → addresses, once the gateway is ready by all of them."""
    status = blue.lab.get("vpcgateway", "-n", blue.namespace, "way").get("status") or {}
    conditions = {one["type"]: one["status"] for one in status.get("conditions") or ()}
    if conditions.get("Ready") != "True" or conditions.get("Redundant") != "True":
        return None
    return {one["node"]: one.get("addresses") or [] for one in status["nodes"]}


def reason(blue: Tenant, name: str) -> str | None:
    conditions = (blue.lab.get("vpcgateway", "-n", blue.namespace, name).get("status") or {}).get(
        "conditions"
    ) or ()
    return next((one["reason"] for one in conditions if one["type"] == "Accepted"), None)


def route(lab: Lab, holders: dict[str, list[str]]) -> None:
    """The fabric routes each address to the node that holds it."""
    for name, addresses in holders.items():
        member = lab.state.node(name)
        for address in addresses:
            via = str(member.address) if ":" in address else f"10.200.{member.number}.2"
            lab.exec("fabric", ["ip", "route", "replace", address, "via", via])


def source(blue: Tenant, pod: str, family: int) -> str:
    """The source that a connection of the pod has outside; empty where there is none."""
    argv = blue.command(pod, [sys.executable, "-ISc", ASK, OUTSIDE[family]])
    return blue.lab.run("kernel", argv, check=False, timeout=120).stdout.strip()


def galactic(lab: Lab, *words: str) -> tuple[int, Any]:
    """The command's exit code and its JSON."""
    argv = [str(GALACTIC), *words, "-o", "json", "--kubeconfig", str(lab.kubeconfig)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode in {0, 3}, done.stderr
    return done.returncode, json.loads(done.stdout)


def traced(blue: Tenant, pod: str, address: str) -> tuple[int, list[dict[str, str]]]:
    code, report = galactic(blue.lab, "trace", f"{blue.namespace}/{pod}", address)
    (way,) = report["ways"]
    return code, way["hops"]


def connects(blue: Tenant, pod: str, address: str, port: int) -> bool:
    script = f"import socket; socket.create_connection(({address!r}, {port}), 3)"
    argv = blue.command(pod, [sys.executable, "-ISc", script])
    return blue.lab.run("kernel", argv, check=False, timeout=120).returncode == 0


def left_on(lab: Lab, node: str) -> list[str]:
    shown = lab.exec(node, ["sh", "-c", "ip -br link; ip route show table all; ip -6 route show table all"])
    return [
        line for line in shown.splitlines() if re.search(r"G\w{12}[EM]\b|203\.0\.113|2001:db8:cafe", line)
    ]
