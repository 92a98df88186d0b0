"""A node reboots and loses kernel state and records. Its pods run again, attached, with newer epochs; pods that were
deleted meanwhile have no attachment left.
"""

from collections.abc import Callable

from story import POD_SECONDS, Tenant, eventually

from galactic_lab.cluster import Lab

NODE = "node-1"


def listed(lab: Lab, tenant: Tenant) -> dict[str, int]:
    """Epochs of what the node's segment lists of a tenant."""
    endpoints = lab.get("nseg", NODE)["status"].get("endpoints") or ()
    return {
        endpoint["attachment"].removeprefix(f"{tenant.namespace}/"): endpoint["epoch"]
        for endpoint in endpoints
        if endpoint["attachment"].startswith(f"{tenant.namespace}/")
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
        lab.kubectl("delete", "pod", "-n", blue.namespace, "never", "--force", "--grace-period=0")
        lab.reboot(NODE)
    finally:
        lab.release(NODE)
    newer = lambda: listed(lab, blue).get("again", 0) > max(before.values())  # noqa: E731
    eventually("the pod is attached again", newer, seconds=POD_SECONDS)
    eventually("the other one is not listed", lambda: set(listed(lab, blue)) == {"again"})
    eventually("nor has it an endpoint", lambda: blue.endpoint("never") is None)
    blue.forget_namespaces()
    blue.all_reach((("elsewhere", "10.1.1.1"), ("elsewhere", "2001:10:1:1::1"), ("again", "10.1.1.2")))
