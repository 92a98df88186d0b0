"""The taint of a Node goes when pods can be attached there, and comes, where that is asked for, when they cannot."""

from typing import Any

import pytest

from galactic.kube.resources import EVENTS, NODE_SEGMENTS, NODES, PODS
from galactic.names import NOT_READY_TAINT
from galactic.operator.context import Rules
from galactic.operator.segments import obstacle
from galactic.operator.state import Caches

OURS, OTHER = {"key": NOT_READY_TAINT, "effect": "NoSchedule"}, {"key": "other", "effect": "NoExecute"}
KEY = ("", "n1")
AGENT = {"app.kubernetes.io/name": "galactic", "app.kubernetes.io/component": "node"}


def condition(kind: str, status: str, message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "message": message}


READY = condition("Ready", "True")
AWAY = condition("MultusConfigured", "False", "pods start with 10-flannel.conflist")


def caches(*conditions: dict[str, str], agents: dict[str, bool] | None = None, owner: str = "n1") -> Caches:
    owners = [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": owner}]
    made = Caches()
    made.segments.set(
        {
            "metadata": {"name": "n1", "ownerReferences": owners},
            "spec": {"prefix": "::/56"},
            "status": {"conditions": list(conditions)},
        }
    )
    for node, ready in (agents or {}).items():
        made.agents.set(agent(node, ready))
    return made


def agent(node: str, ready: bool) -> dict[str, Any]:
    """The Pod of a node controller."""
    return {
        "metadata": {"name": f"galactic-node-{node}", "labels": AGENT},
        "spec": {"nodeName": node},
        "status": {"conditions": [condition("Ready", str(ready))]},
    }


@pytest.mark.parametrize(
    ("seen", "problem"),
    [
        pytest.param(caches(READY), "", id="ready"),
        pytest.param(caches(READY, condition("MultusConfigured", "True")), "", id="ready-with-multus"),
        pytest.param(caches(READY, AWAY), "pods start with 10-flannel.conflist", id="multus-is-away"),
        pytest.param(caches(condition("Ready", "False", "no VRF")), "no VRF", id="not-ready"),
        pytest.param(caches(condition("Synced", "True")), "its NodeSegment is not Ready", id="not-ready-yet"),
        pytest.param(caches(), None, id="galactic-never-ran-there"),
        pytest.param(
            caches(agents={"n1": True}), "its NodeSegment is not Ready", id="its-agent-said-nothing-yet"
        ),
        pytest.param(caches(READY, agents={"n1": True}), "", id="its-agent-is-ready"),
        pytest.param(
            caches(READY, agents={"n1": False}), "galactic-node is not ready there", id="its-agent-is-away"
        ),
        pytest.param(caches(READY, agents={"n2": True}), None, id="agents-run-elsewhere"),
        pytest.param(caches(READY, owner="another"), None, id="of-a-namesake"),
    ],
)
def test_why_pods_cannot_be_attached(seen: Caches, problem: str | None) -> None:
    assert obstacle(seen, KEY, "n1") == problem


def test_a_node_without_a_segment_is_left_alone() -> None:
    assert obstacle(Caches(), KEY, "n1") is None


async def started(clusters: Any, *taints: dict[str, str], **rules: Any) -> Any:
    cluster = clusters(Rules(segments={"n1": "2001:db8:ff01:100::/56"}, **rules))
    await cluster.start()
    cluster.api.put(NODES, {"metadata": {"name": "n1"}, "spec": {"taints": list(taints)}})
    await cluster.settled()
    return cluster


async def report(cluster: Any, *conditions: dict[str, str]) -> None:
    patch = {"status": {"conditions": list(conditions)}}
    cluster.api.change(NODE_SEGMENTS, "n1", patch, subresource="status")
    await cluster.settled()


def taints(cluster: Any) -> list[dict[str, str]]:
    return list(cluster.api.stored(NODES, "n1")["spec"]["taints"])


def messages(cluster: Any) -> list[str]:
    events = [event for (plural, _, _), event in cluster.api.objects.items() if plural == EVENTS.plural]
    return [event["reason"] for event in events if event["involvedObject"]["kind"] == "Node"]


async def test_it_waits_for_multus(clusters: Any) -> None:
    cluster = await started(clusters, OURS, OTHER)
    await report(cluster, READY, AWAY)
    assert taints(cluster) == [OURS, OTHER]
    await report(cluster, READY, condition("MultusConfigured", "True"))
    assert taints(cluster) == [OTHER]
    await report(cluster, READY, AWAY)
    assert taints(cluster) == [OTHER], "it is not put back unless that is asked for"
    await cluster.stop()


async def test_it_comes_back_where_that_is_asked_for(clusters: Any) -> None:
    cluster = await started(clusters, OTHER, set_node_taint=True)
    assert taints(cluster) == [OTHER], "galactic never ran there"
    await report(cluster, READY, AWAY)
    assert taints(cluster) == [OTHER, OURS]
    await report(cluster, READY)
    assert taints(cluster) == [OTHER]
    assert {"AgentNotReady", "NodeReady"} <= set(messages(cluster))
    cluster.api.requests.clear()
    await report(cluster, READY, condition("Synced", "True"))
    assert ("patch", "Node", "n1") not in cluster.api.requests
    await cluster.stop()


async def test_it_follows_the_agents_pod(clusters: Any) -> None:
    """After a reboot the NodeSegment still has the state from before."""
    cluster = await started(clusters, set_node_taint=True)
    await report(cluster, READY)
    assert taints(cluster) == []
    cluster.api.put(PODS, agent("n1", ready=False), "galactic-system")
    await cluster.settled()
    assert taints(cluster) == [OURS]
    ready = {"status": agent("n1", ready=True)["status"]}
    cluster.api.change(PODS, "galactic-node-n1", ready, "galactic-system", subresource="status")
    await cluster.settled()
    assert taints(cluster) == []
    await cluster.stop()


async def test_the_removal_of_the_taint_can_be_turned_off(clusters: Any) -> None:
    cluster = await started(clusters, OURS, remove_node_taint=False)
    await report(cluster, READY)
    assert taints(cluster) == [OURS]
    await cluster.stop()
