"""Two routers: the one that leads is killed, a change that comes while nobody leads arrives, and nothing is withdrawn.

And a deleted Node takes its routes along. A control plane alone is enough: what a node says is published by hand.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from story import Tenant, eventually

from galactic.lab.cluster import Lab
from galactic.lab.controllers import settings
from galactic.lab.state import CONTROL, MQTT_PORT, interpreter
from galactic.messages import Endpoint, NodeEndpoints, encode
from galactic.srv6 import parse_prefix, sid

NODES = {"by-hand-1": "2001:db8:ff99:100::/56", "by-hand-2": "2001:db8:ff99:200::/56"}
BROKER = ("-h", str(CONTROL), "-p", str(MQTT_PORT))


@pytest.fixture
def blue(control_plane: Lab, spaces: Callable[..., tuple[str, ...]]) -> Iterator[Tenant]:
    """A VPC with two attachments, and the segments of two nodes that nobody runs."""
    (namespace,) = spaces("second-router")
    tenant = Tenant(control_plane, namespace)
    for name, prefix in NODES.items():
        segment = {"apiVersion": "galactic.datumapis.com/v1alpha", "kind": "NodeSegment"}
        segment |= {"metadata": {"name": name}, "spec": {"prefix": prefix}}
        control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(segment))
    yield tenant
    control_plane.kubectl("delete", "nodesegments", *NODES, "--ignore-not-found")
    control_plane.kubectl("delete", "nodes", *NODES, "--ignore-not-found")
    for name in NODES:
        topic = f"galactic/v1/nodes/default/{name}/endpoints"
        control_plane.run("control", ["mosquitto_pub", *BROKER, "-q", "1", "-r", "-n", "-t", topic])


@pytest.fixture
def second(control_plane: Lab) -> Iterator["subprocess.Popen[str]"]:
    """Another router beside the lab's."""
    variables = settings(control_plane.state, "galactic-router") | {"GALACTIC_METRICS_PORT": "0"}
    argv = ["env", *(f"{key}={value}" for key, value in variables.items())]
    log = control_plane.state.root / "log" / "router-second.log"
    with log.open("w") as out:
        one = control_plane.popen("control", [*argv, *interpreter(), "-m", "galactic.router"], stderr=out)
        yield one
        one.terminate()
        one.wait(timeout=30)


def retained(lab: Lab, topic: str) -> Any:
    argv = ["mosquitto_sub", *BROKER, "-t", f"galactic/v1/{topic}", "--retained-only", "-W", "1", "-C", "1"]
    said = lab.run("control", argv, check=False).stdout
    return json.loads(said) if said.strip() else None


def register(blue: Tenant, name: str, vpc: str, function: str, network: str) -> None:
    address = str(sid(parse_prefix(NODES[name]), int(vpc, 16), int(function, 16)))
    attachment = f"{blue.namespace}/{'one' if name == 'by-hand-1' else 'two'}"
    said = NodeEndpoints(1, (Endpoint(vpc, function, attachment, address, (network,), 1),))
    topic = f"galactic/v1/nodes/default/{name}/endpoints"
    argv = ["mosquitto_pub", *BROKER, "-q", "1", "-r", "-t", topic, "-m", encode(said).decode()]
    blue.lab.run("control", argv)


def count(blue: Tenant, vpc: str) -> int:
    head = retained(blue.lab, f"vpcs/{vpc}/head")
    return head["count"] if head else 0


def test_a_change_while_nobody_leads(blue: Tenant, second: "subprocess.Popen[str]") -> None:
    lab = blue.lab
    vpc = blue.make_vpc()
    one, two = blue.attach("one", "10.1.1.1/24"), blue.attach("two", "10.1.1.2/24")
    register(blue, "by-hand-1", vpc, one, "10.1.1.1/32")
    eventually("the first is routed", lambda: count(blue, vpc) == 1)
    argv = ["mosquitto_sub", *BROKER, "-t", f"galactic/v1/vpcs/{vpc}/changes", "-q", "1"]
    listening = lab.popen("control", argv, stdout=subprocess.PIPE)
    before = retained(lab, "router/leader")
    log = lab.state.root / "log" / "router-second.log"
    eventually("the second router has read everything", lambda: "read what the broker" in log.read_text())
    try:
        lab.kill("router")
        register(blue, "by-hand-2", vpc, two, "10.1.1.2/32")
        eventually("the second is routed as well", lambda: count(blue, vpc) == 2)
        after = retained(lab, "router/leader")
    finally:
        listening.terminate()
        heard, _ = listening.communicate(timeout=30)
    assert after["id"] != before["id"]
    assert after["term"] > before["term"]
    changes = [json.loads(line) for line in heard.splitlines()]
    assert [[route["network"] for route in change["set"]] for change in changes] == [["10.1.1.2/32"]]
    assert not [change["delete"] for change in changes if change["delete"]]


def test_a_deleted_node_takes_its_routes_along(blue: Tenant) -> None:
    lab = blue.lab
    lab.kubectl(
        "create", "-f", "-", stdin='{"apiVersion":"v1","kind":"Node","metadata":{"name":"by-hand-1"}}'
    )
    vpc = blue.make_vpc()
    one, two = blue.attach("one", "10.1.1.1/24"), blue.attach("two", "10.1.1.2/24")
    register(blue, "by-hand-1", vpc, one, "10.1.1.1/32")
    register(blue, "by-hand-2", vpc, two, "10.1.1.2/32")
    eventually("both are routed", lambda: count(blue, vpc) == 2)
    eventually("and recorded", lambda: blue.endpoint("one"))
    lab.kubectl("delete", "node", "by-hand-1")
    eventually("the other alone is routed", lambda: count(blue, vpc) == 1)
    eventually("and recorded", lambda: blue.endpoint("one") is None and blue.endpoint("two"))
