"""The operator may be away: namespaces are deleted all the same when it is back, and another one takes over."""

import signal
from collections.abc import Callable, Iterator

import pytest
from story import Tenant, eventually, tenancy

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
