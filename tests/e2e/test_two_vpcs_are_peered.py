"""Two VPCs that name each other are peered: their pods reach each other on one node and across nodes, and nothing else
changes. One that is named by one side alone, a peer's peer and a third tenant are not reached; taking either side back,
or networks that come to overlap, ends it; restarts lose nothing.
"""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from routers import leading
from story import ANSWER_SECONDS, Tenant, eventually, healthy

from galactic_lab.cluster import Lab

STREAM = Path(__file__).with_name("stream.py")
NETWORKS = {
    "blue": ["10.1.1.0/24", "2001:10:1:1::/64"],
    "red": ["10.2.1.0/24", "2001:10:2:1::/64"],
    "green": ["10.3.1.0/24", "2001:10:3:1::/64"],
    "yellow": ["10.1.1.0/24", "2001:10:1:1::/64"],  # as blue, and peered with none
}
NODES = ("node-1", "node-2")


@pytest.fixture(scope="module")
def tenants_of_all(lodgers: Callable[..., Tenant]) -> dict[str, Tenant]:
    """Four tenants with a pod on each of two nodes."""
    made = {name: lodgers(name, networks=networks) for name, networks in NETWORKS.items()}
    for name, tenant in made.items():
        tenant.settle({f"p{n}": (f"node-{n}", *addresses(name, n, lengths=True)) for n in (1, 2)})
        tenant.all_reach([("p1", address) for address in addresses(name, 2)])
    return made


@pytest.fixture
def peered(tenants_of_all: dict[str, Tenant]) -> Iterator[dict[str, Tenant]]:
    """Blue and red are peered, and so are red and green."""
    all_ = tenants_of_all
    names(all_, "blue", "red")
    names(all_, "red", "blue", "green")
    names(all_, "green", "red")
    in_force(all_, "blue")
    in_force(all_, "red")
    everywhere(all_, "blue", "red")
    yield all_
    for name in all_:
        names(all_, name)


def addresses(name: str, number: int, *, lengths: bool = False) -> list[str]:
    """Of the pod ``p<number>`` of a tenant, both families."""
    four, six = NETWORKS[name]
    ends = ("/24", "/64") if lengths else ("", "")
    return [f"{four.rpartition('.')[0]}.{number}{ends[0]}", f"{six.removesuffix('/64')}{number}{ends[1]}"]


def patch(tenant: Tenant, **spec: Any) -> None:
    body = json.dumps({"spec": spec})
    tenant.lab.kubectl("patch", "vpc", "-n", tenant.namespace, "vpc", "--type=merge", "-p", body)


def names(all_: dict[str, Tenant], name: str, *peers: str) -> None:
    """The VPC names these peers."""
    patch(all_[name], peers=[{"namespace": all_[peer].namespace, "name": "vpc"} for peer in peers])


def status(tenant: Tenant) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The condition Peered of a VPC, and its peers."""
    seen = tenant.lab.get("vpc", "-n", tenant.namespace, "vpc")["status"]
    peered = (one for one in seen.get("conditions", ()) if one["type"] == "Peered")
    return next(peered, None), seen.get("peers", [])


def reason(tenant: Tenant) -> str:
    condition, _ = status(tenant)
    return condition["reason"] if condition else ""


def in_force(all_: dict[str, Tenant], name: str) -> None:
    eventually(f"{name} is peered", lambda: reason(all_[name]) == "InForce")


def pings(one: str, other: str) -> list[tuple[str, str]]:
    """From both pods of one tenant to both of another: on one node, and across."""
    return [(f"p{n}", address) for n in (1, 2) for m in (1, 2) for address in addresses(other, m)]


def everywhere(all_: dict[str, Tenant], one: str, other: str) -> None:
    all_[one].all_reach(pings(one, other))
    all_[other].all_reach(pings(other, one))


def nowhere(all_: dict[str, Tenant], one: str, other: str) -> None:
    """No ping is answered, either way."""
    for near, far in ((one, other), (other, one)):
        eventually(
            f"no pod of {near} reaches {far}",
            lambda: len(all_[near].unanswered(pings(near, far))) == 8,  # noqa: B023
        )


def streams(client: Tenant, server: Tenant, client_pod: str, server_pod: str, address: str) -> None:
    """A TCP connection, with as much as a file has."""
    argv = [
        sys.executable,
        "-P",
        str(STREAM),
        server.netns(server_pod),
        address,
        client.netns(client_pod),
        "1048576",
    ]
    done = client.lab.run("kernel", argv, timeout=ANSWER_SECONDS)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["error"] is None
    assert result["sent"] == result["received"]


def test_half_a_peering_gives_nothing(tenants_of_all: dict[str, Tenant]) -> None:
    all_ = tenants_of_all
    names(all_, "blue", "red")
    eventually("blue learns what is missing", lambda: reason(all_["blue"]) == "NotNamedBack")
    eventually("red learns who asks", lambda: reason(all_["red"]) == "Requested")
    condition, (peer,) = status(all_["blue"])
    assert condition
    assert all_["red"].namespace in condition["message"]
    assert not peer["inForce"]
    assert not any(network in json.dumps(peer) for network in NETWORKS["red"])
    nowhere(all_, "blue", "red")
    patch(all_["blue"], peers=[{"namespace": all_["red"].namespace, "name": "absent"}])
    eventually("the other request is withdrawn", lambda: reason(all_["red"]) == "")
    _, (absent,) = status(all_["blue"])
    assert absent["message"] == peer["message"].replace(
        f"{all_['red'].namespace}/vpc", f"{all_['red'].namespace}/absent"
    )
    names(all_, "blue")


def test_pods_of_both_reach_each_other_and_nobody_else(peered: dict[str, Tenant]) -> None:
    everywhere(peered, "red", "green")
    nowhere(peered, "blue", "green")
    for server_pod in ("p1", "p2"):
        for address in addresses("red", int(server_pod[1])):
            streams(peered["blue"], peered["red"], "p1", server_pod, address)
    # The third tenant has blue's addresses, no route to red, and is not reached by it.
    assert len(peered["yellow"].unanswered(pings("yellow", "red"))) == 8
    yellow = peered["yellow"]
    for address in addresses("red", 1):
        family, gateway = ("-6", "fe80::1") if ":" in address else ("-4", "169.254.1.1")
        yellow.run("p1", ["ip", family, "route", "add", address, "via", gateway, "dev", "galactic0"])
        assert not yellow.ping("p1", address)
        yellow.run("p1", ["ip", family, "route", "delete", address])
    # And each goes on reaching its own.
    peered["blue"].reaches("p1", addresses("blue", 2)[0])


def test_a_new_pod_is_reached_and_one_that_goes_is_not(peered: dict[str, Tenant]) -> None:
    red = peered["red"]
    red.attach("late", "10.2.1.9/24")
    red.pod("late", "node-1")
    peered["blue"].all_reach([("p1", "10.2.1.9"), ("p2", "10.2.1.9")])
    red.delete_pod("late")
    eventually("its route is withdrawn", lambda: not peered["blue"].ping("p2", "10.2.1.9"))
    red.lab.kubectl("delete", "vpca", "-n", red.namespace, "late")


@contextmanager
def flowing(tenant: Tenant, pod: str, address: str) -> "Iterator[subprocess.Popen[str]]":
    """Fifty echoes a second, with the time of each answer."""
    argv = ["ping", "-n", "-D", "-i0.02", address]
    ping = tenant.lab.popen(f"pod/{tenant.namespace}/{pod}", argv, stdout=subprocess.PIPE)
    try:
        yield ping
    finally:
        ping.kill()
        ping.wait(timeout=ANSWER_SECONDS)


@pytest.mark.parametrize("side", ["blue", "red"])
def test_either_side_takes_it_back(peered: dict[str, Tenant], side: str, record_property: Any) -> None:
    """Packets stop in both directions, on one node and across; how soon is written down, and not asserted."""
    blue, red = peered["blue"], peered["red"]
    with (
        flowing(blue, "p1", addresses("red", 1)[0]) as near,
        flowing(blue, "p1", addresses("red", 2)[1]) as far,
        flowing(red, "p2", addresses("blue", 1)[0]) as back,
    ):
        time.sleep(1)
        names(peered, side, *(("green",) if side == "red" else ()))
        cut = time.time()
        nowhere(peered, "blue", "red")
        for name, ping in (("near", near), ("far", far), ("back", back)):
            ping.kill()
            output, _ = ping.communicate(timeout=ANSWER_SECONDS)
            answers = [float(line.split("]")[0][1:]) for line in output.splitlines() if " ttl=" in line]
            assert answers, output
            record_property(f"cut {name}", round(max(answers) - cut, 3))
    other = "red" if side == "blue" else "blue"
    eventually("the other side learns it", lambda: reason(peered[other]) == "NotNamedBack")
    assert not [route for route in kernel_routes(blue.lab, blue) if route.startswith("10.2.1.")]
    everywhere(peered, "red", "green")


def process(lab: Lab, component: str) -> int | None:
    """The process id of a component, None while there is none."""
    if component.startswith("controller/"):
        return lab.controller_pid(component.removeprefix("controller/"))
    (entry,) = (one for one in lab.supervisor.status() if one["name"] == component)
    return entry["pid"] if entry["statename"] == "RUNNING" else None


def kernel_routes(lab: Lab, tenant: Tenant) -> list[str]:
    """Of the VPC's tables on both nodes, and of its pods."""
    table = lab.get("vpc", "-n", tenant.namespace, "vpc")["status"]["identifier"]
    number = 1_000_000_000 + int(table, 16) % 1_000_000_000
    lines: list[str] = []
    for node in NODES:
        lines += lab.exec(node, ["ip", "route", "show", "table", str(number)]).splitlines()
    for pod in ("p1", "p2"):
        lines += tenant.run(pod, ["ip", "route", "show", "dev", "galactic0"]).splitlines()
    return lines


def galactic(lab: Lab, *words: str, ok: tuple[int, ...] = (0,)) -> Any:
    """The JSON that a sub-command prints."""
    program = Path(sys.executable).with_name("galactic")
    argv = [str(program), *words, "-o", "json", "--kubeconfig", str(lab.kubeconfig)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    assert done.returncode in ok, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout)


def test_the_tools_show_peers_and_whose_a_route_is(peered: dict[str, Tenant], lab: Lab) -> None:
    blue, red = peered["blue"], peered["red"]
    (vpc,) = galactic(lab, "vpcs", f"{blue.namespace}/vpc")
    assert [(peer["name"], peer["inForce"]) for peer in vpc["peers"]] == [(f"{red.namespace}/vpc", True)]
    identifier = red.lab.get("vpc", "-n", red.namespace, "vpc")["status"]["identifier"]

    def alike() -> bool:
        routes = galactic(lab, "routes", f"{blue.namespace}/vpc", ok=(0, 3))["routes"]
        whose = {(route["network"], route["attachment"], route["peer"]) for route in routes}
        named = {
            (f"{address}/{128 if ':' in address else 32}", f"{red.namespace}/p{n}", identifier)
            for n in (1, 2)
            for address in addresses("red", n)
        }
        return named <= whose and not any(route["differences"] for route in routes)

    eventually("galactic routes has the peer's, and nothing differs", alike)
    for pod in ("p1", "p2"):
        ways = galactic(lab, "trace", f"{blue.namespace}/p1", f"{red.namespace}/{pod}")["ways"]
        assert len(ways) == 4
        assert all(hop["state"] == "passes" for way in ways for hop in way["hops"]), ways
        assert f"the VRF of peer {red.namespace}/vpc" in json.dumps(ways)
    green = peered["green"]
    argv = ("trace", f"{blue.namespace}/p1", f"{green.namespace}/p1")
    program = Path(sys.executable).with_name("galactic")
    printed = subprocess.run(
        [str(program), *argv, "--kubeconfig", str(lab.kubeconfig)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "without a peering in force" in " ".join((printed.stdout + printed.stderr).split())
    names(peered, "green")
    eventually("red lacks one", lambda: reason(peered["red"]) == "NotNamedBack")
    findings = galactic(lab, "status", ok=(0, 3))["findings"]
    (finding,) = [one for one in findings if one["about"] == f"VPC {red.namespace}/vpc"]
    assert finding["remedy"]
    assert not [one for one in findings if one["about"] == f"VPC {green.namespace}/vpc"], (
        "a request is no fault"
    )


def test_networks_that_come_to_overlap_end_it(peered: dict[str, Tenant]) -> None:
    red = peered["red"]
    patch(red, networks=[*NETWORKS["red"], "10.1.1.128/25"])
    try:
        nowhere(peered, "blue", "red")
        eventually("blue learns which", lambda: reason(peered["blue"]) == "NetworksOverlap")
        condition, _ = status(peered["blue"])
        assert condition
        assert "10.1.1.0/24 (spec.networks[0]) and 10.1.1.128/25" in condition["message"]
        peered["blue"].reaches("p1", addresses("blue", 2)[0])
    finally:
        patch(red, networks=NETWORKS["red"])
    in_force(peered, "blue")
    everywhere(peered, "blue", "red")


def test_a_termination_is_not_exported(peered: dict[str, Tenant]) -> None:
    """A network behind a pod of red, outside the networks of red, is for red alone."""
    red, blue = peered["red"], peered["blue"]
    behind = [{"destination": "192.168.7.0/24", "via": "10.2.1.1"}]
    red.run("p1", ["ip", "address", "add", "192.168.7.1/32", "dev", "lo"])
    body = json.dumps({"spec": {"routes": behind}})
    red.lab.kubectl("patch", "vpca", "-n", red.namespace, "p1", "--type=merge", "-p", body)
    toward = json.dumps({"spec": {"routes": [{"destination": "192.168.7.0/24", "via": "10.2.1.1"}]}})
    red.lab.kubectl("patch", "vpca", "-n", red.namespace, "p2", "--type=merge", "-p", toward)
    red.reaches("p2", "192.168.7.1")
    blue.run("p1", ["ip", "route", "add", "192.168.7.0/24", "via", "169.254.1.1", "dev", "galactic0"])
    assert not blue.ping("p1", "192.168.7.1")
    blue.run("p1", ["ip", "route", "delete", "192.168.7.0/24"])
    for pod in ("p1", "p2"):
        body = json.dumps({"spec": {"routes": []}})
        red.lab.kubectl("patch", "vpca", "-n", red.namespace, pod, "--type=merge", "-p", body)


def test_restarts_lose_nothing(peered: dict[str, Tenant], replicas: Lab) -> None:
    """Of a node's controller, of the router that leads, of the operator."""
    blue = peered["blue"]
    with (
        flowing(blue, "p1", addresses("red", 1)[0]) as near,
        flowing(blue, "p1", addresses("red", 2)[0]) as far,
    ):
        for component in (*(f"controller/{node}" for node in NODES), leading(replicas), "operator"):
            before = process(replicas, component)
            replicas.kill(component)
            eventually(
                f"{component} is another process",
                lambda before=before, component=component: process(replicas, component) not in (None, before),
            )
        assert leading(replicas)
        for node in NODES:
            eventually(
                f"the controller of {node} is at work again", lambda node=node: healthy(replicas, node)
            )
        everywhere(peered, "blue", "red")
        for ping in (near, far):
            ping.send_signal(signal.SIGINT)
            output, _ = ping.communicate(timeout=ANSWER_SECONDS)
            seen = [int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", output)]
            assert seen == list(range(1, len(seen) + 1)), (
                f"missing: {set(range(1, seen[-1] + 1)) - set(seen)}"
            )
            assert len(seen) > 100


def test_without_the_broker_it_is_made_and_ended(tenants_of_all: dict[str, Tenant], lab: Lab) -> None:
    """By the API server, which the nodes follow meanwhile."""
    all_ = tenants_of_all
    lab.supervisor.stop("mosquitto")
    try:
        names(all_, "blue", "red")
        names(all_, "red", "blue")
        everywhere(all_, "blue", "red")
        names(all_, "red")
        nowhere(all_, "blue", "red")
    finally:
        lab.supervisor.start("mosquitto")
        names(all_, "blue")


def test_deleting_one_ends_it(peered: dict[str, Tenant]) -> None:
    """At once, though its pods keep it for as long as they run."""
    red = peered["red"]
    red.lab.kubectl("delete", "vpc", "-n", red.namespace, "vpc", "--wait=false")
    nowhere(peered, "blue", "red")
    eventually("blue learns it", lambda: reason(peered["blue"]) in {"PeerNotReady", "NotNamedBack"})
    red.reaches("p1", addresses("red", 2)[0])
