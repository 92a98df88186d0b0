"""While no router leads, the operator records where attachments are; while one does, it never writes."""

from typing import Any

import pytest

from galactic.errors import Rejected
from galactic.kube.memory import MemoryApi
from galactic.kube.resources import LEASES, NODE_SEGMENTS, PODS, VPC_ATTACHMENTS
from galactic.names import ATTACHMENT_ANNOTATION, ATTACHMENT_LABEL
from galactic.operator.stand_in import CHECK_SECONDS, LEAST_SECONDS, RouterLease

NAMESPACE = "galactic-system"
PREFIXES = {"node-1": "2001:db8:ff01:100::/56", "node-2": "2001:db8:ff02:100::/56"}


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Milliseconds of the real clock instead of seconds."""
    for name, seconds in (("WAIT_SECONDS", 0.002), ("CHECK_SECONDS", 0.002), ("LEAST_SECONDS", 0.05)):
        monkeypatch.setattr(f"galactic.operator.stand_in.{name}", seconds)
    monkeypatch.setattr("galactic.operator.route_reporting.PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr("galactic.operator.attachments.PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr("galactic.operator.triggers.PATIENCE_SECONDS", 0.05)


def lease(api: MemoryApi, holder: str, renewed: int = 0, duration: int = 3) -> None:
    spec = {"holderIdentity": holder, "renewTime": str(renewed), "leaseDurationSeconds": duration}
    api.store(LEASES, {"metadata": {"name": "galactic-router", "namespace": NAMESPACE}, "spec": spec})


def pod(cluster: Any, name: str, node: str, attachment: str = "web") -> None:
    annotations, labels = {ATTACHMENT_ANNOTATION: attachment}, {ATTACHMENT_LABEL: "given"}
    meta = {"name": name, "labels": labels, "annotations": annotations}
    cluster.api.put(PODS, {"metadata": meta, "spec": {"nodeName": node}, "status": {}}, "default")


def reports(cluster: Any, node: str, *endpoints: dict[str, Any]) -> None:
    segment = {"metadata": {"name": node}, "spec": {"prefix": PREFIXES[node]}}
    cluster.api.store(NODE_SEGMENTS, segment | {"status": {"endpoints": list(endpoints)}})


def reported(cluster: Any, node: str, epoch: int, **changes: Any) -> dict[str, Any]:
    """As the node reports attachment ``web``."""
    status = cluster.status("web")
    vpc, function = status["configuration"]["vpc"], status["identifier"]
    tail = f"{vpc[-4:].lstrip('0') or '0'}:{function.lstrip('0')}"
    locator = PREFIXES[node].partition("::")[0]
    whole = f"{locator}:{vpc[:4]}:{vpc[4:8]}:{tail}"
    networks = [f"{address.partition('/')[0]}/32" for address in status["addresses"]]
    return {
        "vpc": vpc,
        "function": function,
        "attachment": "default/web",
        "sid": whole,
        "networks": networks,
        "epoch": epoch,
    } | changes


async def carried(cluster: Any) -> None:
    cluster.vpc("v")
    cluster.attachment("web")
    pod(cluster, "web", "node-1")
    await cluster.until(lambda: cluster.status("web").get("carriers"))


@pytest.mark.usefixtures("hasty")
async def test_no_router_leads(cluster: Any) -> None:
    lease(cluster.api, "")
    await carried(cluster)
    reports(cluster, "node-1", reported(cluster, "node-1", 7))
    await cluster.until(lambda: cluster.status("web").get("endpoint"))
    endpoint = cluster.status("web")["endpoint"]
    assert (endpoint["cluster"], endpoint["node"], endpoint["epoch"]) == ("default", "node-1", 7)
    assert endpoint["networks"] == [f"{cluster.status('web')['addresses'][0].partition('/')[0]}/32"]
    assert endpoint["revision"] > 1_700_000_000_000, "as a table that is published now"
    assert not cluster.condition("Routed", "web")

    pod(cluster, "web-2", "node-2")  # and it moves
    cluster.api.remove(PODS, "web", "default")
    await cluster.until(lambda: {c["node"] for c in cluster.status("web")["carriers"]} == {"node-2"})
    reports(cluster, "node-2", reported(cluster, "node-2", 9))
    await cluster.until(lambda: cluster.status("web")["endpoint"]["node"] == "node-2")

    cluster.api.remove(PODS, "web-2", "default")  # and goes
    reports(cluster, "node-1")
    reports(cluster, "node-2")
    await cluster.until(lambda: cluster.status("web").get("endpoint") is None)
    cluster.api.remove(VPC_ATTACHMENTS, "web", "default")
    await cluster.until(lambda: cluster.api.stored(VPC_ATTACHMENTS, "web", "default") is None)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"sid": "2001:db8:ff02:100:0:0:1:1"}, id="a-sid-of-another-node"),
        pytest.param({"networks": ["10.1.1.99/32", "10.1.1.0/24"]}, id="networks-of-others"),
        pytest.param({"sid": "2001:db8:ff01:100::4d2:9"}, id="a-sid-of-another-attachment"),
        pytest.param({"sid": "nonsense"}, id="no-sid"),
    ],
)
@pytest.mark.usefixtures("hasty")
async def test_what_the_attachment_does_not_entitle_to_is_not_recorded(cluster: Any, wrong: Any) -> None:
    lease(cluster.api, "")
    await carried(cluster)
    reports(cluster, "node-1", reported(cluster, "node-1", 7, **wrong))
    await cluster.until(lambda: cluster.condition("Routed", "web"))
    assert not cluster.status("web").get("endpoint")


@pytest.mark.usefixtures("hasty")
async def test_a_node_without_a_pod_that_carries_it_is_not_recorded(cluster: Any) -> None:
    lease(cluster.api, "")
    await carried(cluster)
    reports(cluster, "node-1", reported(cluster, "node-1", 7))
    await cluster.until(lambda: cluster.status("web").get("endpoint"))
    reports(cluster, "node-2", reported(cluster, "node-2", 9))
    await cluster.settled()
    assert cluster.status("web")["endpoint"]["node"] == "node-1"


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.usefixtures("hasty")
async def test_a_router_leads_or_is_elsewhere(cluster: Any, absent: bool) -> None:
    """It may be slow, and it rejects what nodes report: both are its own business."""
    renewals = 0

    def renewed(verb: str, resource: Any, _name: str) -> None:
        nonlocal renewals
        if not absent and (verb, resource) == ("find", LEASES):
            renewals += 1
            lease(cluster.api, "router-a", renewals)

    cluster.api.fail = renewed
    await carried(cluster)
    reports(cluster, "node-1", reported(cluster, "node-1", 7))
    await cluster.until(lambda: cluster.condition("Routed", "web"))
    assert not cluster.status("web").get("endpoint")
    assert cluster.condition("Routed", "web")["reason"] == "NotRouted"


async def test_the_lease_of_a_killed_router_runs_out() -> None:
    api, now = MemoryApi(), 0.0
    routers = RouterLease(api, NAMESPACE, lambda: now)
    steps = [
        ("a", 1, None),  # it may be old
        ("a", 2, False),  # renewed between two readings
        ("a", 2, False),
        ("a", 2, False),
        ("a", 2, True),
        ("b", 3, None),
        ("b", 4, False),
        ("", 4, True),
        ("b", 5, None),
    ]
    for number, (holder, renewal, expected) in enumerate(steps):
        lease(api, holder, renewal)
        assert await routers.vacant() is expected, number
        assert await routers.vacant() is expected, "not read again at once"
        now += CHECK_SECONDS
    assert LEAST_SECONDS > 2 * CHECK_SECONDS
    now += 1000
    lease(api, "b", 77)
    assert await routers.vacant() is None, "renewed at some time in a long while"
    api.fail = lambda *_: Rejected("forbidden")
    now += CHECK_SECONDS
    assert await routers.vacant() is False
