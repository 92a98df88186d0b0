"""Ping round trip across two nodes: Galactic's plan beside the same plan made by hand, in one kernel, alternating.

    .venv/bin/python bench/ping.py [--lab NAME] [--rounds 5] [--pings 200]

Brings a lab up if none of that name is. Prints medians and their ratio; the goal is at most 1.3.
"""

import argparse
import json
import re
import statistics

from rich.console import Console

from galactic_lab.cluster import Lab

API = "galactic.datumapis.com/v1alpha"
NAMESPACE = "bench-ping"

# Two nodes and a router, like the lab's, each with one pod of one VPC.
BY_HAND = """
ip netns add hand-r; ip -n hand-r link set lo up
ip netns exec hand-r sysctl -qw net.ipv6.conf.all.forwarding=1
for n in 1 2; do
  o=$((3 - n)); node="ip -n hand-$n"; pod="ip -n hand-p$n"; locator=2001:db8:fe0$n:100
  ip netns add hand-$n; $node link set lo up
  ip link add hr$n netns hand-r type veth peer name eth0 netns hand-$n
  ip -n hand-r addr add fd01:$n::1/64 dev hr$n nodad; ip -n hand-r link set hr$n up
  $node addr add fd01:$n::2/64 dev eth0 nodad; $node link set eth0 up; $node -6 route add default via fd01:$n::1
  ip -n hand-r -6 route add $locator::/56 via fd01:$n::2
  $node link add lo-galactic type dummy; $node link set lo-galactic up
  $node addr add $locator:ffff:ffff:ffff:ffff/128 dev lo-galactic nodad
  for d in all default eth0 lo-galactic; do
    ip netns exec hand-$n sysctl -qw net.ipv4.conf.$d.forwarding=1 net.ipv4.conf.$d.rp_filter=0 \
      net.ipv6.conf.$d.forwarding=1 net.ipv6.conf.$d.seg6_enabled=1
  done
  ip netns exec hand-$n sysctl -qw net.vrf.strict_mode=1
  $node -6 rule add pref 999 to 2001:db8:fe00::/40 lookup main
  $node link add vrf1 type vrf table 101; $node link set vrf1 up
  $node route add table 101 unreachable default metric 4278198272
  ip netns add hand-p$n; $node link add h1 type veth peer name galactic0 netns hand-p$n
  $node link set h1 master vrf1; $node link set h1 up; $node addr add 169.254.1.1/32 dev h1
  $node route add 10.1.1.$n/32 dev h1 table 101
  $node -6 route add $locator:0:1:0:$n/128 encap seg6local action End.DT46 vrftable 101 dev vrf1
  $node route add 10.1.1.$o/32 table 101 encap seg6 mode encap.red segs 2001:db8:fe0$o:100:0:1:0:$o dev lo-galactic
  $pod link set lo up; $pod link set galactic0 up; $pod addr add 10.1.1.$n/24 dev galactic0 noprefixroute
  $pod route add 169.254.1.1 dev galactic0; $pod route add 10.1.1.0/24 via 169.254.1.1 dev galactic0
done
"""
GONE = "for n in hand-r hand-1 hand-2 hand-p1 hand-p2; do ip netns del $n 2>/dev/null; done; true"


def objects() -> list[dict[str, object]]:
    """One VPC with a pod on each of two nodes."""
    things: list[dict[str, object]] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": API,
            "kind": "VPC",
            "metadata": {"name": "vpc", "namespace": NAMESPACE},
            "spec": {"networks": ["10.1.1.0/24"]},
        },
    ]
    for number in (1, 2):
        name = f"pod-{number}"
        interface = {"name": "galactic0", "addresses": [f"10.1.1.{number}/24"]}
        annotations = {"k8s.v1alpha.galactic.datumapis.com/vpc-attachment": name}
        things += [
            {
                "apiVersion": API,
                "kind": "VPCAttachment",
                "metadata": {"name": name, "namespace": NAMESPACE},
                "spec": {"vpc": {"apiVersion": API, "kind": "VPC", "name": "vpc"}, "interface": interface},
            },
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": NAMESPACE, "annotations": annotations},
                "spec": {
                    "nodeSelector": {"kubernetes.io/hostname": f"node-{number}"},
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{"name": "main", "image": "nicolaka/netshoot"}],
                },
            },
        ]
    return things


def round_trip(lab: Lab, prefix: list[str], target: str, pings: int) -> float:
    """Average round trip in ms of one run; every ping must have been answered."""
    output = lab.run(target, [*prefix, "ping", "-nq", "-i0.01", f"-c{pings}", "10.1.1.2"]).stdout
    assert " 0% packet loss" in output, output
    found = re.search(r"= [\d.]+/([\d.]+)/", output)
    assert found, output
    return float(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--lab", default="bench")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pings", type=int, default=200)
    given = parser.parse_args()
    lab = Lab(given.lab, Console(stderr=True))
    found_running = lab.running
    try:
        lab.up()
        lab.kubectl(
            "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects()})
        )
        lab.kubectl("wait", "-n", NAMESPACE, "--for=condition=Ready", "pods", "--all", "--timeout=60s")
        lab.run("kernel", ["sh", "-c", GONE])
        lab.run("kernel", ["sh", "-ec", BY_HAND])
        by_hand = ["ip", "netns", "exec", "hand-p1"]
        target = f"pod/{NAMESPACE}/pod-1"
        lab.run(target, ["ping", "-c3", "10.1.1.2"])
        times: dict[str, list[float]] = {"by hand": [], "galactic": []}
        for number in range(given.rounds):
            print(f"round {number + 1} of {given.rounds}", flush=True)
            times["by hand"].append(round_trip(lab, by_hand, "kernel", given.pings))
            times["galactic"].append(round_trip(lab, [], target, given.pings))
        medians = {name: statistics.median(values) for name, values in times.items()}
        for name, values in times.items():
            print(f"{name:>9}  {medians[name]:.3f} ms  ({', '.join(f'{value:.3f}' for value in values)})")
        print(f"    ratio  {medians['galactic'] / medians['by hand']:.2f}  (goal: at most 1.3)")
    finally:
        if lab.running:
            lab.run("kernel", ["sh", "-c", GONE], check=False)
            lab.kubectl("delete", "namespace", NAMESPACE, "--timeout=60s", "--ignore-not-found", check=False)
        if not found_running:
            lab.down()


if __name__ == "__main__":
    main()
