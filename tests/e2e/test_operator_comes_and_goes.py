"""The operator may be away: namespaces are deleted all the same when it is back, and another one takes over."""

import asyncio
import json
import shutil
import signal
from collections.abc import Callable, Iterator

import pytest
from story import Tenant, eventually, tenancy

from galactic.kube.client import connect
from galactic.kube.resources import CONFIG_MAPS
from galactic_lab.cluster import Lab


@pytest.fixture
def made(control_plane: Lab, request: pytest.FixtureRequest) -> Iterator[Callable[[str], Tenant]]:
    """Makes tenants that go after the story, and an operator that runs."""
    with tenancy(control_plane, request.node.name) as make:
        yield make
        control_plane.supervisor.start("operator")


def gone(tenant: Tenant) -> bool:
    return not tenant.lab.kubectl("get", "namespace", tenant.namespace, "-o", "name", "--ignore-not-found")


def in_use(tenant: Tenant) -> None:
    """A VPC with an attachment that a Pod carries: both have the finalizer."""
    lab = tenant.lab
    tenant.make_vpc()
    tenant.attach("a")
    annotations = {"k8s.v1alpha.galactic.datumapis.com/vpc-attachment": "a"}
    containers = [{"name": "main", "image": "nicolaka/netshoot:v0.13"}]
    spec = {"schedulerName": "nobody", "terminationGracePeriodSeconds": 0, "containers": containers}
    metadata = {"name": "carrier", "annotations": annotations}
    tenant.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    for kind, name in (("vpc", "vpc"), ("vpca", "a")):
        eventually(
            f"{kind} {name} is held",
            lambda kind=kind, name=name: lab.get(kind, "-n", tenant.namespace, name)["metadata"].get(
                "finalizers"
            ),
        )


def test_a_namespace_goes_while_the_operator_runs(made: Callable[[str], Tenant]) -> None:
    blue = made("running")
    in_use(blue)
    blue.lab.kubectl("delete", "namespace", blue.namespace, "--wait=false")
    eventually("the namespace is gone", lambda: gone(blue))


def test_a_namespace_deleted_while_the_operator_was_away_goes_when_it_is_back(
    made: Callable[[str], Tenant],
) -> None:
    blue = made("away")
    in_use(blue)
    blue.lab.supervisor.stop("operator")
    blue.lab.kubectl("delete", "namespace", blue.namespace, "--wait=false")
    eventually(
        "the attachment is being deleted",
        lambda: blue.attachment("a")["metadata"].get("deletionTimestamp"),
    )
    assert not gone(blue)
    blue.lab.supervisor.start("operator")
    eventually("the namespace is gone", lambda: gone(blue))


def test_a_killed_operator_is_succeeded(made: Callable[[str], Tenant]) -> None:
    """The killed one could not release its lease: its successor waits until that has run out."""
    blue = made("killed")
    blue.make_vpc()
    blue.attach("before")
    blue.lab.kill("operator", signal.SIGKILL)
    blue.attach("after")
    before, after = (blue.attachment(name)["status"] for name in ("before", "after"))
    assert before["identifier"] != after["identifier"]
    assert not set(before["addresses"]) & set(after["addresses"])


WRITES = 700
"""Of those that the restored etcd has lost: some minutes' worth of what a lab writes by itself."""


async def write(namespace: str) -> None:
    async with await connect() as kube:
        for name in map(str, range(WRITES)):
            await kube.create(CONFIG_MAPS, {"metadata": {"name": name}}, namespace)


def test_etcd_is_set_back_under_a_running_operator(
    made: Callable[[str], Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions begin again at lower ones: what is applied now has versions that the operator has seen already."""
    blue = made("restored")
    lab = blue.lab
    data, copy = lab.state.memory / "etcd", lab.state.memory / "etcd-copy"
    blue.make_vpc()
    blue.attach("before")

    def while_stopped(work: Callable[[], object]) -> None:
        lab.supervisor.stop("kube-apiserver", "etcd")
        work()
        lab.supervisor.start("etcd", "kube-apiserver")
        eventually("the API server is ready", lambda: lab.kubectl("get", "--raw", "/readyz", check=False))

    def revision() -> int:
        path = f"/api/v1/namespaces/{blue.namespace}/configmaps?limit=1"
        return int(json.loads(lab.kubectl("get", "--raw", path))["metadata"]["resourceVersion"])

    while_stopped(lambda: shutil.copytree(data, copy))
    blue.attach("lost")
    monkeypatch.setenv("KUBECONFIG", str(lab.kubeconfig))
    asyncio.run(write(blue.namespace))
    lost = revision()
    while_stopped(lambda: (shutil.rmtree(data), copy.rename(data)))
    try:
        identifiers = {blue.make_vpc(), blue.make_vpc("later")}  # of a kind that kopf watches
        assert len(identifiers) == 2
        blue.attach("after", vpc="later")
        blue.attach("again")
        now = revision()
        assert now < lost, f"revision {now} has passed {lost}: the story proves nothing"
        held = [blue.attachment(name)["status"] for name in ("before", "again")]
        assert len({status["identifier"] for status in held}) == 2
        assert not set(held[0]["addresses"]) & set(held[1]["addresses"])
    finally:
        restart_kubernetes(lab)


def restart_kubernetes(lab: Lab) -> None:
    """Its programs wait for versions that are yet to come: its documentation restarts them after a restore of etcd."""
    running = {entry["name"] for entry in lab.supervisor.status()}
    for program in running & {"kube-controller-manager", "kube-scheduler", "coredns"}:
        lab.restart(program)
    for member in lab.state.members:
        for program in ("kubelet", "kube-proxy"):
            if lab.state.pid(member.name, program).exists():
                lab.restart(f"{program}/{member.name}")
