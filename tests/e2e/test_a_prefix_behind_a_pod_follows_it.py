"""A network behind a pod is reached wherever the pod that terminates it is: also when the pod is replaced by one on
another node while the first node's controller is away, and its clock was ahead.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from story import Tenant, eventually

from galactic_lab.cluster import Lab

BEHIND = """
ip link add inner type dummy
ip link set inner up
ip addr add 192.168.3.1/24 dev inner
ip addr add 2001:10:3:3::1/64 dev inner
exec sleep infinity
"""
ROUTES = (
    {"destination": "192.168.3.0/24", "via": "10.1.1.3"},
    {"destination": "2001:10:3:3::/64", "via": "2001:10:1:1::3"},
)
INNER = ("192.168.3.1", "2001:10:3:3::1")
AHEAD = 3600  # seconds
SHIFT = """
import ctypes, os, struct, sys
timex = struct.pack("I4x4qi4x3q2q", 0x100, *[0] * 8, int(sys.argv[1]), 0)
if ctypes.CDLL(None, use_errno=True).clock_adjtime(0, timex.ljust(256, b"\\0")) < 0:
    sys.exit(os.strerror(ctypes.get_errno()))
"""
"""Of the clock, in one go (ADJ_SETOFFSET): one that is read and then set has lost what passed in between."""


def test_follows(tenants: Callable[..., Tenant], lab: Lab) -> None:
    blue = tenants("blue")
    gate = ("10.1.1.3/24", "2001:10:1:1::3/64")
    blue.settle(
        {
            "web": ("node-1", "10.1.1.1/24", "2001:10:1:1::1/64"),
            "near": ("node-2", "10.1.1.2/24", "2001:10:1:1::2/64"),
            "gate": ("node-2", *gate),
        },
        routes=dict.fromkeys(("web", "near", "gate"), ROUTES),
        commands={"gate": BEHIND},
    )
    pings = [(pod, address) for pod in ("web", "near") for address in INNER]
    blue.all_reach(pings)
    first = eventually("the gate has an endpoint", lambda: blue.endpoint("gate"))
    assert first["node"] == "node-2"

    # Replaced in good order, by one on a node whose clock runs ahead.
    with clock_ahead(lab):
        blue.delete_pod("gate")
        blue.pod("gate", "node-3", command=BEHIND)
    blue.all_reach(pings)
    second = eventually("the gate moved", lambda: moved(blue, "node-3"))
    assert second["epoch"] > first["epoch"]
    assert second["epoch"] > (time.time() + AHEAD / 2) * 10**9

    # That node dies: it cannot say that the pod has left it, and its last word is from the future.
    lab.hold("node-3")
    try:
        blue.delete_pod("gate")
        blue.pod("gate", "node-1", command=BEHIND)
        blue.all_reach(pings)
        third = eventually("the gate moved again", lambda: moved(blue, "node-1"))
        assert third["epoch"] > second["epoch"]
    finally:
        lab.release("node-3")
    # Its controller comes back, and withdraws the endpoint that is outdated.
    eventually("node-3 has nothing of it any more", lambda: not listed(lab, "node-3", second["sid"]))
    blue.all_reach(pings)
    assert moved(blue, "node-1") == third


@contextmanager
def clock_ahead(lab: Lab) -> Iterator[None]:
    """The guest's clock is an hour ahead meanwhile."""
    shift = [sys.executable, "-ISc", SHIFT]
    lab.run("kernel", [*shift, str(AHEAD)])
    try:
        yield
    finally:
        lab.run("kernel", [*shift, str(-AHEAD)])


def moved(blue: Tenant, node: str) -> dict[str, Any] | None:
    """The gate's endpoint, if it is on that node."""
    endpoint = blue.endpoint("gate")
    return endpoint if endpoint and endpoint["node"] == node else None


def listed(lab: Lab, node: str, sid: str) -> bool:
    """Whether a node's segment lists that SID."""
    endpoints = lab.get("nseg", node)["status"].get("endpoints") or ()
    return any(endpoint["sid"] == sid for endpoint in endpoints)
