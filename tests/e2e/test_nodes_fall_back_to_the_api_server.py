"""Without the broker a new pod is reached all the same, and neither its going nor its coming back loses a ping."""

import subprocess
from collections.abc import Callable

import audit
from story import ANSWER_SECONDS, Tenant, echoes, eventually, lost

from galactic_lab.cluster import Lab

WELL = "route changes arrive at once"
COUNT = 100


def test_a_new_pod_is_reached_without_the_broker(tenants: Callable[..., Tenant], lab: Lab) -> None:
    blue = tenants("blue")
    blue.settle({"one": ("node-1", "10.1.1.1/24"), "two": ("node-2", "10.1.1.2/24")})
    blue.attach("three", "10.1.1.3/24")
    blue.reaches("one", "10.1.1.2")

    going = pinging(lab, blue, "10.1.1.2")
    lab.supervisor.stop("mosquitto")
    try:
        blue.pod("three", "node-2")
        blue.reaches("one", "10.1.1.3")
        eventually("the node says whom it asks", lambda: "kube-apiserver instead" in broker(lab, "node-1"))
        answered(going)
        coming = [pinging(lab, blue, address) for address in ("10.1.1.2", "10.1.1.3")]
    finally:
        lab.supervisor.start("mosquitto")
    eventually("the node needs the API server no more", lambda: broker(lab, "node-1") == WELL)
    for ping in coming:
        answered(ping)
    # without the broker it has no need of these rights anywhere else
    for right in (("list", "vpcattachments"), ("watch", "vpcattachments")):
        eventually(
            f"it is written down: {right}",
            lambda: audit.asked(lab.state.audit, "galactic-node-node-1", *right),  # noqa: B023
        )

    # and from then on the broker's word counts again
    blue.delete_pod("three")
    eventually("the pod's route is withdrawn", lambda: not blue.ping("one", "10.1.1.3"))


def pinging(lab: Lab, tenant: Tenant, address: str) -> "subprocess.Popen[str]":
    """A ping from pod ``one``, ten a second."""
    argv = ["ping", "-n", "-i0.1", *echoes(COUNT), address]
    return lab.popen(f"pod/{tenant.namespace}/one", argv, stdout=subprocess.PIPE)


def answered(ping: "subprocess.Popen[str]") -> None:
    """Waits for its end; not one is lost."""
    output, _ = ping.communicate(timeout=ANSWER_SECONDS)
    assert not lost(output, COUNT), output


def broker(lab: Lab, node: str) -> str:
    """The message of condition BrokerConnected in a node's segment."""
    conditions = lab.get("nseg", node)["status"]["conditions"]
    return next(
        str(condition["message"]) for condition in conditions if condition["type"] == "BrokerConnected"
    )
