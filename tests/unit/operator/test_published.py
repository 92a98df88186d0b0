"""Published ports of VPCGateways: ready pods, nodes, addresses inside, and what is refused."""

import pytest
from leading import POOL, condition, dies, gateway, node, reported, status

from galactic.kube.resources import NODE_SEGMENTS, NODES, PODS, VPC_ATTACHMENTS, VPC_GATEWAYS
from galactic.names import ATTACHMENT_ANNOTATION, ATTACHMENT_LABEL
from galactic.operator import published
from galactic.operator.context import Rules

WEB = {"matchLabels": {"app": "web"}}


def entry(name="web", address="203.0.113.1", port=80, **more):
    selector, target = more.pop("selector", WEB), more.pop("target", 8080)
    return {
        "name": name,
        "address": address,
        "port": port,
        "to": {"attachmentSelector": selector, "port": target},
    } | more


def pod(cluster, name, *, ready=True, labels=None, addresses=(), namespace="default"):
    """An attachment, and a Pod that carries it."""
    cluster.attachment(name, "default/v", *addresses, namespace=namespace)
    labels = {"metadata": {"labels": labels or {"app": "web"}}}
    cluster.api.change(VPC_ATTACHMENTS, name, labels, namespace)
    cluster.api.put(
        PODS,
        {
            "metadata": {
                "name": name,
                "labels": {ATTACHMENT_LABEL: name},
                "annotations": {ATTACHMENT_ANNOTATION: name},
            },
            "spec": {"nodeName": "host-1"},
            "status": phase(ready),
        },
        namespace,
    )


def phase(ready):
    return {"phase": "Running", "conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}


def turns(cluster, name, ready):
    cluster.api.change(PODS, name, {"status": phase(ready)}, "default", subresource="status")


def entries(cluster, name="g"):
    return {one["name"]: one for one in status(cluster, name).get("published") or ()}


def endpoints(cluster, name="web"):
    return entries(cluster)[name].get("endpoints") or []


def address(cluster, name):
    return cluster.status(name)["addresses"][0].partition("/")[0]


@pytest.fixture
async def led(cluster):
    """A VPC with networks of both families, and three nodes."""
    cluster.vpc("v", "10.1.1.0/24", "2001:10:1:1::/64", allowedNamespaces={"from": "All"})
    for number in (1, 2, 3):
        node(cluster, number)
    await cluster.settled()
    return cluster


async def test_a_port_leads_to_the_ready_pods_that_are_selected(led):
    for name in ("a", "b"):
        pod(led, name)
    pod(led, "unready", ready=False)
    pod(led, "other", labels={"app": "db"})
    gateway(led, publish=[entry()])
    await led.settled()
    one = entries(led)["web"]
    assert one["endpoints"] == sorted(
        (address(led, name) for name in ("a", "b")), key=lambda text: text.split(".")
    )
    assert (one["port"], one["protocol"], one["targetPort"]) == (80, "TCP", 8080)
    holders = {text: node["node"] for node in status(led)["nodes"] for text in node["addresses"]}
    assert one["node"] == holders["203.0.113.1"]
    assert condition(led, "Published")["reason"] == "NotReported"
    for node_ in status(led)["nodes"]:  # as nodes of an earlier version do
        report = {"status": {"gateways": [node_["sid"]]}}
        led.api.change(NODE_SEGMENTS, node_["node"], report, subresource="status")
    await led.settled()
    assert condition(led, "Published")["reason"] == "NotReported"
    reported(led, 1, 2, 3)
    await led.settled()
    assert (condition(led, "Published")["status"], condition(led, "Published")["reason"]) == (
        "True",
        "Published",
    )

    turns(led, "a", False)
    turns(led, "unready", True)
    await led.settled()
    assert set(endpoints(led)) == {address(led, "b"), address(led, "unready")}
    led.api.change(VPC_ATTACHMENTS, "b", {"metadata": {"labels": {"app": "db"}}}, "default")
    led.api.remove(PODS, "unready", "default")
    await led.settled()
    assert endpoints(led) == []
    assert condition(led, "Published")["reason"] == "NoReadyPod"
    assert "web (203.0.113.1, 80/TCP)" in condition(led, "Published")["message"]


async def test_attachments_of_other_namespaces_and_vpcs_are_not_selected(led):
    led.vpc("w", "10.9.0.0/24")
    led.attachment("elsewhere", "w")
    pod(led, "there", namespace="team")
    pod(led, "here")
    gateway(led, publish=[entry(selector={})])
    await led.settled()
    assert endpoints(led) == [address(led, "here")]


async def test_each_address_has_one_inside_which_no_pod_gets(led):
    pod(led, "a")
    gateway(
        led,
        addresses=("203.0.113.1", "2001:db8:cafe::1"),
        publish=[
            entry(),
            entry("dns", port=53, protocol="UDP"),
            entry("six", "2001:db8:cafe::1"),
            entry("further", "203.0.113.9"),
        ],
    )
    await led.settled()
    inside = {name: one["inside"] for name, one in entries(led).items()}
    assert inside["web"] == inside["dns"]
    assert len(set(inside.values())) == 3
    assert inside["web"].startswith("10.1.1.")
    assert inside["six"].startswith("2001:10:1:1:")
    for number in range(40):
        led.attachment(f"more-{number}", "v")
    await led.settled()
    given = {
        text.partition("/")[0] for number in range(40) for text in led.status(f"more-{number}")["addresses"]
    }
    assert not given & set(inside.values())

    led.attachment("named", "v", f"{inside['web']}/24")
    await led.settled()
    conflict = led.condition("Accepted", "named") or led.condition("Ready", "named")
    assert f"{inside['web']} is held by VPCGateway default/g" in str(led.status("named")["conditions"]), (
        conflict
    )

    await led.depose()
    await led.lead()
    await led.settled()
    assert {name: one["inside"] for name, one in entries(led).items()} == inside
    led.api.remove(VPC_GATEWAYS, "g", "default")
    await led.settled()
    assert led.status("named")["addresses"] == [f"{inside['web']}/24"], "what waited for it has it"


async def test_the_address_inside_moves_with_its_address(led):
    pod(led, "a")
    gateway(led, addresses=("203.0.113.1", "203.0.113.2"), publish=[entry("far", "203.0.113.77")])
    await led.settled()
    before = entries(led)["far"]
    assert not any("203.0.113.77" in one["addresses"] for one in status(led)["nodes"]), "not for SNAT"
    dies(led, int(before["node"][-1]))
    await led.settled()
    after = entries(led)["far"]
    assert after["node"] in {one["node"] for one in status(led)["nodes"]} - {before["node"]}
    assert after["inside"] == before["inside"]


async def test_without_a_node_the_condition_says_which_port(led):
    pod(led, "a")
    for number in (1, 2, 3):
        led.api.change(NODES, f"node-{number}", {"metadata": {"labels": {"edge": "no"}}})
    gateway(led, publish=[entry()])
    await led.settled()
    assert condition(led, "Published")["reason"] == "NoNode"
    assert entries(led)["web"].get("node", "") == ""


async def test_without_entries_there_is_no_condition(led):
    gateway(led, publish=[entry()])
    await led.settled()
    assert condition(led, "Published") is not None
    led.api.change(VPC_GATEWAYS, "g", {"spec": {"publish": []}}, "default")
    await led.settled()
    assert condition(led, "Published") is None
    assert not entries(led)


async def test_endpoints_are_bounded_and_the_condition_says_so(led, monkeypatch):
    monkeypatch.setattr(published, "MAX_ENDPOINTS", 2)
    for name in ("a", "b", "c"):
        pod(led, name)
    gateway(led, publish=[entry()])
    await led.settled()
    reported(led, 1, 2, 3)
    await led.settled()
    assert len(endpoints(led)) == 2
    assert condition(led, "Published")["reason"] == "EndpointsCut"
    assert "web to 2 of 3" in condition(led, "Published")["message"]


async def test_an_unchanged_status_is_not_written(led):
    pod(led, "a")
    gateway(led, publish=[entry()])
    await led.settled()
    version = led.api.stored(VPC_GATEWAYS, "g", "default")["metadata"]["resourceVersion"]
    led.reconciler.queue.add(("gateway", ("default", "g")))
    turns(led, "a", True)
    await led.settled()
    assert led.api.stored(VPC_GATEWAYS, "g", "default")["metadata"]["resourceVersion"] == version


async def test_a_vpc_without_a_free_address_says_so(cluster):
    cluster.vpc("v", "10.1.1.0/31")
    node(cluster, 1)
    for name in ("a", "b"):
        pod(cluster, name)
    await cluster.settled()
    gateway(cluster, publish=[entry()])
    await cluster.settled()
    assert condition(cluster, "Published")["reason"] == "AddressesExhausted"
    assert "inside" not in entries(cluster)["web"]


@pytest.mark.parametrize(
    ("spec", "reason", "text"),
    [
        pytest.param(
            {"publish": [entry(), entry(port=81)]},
            "DuplicateName",
            "spec.publish[1].name: web is there twice",
            id="a-name-twice",
        ),
        pytest.param(
            {"publish": [entry(), entry("more")]},
            "DuplicatePort",
            "spec.publish[1].port: 80/TCP of 203.0.113.1 is published by web",
            id="a-port-twice",
        ),
        pytest.param(
            {"publish": [entry(address="192.0.2.1")]},
            "AddressInUse",
            "spec.publish[0].address: 192.0.2.1 is in 192.0.2.1/32, an address of Node node-1",
            id="of-a-node",
        ),
        pytest.param(
            {"publish": [entry(address="2001:db8:cafe::1")], "families": ["IPv4"]},
            "FamilyMismatch",
            "spec.publish[0].address: 2001:db8:cafe::1 is of a family that spec.families lacks",
            id="of-another-family",
        ),
        pytest.param(
            {"publish": [entry()], "addresses": (), "snat": {"enabled": False}},
            "SnatDisabled",
            "spec.publish: web has no effect with snat.enabled: false",
            id="without-snat",
        ),
        pytest.param(
            {"publish": [entry(selector={"matchLabels": {"a b": "c"}})]},
            "Invalid",
            "spec.publish[0].to.attachmentSelector.matchLabels",
            id="a-malformed-selector",
        ),
        pytest.param({"publish": [entry(), entry("udp", protocol="UDP")]}, None, "", id="both-protocols"),
    ],
)
async def test_what_is_refused(led, spec, reason, text):
    gateway(led, **spec)
    await led.settled()
    accepted = condition(led, "Accepted")
    assert accepted["status"] == ("False" if reason else "True"), accepted
    assert text in accepted["message"]
    if reason:
        assert accepted["reason"] == reason
        assert not entries(led)


async def test_a_family_that_the_vpc_lacks_is_refused(cluster):
    cluster.vpc("v", "10.1.1.0/24")
    node(cluster, 1)
    gateway(cluster, publish=[entry(address="2001:db8:cafe::1")])
    await cluster.settled()
    assert condition(cluster, "Accepted")["reason"] == "FamilyMismatch"


async def test_an_address_has_one_gateway_and_is_inside_the_pool(clusters):
    cluster = clusters(Rules(gateway_addresses=POOL))
    await cluster.start()
    for number, name in enumerate(("v", "w", "x")):
        cluster.vpc(name, f"10.{number}.0.0/24")
    node(cluster, 1)
    gateway(cluster, addresses=("203.0.113.1",), publish=[entry(address="203.0.113.9")])
    await cluster.settled()
    gateway(cluster, "second", vpc="w", addresses=("203.0.113.2",), publish=[entry(address="203.0.113.9")])
    gateway(cluster, "third", vpc="x", addresses=("203.0.113.3",), publish=[entry(address="198.51.100.1")])
    await cluster.settled()
    assert condition(cluster, "Accepted")["status"] == "True"
    taken = condition(cluster, "Accepted", "second")
    assert taken["reason"] == "AddressTaken"
    assert taken["message"].startswith("spec.publish[0].address: 203.0.113.9")
    assert condition(cluster, "Accepted", "third")["reason"] == "AddressNotAllowed"
    await cluster.stop()
