"""galactic-node-clean: everything of Galactic goes, nothing else does, and not while it is in use."""

import asyncio
import json
import socket
import subprocess
import sys
from dataclasses import asdict
from ipaddress import IPv6Network, ip_address, ip_interface, ip_network

import pytest

from galactic import srv6
from galactic.linux.firewall import firewall
from galactic.linux.kernel import LinuxKernel
from galactic.linux.nftables import Table, difference
from galactic.linux.objects import (
    MAIN_TABLE,
    Direct,
    Link,
    LookupOrder,
    Objects,
    Rule,
    Unreachable,
    change,
    route_key,
)
from galactic.node.dataplane import gateway_rules
from galactic.node.policies.rules import Rules
from galactic.node.policies.ruleset import TABLE, table

SPACE = IPv6Network("2001:db8:ff00::/40")
PREFIX = IPv6Network("2001:db8:ff01:100::/56")
HOST_END = "G000000001001H"
LISTED = (
    "ip -o link | sed 's/^[0-9]*//; s/@.*//' | sort; ip -o address | sed 's/^[0-9]*//; /fe80/d'; ip rule; ip -6 rule;"
    "ip -4 route show table all; ip -6 route show table all | sed '/^multicast/d; /fe80/d; /^ff00/d';"
    "iptables-legacy-save | sed -n '/^-/p'; ip6tables-legacy-save | sed -n '/^-/p'; nft list tables"
)


def planned():
    plan = Objects()
    plan.links = {"lo-galactic": Link("veth"), HOST_END: Link("veth")}
    plan.addresses["lo-galactic", ip_interface((srv6.loopback(PREFIX), 128))] = False
    plan.routes[route_key(MAIN_TABLE, srv6.locator(PREFIX))] = Unreachable()
    plan.routes[route_key(1_000_000_001, ip_network("10.1.1.1/32"))] = Direct(HOST_END)
    plan.rules[Rule(999, SPACE, MAIN_TABLE)] = None
    plan.lookups = {4: LookupOrder(), 6: LookupOrder(block=SPACE)}
    plan.neighbours = {(HOST_END, ip_address("10.1.1.1")): None}
    return plan


@pytest.fixture
def installed(host, sh):
    """(the host, what it had before Galactic)."""
    sh(
        host,
        "ip rule add pref 512 from 10.9.0.0/16 lookup 9; iptables-legacy -A FORWARD -s 10.9.0.0/16 -j DROP",
    )
    before = sh(host, LISTED)

    async def write():
        async with LinuxKernel(host) as kernel:
            await kernel.write(change(planned(), await kernel.read()))

    asyncio.run(write())
    rules = firewall(SPACE, srv6.locator(PREFIX), srv6.loopback(PREFIX), ("d0",))
    order = json.dumps({"backend": "legacy", "rules": [asdict(rule) for rule in rules]})
    command = [sys.executable, "-m", "galactic.linux.iptables"]
    host.run(lambda: subprocess.run(command, input=order, text=True, check=True, capture_output=True))
    rules = Rules("policy-a", False, (), None)
    script = difference(Table(TABLE), table({HOST_END: [rules]}, {}))
    script += f"add table {gateway_rules.TABLE}\n"
    host.run(lambda: subprocess.run(["nft", "-f", "-"], input=script, text=True, check=True))
    for part in ("GALACTIC-FORWARD", f"table {TABLE}"):
        assert part in sh(host, LISTED)
    return host, before


def run(host, *arguments):
    command = [sys.executable, "-m", "galactic.node.clean", *arguments]
    return host.run(lambda: subprocess.run(command, text=True, capture_output=True, check=False))


def test_it_refuses_while_a_pod_is_attached_and_then_takes_everything(installed, sh):
    host, before = installed
    during = sh(host, LISTED)
    done = run(host)
    assert done.returncode == 1
    assert f"1 pods are attached here ({HOST_END}): delete them, or cut them off with --force" in done.stderr
    assert sh(host, LISTED) == during
    sh(host, f"ip link del {HOST_END}")
    done = run(host)
    assert done.returncode == 0, done.stderr
    assert "deleted order of the IPv6 policy rules" in done.stdout
    assert f"deleted table {TABLE}" in done.stdout
    assert f"deleted table {gateway_rules.TABLE}" in done.stdout
    assert sh(host, LISTED) == before
    again = run(host)
    assert (again.returncode, again.stdout) == (0, "nothing of Galactic is in this host's kernel\n")


def test_by_force(installed, sh):
    host, before = installed
    neighbour = "dev d0 lladdr 02:00:00:00:00:09 nud stale extern_learn"
    sh(host, f"ip neigh add 10.0.0.8 {neighbour}; ip neigh add 10.0.0.9 {neighbour} protocol 154")
    done = run(host, "--force")
    assert done.returncode == 0
    assert "deleted neighbour 10.0.0.9 on d0" in done.stdout
    assert sh(host, "ip neigh show dev d0").split()[0] == "10.0.0.8"
    assert sh(host, LISTED) == before


def test_it_refuses_while_the_node_controller_runs(installed, sh, tmp_path):
    host, _ = installed
    during = sh(host, LISTED)
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(tmp_path / "agent.sock"))
        agent.listen()
        done = run(host, "--force", "--socket", str(tmp_path / "agent.sock"))
    assert done.returncode == 1
    assert "the node controller runs here" in done.stderr
    assert sh(host, LISTED) == during
