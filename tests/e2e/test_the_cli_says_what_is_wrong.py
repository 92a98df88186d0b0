"""`galactic status` and `kubectl describe` name each fault with its remedy."""

import json
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import audit
import pytest
from story import API, Tenant, configure, eventually

from galactic.errors import Rejected
from galactic.names import VPC_LABEL, host_end, parse_function, parse_vpc
from galactic_lab.cluster import Lab
from galactic_lab.controlplane.controllers import router_name

PATIENCE = 240.0
TRIES = 3
DEGRADED, UNREACHABLE = 3, 4


@dataclass(frozen=True)
class Cli:
    """The command, for a user with a kubeconfig alone."""

    lab: Lab

    def run(self, *words: str, ok: tuple[int, ...] = (0,), seconds: float = 900.0) -> str:
        """Its output, if it ends with one of these exit codes; run again where the API server did not answer."""
        program = Path(sys.executable).with_name("galactic")
        for _ in range(TRIES):
            done = subprocess.run(
                [str(program), *words, "--kubeconfig", str(self.lab.kubeconfig)],
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
            if done.returncode != UNREACHABLE:
                break
        assert done.returncode in ok, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def findings(self) -> list[dict[str, str]]:
        return list(json.loads(self.run("status", "-o", "json", ok=(0, 3)))["findings"])

    def reports(self, about: str, *words: str) -> None:
        """Waits until `galactic status` has a finding about it with these words and a remedy."""

        def reported() -> object:
            found = [finding for finding in self.findings() if finding["about"] == about]
            return any(
                finding["remedy"] + finding["message"] and all(word in json.dumps(finding) for word in words)
                for finding in found
            )

        eventually(f"galactic status says {words} about {about}", reported, PATIENCE)

    def describes(self, *thing: str, word: str) -> None:
        """Waits until `kubectl describe` shows the word."""
        described = lambda: word in self.lab.kubectl("describe", *thing, check=False)  # noqa: E731
        eventually(f"kubectl describe {' '.join(thing)} says {word}", described, PATIENCE)


@pytest.fixture(scope="module")
def cli(lab: Lab) -> Cli:
    return Cli(lab)


@pytest.fixture(scope="module")
def tenant(lodgers: Callable[..., Tenant]) -> Tenant:
    one = lodgers("a")
    one.settle({"web": ("node-1", "10.1.1.1/24"), "api": ("node-2", "10.1.1.2/24")})
    one.reaches("web", "10.1.1.2")
    return one


@pytest.fixture
def stopped(lab: Lab) -> Iterator[Callable[[str], None]]:
    """Stops programs of the lab, and has them run again afterwards."""
    names: list[str] = []

    def stop(name: str) -> None:
        names.append(name)
        lab.supervisor.stop(name)

    yield stop
    for name in names:
        lab.supervisor.start(name)


def test_all_is_well_and_the_way_is_shown_hop_by_hop(cli: Cli, tenant: Tenant) -> None:
    cli.run("status", "--wait", "--timeout", f"{PATIENCE:.0f}")
    vpc = f"{tenant.namespace}/vpc"

    def attached() -> bool:
        (found,) = json.loads(cli.run("vpcs", vpc, "-o", "json", ok=(0, DEGRADED)))
        return {attachment["node"] for attachment in found["attachments"]} == {"node-1", "node-2"}

    def routed() -> bool:
        routes = json.loads(cli.run("routes", vpc, "-o", "json", ok=(0, DEGRADED)))["routes"]
        exactly = {route["network"] for route in routes} == {"10.1.1.1/32", "10.1.1.2/32"}
        everywhere = all(set(route["kernels"]) == {"node-1", "node-2"} for route in routes)
        return exactly and everywhere and all(route["advertised"] == route["desired"] for route in routes)

    eventually("galactic vpcs shows where both are attached", attached, PATIENCE)
    eventually("galactic routes shows them desired, advertised and in each kernel", routed, PATIENCE)
    cli.run("routes", vpc)

    ways = json.loads(cli.run("trace", f"{tenant.namespace}/web", f"{tenant.namespace}/api", "-o", "json"))[
        "ways"
    ]
    assert [way["to"] for way in ways] == ["10.1.1.2", "10.1.1.1"], "there and back"
    assert all("End.DT46" in json.dumps(way) for way in ways)
    assert all("answers: 3 of 3 echo requests" in way["hops"][-1]["what"] for way in ways)
    assert "<svg" in cli.run("graph", "-n", tenant.namespace)


def test_a_trace_stops_where_packets_do(cli: Cli, lab: Lab, tenant: Tenant) -> None:
    """The underlay loses the way to node-2: nothing that Galactic could put right."""
    source, destination = f"{tenant.namespace}/web", f"{tenant.namespace}/api"
    prefix = str(lab.state.node("node-2").prefix)
    lab.exec("node-1", ["ip", "-6", "route", "add", "unreachable", prefix, "metric", "1"])
    try:
        assert not tenant.ping("web", "10.1.1.2")
        (there, _) = json.loads(cli.run("trace", source, destination, "-o", "json", ok=(3,)))["ways"]
        last = there["hops"][-1]
        assert (last["where"], last["state"]) == ("underlay of node-1", "stops")
        assert "ip -6 route get" in last["remedy"]
    finally:
        lab.exec("node-1", ["ip", "-6", "route", "del", "unreachable", prefix, "metric", "1"])
    tenant.reaches("web", "10.1.1.2")


def test_a_trace_gives_the_reason_for_a_missing_route(cli: Cli, tenant: Tenant) -> None:
    (way,) = json.loads(cli.run("trace", f"{tenant.namespace}/web", "10.1.1.77", "-o", "json", ok=(3,)))[
        "ways"
    ]
    assert "no attachment of this VPC has it" in way["hops"][-1]["remedy"]
    cli.run("trace", f"{tenant.namespace}/nobody", "10.1.1.2", ok=(1,))
    cli.run("trace", f"{tenant.namespace}/web", "10.1.1.2/33", ok=(2,))


SIX, SEVEN = "2001:10:1:1::6", "2001:10:1:1::7"


def traced(cli: Cli, tenant: Tenant, source: str, destination: str) -> list[dict[str, str]]:
    """The hops of the way there, of a trace that ends with a fault."""
    pods = (f"{tenant.namespace}/{source}", f"{tenant.namespace}/{destination}")
    there, *_ = json.loads(cli.run("trace", *pods, "-o", "json", ok=(DEGRADED,)))["ways"]
    return list(there["hops"])


def host_end_of(tenant: Tenant, attachment: str) -> str:
    vpc = tenant.attachment(attachment)["metadata"]["labels"][VPC_LABEL]
    return host_end(parse_vpc(vpc), parse_function(tenant.attachment(attachment)["status"]["identifier"]))


@pytest.fixture
def sixes(tenants: Callable[..., Tenant]) -> Callable[[], Tenant]:
    """Makes pods six and seven, on node-1 and node-2, with IPv6 addresses."""

    def make() -> Tenant:
        one = tenants("v6")
        one.settle({"six": ("node-1", f"{SIX}/64"), "seven": ("node-2", f"{SEVEN}/64")})
        return one

    return make


def silent(neighbour: str) -> re.Pattern[str]:
    """The trace's words for it. The kernel has it as INCOMPLETE each time that a packet makes it ask again."""
    return re.compile(re.escape(neighbour) + r": (FAILED|INCOMPLETE) \(no answer to neighbour discovery\)")


def test_neighbour_discovery_fails_by_a_rule_of_another_program(
    cli: Cli, lab: Lab, sixes: Callable[[], Tenant]
) -> None:
    """Another program's rule drops the pods' answers to the node: Galactic cannot repair it."""
    rule = ["PREROUTING", "-i", "G+", "-p", "ipv6-icmp", "--icmpv6-type", "136", "-j", "DROP"]
    lab.exec("node-2", ["ip6tables-legacy", "-w", "-t", "mangle", "-A", *rule])
    try:
        tenant = sixes()
        device = host_end_of(tenant, "seven")
        hops = traced(cli, tenant, "six", "seven")
        assert [hop["state"] for hop in hops[:-1]] == ["passes"] * (len(hops) - 1)
        last = hops[-1]
        assert (last["where"], last["state"]) == (f"{device} on node-2", "stops")
        assert silent(f"neighbour {SEVEN} on {device}").fullmatch(last["what"])
        assert "a packet filter drops it, on node-2 or in the pod: ip6tables-save -c" in last["remedy"]
        cli.reports("NodeSegment node-2", "Neighbours: NeighbourFailed", f"{tenant.namespace}/seven {SEVEN}")
        cli.describes("nseg", "node-2", word="NeighbourFailed")
        assert [finding for finding in cli.findings() if finding["about"] == "NodeSegment node-1"] == []
    finally:
        lab.exec("node-2", ["ip6tables-legacy", "-w", "-t", "mangle", "-D", *rule])
    tenant.reaches("six", SEVEN)
    cli.run("trace", f"{tenant.namespace}/six", f"{tenant.namespace}/seven")
    cli.run("status", "--wait", "--timeout", f"{PATIENCE:.0f}")


def test_our_own_chain_drops(cli: Cli, lab: Lab, tenant: Tenant, sixes: Callable[[], Tenant]) -> None:
    """It was damaged while the node controller is away, which would put it back."""
    six = sixes()
    six.reaches("six", SEVEN)
    saved = lab.run("node-1", ["ip6tables-nft-save"], check=False).stdout
    backend = "nft" if "GALACTIC" in saved else "legacy"
    lab.hold("node-1")
    try:
        rule = ["GALACTIC-INPUT", "1", "-i", "G+", "-j", "DROP"]
        lab.exec("node-1", [f"ip6tables-{backend}", "-w", "-R", *rule])
        # A solicitation of the node carries its own address, so that the pod would not have to ask.
        lab.exec("node-1", ["ip", "-6", "neigh", "flush", "dev", host_end_of(six, "six")])
        six.run("six", ["ip", "-6", "neigh", "flush", "dev", "galactic0"])
        last = traced(cli, six, "six", "seven")[-1]
        assert (last["where"], last["state"]) == (f"pod {six.namespace}/six", "stops")
        assert silent("neighbour fe80::1 on galactic0").match(last["what"])
        assert f"GALACTIC-INPUT rule 1 on node-1 (IPv6, {backend} tables) dropped" in last["what"]
        assert last["what"].endswith("it drops packets from pods to the node itself")
        assert "condition PacketFilter" in last["remedy"]

        raw = [f"iptables-{backend}", "-w", "-t", "raw"]
        lab.exec(
            "node-1", [*raw, "-I", "GALACTIC-PREROUTING", "-i", host_end_of(tenant, "web"), "-j", "DROP"]
        )
        last = traced(cli, tenant, "web", "api")[-1]
        assert (last["where"], last["state"]) == ("GALACTIC-PREROUTING on node-1", "stops")
        assert f"rule 1 on node-1 (IPv4, {backend} tables) dropped" in last["what"]
        assert last["what"].endswith("while 3 echo requests of 431 bytes were sent")
    finally:
        lab.release("node-1")
    tenant.reaches("web", "10.1.1.2")
    six.reaches("six", SEVEN)
    cli.run("status", "--wait", "--timeout", f"{PATIENCE:.0f}")


def test_a_pod_that_answers_no_pings_is_not_accused(cli: Cli, tenant: Tenant) -> None:
    tenant.run("api", ["sysctl", "-qw", "net.ipv4.icmp_echo_ignore_all=1"])
    try:
        hops = traced(cli, tenant, "web", "api")
        assert {hop["state"] for hop in hops[:-1]} == {"passes"}
        assert (hops[-1]["where"], hops[-1]["state"]) == (f"pod {tenant.namespace}/api", "unknown")
        assert hops[-1]["what"].startswith(
            "3 echo requests went into it, "
        )  # others' packets are counted too
        assert hops[-1]["what"].endswith("of 3 answers came out of it: it may not answer pings")
        pods = (f"{tenant.namespace}/web", f"{tenant.namespace}/api")
        ways = json.loads(cli.run("trace", *pods, "--no-probe", "-o", "json"))["ways"]
        assert "echo" not in json.dumps(ways)
    finally:
        tenant.run("api", ["sysctl", "-qw", "net.ipv4.icmp_echo_ignore_all=0"])
    tenant.reaches("web", "10.1.1.2")


def test_a_node_without_a_prefix(cli: Cli, lab: Lab) -> None:
    prefix = lab.state.node("node-3").prefix
    annotation = "galactic.datumapis.com/srv6-prefix"
    lab.kubectl("annotate", "node", "node-3", f"{annotation}-")
    lab.kubectl("delete", "nseg", "node-3")
    try:
        cli.reports("Node node-3", "NoPrefix", "kubectl annotate node node-3")
        cli.describes("node", "node-3", word="NoPrefix")
        taken = lab.state.node("node-1").prefix
        lab.kubectl("annotate", "node", "node-3", f"{annotation}={taken}", "--overwrite")
        cli.reports("Node node-3", "PrefixOverlap", "of node node-1")
        cli.describes("node", "node-3", word="PrefixOverlap")
    finally:
        lab.kubectl("annotate", "node", "node-3", f"{annotation}={prefix}", "--overwrite")
    cli.run("status", "--wait", "--timeout", f"{PATIENCE:.0f}")


def test_a_full_network_and_a_revoked_grant(cli: Cli, lab: Lab, tenants: Callable[..., Tenant]) -> None:
    host, guest = tenants("host", networks=["10.9.9.0/30"]), tenants("guest")
    vpc = {"apiVersion": API, "kind": "VPC", "metadata": {"name": "vpc"}}
    host.apply(vpc | {"spec": {"networks": host.networks, "allowedNamespaces": {"from": "All"}}})

    def attachment(name: str) -> dict[str, Any]:
        spec = {"vpc": {"name": "vpc", "namespace": host.namespace}}
        return {"apiVersion": API, "kind": "VPCAttachment", "metadata": {"name": name}, "spec": spec}

    guest.apply(*(attachment(name) for name in ("one", "two", "three", "four")))

    def full() -> list[str]:
        return [finding["about"] for finding in cli.findings() if finding["reason"] == "AddressesExhausted"]

    (about, *_) = eventually("galactic status says that the network is full", full, PATIENCE)
    cli.reports(about, "add a network to the VPC's spec.networks")
    name = about.rpartition("/")[2]
    cli.describes("vpca", "-n", guest.namespace, name, word="add a network to the VPC's")

    host.apply(vpc | {"spec": {"networks": host.networks, "allowedNamespaces": {"from": "Same"}}})
    ready = next(
        name for name in ("one", "two", "three", "four") if guest.attachment(name)["status"]["ready"]
    )
    cli.reports(f"VPCAttachment {guest.namespace}/{ready}", "Revoked", "spec.allowedNamespaces")
    cli.describes("vpca", "-n", guest.namespace, ready, word="Revoked")


def test_all_routers_are_away(cli: Cli, lab: Lab, tenant: Tenant, stopped: Callable[[str], None]) -> None:
    for number in range(lab.state.routers):
        stopped(router_name(number))
    tenant.attach("late", "10.1.1.9/24")
    tenant.pod("late", "node-2")
    cli.reports("router", "NotReady", "attached pods keep their traffic", "galactic lab logs router")
    tenant.reaches("web", "10.1.1.9")
    cli.describes("nseg", "node-1", word="no router leads; the routes of")
    # An address that another pod had, which the router's last table still sends elsewhere.
    tenant.delete_pod("late")
    lab.kubectl("delete", "vpca", "-n", tenant.namespace, "late", "--timeout=120s")
    tenant.attach("later", "10.1.1.9/24")
    tenant.pod("later", "node-1")
    tenant.reaches("web", "10.1.1.9")
    tenant.reaches("later", "10.1.1.2")
    tenant.reaches("api", "10.1.1.9")
    right = ("get", "leases/galactic-router")  # see ELSEWHERE in test_rights_of_each_program.py
    eventually(
        "the operator has read the routers' Lease",
        lambda: any(
            (request.account, request.verb, f"{request.resource}/{request.name}")
            == ("galactic-operator", *right)
            for request in audit.requests(lab.state.audit)
        ),
    )
    routes = json.loads(cli.run("routes", f"{tenant.namespace}/vpc", "-o", "json", ok=(3,)))
    assert "advertised" in routes["unread"]
    (row,) = [route for route in routes["routes"] if route["network"] == "10.1.1.9/32"]
    assert row["desired"]

    for number in range(lab.state.routers):
        lab.supervisor.start(router_name(number))
    eventually("nodes go by the broker again", lambda: "no router" not in broker(lab, "node-1"))
    tenant.reaches("web", "10.1.1.9")
    cli.run("status", "--wait", "--timeout", f"{PATIENCE:.0f}")


def broker(lab: Lab, node: str) -> str:
    conditions = lab.get("nseg", node)["status"]["conditions"]
    return next(
        str(condition["message"]) for condition in conditions if condition["type"] == "BrokerConnected"
    )


def test_the_webhooks_are_away_and_two_want_one_address(
    cli: Cli, lab: Lab, tenant: Tenant, stopped: Callable[[str], None]
) -> None:
    stopped("webhook")
    cli.reports("webhook", "NotReady", "pods that request an attachment cannot be created")
    spec = {"vpc": {"name": "vpc"}, "interface": {"addresses": ["10.1.1.1/24"]}}
    twin = {"apiVersion": API, "kind": "VPCAttachment", "metadata": {"name": "twin"}, "spec": spec}
    with pytest.raises(Rejected, match="failed calling webhook"):
        tenant.apply(twin)
    # Without the configurations nothing refuses it at once.
    lab.kubectl("delete", "validatingwebhookconfiguration", "galactic-admission")
    try:
        tenant.apply(twin)
    finally:
        configure(lab)
    cli.reports(
        f"VPCAttachment {tenant.namespace}/twin", "Conflict", f"{tenant.namespace}/web", "choose another"
    )
    cli.describes("vpca", "-n", tenant.namespace, "twin", word="choose another")
    lab.kubectl("delete", "vpca", "-n", tenant.namespace, "twin")


def test_a_node_that_the_broker_does_not_let_in(cli: Cli, lab: Lab) -> None:
    """Its password is wrong from the next connection on: nothing that runs is disturbed."""
    path = lab.state.broker / "secrets" / lab.state.cluster / "node-3"
    before = path.read_text()
    path.write_text("wrong")
    try:
        lab.kill("controller/node-3", signal.SIGTERM)
        cli.reports("NodeSegment node-3", "BrokerConnected", "refused the connection", "check mqtt_username")
        cli.describes("nseg", "node-3", word="check mqtt_username")
    finally:
        path.write_text(before)
    cli.run("status", "--wait", "--timeout", f"{PATIENCE:.0f}")


def test_a_router_that_the_broker_does_not_let_in(cli: Cli, lab: Lab) -> None:
    """A router's only object is its Lease: the Event is there, for users without access to logs."""
    path = lab.state.broker / "secrets" / "galactic-router-0"
    before = path.read_text()
    path.write_text("wrong")
    try:
        lab.kill("router", signal.SIGTERM)
        cli.reports("router", "NotReady", "refused the connection", "mqtt_password_file of galactic-router")
        lease = ("lease", "-n", "galactic-system", "galactic-router")
        cli.describes(*lease, word="BrokerUnreachable")
        cli.describes(*lease, word="check mqtt_username")
    finally:
        path.write_text(before)
    cli.run("status", "--wait", "--timeout", f"{PATIENCE:.0f}")


def test_a_sysdump_has_what_helps_and_no_secret(cli: Cli, lab: Lab, tenant: Tenant, tmp_path: Path) -> None:
    planted = "s3cr3t-Pl4nted"
    lab.kubectl("annotate", "pod", "-n", tenant.namespace, "web", f"note=postgresql://u:{planted}@db/x")
    labels = "app.kubernetes.io/name=galactic"
    lab.kubectl(
        "create", "secret", "generic", "planted", "-n", tenant.namespace, f"--from-literal=a={planted}"
    )
    lab.kubectl("label", "secret", "planted", "-n", tenant.namespace, labels)
    file = tmp_path / "dump.tar.gz"

    def whole() -> bool:
        file.unlink(missing_ok=True)
        cli.run("sysdump", str(file), ok=(0, DEGRADED))
        with tarfile.open(file) as archive:
            errors = archive.extractfile("galactic-sysdump/errors.txt")
            assert errors
            return errors.read() == b"none\n"

    eventually("a sysdump has all there is", whole, PATIENCE)
    subprocess.run(["tar", "-xzf", str(file), "-C", str(tmp_path)], check=True)
    folder = tmp_path / "galactic-sysdump"
    everything = "".join(path.read_text() for path in folder.rglob("*") if path.is_file())
    assert planted not in everything
    assert "cGxhbnRlZA" not in everything
    assert "planted" in (folder / "objects/secrets.json").read_text()
    assert json.loads((folder / "status.json").read_text())["components"]
    assert json.loads((folder / "kernel/node-1.json").read_text())["vpcs"]
    assert json.loads((folder / "router.json").read_text())[0]["vpcs"]
    assert "galactic_" in (folder / "metrics/router.prom").read_text()
    assert (folder / "logs/operator.log").stat().st_size
    cli.run("sysdump", str(file), ok=(2,))
