"""A node reboots: its kernel is as new and its records are gone. As pods are made again everything is there again, and
newer than before; what nobody made again is forgotten.
"""

from collections.abc import Callable
from pathlib import Path

from story import DESTROY, Tenant, eventually

from galactic.lab.cluster import Lab

NODE = "node-1"
FOLDER = "/var/run/galactic"


def listed(lab: Lab, tenant: Tenant) -> dict[str, int]:
    """Epochs of what the node's segment says is attached of a tenant."""
    endpoints = lab.get("nseg", NODE)["status"].get("endpoints") or ()
    return {
        each["attachment"].removeprefix(f"{tenant.namespace}/"): each["epoch"]
        for each in endpoints
        if each["attachment"].startswith(f"{tenant.namespace}/")
    }


def test_reboot(tenants: Callable[..., Tenant], lab: Lab) -> None:
    blue = tenants("blue")
    blue.settle(
        {
            "again": (NODE, "10.1.1.1/24", "2001:10:1:1::1/64"),
            "never": (NODE, "10.1.1.3/24"),
            "elsewhere": ("node-2", "10.1.1.2/24", "2001:10:1:1::2/64"),
        }
    )
    blue.all_reach((("elsewhere", "10.1.1.1"), ("elsewhere", "10.1.1.3")))
    before = eventually("both are listed", lambda: len(listed(lab, blue)) == 2 and listed(lab, blue))

    lab.hold(NODE)
    try:
        for pod in ("again", "never"):
            lab.run("kernel", ["ip", "netns", "delete", Path(blue.netns(pod)).name])
        lab.exec(NODE, ["sh", "-c", DESTROY])
        lab.exec(NODE, ["find", FOLDER, "-mindepth", "1", "-delete"])
    finally:
        lab.release(NODE)
    eventually("the controller is there", lambda: lab.controller_pid(NODE))
    # Nothing of theirs is in the kernel, so they are not waited for.
    eventually("what is not attached any more is not listed", lambda: not listed(lab, blue), seconds=90)
    eventually("nor has it an endpoint", lambda: blue.endpoint("never") is None)

    blue.delete_pod("again")
    blue.pod("again", NODE)
    blue.all_reach((("elsewhere", "10.1.1.1"), ("elsewhere", "2001:10:1:1::1"), ("again", "10.1.1.2")))
    after = eventually("it is listed again", lambda: listed(lab, blue))
    assert set(after) == {"again"}
    assert after["again"] > max(before.values())
    blue.delete_pod("never")
