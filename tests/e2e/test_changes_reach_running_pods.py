"""What is changed in a VPC or an attachment reaches the pods that already run, without a new pod or a lost address."""

import json
from collections.abc import Callable

from story import Tenant, eventually

from galactic_lab.cluster import Lab


def test_networks_routes_and_terminations(tenants: Callable[..., Tenant], lab: Lab) -> None:
    blue = tenants("blue")
    blue.make_vpc()
    for name, address in (("one", "10.1.1.1/24"), ("two", "10.1.1.2/24")):
        blue.attach(name, address)
    blue.pod("one", "node-1")
    blue.pod("two", "node-2")
    blue.reaches("one", "10.1.1.2")
    before = eventually("it is recorded where it is", lambda: blue.endpoint("one"))

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
        "the same pod, never attached anew"
    )
    assert blue.ping("one", "10.1.1.2", count=3)


def spec(**fields: object) -> str:
    """A merge patch of the specification."""
    return json.dumps({"spec": fields})


def routes(lab: Lab, tenant: Tenant, pod: str) -> list[str]:
    """The destinations in a pod's main table."""
    told = lab.run(f"pod/{tenant.namespace}/{pod}", ["ip", "-json", "-4", "route"]).stdout
    return [route["dst"] for route in json.loads(told)]
