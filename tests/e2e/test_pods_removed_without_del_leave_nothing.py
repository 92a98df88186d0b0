"""A pod whose namespace goes without a DEL (a runtime that crashed, a node's cleaning job) leaves nothing: not in the
kernel, not in the node's segment, not in the table, not in the attachment's status.
"""

from collections.abc import Callable
from pathlib import Path

from story import Tenant, eventually, is_again, kernel, steady

from galactic.lab.cluster import Lab


def test_nothing_is_left(tenants: Callable[..., Tenant], lab: Lab) -> None:
    blue = tenants("blue")
    before = steady(lab, "node-1", lambda: kernel(lab, "node-1"))
    blue.settle({"gone": ("node-1", "10.1.1.1/24", "2001:10:1:1::1/64"), "two": ("node-2", "10.1.1.2/24")})
    blue.all_reach((("two", "10.1.1.1"),))
    sid = eventually("the attachment has an endpoint", lambda: blue.endpoint("gone"))["sid"]
    assert sid in str(kernel(lab, "node-2"))

    # The kubelet knows of nothing: neither it nor the API server has anything deleted.
    lab.run("kernel", ["ip", "netns", "delete", Path(blue.netns("gone")).name])
    is_again("node-1", before, lambda: kernel(lab, "node-1"))
    eventually("its endpoint is withdrawn", lambda: blue.endpoint("gone") is None)
    eventually("node-2 forgot the route", lambda: sid not in str(kernel(lab, "node-2")))
    eventually("node-1 says so", lambda: sid not in str(lab.get("nseg", "node-1")["status"]))
    # And the pod can be deleted as any other.
    blue.delete_pod("gone")
