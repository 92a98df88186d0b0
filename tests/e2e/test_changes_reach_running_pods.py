"""Changes of a VPC or an attachment reach the pods that already run, without a new pod or a lost address."""

import json
from collections.abc import Callable

import pytest
from story import Tenant, eventually

from galactic.errors import Rejected
from galactic_lab.cluster import Lab
from galactic_lab.state import SERVICES


def test_networks_routes_and_terminations(tenants: Callable[..., Tenant], lab: Lab) -> None:
    blue = tenants("blue")
    blue.make_vpc()
    for name, address in (("one", "10.1.1.1/24"), ("two", "10.1.1.2/24")):
        blue.attach(name, address)
    blue.pod("one", "node-1")
    blue.pod("two", "node-2")
    blue.reaches("one", "10.1.1.2")
    before = eventually("it is recorded where it is", lambda: blue.endpoint("one"))

    # the one thing that cannot change under a pod
    name = spec(interface={"name": "net1"})
    with pytest.raises(Rejected, match=r"'net1' cannot replace 'galactic0' while pods carry .*\(one\)"):
        lab.kubectl("patch", "vpca", "-n", blue.namespace, "one", "--type=merge", "-p", name)

    # a network more: both pods route it into the VPC, and a pod with an address in it is reached
    networks = [*blue.networks, "10.9.0.0/24"]
    lab.kubectl("patch", "vpc", "-n", blue.namespace, "vpc", "--type=merge", "-p", spec(networks=networks))
    eventually("the pod has the new network's route", lambda: "10.9.0.0/24" in routes(lab, blue, "one"))
    blue.attach("three", "10.9.0.3/24")
    blue.pod("three", "node-2")
    blue.reaches("one", "10.9.0.3")

    # a prefix behind a pod: the VPC reaches it through the pod, with nothing but its attachment changed
    behind = [{"destination": "192.168.7.0/24", "via": "10.1.1.2"}]
    lab.run(f"pod/{blue.namespace}/two", ["ip", "address", "add", "192.168.7.1/32", "dev", "lo"])
    lab.kubectl("patch", "vpca", "-n", blue.namespace, "two", "--type=merge", "-p", spec(routes=behind))
    toward = [{"destination": "192.168.7.0/24", "via": "10.1.1.2"}]
    lab.kubectl("patch", "vpca", "-n", blue.namespace, "one", "--type=merge", "-p", spec(routes=toward))
    blue.reaches("one", "192.168.7.1")

    # and all of it goes again
    lab.kubectl("patch", "vpca", "-n", blue.namespace, "one", "--type=merge", "-p", spec(routes=[]))
    lab.kubectl("patch", "vpca", "-n", blue.namespace, "two", "--type=merge", "-p", spec(routes=[]))
    eventually("the route is gone from the pod", lambda: "192.168.7.0/24" not in routes(lab, blue, "one"))
    eventually(
        "the prefix is withdrawn", lambda: (blue.endpoint("two") or {}).get("networks") == ["10.1.1.2/32"]
    )

    now = blue.endpoint("one")
    assert now
    assert (now["epoch"], now["since"]) == (before["epoch"], before["since"]), (
        "the same pod, never attached again"
    )
    assert blue.ping("one", "10.1.1.2", count=3)


def spec(**fields: object) -> str:
    """A merge patch of the specification."""
    return json.dumps({"spec": fields})


def routes(lab: Lab, tenant: Tenant, pod: str, family: int = 4) -> list[str]:
    """The destinations in a pod's main table."""
    output = lab.run(f"pod/{tenant.namespace}/{pod}", ["ip", "-json", f"-{family}", "route"]).stdout
    return [route["dst"] for route in json.loads(output)]


SERVICE = str(SERVICES[0xFF07])


def test_a_network_of_the_owner_takes_no_traffic_of_another_namespace(
    tenants: Callable[..., Tenant], lab: Lab
) -> None:
    """The owner of a shared VPC adds the cluster's service range: the packets of another namespace's pod to a service
    go by eth0 as before, until that namespace accepts the network.
    """
    owner, guest = tenants("owner"), tenants("guest")
    owner.make_vpc()
    everyone = {"allowedNamespaces": {"from": "All"}}
    lab.kubectl(
        "patch", "vpc", "-n", owner.namespace, "vpc", "--type=merge", "-p", json.dumps({"spec": everyone})
    )
    for tenant, name, number in ((owner, "own", 1), (guest, "theirs", 2)):
        attachment = tenant.manifest(name, f"10.1.1.{number}/24", f"2001:10:1:1::{number}/64")
        attachment["spec"]["vpc"]["namespace"] = owner.namespace
        tenant.apply(attachment)
        tenant.pod(name, "node-1")
    lab.run("node-1", ["ip", "address", "add", f"{SERVICE}/128", "dev", "lo"])
    try:
        guest.reaches("theirs", SERVICE)
        networks = [*owner.networks, str(SERVICES)]
        lab.kubectl(
            "patch", "vpc", "-n", owner.namespace, "vpc", "--type=merge", "-p", spec(networks=networks)
        )
        eventually("the owner's pod routes it", lambda: str(SERVICES) in routes(lab, owner, "own", 6))
        eventually("the other is asked", lambda: declined(guest, "theirs"))
        assert guest.ping("theirs", SERVICE, count=3)
        assert guest.ping("theirs", "10.1.1.1", count=3)
        assert str(SERVICES) not in routes(lab, guest, "theirs", 6)
        assert not owner.ping("own", SERVICE), "it was not by eth0 that it was reached"
        accept = spec(acceptedNetworks=["10.1.1.0/24", str(SERVICES)])
        lab.kubectl("patch", "vpca", "-n", guest.namespace, "theirs", "--type=merge", "-p", accept)
        eventually("it accepts the network", lambda: str(SERVICES) in routes(lab, guest, "theirs", 6))
        assert not guest.ping("theirs", SERVICE)
    finally:
        lab.run("node-1", ["ip", "address", "delete", f"{SERVICE}/128", "dev", "lo"])


def declined(tenant: Tenant, name: str) -> bool:
    """Whether the attachment's condition names networks that it did not accept."""
    conditions = tenant.attachment(name)["status"]["conditions"]
    return any(
        (condition["type"], condition["status"]) == ("NetworksAccepted", "False")
        and str(SERVICES) in condition["message"]
        for condition in conditions
    )
