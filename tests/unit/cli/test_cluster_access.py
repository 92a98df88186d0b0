"""A cluster as the chart installs it: its programs, the reasons why they are not ready, and the requests for them."""

from typing import Any

import pytest

from galactic.cli.cluster_access import Cluster, problem
from galactic.errors import Unreachable
from galactic.kube.execution import TooSlow
from galactic.kube.resources import Resource

RUNNING = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}


def pod(component: str, node: str, status: dict[str, Any]) -> dict[str, Any]:
    container = {
        "name": component,
        "image": f"host/galactic:{component}@sha256:1",
        "ports": [{"name": "metrics", "containerPort": 9191}],
    }
    return {
        "metadata": {
            "name": f"galactic-{component}-{node}",
            "namespace": "galactic-system",
            "labels": labels(component),
        },
        "spec": {"nodeName": node, "containers": [container]},
        "status": status,
    }


def labels(component: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": "galactic", "app.kubernetes.io/component": component}


def workload(component: str, **status: int) -> dict[str, Any]:
    template = {"spec": {"containers": [{"image": f"host:5000/galactic:{component}"}]}}
    meta = {"name": f"galactic-{component}", "namespace": "galactic-system", "labels": labels(component)}
    return {"metadata": meta, "spec": {"replicas": 2, "template": template}, "status": status}


class FakeKube:
    """An API server with lists by kind, and texts by path."""

    def __init__(self, lists: dict[str, list[dict[str, Any]]]) -> None:
        self.lists, self.paths = lists, []

    async def list(self, resource: Resource, *, labels: str = "") -> tuple[list[dict[str, Any]], str]:
        assert labels == "app.kubernetes.io/name=galactic"
        return self.lists.get(resource.kind, []), ""

    async def text(self, path: str) -> str:
        self.paths.append(path)
        if "-operator-" in path:
            return "ok"
        raise Unreachable(
            "kube-apiserver", "503 mqtt: the broker refused the connection: Bad user name or password"
        )


def cluster(**lists: list[dict[str, Any]]) -> tuple[Cluster, FakeKube]:
    kube = FakeKube(lists)
    return Cluster(kube), kube  # type: ignore[arg-type]


async def test_health_is_read_by_https_where_probes_are() -> None:
    secure = pod("operator", "a", RUNNING)
    secure["spec"]["containers"][0]["readinessProbe"] = {"httpGet": {"path": "/readyz", "scheme": "HTTPS"}}
    access, kube = cluster(Deployment=[workload("operator", readyReplicas=2)], Pod=[secure])
    await access.components()
    assert kube.paths == [
        "/api/v1/namespaces/galactic-system/pods/https:galactic-operator-a:9191/proxy/healthz"
    ]


async def test_what_runs() -> None:
    broken = {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}
    access, kube = cluster(
        Deployment=[workload("operator", readyReplicas=2), workload("router")],
        DaemonSet=[workload("node", desiredNumberScheduled=2)],
        Pod=[
            pod("operator", "a", RUNNING),
            pod("router", "a", broken),
            pod("node", "node-1", RUNNING),
            pod("node", "node-2", {"phase": "Pending"}),
        ],
    )
    components = {component.title: component for component in await access.components()}
    assert (components["operator"].ready, components["operator"].wanted, components["operator"].version) == (
        2,
        2,
        "operator",
    )
    assert components["router"].ready == 0
    assert "Bad user name or password" in components["router"].problem
    assert "/api/v1/namespaces/galactic-system/pods/galactic-router-a:9191/proxy/healthz" in kube.paths
    assert components["node on node-1"].ready == 1
    assert components["node on node-2"].ready == 0


async def test_a_router_that_is_ready_without_its_broker_is_shown_with_that() -> None:
    access, _ = cluster(
        Deployment=[workload("router", readyReplicas=2), workload("operator", readyReplicas=1)],
        Pod=[pod("router", "a", RUNNING), pod("operator", "b", RUNNING)],
    )
    operator, router = await access.components()
    assert (router.ready, router.problem.startswith("mqtt: the broker refused")) == (1, True)
    assert (operator.ready, operator.problem) == (1, "")


async def test_a_cluster_without_a_router_is_served_from_outside() -> None:
    deployments, _ = cluster(Deployment=[workload("operator"), workload("router")])
    assert not deployments.router_outside(await deployments.components())
    none = workload("router")
    none["spec"]["replicas"] = 0
    for workloads in ([workload("operator")], [workload("operator"), none]):
        outside, _ = cluster(Deployment=workloads)
        assert outside.router_outside(await outside.components())
    empty, _ = cluster()
    assert not empty.router_outside(await empty.components()), "there is no Galactic at all"


async def test_where_logs_are() -> None:
    access, _ = cluster(
        Deployment=[workload("operator")],
        StatefulSet=[workload("router")],
        DaemonSet=[workload("node", desiredNumberScheduled=1)],
        Pod=[pod("node", "node-1", RUNNING)],
    )
    assert {
        component.log.removeprefix("kubectl logs -n galactic-system ")
        for component in await access.components()
    } == {
        "deploy/galactic-operator",
        "sts/galactic-router",
        "galactic-node-node-1",
    }


async def test_nodes_and_routers_that_are_not_there() -> None:
    access, _ = cluster(Pod=[pod("operator", "a", RUNNING)])
    with pytest.raises(Unreachable, match="no pod of galactic-node runs on node-1"):
        await access.inspect("node-1", [])
    with pytest.raises(Unreachable, match="no pod of galactic-router runs"):
        await access.router_tables([])


def container(state: dict[str, Any], last: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"status": {"containerStatuses": [{"name": "node", "state": state, "lastState": last or {}}]}}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param(container({"running": {}}), "", id="runs"),
        pytest.param(
            container(
                {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
                {"terminated": {"message": "srv6_block: give a network"}},
            ),
            "node: CrashLoopBackOff (srv6_block: give a network)",
            id="its-last-words-count",
        ),
        pytest.param(
            container({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}),
            "node: ImagePullBackOff (no such image)",
            id="image",
        ),
        pytest.param(container({"terminated": {"exitCode": 2}}), "node: ended with 2", id="ended"),
        pytest.param(
            {"status": {"conditions": [{"type": "PodScheduled", "status": "False", "message": "no room"}]}},
            "no room",
            id="not-scheduled",
        ),
    ],
)
def test_why_a_pod_does_not_run(given: dict[str, Any], message: str) -> None:
    assert problem(given) == message


async def test_a_command_that_was_too_slow_names_its_pod_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[float] = []

    async def slow(*_: Any, seconds: float) -> None:
        asked.append(seconds)
        raise TooSlow("kubelet", "pod galactic-system/galactic-node-a: `galactic-node-inspect` took longer")

    monkeypatch.setattr("galactic.cli.cluster_access.execute", slow)
    access = Cluster(FakeKube({"Pod": [pod("node", "node-1", RUNNING)]}), 7.0)  # type: ignore[arg-type]
    with pytest.raises(
        Unreachable, match=r"galactic-node-a: .* took longer; give a longer --request-timeout"
    ):
        await access.inspect("node-1", [])
    assert asked == [7.0]
