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
from beyond import HELD, METADATA, NETNS, OUTSIDE, host_beyond, route
from story import API, Tenant, eventually

from galactic_lab.cluster import Lab

ROUTES = ({"destination": "0.0.0.0/0"}, {"destination": "::/0"})
GALACTIC = Path(sys.executable).with_name("galactic")
ASK = """
import socket, sys
with socket.create_connection((sys.argv[1], 4242), 3) as made:
    print(made.recv(100).decode().strip())
"""


@pytest.fixture
def outside(lab: Lab) -> Iterator[None]:
    with host_beyond(lab):
        yield


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

    shown(blue, holders)

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


def source(blue: Tenant, pod: str, family: int) -> str:
    """The source that a connection of the pod has outside; empty where there is none."""
    argv = blue.command(pod, [sys.executable, "-ISc", ASK, OUTSIDE[family]])
    return blue.lab.run("kernel", argv, check=False, timeout=120).stdout.strip()


def shown(blue: Tenant, holders: dict[str, list[str]]) -> None:
    """A trace follows packets to the address with which they leave; status and top have the gateway."""
    for family in (4, 6):
        code, hops = traced(blue, "one", OUTSIDE[family])
        texts = [hop["what"] for hop in hops]
        assert (code, {hop["state"] for hop in hops}) == (0, {"passes"}), hops
        assert any(f"with {address}" in text for text in texts for address in HELD[family]), hops
        assert texts[-1].startswith("answers: 3 of 3"), hops
    assert "way" in {one["name"].partition("/")[2] for one in galactic(blue.lab, "status")[1]["gateways"]}

    rows = galactic(blue.lab, "top", "gateway", "-n", blue.namespace)[1]["traffic"]
    assert {(row["name"], row["node"]) for row in rows} == {
        (f"{blue.namespace}/way", node) for node in holders
    }


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
