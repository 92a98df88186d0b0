"""A VPCGateway's published ports lead hosts outside to ready pods on two nodes, in both families; away from one that is
not Ready any more; and nowhere when the gateway is gone. Pods see an address of their own VPC.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from beyond import HELD, NETNS, host_beyond, route
from story import API, Tenant, eventually

from galactic.errors import Rejected
from galactic_lab.cluster import Lab

PODS = {
    "one": ("node-1", "10.1.1.1/24", "2001:10:1:1::1/64"),
    "two": ("node-2", "10.1.1.2/24", "2001:10:1:1::2/64"),
    "other": ("node-1", "10.1.1.3/24", "2001:10:1:1::3/64"),
}
WEB = ("one", "two")
PORT, TARGET = 80, 8080
ASKED = 30
"""Connections that all go to one of two pods by chance: once in 5e8 times."""
AWAY = "/tmp/away"
LISTEN = """
import socket, sys
listener = socket.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    connection, (address, *_) = listener.accept()
    with connection:
        connection.sendall((sys.argv[1] + " " + address.removeprefix("::ffff:") + "\\n").encode())
"""
ASK = """
import socket, sys
for _ in range(int(sys.argv[3])):
    try:
        with socket.create_connection((sys.argv[1], int(sys.argv[2])), 3) as made:
            print(made.recv(100).decode().strip())
    except ConnectionRefusedError:
        print("refused")
    except OSError as error:
        print("nothing")
"""


@pytest.fixture
def outside(lab: Lab) -> Iterator[None]:
    with host_beyond(lab):
        yield


@pytest.mark.usefixtures("outside")
def test_in(tenants: Callable[..., Tenant], lab: Lab) -> None:
    blue = tenants("blue")
    blue.apply(
        blue._vpc("vpc"),
        *(labelled(blue, name) for name in PODS),
        *(pod(blue, name) for name in PODS),
    )
    blue.wait_for_pods(*PODS)
    listeners = [serve(blue, name) for name in PODS]
    lab.kubectl("label", "node", "node-2", "node-3", "story.edge=yes", "--overwrite")
    blue.apply(gateway())
    status = eventually("the ports are published", lambda: published(blue))
    assert {one["name"]: sorted(one["endpoints"]) for one in status["published"]} == {
        "web": ["10.1.1.1", "10.1.1.2"],
        "web6": ["2001:10:1:1::1", "2001:10:1:1::2"],
    }
    holders = {one["node"]: one["addresses"] for one in status["nodes"]}
    route(lab, holders)
    inside = {one["address"]: one["inside"] for one in status["published"]}

    # Both pods, on two nodes, which see an address of the VPC; and no other port, nor the other address.
    for address in asked():
        expected = {f"{name} {inside[address]}" for name in WEB}
        eventually(
            f"both answer at {address}",
            lambda address=address, expected=expected: answers(lab, address) == expected,
        )
        assert answers(lab, address, TARGET, 1) == {"nothing"}
        assert answers(lab, address, 22, 1) == {"nothing"}
    assert answers(lab, HELD[4][1], PORT, 1) == {"nothing"}

    # One is not Ready any more: only the other one answers, and both again afterwards. Of none: refused.
    away(blue, "one", True)
    for address in asked():
        eventually(
            f"only two answers at {address}",
            lambda address=address: answers(lab, address) == {f"two {inside[address]}"},
        )
    away(blue, "two", True)
    eventually("without a ready pod it is refused", lambda: answers(lab, HELD[4][0], PORT, 3) == {"refused"})
    assert condition(blue)["reason"] == "NoReadyPod"
    away(blue, "one", False)
    away(blue, "two", False)
    eventually("both answer again", lambda: len(answers(lab, HELD[4][0])) == len(WEB))
    assert {one["address"]: one["inside"] for one in way(blue)["published"]} == inside

    # Rules inside the VPC see that address: it is what they have to allow.
    blue.apply(deny("deny"))
    eventually("rules close it", lambda: answers(lab, HELD[4][0], PORT, 2) == {"nothing"})
    blue.apply(deny("allow", [{"ipBlock": {"cidr": f"{inside[HELD[4][0]]}/32"}}]))
    eventually("rules open it", lambda: len(answers(lab, HELD[4][0])) == len(WEB))

    # A port that is published twice is refused.
    twice = gateway()
    twice["spec"]["publish"].append(entry("more", HELD[4][0]))
    with pytest.raises(Rejected, match=r"spec\.publish.*published (twice|by web)"):
        blue.apply(twice)

    lab.kubectl("delete", "vpcgateway", "--all", "-n", blue.namespace, "--timeout=120s")
    for address in asked():
        eventually(
            f"nothing is at {address}",
            lambda address=address: answers(lab, address, PORT, 1) == {"nothing"},
        )
    lab.run("kernel", ["kill", *listeners], check=False)
    lab.kubectl("label", "node", "node-2", "node-3", "story.edge-")


def asked() -> tuple[str, str]:
    return HELD[4][0], HELD[6][0]


def entry(name: str, address: str) -> dict[str, Any]:
    to = {"attachmentSelector": {"matchLabels": {"app": "web"}}, "port": TARGET}
    return {"name": name, "address": address, "port": PORT, "protocol": "TCP", "to": to}


def gateway() -> dict[str, Any]:
    return {
        "apiVersion": API,
        "kind": "VPCGateway",
        "metadata": {"name": "way"},
        "spec": {
            "vpc": {"name": "vpc"},
            "nodeSelector": {"story.edge": "yes"},
            "replicas": 2,
            "snat": {"addresses": [*HELD[4], *HELD[6]]},
            "publish": [entry("web", HELD[4][0]), entry("web6", HELD[6][0])],
        },
    }


def labelled(blue: Tenant, name: str) -> dict[str, Any]:
    manifest = blue.manifest(name, *PODS[name][1:])
    manifest["metadata"]["labels"] = {"app": "web" if name in WEB else "other"}
    return manifest


def pod(blue: Tenant, name: str) -> dict[str, Any]:
    manifest = blue._pod(name, PODS[name][0], name, "")
    manifest["spec"]["containers"][0]["readinessProbe"] = {
        "exec": {"command": ["sh", "-c", f"! test -e {AWAY}"]},
        "periodSeconds": 1,
        "failureThreshold": 1,
    }
    return manifest


def away(blue: Tenant, name: str, is_away: bool) -> None:
    command = ["touch" if is_away else "rm", AWAY]
    blue.lab.kubectl("exec", "-n", blue.namespace, name, "--", *command)


def serve(blue: Tenant, name: str) -> str:
    """A listener in the pod's network, which answers with the pod's name and the asker's address. Its process."""
    command = " ".join(blue.command(name, [sys.executable, "-ISc", f"'{LISTEN}'", name]))
    return blue.lab.run("kernel", ["sh", "-c", f"setsid {command} >/dev/null 2>&1 & echo $!"]).stdout.strip()


def answers(lab: Lab, address: str, port: int = PORT, times: int = ASKED) -> set[str]:
    """The answers that a host outside gets, from that many connections."""
    argv = [sys.executable, "-ISc", ASK, address, str(port), str(times)]
    return set(
        lab.run("kernel", ["ip", "netns", "exec", NETNS, *argv], timeout=400).stdout.strip().splitlines()
    )


def deny(name: str, allowed: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    ingress = [{"from": allowed}] if allowed else []
    return {
        "apiVersion": API,
        "kind": "VPCPolicy",
        "metadata": {"name": name},
        "spec": {"vpc": {"name": "vpc"}, "policyTypes": ["Ingress"], "ingress": ingress},
    }


def way(blue: Tenant) -> dict[str, Any]:
    return blue.lab.get("vpcgateway", "-n", blue.namespace, "way").get("status") or {}


def condition(blue: Tenant) -> dict[str, Any]:
    return next((one for one in way(blue).get("conditions") or () if one["type"] == "Published"), {})


def published(blue: Tenant) -> dict[str, Any] | None:
    """The status, once every port leads to a pod and both nodes lead out."""
    status = way(blue)
    states = {one["type"]: one["status"] for one in status.get("conditions") or ()}
    wanted = ("Published", "Ready", "Redundant")
    return status if all(states.get(one) == "True" for one in wanted) else None
