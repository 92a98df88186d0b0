"""A deleted Pod is gone from the kernel of every node, from the broker and from every status."""

from collections.abc import Callable

from mqtt import retained
from story import Tenant, eventually, kernel, returns_to, steady

from galactic_lab.cluster import Lab


def test_nothing_is_left(tenants: Callable[..., Tenant], lab: Lab) -> None:
    blue = tenants("blue")
    vpc = blue.make_vpc()
    blue.attach("one", "10.1.1.1/24")
    blue.attach("two", "10.1.1.2/24")
    before = {node: steady(lab, node, lambda node=node: kernel(lab, node)) for node in ("node-1", "node-2")}
    blue.pod("one", "node-1")
    blue.pod("two", "node-2")
    blue.reaches("one", "10.1.1.2")
    sid = eventually("the attachment has an endpoint", lambda: blue.endpoint("two"))["sid"]
    assert sid in str(kernel(lab, "node-1"))
    eventually(
        "the table is retained",
        lambda: retained(lab).get(f"galactic/v1/vpcs/{vpc}/head", {}).get("count") == 2,
    )

    blue.delete_pod("two")
    eventually("its endpoint is withdrawn", lambda: blue.endpoint("two") is None)
    returns_to("node-2", before["node-2"], lambda: kernel(lab, "node-2"))
    eventually("node-1 forgot the route", lambda: sid not in str(kernel(lab, "node-1")))

    blue.delete_pod("one")
    returns_to("node-1", before["node-1"], lambda: kernel(lab, "node-1"))
    eventually("the broker retains nothing of the VPC", lambda: not [t for t in retained(lab) if vpc in t])
    for node in ("node-1", "node-2"):
        eventually(f"{node} says so", lambda node=node: vpc not in str(lab.get("nseg", node)["status"]))
