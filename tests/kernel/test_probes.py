"""A node's probes for ``galactic trace``: pods send echo requests, next hops are asked, drops are counted."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from ipaddress import IPv6Network

import pytest

from galactic import srv6
from galactic.linux.firewall import firewall

DEVICE = "G000000001001H"
SPACE = IPv6Network("2001:db8:ff00::/40")
PREFIX = IPv6Network("2001:db8:ff01:100::/56")
RULES = firewall(SPACE, srv6.locator(PREFIX), srv6.loopback(PREFIX), ("eth0",))
NODE = {4: "10.0.0.1", 6: "fd00::1"}
"""Addresses of the node, to which pods may send echo requests."""
GATEWAY = {4: "169.254.1.1", 6: "fe80::1"}
SIZE = 417
BACKENDS = pytest.mark.parametrize("backend", ["legacy", "nft"])
BY_FAMILY = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])


@pytest.fixture
def path(pair, pod, sh):
    """The pod's namespace, with our routes to the node's other networks."""
    sh(
        pod,
        "ip route add 10.0.0.0/16 via 169.254.1.1 dev galactic0 onlink proto 154;"
        "ip -6 route add fd00::/48 via fe80::1 dev galactic0 proto 154",
    )
    return f"/proc/{os.getpid()}/fd/{pod._fd}"


def inspected(host, *arguments):
    command = [sys.executable, "-m", "galactic.node.inspection", *arguments]
    done = host.run(lambda: subprocess.run(command, text=True, capture_output=True, check=False))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def probed(host, path, address):
    """The node's report, the pod's state, and the outcome of its echo requests."""
    pod = f"{path}@galactic0"
    found = inspected(host, "--pod", pod, "--resolve", "--echo", f"{pod}@{address}@{SIZE}")
    return found, found["pods"][pod], found["echoes"][f"{pod}@{address}"]


def protect(host, backend):
    order = json.dumps({"backend": backend, "rules": [asdict(rule) for rule in RULES]})
    command = [sys.executable, "-m", "galactic.linux.iptables"]
    done = host.run(lambda: subprocess.run(command, input=order, text=True, capture_output=True, check=False))
    assert done.returncode == 0, done.stderr


@BACKENDS
@BY_FAMILY
def test_all_is_well(pair, path, backend, family):
    protect(pair, backend)
    found, pod, echo = probed(pair, path, NODE[family])
    assert (pod["up"], pod["neighbours"]) == (True, dict.fromkeys(GATEWAY.values(), "NONE"))
    assert (echo["sent"], echo["answered"], echo["errors"], echo["refused"]) == (3, 3, [], "")
    assert echo["milliseconds"] is not None
    assert echo["links"][DEVICE]["rx_packets"] >= 3
    assert echo["drops"] == found["resolving"]["drops"] == []
    assert {drop["packets"] for drop in found["drops"]} == {0}
    assert {(drop["backend"], drop["family"], drop["chain"]) for drop in found["drops"]} == {
        (backend, at, chain) for at in (4, 6) for chain in ("GALACTIC-INPUT", "GALACTIC-PREROUTING")
    }


@BACKENDS
@BY_FAMILY
def test_a_rule_of_ours_drops_too_much(pair, path, sh, backend, family):
    """As on kernels that do not compare the protocol of a rule which python-iptables has written."""
    protect(pair, backend)
    command = f"{'ip6tables' if family == 6 else 'iptables'}-{backend}"
    sh(pair, f"{command} -R GALACTIC-INPUT 1 -i G+ -j DROP")
    _, _, echo = probed(pair, path, NODE[family])
    rule = {"backend": backend, "family": family, "chain": "GALACTIC-INPUT", "rule": 1}
    rule |= {"what": "packets from pods to the node itself", "icmp": True, "discovery": family == 6}
    assert echo["answered"] == 0
    if family == 4:  # ARP passes no such chain
        assert (echo["sent"], echo["gateways"]) == (3, {GATEWAY[4]: "REACHABLE"})
        assert echo["drops"] == [rule | {"packets": 3, "bytes": 3 * SIZE}]
    else:
        assert echo["gateways"] == {GATEWAY[6]: "FAILED"}
        (counted,) = echo["drops"]
        assert counted.items() >= rule.items()
        assert counted["packets"] >= 3
        assert counted["bytes"] == counted["packets"] * 72, "solicitations"


@BY_FAMILY
def test_errors_name_their_sender(pair, pod, path, sh, family):
    unreachable = {4: "10.0.9.9", 6: "fd00:0:0:9::9"}[family]
    sh(pair, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
    sh(pair, f"ip -{family} route add unreachable {unreachable}")
    _, _, echo = probed(pair, path, unreachable)
    assert (echo["sent"], echo["answered"]) == (3, 0)
    (error,) = echo["errors"]
    assert error.endswith({4: ": host unreachable", 6: ": no route"}[family])


def test_what_the_pod_s_kernel_does_not_send(pair, path):
    _, _, echo = probed(pair, path, "192.0.2.1")
    assert (echo["sent"], echo["refused"]) == (0, "Network is unreachable")


def test_a_next_hop_that_does_not_answer(pair, pod, sh):
    sh(pod, "ip link set galactic0 down")
    ways = inspected(pair, "--way", "10.1.1.1")["ways"]
    assert ways["10.1.1.1"]["neighbour"] == {"address": "10.1.1.1", "asked": False, "state": "NONE"}
    ways = inspected(pair, "--way", "10.1.1.1", "--way", "2001:10:1:1::1", "--resolve")["ways"]
    assert {(way["device"], way["neighbour"]["state"]) for way in ways.values()} <= {
        (DEVICE, "FAILED"),
        (DEVICE, "INCOMPLETE"),
    }


@pytest.mark.parametrize(
    "wrong", ["/run/x@galactic0@10.0.0.1", "galactic0@10.0.0.1@100", "/run/x@galactic0@10.0.0.1@9999"]
)
def test_bad_input_is_answered(host, wrong):
    command = [sys.executable, "-m", "galactic.node.inspection", "--echo", wrong]
    done = host.run(lambda: subprocess.run(command, text=True, capture_output=True, check=False))
    assert (done.returncode, "NETNS@INTERFACE@ADDRESS@SIZE" in done.stderr) == (2, True), done.stderr
