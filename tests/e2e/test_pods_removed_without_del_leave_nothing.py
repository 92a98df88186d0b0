"""A pod whose namespace goes without a DEL (a runtime that crashed, a node's cleaning job) leaves nothing: not in the
kernel, not in the node's segment, not in the table, not in the attachment's status.
"""

import signal
from collections.abc import Callable, Iterator

import pytest
from story import Tenant, eventually, kernel, returns_to, steady

from galactic_lab.cluster import Lab

NODE = "node-1"
VANISH = """
set -e
processes=$(find /sys/fs/cgroup -path "*pod{uid}/*" -name cgroup.procs -exec cat {{}} +)
inode=$(stat -Lc %i /proc/${{processes%%[!0-9]*}}/ns/net)
kill -9 $processes
for file in /run/netns/cni-*; do
  test "$(stat -c %i $file)" != "$inode" || {{ umount --lazy $file; rm $file; }}
done
"""
"""Ends a pod's processes and its network namespace behind the back of kubelet and containerd. The node controller may
look into the namespace just then: the mount goes lazily, as with ip-netns(8).
"""


@pytest.fixture
def frozen(lab: Lab) -> Iterator[None]:
    """The node's kubelet does nothing meanwhile, or it would have the runtime clean up."""
    lab.kill(f"kubelet/{NODE}", signal.SIGSTOP)
    yield
    lab.kill(f"kubelet/{NODE}", signal.SIGCONT)


def test_nothing_is_left(tenants: Callable[..., Tenant], lab: Lab, request: pytest.FixtureRequest) -> None:
    blue = tenants("blue")
    before = steady(lab, NODE, lambda: kernel(lab, NODE))
    blue.settle({"gone": (NODE, "10.1.1.1/24", "2001:10:1:1::1/64"), "two": ("node-2", "10.1.1.2/24")})
    blue.all_reach((("two", "10.1.1.1"),))
    sid = eventually("the attachment has an endpoint", lambda: blue.endpoint("gone"))["sid"]
    assert sid in str(kernel(lab, "node-2"))

    request.getfixturevalue("frozen")
    uid = lab.get("pod", "-n", blue.namespace, "gone")["metadata"]["uid"]
    lab.exec(NODE, ["bash", "-c", VANISH.format(uid=uid)])
    returns_to(NODE, before, lambda: kernel(lab, NODE))
    eventually("its endpoint is withdrawn", lambda: blue.endpoint("gone") is None)
    eventually("node-2 forgot the route", lambda: sid not in str(kernel(lab, "node-2")))
    eventually("node-1 says so", lambda: sid not in str(lab.get("nseg", NODE)["status"]))
    # And the pod can be deleted as any other.
    lab.kill(f"kubelet/{NODE}", signal.SIGCONT)
    blue.delete_pod("gone")
