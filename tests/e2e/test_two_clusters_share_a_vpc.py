"""Two clusters, each with an API server of its own, on one underlay and one broker, served by routers outside of both:
their VPCs of one identifier are one as long as the routers' admissions say so, and never before.
"""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from blocks import DOCS, blocks, walk
from mqtt import BASE, retained
from patient import at_hand
from rich.console import Console
from routers import leading, log
from story import ANSWER_SECONDS, API, Tenant, eventually, tenancy

from galactic_lab.cluster import Lab

IDENTIFIER = "00000000c0de"


@pytest.fixture(scope="module")
def east(replicas: Lab) -> Iterator[Lab]:
    """The stories' lab, with its routers outside of Kubernetes."""
    before = replicas.state.standalone
    replicas.up(standalone=True)
    try:
        yield replicas
    finally:
        replicas.state.admissions.write_text("vpcs: {}\n")
        replicas.up(standalone=before)


@pytest.fixture(scope="module")
def west(east: Lab) -> Iterator[Lab]:
    """Another cluster on its network."""
    with Lab(f"{east.state.name}-west", Console(stderr=True)) as lab:
        lab.up(nodes=1, join=east.state.name)
        yield lab


@pytest.fixture
def tenant(east: Lab, tenants: Callable[..., Tenant]) -> Tenant:
    """Two pods in the east."""
    one = tenants("east", identifier=IDENTIFIER)
    one.settle({"one": ("node-1", "10.1.1.1/24", "2001:10:1:1::1/64"), "two": ("node-2", "10.1.1.2/24")})
    one.all_reach((("one", "10.1.1.2"),))
    return one


@pytest.fixture
def stranger(tenant: Tenant, west: Lab) -> Iterator[Tenant]:
    """One pod in the west, of a VPC with the same identifier, attached after those."""
    with tenancy(west, "shared") as make:
        other = make("west", identifier=IDENTIFIER)
        (member,) = west.state.members
        other.settle({"far": (member.name, "10.1.1.3/24", "2001:10:1:1::3/64")})
        yield other


def admit(lab: Lab, *clusters: str | dict[str, str]) -> None:
    """Sets the clusters that may be in the VPC."""
    lab.state.admissions.write_text(yaml.safe_dump({"vpcs": {IDENTIFIER: {"clusters": [*clusters]}}}))


def clusters(lab: Lab) -> set[str]:
    """Those that have routes in the VPC, as the broker retains it."""
    messages = retained(lab)
    shards = [
        value for topic, value in messages.items() if topic.startswith(f"{BASE}/vpcs/{IDENTIFIER}/table/")
    ]
    return {route["cluster"] for shard in shards for route in shard["routes"]}


def test_by_permission_only(tenant: Tenant, stranger: Tenant, east: Lab, west: Lab) -> None:
    here, there = east.state.cluster, west.state.cluster
    ping = east.popen(
        f"pod/{tenant.namespace}/one", ["ping", "-n", "-i0.1", "10.1.1.2"], stdout=subprocess.PIPE
    )
    try:
        # A cluster that guessed the identifier is refused, by name.
        refused = re.compile(rf'"NotAdmitted".*"cluster": "{there}"|"cluster": "{there}".*"NotAdmitted"')
        eventually("the log names the reason", lambda: refused.search(log(east, leading(east))))
        eventually("no other cluster has routes", lambda: clusters(east) == {here})
        before = echoes_of(tenant, "one")
        assert not stranger.ping("far", "10.1.1.1")
        assert echoes_of(tenant, "one") == before, "the west sends into a VPC that it was not admitted to"
        assert not tenant.ping("one", "10.1.1.3")

        admit(east, here, there)
        stranger.all_reach((("far", "10.1.1.1"), ("far", "2001:10:1:1::1"), ("far", "10.1.1.2")))
        tenant.all_reach((("one", "10.1.1.3"), ("one", "2001:10:1:1::3"), ("two", "10.1.1.3")))
        eventually("both have routes", lambda: clusters(east) == {here, there})

        # Of the west one VPC is named: it is another one that has the number there.
        admit(east, here, {"name": there, "vpc": f"{tenant.namespace}/vpc"})
        eventually("it is alone", lambda: clusters(east) == {here})
        refused_vpc = f"VPC {stranger.namespace}/vpc of cluster {there} may not be in"
        eventually("the log names the VPC", lambda: refused_vpc in log(east, leading(east)))
        eventually("it gets no answer", lambda: not stranger.ping("far", "10.1.1.1"))
        admit(east, here, {"name": there, "vpc": f"{stranger.namespace}/vpc"})
        stranger.all_reach((("far", "10.1.1.1"), ("far", "10.1.1.2")))

        admit(east, here)
        eventually("it is alone again", lambda: clusters(east) == {here})
        eventually("the west gets no answer", lambda: not stranger.ping("far", "10.1.1.1"))
        eventually("nor is it reached", lambda: not tenant.ping("one", "10.1.1.3"))
        before = echoes_of(tenant, "one")
        assert not stranger.ping("far", "10.1.1.1")
        assert echoes_of(tenant, "one") == before
    finally:
        ping.send_signal(signal.SIGINT)
        output, _ = ping.communicate(timeout=ANSWER_SECONDS)
    # Members were not disturbed.
    seen = [int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", output)]
    assert seen == list(range(1, len(seen) + 1)), f"missing: {set(range(1, seen[-1] + 1)) - set(seen)}"


def echoes_of(tenant: Tenant, pod: str) -> int:
    """The IPv4 echo requests that a pod received so far."""
    counters = tenant.lab.exec(f"pod/{tenant.namespace}/{pod}", ["cat", "/proc/net/snmp"])
    fields, values = (line.split() for line in counters.splitlines() if line.startswith("Icmp:"))
    return int(values[fields.index("InEchos")])


def test_the_holder_of_an_address_wins_on_the_rivals_node_too(
    tenant: Tenant, stranger: Tenant, east: Lab, west: Lab
) -> None:
    """The twin in the west has the address of a pod in the east, which was attached first. The twin's neighbour, on the
    twin's own node, reaches the one in the east.
    """
    admit(east, east.state.cluster, west.state.cluster)
    stranger.all_reach((("far", "10.1.1.1"), ("far", "10.1.1.2")))
    (member,) = west.state.members
    stranger.attach("twin", "10.1.1.2/24")
    stranger.pod("twin", member.name)
    registered = f"{BASE}/nodes/{west.state.cluster}/{member.name}/endpoints"
    eventually("its node registers the twin", lambda: "/twin" in str(retained(east)[registered]))
    twin, holder = echoes_of(stranger, "twin"), echoes_of(tenant, "two")
    for answered in (stranger.ping("far", "10.1.1.2"), tenant.ping("one", "10.1.1.2")):
        assert answered
    assert echoes_of(stranger, "twin") == twin
    assert echoes_of(tenant, "two") >= holder + 2

    # The holder leaves: the address is the twin's, on its own node and elsewhere.
    tenant.delete_pod("two")
    stranger.all_reach((("far", "10.1.1.2"),))
    tenant.all_reach((("one", "10.1.1.2"),))
    assert echoes_of(stranger, "twin") > twin


BANK = "00000000c0df"


def test_peers_reach_each_other_where_both_clusters_agree(
    tenant: Tenant, stranger: Tenant, east: Lab, west: Lab
) -> None:
    """Both VPCs are in both clusters. The east peers them, which concerns no pod in the west before the west does too;
    and the west ends it alone.
    """
    here, there = east.state.cluster, west.state.cluster
    shared = {"clusters": [here, there]}
    east.state.admissions.write_text(yaml.safe_dump({"vpcs": {IDENTIFIER: shared, BANK: shared}}))
    for one in (tenant, stranger):
        spec = {"networks": ["10.9.1.0/24"], "identifier": BANK}
        one.apply({"apiVersion": API, "kind": "VPC", "metadata": {"name": "bank"}, "spec": spec})
        eventually(
            "the bank is ready",
            lambda one=one: one.lab.get("vpc", "-n", one.namespace, "bank").get("status", {}).get("ready"),
        )
    stranger.attach("vault", "10.9.1.5/24", vpc="bank")
    (member,) = west.state.members
    stranger.pod("vault", member.name)
    tenant.all_reach((("one", "10.1.1.3"),))

    peer(tenant, "vpc", "bank")
    peer(tenant, "bank", "vpc")
    eventually("the east is peered", lambda: peered(tenant, "vpc") and peered(tenant, "bank"))
    assert not tenant.ping("one", "10.9.1.5"), "the vault is of a cluster that peers nothing"
    peer(stranger, "vpc", "bank")
    assert not tenant.ping("one", "10.9.1.5")
    peer(stranger, "bank", "vpc")
    tenant.all_reach((("one", "10.9.1.5"), ("two", "10.9.1.5")))
    stranger.all_reach((("vault", "10.1.1.1"), ("vault", "10.1.1.3"), ("far", "10.9.1.5")))

    peer(stranger, "bank")
    eventually(
        "the vault answers none",
        lambda: len(tenant.unanswered((("one", "10.9.1.5"), ("two", "10.9.1.5")))) == 2,
    )
    eventually(
        "nor does it reach any",
        lambda: len(stranger.unanswered((("vault", "10.1.1.1"), ("vault", "10.1.1.3")))) == 2,
    )
    assert peered(tenant, "vpc"), "in the east both name each other"


def peer(tenant: Tenant, name: str, *peers: str) -> None:
    """A VPC names others of its namespace."""
    body = json.dumps({"spec": {"peers": [{"name": one} for one in peers]}})
    tenant.lab.kubectl("patch", "vpc", "-n", tenant.namespace, name, "--type=merge", "-p", body)


def peered(tenant: Tenant, name: str) -> bool:
    """Whether all that it names is in force."""
    conditions = tenant.lab.get("vpc", "-n", tenant.namespace, name)["status"].get("conditions", ())
    return any((one["type"], one["status"]) == ("Peered", "True") for one in conditions)


def contexts(**labs: Lab) -> dict[str, Any]:
    """A kubeconfig in which each of these names leads to its lab."""
    files = {name: json.loads(lab.kubeconfig.read_text()) for name, lab in labs.items()}
    chosen = [{"name": name, "context": file["contexts"][0]["context"]} for name, file in files.items()]
    both = {
        kind: [manifest for file in files.values() for manifest in file[kind]]
        for kind in ("clusters", "users")
    }
    return {"apiVersion": "v1", "kind": "Config", "contexts": chosen, **both}


def test_the_tutorial(east: Lab, west: Lab, tmp_path: Path) -> None:
    """Runs its files and commands on both clusters."""
    page = DOCS / "tutorials" / "two-clusters.md"
    (admissions,) = (block.text for block in blocks(page) if block.title == "admissions.yaml")
    here, there = east.state.cluster, west.state.cluster
    east.state.admissions.write_text(admissions.replace("[east, west]", f"[{here}, {there}]"))
    assert here in east.state.admissions.read_text()
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(json.dumps(contexts(east=east, west=west)))
    kubectl = at_hand(tmp_path / "bin", east.assets.kubectl)
    commands = f"{kubectl}:{east.state.root / 'bin'}:{os.environ['PATH']}"
    walk(page, tmp_path, os.environ | {"PATH": commands, "KUBECONFIG": str(kubeconfig)})
