"""The cluster's own DNS answers with addresses of a VPC, for a headless Service with the annotation of the VPC."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from released import inside, pings
from story import POD_SECONDS, Tenant, eventually, tenancy

from galactic.errors import Rejected
from galactic_lab.cluster import Lab
from galactic_lab.state import DOMAIN

POD_VPC = "k8s.v1alpha.galactic.datumapis.com/vpc"
SERVICE_VPC = "galactic.datumapis.com/vpc"
KUBERNETES = "endpointslice.kubernetes.io/managed-by=endpointslice-controller.k8s.io"
LABELS = {"app": "db"}


@pytest.fixture
def blue(charted: Lab, request: pytest.FixtureRequest) -> Iterator[Tenant]:
    with tenancy(charted, request.node.name) as make:
        yield make("blue")


def test_a_stateful_set_by_name(charted: Lab, blue: Tenant) -> None:
    blue.make_vpc()
    blue.apply(service(), stateful_set())
    rolled(charted, blue)
    given = {name: addresses(blue, name) for name in ("db-0", "db-1")}
    assert all(len(pair) == 2 for pair in given.values()), "both families"
    for name, pair in given.items():
        answered(charted, blue, f"{name}.db", pair)
    answered(charted, blue, "db", given["db-0"] | given["db-1"])
    (address,) = (text for text in given["db-0"] if "." in text)
    eventually("db-1 reaches it", lambda: pings(charted, blue.namespace, "db-1", address))
    assert not kubernetes_addresses(charted, blue)

    inside(charted, blue.namespace, "db-0", "touch", "/tmp/away")
    answered(charted, blue, "db", given["db-1"])
    answered(charted, blue, "db-0.db", set())
    inside(charted, blue.namespace, "db-0", "rm", "/tmp/away")
    answered(charted, blue, "db-0.db", given["db-0"])

    charted.kubectl("delete", "pod", "-n", blue.namespace, "db-0", f"--timeout={POD_SECONDS}s")
    rolled(charted, blue)
    answered(charted, blue, "db-0.db", given["db-0"])

    blue.apply(service(annotated=False))
    eventually("Kubernetes publishes its own", lambda: len(kubernetes_addresses(charted, blue)) >= 2)
    others = KUBERNETES.replace("=", "!=")
    eventually("Galactic publishes none", lambda: not slices(charted, blue, others))


def test_what_cannot_be_published_is_refused(charted: Lab, blue: Tenant) -> None:
    blue.make_vpc()
    with pytest.raises(Rejected, match=r"spec\.clusterIP: an address of a Service leads into no VPC"):
        blue.apply(service(clusterIP=""))
    with pytest.raises(Rejected, match="does not exist or does not admit namespace"):
        blue.apply(service(vpc="kube-system/none"))


def service(*, annotated: bool = True, vpc: str = "vpc", **spec: Any) -> dict[str, Any]:
    """The same but for the annotation: kubectl apply removes it where it was."""
    headless = {"clusterIP": "None", "selector": LABELS, "ports": [{"name": "sql", "port": 5432}]}
    annotations = {SERVICE_VPC: vpc} if annotated else {}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "db", "annotations": annotations},
        "spec": {key: value for key, value in (headless | spec).items() if value},
    }


def stateful_set() -> dict[str, Any]:
    probe = {
        "exec": {"command": ["sh", "-c", "! test -e /tmp/away"]},
        "periodSeconds": 1,
        "failureThreshold": 1,
    }
    container = {"name": "main", "image": "nicolaka/netshoot:v0.13", "readinessProbe": probe}
    template = {
        "metadata": {"labels": LABELS, "annotations": {POD_VPC: "vpc"}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "db"},
        "spec": {
            "replicas": 2,
            "serviceName": "db",
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": LABELS},
            "template": template,
        },
    }


def rolled(lab: Lab, tenant: Tenant) -> None:
    lab.kubectl("rollout", "status", "-n", tenant.namespace, "statefulset/db", f"--timeout={POD_SECONDS}s")


def addresses(tenant: Tenant, name: str) -> set[str]:
    """The attachment's, without their lengths."""
    return {text.partition("/")[0] for text in tenant.attachment(name)["status"]["addresses"]}


def answered(lab: Lab, tenant: Tenant, name: str, expected: set[str]) -> None:
    """Waits until the cluster's DNS answers a pod with these addresses, of both families, and no others."""
    last: set[str] = set()

    def same() -> bool:
        last.clear()
        last.update(resolved(lab, tenant, name))
        return last == expected

    eventually(lambda: f"{name} is {sorted(expected)}; last: {sorted(last)}", same)


def resolved(lab: Lab, tenant: Tenant, name: str) -> set[str]:
    """The addresses by which the cluster's DNS answers a pod."""
    whole = f"{name}.{tenant.namespace}.svc.{DOMAIN}."
    found: set[str] = set()
    for kind in ("a", "aaaa"):
        printed = inside(lab, tenant.namespace, "db-1", "nslookup", f"-type={kind}", whole).stdout
        _, _, answers = printed.partition("Name:")  # the server's own address comes before
        found |= set(re.findall(r"^Address(?: \d+)?: (\S+)$", answers, re.MULTILINE))
    return found


def slices(lab: Lab, tenant: Tenant, selector: str) -> list[str]:
    """The addresses in the Service's slices that the selector has."""
    everything = f"kubernetes.io/service-name=db,{selector}"
    found = json.loads(
        lab.kubectl("get", "endpointslices", "-n", tenant.namespace, "-l", everything, "-o", "json")
    )["items"]
    return [text for one in found for endpoint in one["endpoints"] or () for text in endpoint["addresses"]]


def kubernetes_addresses(lab: Lab, tenant: Tenant) -> list[str]:
    """The addresses that Kubernetes' own controller publishes."""
    return slices(lab, tenant, KUBERNETES)
