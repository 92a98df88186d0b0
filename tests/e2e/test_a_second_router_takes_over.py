"""Two routers: the leader is killed, a change that comes while no router leads arrives, and nothing is withdrawn.

And the routes of a deleted Node are withdrawn. A control plane is enough: the nodes' messages are published by hand.
"""

import json
from collections.abc import Callable, Iterator

import pytest
from mqtt import BASE, publish, recording, retained
from routers import claim, kill_leader, leading, standing_by, succeeded
from story import Tenant, eventually

from galactic.messages import Endpoint, NodeEndpoints, encode
from galactic.srv6 import parse_prefix, sid
from galactic_lab.cluster import Lab
from galactic_lab.controlplane import broker
from galactic_lab.controlplane.controllers import router_name

NODES = {f"by-hand-{number}": f"2001:db8:ff99:{number}00::/56" for number in (1, 2, 3, 4)}


@pytest.fixture
def blue(
    routers: Lab, spaces: Callable[..., tuple[str, ...]], request: pytest.FixtureRequest
) -> Iterator[Tenant]:
    """A tenant, and NodeSegments of nodes that do not exist."""
    (namespace,) = spaces(request.node.name.removeprefix("test_").replace("_", "-"))
    tenant = Tenant(routers, namespace)
    for name, prefix in NODES.items():
        segment = {"apiVersion": "galactic.datumapis.com/v1alpha", "kind": "NodeSegment"}
        segment |= {"metadata": {"name": name}, "spec": {"prefix": prefix}}
        routers.kubectl("apply", "-f", "-", stdin=json.dumps(segment))
    yield tenant
    routers.kubectl("delete", "nodesegments", *NODES, "--ignore-not-found")
    routers.kubectl("delete", "nodes", *NODES, "--ignore-not-found")
    for name in NODES:
        publish(routers, *endpoints(tenant, name))


def register(blue: Tenant, name: str, *, attachment: str, vpc: str, function: str, network: str) -> None:
    """The node registers the attachment, which a pod that is bound to it carries."""
    annotations = {"k8s.v1alpha.galactic.datumapis.com/vpc-attachment": attachment}
    spec = {"nodeName": name, "containers": [{"name": "main", "image": "none"}]}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": annotations},
        "spec": spec,
    }
    blue.apply(pod)
    address = str(sid(parse_prefix(NODES[name]), int(vpc, 16), int(function, 16)))
    attachment = f"{blue.namespace}/{attachment}"
    registration = NodeEndpoints(1, (Endpoint(vpc, function, attachment, address, (network,), 1),))
    user, topic = endpoints(blue, name)
    publish(blue.lab, user, topic, encode(registration).decode())


def endpoints(blue: Tenant, name: str) -> tuple[str, str]:
    """The node's user at the broker, and its topic."""
    user = broker.node(blue.lab.state, name)
    return user, f"{BASE}/nodes/{user}/endpoints"


def count(blue: Tenant, vpc: str) -> int:
    head = retained(blue.lab).get(f"{BASE}/vpcs/{vpc}/head")
    return head["count"] if head else 0


def test_a_change_while_no_router_leads(blue: Tenant) -> None:
    lab = blue.lab
    vpc = blue.make_vpc()
    one, two = blue.attach("one", "10.1.1.1/24"), blue.attach("two", "10.1.1.2/24")
    register(blue, "by-hand-1", attachment="one", vpc=vpc, function=one, network="10.1.1.1/32")
    eventually("the first is routed", lambda: count(blue, vpc) == 1)
    standing_by(lab, leading(lab))
    with recording(lab) as recorder:
        killed = kill_leader(lab)
        register(blue, "by-hand-2", attachment="two", vpc=vpc, function=two, network="10.1.1.2/32")
        eventually("the second is routed as well", lambda: count(blue, vpc) == 2)
        assert leading(lab)
        eventually("the change was published", lambda: recorder.changes(vpc))
    assert killed.started_again(lab)
    assert succeeded(killed.claim, recorder.claims())
    changes = recorder.changes(vpc)
    published = [[route["network"] for route in change["set"]] for change in changes]
    # Where several routers led in turn, one publishes again the changes that its predecessor had not packed.
    assert (published[:1] if len(recorder.claims()) > 1 else published) == [["10.1.1.2/32"]]
    assert not [change["delete"] for change in changes if change["delete"]]


def test_a_deleted_node_takes_its_routes_along(blue: Tenant) -> None:
    lab = blue.lab
    lab.kubectl(
        "create", "-f", "-", stdin='{"apiVersion":"v1","kind":"Node","metadata":{"name":"by-hand-3"}}'
    )
    vpc = blue.make_vpc()
    one, two = blue.attach("one", "10.1.1.1/24"), blue.attach("two", "10.1.1.2/24")
    register(blue, "by-hand-3", attachment="one", vpc=vpc, function=one, network="10.1.1.1/32")
    register(blue, "by-hand-4", attachment="two", vpc=vpc, function=two, network="10.1.1.2/32")
    eventually("both are routed", lambda: count(blue, vpc) == 2)
    eventually("and recorded", lambda: blue.endpoint("one"))
    lab.kubectl("delete", "node", "by-hand-3")
    eventually("the other alone is routed", lambda: count(blue, vpc) == 1)
    eventually("and recorded", lambda: blue.endpoint("one") is None and blue.endpoint("two"))


def leads(lab: Lab, component: str) -> bool:
    """A claim of term 0 is a Last Will: that router has lost the broker."""
    return leading(lab) == component and claim(lab)["term"] > 0


def test_a_leader_that_alone_lost_the_broker_hands_over(routers: Lab) -> None:
    """Its password is wrong from the next connection on, and the broker starts again: the other router gets in."""
    lab = routers
    first = leading(lab)
    other = standing_by(lab, first)
    number = next(number for number in range(lab.state.routers) if router_name(number) == first)
    password = lab.state.broker / "secrets" / broker.router(number)
    before = password.read_text()
    password.write_text("wrong")
    try:
        lab.supervisor.stop("mosquitto")
        lab.supervisor.start("mosquitto")
        eventually(f"{other} leads", lambda: leads(lab, other))
    finally:
        password.write_text(before)
