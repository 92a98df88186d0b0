"""A gateway's node is lost, and a peering is cut, as pods notice both: ``python -P bench/ways.py [--rounds 5]``.

A pod sends an echo request every 20 ms, to an address outside or to a pod of the peer. Meanwhile

failover: the link of the gateway's node by which its packets go loses everything, as when the machine dies. ``lost``:
requests without an answer, and the longest time without one, in each family. The goal: at most 1 s.
cut: ``kubectl`` takes one side of the peering back. The time from the start of kubectl, and from its end, to the last
answer. The goal: at most 1 s.

Both in one lab, which it brings up if none of that name is. ``--lab NAME``.
"""

import argparse
import json
import re
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Final

from rich.console import Console

from galactic_lab.cluster import Lab

API: Final = "galactic.datumapis.com/v1alpha"
HERE, PEER = "bench-ways", "bench-peer"
OUTSIDE: Final = {4: [f"198.51.100.{last}" for last in range(1, 17)], 6: ["2001:db8:7::7"]}
HELD: Final = ("203.0.113.2", "203.0.113.3", "2001:db8:cafe::2", "2001:db8:cafe::3")
INTERVAL: Final = 0.02
SECONDS: Final = 6.0
AFTER: Final = 2.0
"""Seconds of echo requests ahead of the loss."""
PATIENCE: Final = 180.0


def attached(
    namespace: str, name: str, node: str, *addresses: str, out: bool = False
) -> list[dict[str, Any]]:
    """A pod and its attachment."""
    routes = [{"destination": "0.0.0.0/0"}, {"destination": "::/0"}] if out else []
    spec = {"vpc": {"name": "vpc"}, "interface": {"addresses": [*addresses]}, "routes": routes}
    annotations = {"k8s.v1alpha.galactic.datumapis.com/vpc-attachment": name}
    pod = {
        "nodeSelector": {"kubernetes.io/hostname": node},
        "terminationGracePeriodSeconds": 1,
        "containers": [
            {"name": "main", "image": "nicolaka/netshoot:v0.13", "command": ["sleep", "infinity"]}
        ],
    }
    meta = {"name": name, "namespace": namespace}
    return [
        {"apiVersion": API, "kind": "VPCAttachment", "metadata": meta, "spec": spec},
        {"apiVersion": "v1", "kind": "Pod", "metadata": meta | {"annotations": annotations}, "spec": pod},
    ]


def objects() -> list[dict[str, Any]]:
    """Two VPCs that are peered; the first has a gateway on two nodes."""
    things: list[dict[str, Any]] = []
    networks = {HERE: ["10.1.1.0/24", "2001:10:1:1::/64"], PEER: ["10.2.2.0/24"]}
    for namespace, other in ((HERE, PEER), (PEER, HERE)):
        spec = {"networks": networks[namespace], "peers": [{"namespace": other, "name": "vpc"}]}
        things += [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
            {
                "apiVersion": API,
                "kind": "VPC",
                "metadata": {"name": "vpc", "namespace": namespace},
                "spec": spec,
            },
        ]
    gateway = {
        "vpc": {"name": "vpc"},
        "nodeSelector": {"bench.edge": "yes"},
        "replicas": 2,
        "snat": {"addresses": [*HELD]},
    }
    things.append(
        {
            "apiVersion": API,
            "kind": "VPCGateway",
            "metadata": {"name": "way", "namespace": HERE},
            "spec": gateway,
        }
    )
    things += attached(HERE, "one", "node-1", "10.1.1.1/24", "2001:10:1:1::1/64", out=True)
    return things + attached(PEER, "two", "node-2", "10.2.2.2/24")


def eventually(what: str, attempt: Any) -> Any:
    """Its first result that is true."""
    deadline = time.monotonic() + PATIENCE
    while not (result := attempt()):
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {PATIENCE:.0f} s: {what}")
        time.sleep(0.2)
    return result


@contextmanager
def outside(lab: Lab) -> Iterator[None]:
    """The fabric has the addresses outside, and IPv4 to the nodes."""
    fabric = lab.state.fabric
    steps = [f"ip netns exec {fabric} sysctl -qw net.ipv4.ip_forward=1"]
    for addresses in OUTSIDE.values():
        steps += [f"ip -n {fabric} address add {one} dev lo" for one in addresses]
    undo = [step.replace("address add", "address delete") for step in steps[1:]]
    for member in lab.state.members:
        four = f"10.200.{member.number}"
        steps += [
            f"ip -n {member.namespace} address add {four}.2/24 dev eth0",
            f"ip -n {fabric} address add {four}.1/24 dev {member.name}",
            f"ip -n {member.namespace} route add default via {four}.1",
        ]
        undo += [
            f"ip -n {member.namespace} route delete default via {four}.1",
            f"ip -n {member.namespace} address delete {four}.2/24 dev eth0",
            f"ip -n {fabric} address delete {four}.1/24 dev {member.name}",
        ]
    undo += [f"ip {'-6' if ':' in one else '-4'} -n {fabric} route delete {one}" for one in HELD]
    lab.run("kernel", ["sh", "-ec", "; ".join(steps)])
    try:
        yield
    finally:
        lab.run("kernel", ["sh", "-c", "; ".join(undo)], check=False)


def holders(lab: Lab) -> dict[str, list[str]] | None:
    """Node → addresses, once both lead out."""
    nodes = (lab.get("vpcgateway", "-n", HERE, "way").get("status") or {}).get("nodes") or []
    if len(nodes) != 2 or not all(one["ready"] for one in nodes):
        return None
    return {one["node"]: one["addresses"] for one in nodes}


def left(lab: Lab, node: str) -> int:
    """Packets that left by the gateway on that node."""
    script = "cat /sys/class/net/G*M/statistics/rx_packets"
    return int(lab.run(node, ["sh", "-c", script]).stdout)


def exits(lab: Lab, address: str, nodes: Mapping[str, Any]) -> str:
    """The node by which the pod's packets to an address leave; empty where none answers."""
    before = {node: left(lab, node) for node in nodes}
    done = lab.run(f"pod/{HERE}/one", ["ping", "-nq", "-c3", "-i0.02", "-W1", address], check=False)
    if done.returncode:
        return ""
    rises = {node: left(lab, node) - count for node, count in before.items()}
    node = max(rises, key=lambda name: rises[name])
    return node if rises[node] >= 3 else ""


class Pinging:
    """Echo requests of a pod, under way."""

    def __init__(self, lab: Lab, pod: str, address: str) -> None:
        count = int(SECONDS / INTERVAL)
        argv = ["ping", "-nD", f"-i{INTERVAL}", f"-c{count}", "-W2", address]
        self._process = subprocess.Popen(
            lab.command(f"pod/{pod}", argv, terminal=False),
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def answers(self) -> tuple[list[float], int]:
        """The times of the answers, by the guest's clock, and the number of requests without one."""
        output, _ = self._process.communicate(timeout=120)
        times = [
            float(text)
            for text in re.findall(r"^\[([\d.]+)\] \d+ bytes from .*icmp_seq", output, re.MULTILINE)
        ]
        counted = re.search(r"(\d+) packets transmitted, (\d+) received", output)
        assert counted, output
        return times, int(counted[1]) - int(counted[2])


def failover(lab: Lab, nodes: Mapping[str, list[str]], node: str) -> dict[str, float]:
    """One round, once IPv6 leads out by that node again: milliseconds without an answer, and requests lost."""
    eventually(f"IPv6 leads out by {node}", lambda: exits(lab, OUTSIDE[6][0], nodes) == node)
    four = eventually(
        f"an IPv4 address leads out by {node}",
        lambda: next((one for one in OUTSIDE[4] if exits(lab, one, nodes) == node), ""),
    )
    port = lab.state.node(node).name
    pings = {4: Pinging(lab, f"{HERE}/one", four), 6: Pinging(lab, f"{HERE}/one", OUTSIDE[6][0])}
    time.sleep(AFTER)
    lab.exec("fabric", ["tc", "qdisc", "add", "dev", port, "root", "netem", "loss", "100%"])
    try:
        results = {family: ping.answers() for family, ping in pings.items()}
    finally:
        lab.exec("fabric", ["tc", "qdisc", "del", "dev", port, "root"])
    found = {}
    for family, (times, lost) in results.items():
        gaps = [after - before for before, after in pairwise(times)]
        found[f"IPv{family}, ms without an answer"] = 1000 * max(gaps, default=SECONDS)
        found[f"IPv{family}, requests lost"] = lost
    return found


def cut(lab: Lab) -> dict[str, float]:
    """One round: milliseconds from kubectl's start and end to the last answer."""
    target = f"pod/{HERE}/one"
    eventually(
        "the peer answers",
        lambda: lab.run(target, ["ping", "-nqc1", "-W1", "10.2.2.2"], check=False).returncode == 0,
    )
    ping = Pinging(lab, f"{HERE}/one", "10.2.2.2")
    time.sleep(AFTER)
    asked = time.time()
    guest = float(lab.run("kernel", ["date", "+%s.%N"]).stdout)
    offset = guest - (asked + time.time()) / 2
    began = time.time() + offset
    patch(lab, [])
    ended = time.time() + offset
    times, lost = ping.answers()
    assert lost, "the peering was not cut"
    patch(lab, [{"namespace": HERE, "name": "vpc"}])
    return {
        "kubectl's start to the last answer, ms": 1000 * (times[-1] - began),
        "kubectl's end to the last answer, ms": 1000 * (times[-1] - ended),
    }


def patch(lab: Lab, peers: list[dict[str, str]]) -> None:
    body = json.dumps({"spec": {"peers": peers}})
    lab.kubectl("patch", "vpc", "-n", PEER, "vpc", "--type=merge", "-p", body)


def report(rounds: list[dict[str, float]]) -> None:
    for name in rounds[0]:
        values = [one[name] for one in rounds]
        shown = ", ".join(f"{value:.0f}" for value in values)
        print(
            f"{name:>42}  median {statistics.median(values):.0f}, most {max(values):.0f}  ({shown})",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--lab", default="bench")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    lab = Lab(given.lab, Console(stderr=True))
    running = lab.running
    try:
        lab.up()
        lab.kubectl("label", "node", "node-2", "node-3", "bench.edge=yes", "--overwrite")
        body = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects()})
        lab.kubectl("apply", "-f", "-", stdin=body)
        for namespace in (HERE, PEER):
            lab.kubectl("wait", "-n", namespace, "--for=condition=Ready", "pods", "--all", "--timeout=120s")
        with outside(lab):
            nodes = eventually("both nodes lead out", lambda: holders(lab))
            for name, addresses in nodes.items():
                member = lab.state.node(name)
                for address in addresses:
                    via = str(member.address) if ":" in address else f"10.200.{member.number}.2"
                    lab.exec("fabric", ["ip", "route", "replace", address, "via", via])
            first = eventually("IPv6 leads out", lambda: exits(lab, OUTSIDE[6][0], nodes))
            report([failover(lab, nodes, first) for _ in range(given.rounds)])
            report([cut(lab) for _ in range(given.rounds)])
    finally:
        if lab.running:
            for namespace in (HERE, PEER):
                lab.kubectl(
                    "delete", "namespace", namespace, "--timeout=120s", "--ignore-not-found", check=False
                )
            lab.kubectl("label", "node", "node-2", "node-3", "bench.edge-", check=False)
        if not running:
            lab.down()


if __name__ == "__main__":
    main()
