"""Kinds of clusters (docs/clusters.md): their values files, and what the chart makes for them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from apiserver import Server
from charting import NAMESPACE, Helm, Refused, nested
from openapi import Kinds
from values import CHART

from galactic_lab.cluster import Lab

ROOT = CHART.parents[1]
FILES = sorted((ROOT / "examples/values").glob("*.yaml"))
PAGE = (ROOT / "docs/clusters.md").read_text()
GUARDED = "guarded"
LEVEL = "pod-security.kubernetes.io/enforce"


@pytest.fixture(scope="module")
def kinds(lab: Lab) -> Kinds:
    return Kinds(Server(lab.kubeconfig).get("/openapi/v2"))


def named(objects: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in objects}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_values_file_is_rendered_and_an_api_server_knows_every_field(
    helm: Helm, kinds: Kinds, path: Path
) -> None:
    values = yaml.safe_load(path.read_text())
    plain, objects = helm.objects(), helm.objects({}, f"--values={path}")
    assert objects == helm.objects(values)
    assert objects != plain, "it is needed"
    for manifest in objects:
        if manifest["kind"] != "CustomResourceDefinition":
            assert not kinds.problems(manifest)
    assert f"examples/values/{path.name}" in PAGE


def test_the_page_names_no_other_file() -> None:
    assert PAGE.count("](../examples/values/") == 0, "the documentation is published without the examples"
    assert {word.strip("`.,;)") for word in PAGE.split() if "examples/values/" in word} == {
        f"examples/values/{path.name}" for path in FILES
    }


def test_the_folders_of_the_host_follow_the_values(helm: Helm) -> None:
    for path in FILES:
        folders = (yaml.safe_load(path.read_text()).get("node") or {}).values()
        pod = named(helm.objects({}, f"--values={path}"))["DaemonSet", "galactic-node"]["spec"]["template"]
        mounted = {volume["hostPath"]["path"] for volume in pod["spec"]["volumes"] if "hostPath" in volume}
        assert {*folders} <= mounted


def test_critical_pods_are_permitted_where_a_quota_has_to_do_it(helm: Helm) -> None:
    quota = named(helm.objects())["ResourceQuota", "galactic-critical-pods"]["spec"]
    (scope,) = quota["scopeSelector"]["matchExpressions"]
    used = {
        manifest["spec"]["template"]["spec"].get("priorityClassName")
        for manifest in helm.objects()
        if manifest["kind"] in ("Deployment", "DaemonSet", "StatefulSet")
    }
    assert {*scope["values"]} == {name for name in used if name}
    own = {name: {"priorityClassName": "own"} for name in ("operator", "webhook", "router", "node")}
    assert not [manifest for manifest in helm.objects(own) if manifest["kind"] == "ResourceQuota"], (
        "no pod needs the permission"
    )


def test_every_account_of_a_pod_has_its_constraints_on_openshift(helm: Helm) -> None:
    objects = helm.objects(nested("openshift.enabled", True))
    bound = {
        subject["name"]: manifest["roleRef"]["name"]
        for manifest in objects
        if manifest["kind"] == "RoleBinding"
        and manifest["roleRef"]["name"].startswith("system:openshift:scc:")
        for subject in manifest["subjects"]
    }
    accounts = {manifest["metadata"]["name"] for manifest in objects if manifest["kind"] == "ServiceAccount"}
    assert bound.keys() == accounts
    assert {name for name, role in bound.items() if role.endswith(":privileged")} == {"galactic-node"}
    with pytest.raises(Refused, match="permit no pod on the host's network"):
        helm.objects({"openshift": {"enabled": True}, "webhook": {"hostNetwork": True}})


@pytest.fixture
def guarded(lab: Lab) -> Iterator[str]:
    """A namespace with Pod Security's level ``baseline``."""
    meta = {"name": GUARDED, "labels": {LEVEL: "baseline"}}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": meta}
    lab.kubectl("apply", "-f", "-", stdin=json.dumps(namespace))
    yield GUARDED
    lab.kubectl("delete", "namespace", GUARDED, "--wait=false")


def test_a_namespace_that_keeps_the_nodes_pods_away_is_refused(lab: Lab, helm: Helm, guarded: str) -> None:
    """With the command that opens it; and Pod Security would indeed refuse the pods."""
    dry = ("install", "galactic", str(CHART), f"--namespace={guarded}", "--dry-run=server")
    config = str(lab.kubeconfig)
    command = f"kubectl label namespace {guarded} --overwrite {LEVEL}=privileged"
    with pytest.raises(Refused, match=f"level baseline.*{command}"):
        helm.run(*dry, KUBECONFIG=config)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "galactic-node"}}
    lab.kubectl("apply", "-n", guarded, "-f", "-", stdin=json.dumps(account))
    template = named(helm.objects())["DaemonSet", "galactic-node"]["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", "spec": template["spec"]}
    pod["metadata"] = {"name": "probe", "namespace": guarded}
    server = Server(lab.kubeconfig)
    assert 'violates PodSecurity "baseline' in server.dry_run(pod)
    lab.kubectl(*command.split()[1:])
    assert not server.dry_run(pod)
    lab.kubectl("label", "namespace", guarded, "--overwrite", f"{LEVEL}=restricted")
    others = [
        manifest for manifest in helm.objects() if manifest["kind"] in ("Deployment", "StatefulSet", "Job")
    ]
    assert len(others) == 5
    for manifest in others:
        spec = manifest["spec"]["template"]["spec"] | {"serviceAccountName": "galactic-node"}
        assert not server.dry_run(pod | {"spec": spec}), manifest["metadata"]["name"]
    lab.kubectl("label", "namespace", guarded, "--overwrite", f"{LEVEL}=privileged")
    lab.kubectl("delete", "serviceaccount", "galactic-node", "-n", guarded)
    assert "galactic-node" in helm.run(*dry, KUBECONFIG=config)


def test_a_quota_of_others_for_critical_pods_is_answered(lab: Lab, helm: Helm) -> None:
    """The chart's own limits nothing, and the API server takes it."""
    quota = named(helm.objects())["ResourceQuota", "galactic-critical-pods"]
    assert not Server(lab.kubeconfig).dry_run(quota | {"metadata": {"name": "q", "namespace": "default"}})
    assert quota["metadata"]["namespace"] == NAMESPACE
