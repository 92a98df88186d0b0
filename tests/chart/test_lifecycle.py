"""The chart's objects on a real API server: installed, upgraded, rolled back, uninstalled. No program of it runs here;
they do in tests/e2e/test_the_chart_on_real_nodes.py and the files that go on from there.

One release; the tests run in the order of this file.
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import audit
import pytest
import yaml
from apiserver import Server
from charting import NAMESPACE, Helm, Refused, nested
from openapi import Kinds
from previous_chart import unpack
from story import eventually as soon
from values import CHART

from galactic.errors import Rejected
from galactic_lab.cluster import Lab
from galactic_lab.places import HELD_UP

GROUP = "galactic.datumapis.com"
CONFIGURATIONS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
eventually = partial(soon, seconds=180.0)
"""On a machine where much else is going on."""
TRIES = 3


@dataclass
class Release:
    """The release and its surroundings."""

    lab: Lab
    helm: Helm

    def run(self, *arguments: str, values: dict[str, Any] | None = None) -> str:
        """Helm's output. Runs again where a slow server timed out halfway."""
        for _ in range(TRIES - 1):
            try:
                return self.once(*arguments, values=values)
            except Refused as refusal:
                if not HELD_UP.search(str(refusal)):
                    raise
                if arguments[0] == "install":
                    self.once("uninstall", "galactic", "--no-hooks", "--ignore-not-found")
        return self.once(*arguments, values=values)

    def once(self, *arguments: str, values: dict[str, Any] | None = None) -> str:
        """Helm's output. Raises Refused."""
        return self.helm.run(
            *arguments, f"--namespace={NAMESPACE}", values=values, KUBECONFIG=str(self.lab.kubeconfig)
        )


@pytest.fixture(scope="module")
def release(lab: Lab, helm: Helm) -> Release:
    return Release(lab, helm)


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart of before (previous/README.md), of which one kind is taken a field: none has got one since."""
    chart = unpack(tmp_path_factory.mktemp("previous"))
    kind = chart / "files/crds/vpc.yaml"
    crd = yaml.safe_load(kind.read_text())
    del crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"][
        "allowedNamespaces"
    ]
    kind.write_text(yaml.safe_dump(crd))
    return chart


def has_grants(lab: Lab) -> bool:
    schema = lab.get("crd", f"vpcs.{GROUP}")["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return "allowedNamespaces" in schema["properties"]["spec"]["properties"]


def has_token(lab: Lab) -> bool:
    """Whether the DaemonSet's pods bring their own token, as those of before do not."""
    spec = lab.get("daemonset", "galactic-node", "-n", NAMESPACE)["spec"]["template"]["spec"]
    return any("projected" in volume for volume in spec["volumes"])


def objects_of_users(lab: Lab) -> list[object]:
    """Objects of users, which no upgrade may touch."""
    found = [lab.get("vpc", "kept", "-n", "default"), lab.get("vpcattachment", "kept", "-n", "default")]
    return [
        (manifest["metadata"]["uid"], manifest["metadata"]["generation"], manifest["spec"])
        for manifest in found
    ]


def test_install_and_upgrade_from_the_previous_version(release: Release, helm: Helm, previous: Path) -> None:
    lab = release.lab
    release.run("install", "galactic", str(previous), "--create-namespace")
    assert not has_grants(lab)
    assert not has_token(lab)
    eventually("the kinds are served", lambda: accepted(release))
    before = objects_of_users(lab)
    release.run("upgrade", "galactic", str(CHART))
    assert has_grants(lab), "an upgrade reaches the kinds"
    assert has_token(lab)
    assert objects_of_users(lab) == before
    stored = {
        (manifest["kind"], manifest["metadata"]["name"])
        for manifest in yaml.safe_load_all(release.run("get", "manifest", "galactic"))
    }
    assert stored == {
        (manifest["kind"], manifest["metadata"]["name"])
        for manifest in helm.objects()
        if "helm.sh/hook" not in manifest["metadata"].get("annotations", {})
    }
    for kind, name in stored:
        lab.kubectl("get", kind, name, "-n", "default" if name.endswith("-kubernetes") else NAMESPACE)


def broker_secrets(lab: Lab) -> dict[str, dict[str, str]]:
    """The data of the Secrets of the chart's own broker that exist, by name."""
    found = lab.get("secrets", "-n", NAMESPACE)["items"]
    return {
        secret["metadata"]["name"]: secret["data"]
        for secret in found
        if secret["metadata"]["name"].startswith("galactic-broker")
    }


def test_no_pod_waits_for_the_brokers_secrets(release: Release) -> None:
    """They exist before a program has run: kubelet would leave a pod whose Secret is missing in FailedMount."""
    there = broker_secrets(release.lab)
    assert {name: {*data} for name, data in there.items()} == {
        "galactic-broker": {"ca.crt", "ca.key", "tls.crt", "tls.key"},
        "galactic-broker-node": {"ca.crt", "password", "username"},
        "galactic-broker-router": {"ca.crt", "password", "username"},
    }
    passwords = [there[f"galactic-broker-{client}"]["password"] for client in ("node", "router")]
    assert len({*passwords}) == 2
    release.run("upgrade", "galactic", str(CHART))
    assert broker_secrets(release.lab) == there, "an upgrade changes no password"


def test_every_field_was_one_that_the_api_server_knows(release: Release, helm: Helm) -> None:
    kinds = Kinds(json.loads(release.lab.kubectl("get", "--raw", "/openapi/v2")))
    for manifest in helm.objects():
        if manifest["kind"] != "CustomResourceDefinition":
            assert not kinds.problems(manifest)


def test_a_second_installation_is_refused(release: Release) -> None:
    with pytest.raises(Refused, match="invalid ownership metadata"):
        release.helm.run(
            "install", "another", str(CHART), "--namespace=default", KUBECONFIG=str(release.lab.kubeconfig)
        )


VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")


def test_the_api_server_reads_the_roles_as_the_tests_do(release: Release, helm: Helm) -> None:
    """Every verb, on every resource that any role names: allowed where a role has it, and nowhere else."""
    server = Server(release.lab.kubeconfig)
    objects = helm.objects()
    accounts = [f"galactic-{component}" for component in ("operator", "webhook", "router", "broker", "node")]
    rights = {account: audit.granted(objects, account) for account in accounts}
    things = {(right.group, right.resource) for granted in rights.values() for right in granted}
    wrong = []
    for account in accounts:
        for group, resource in sorted(things):
            for verb in VERBS:
                asked = audit.Request(account, verb, group, resource, "", "tenant", False, "")
                expected = any(audit.covers(right, asked) for right in rights[account])
                if server.allowed(f"system:serviceaccount:{NAMESPACE}:{account}", asked) != expected:
                    wrong.append((account, verb, resource, expected))
    assert not wrong


def test_rollback(release: Release) -> None:
    lab = release.lab
    before, credentials = objects_of_users(lab), broker_secrets(lab)
    release.run("rollback", "galactic", "1")
    assert not lab.kubectl("get", ",".join(CONFIGURATIONS), "galactic-admission", "--ignore-not-found")
    assert not has_grants(lab)
    assert not has_token(lab)
    assert objects_of_users(lab) == before
    assert broker_secrets(lab) == credentials
    release.run("upgrade", "galactic", str(CHART))
    assert has_grants(lab)
    assert has_token(lab)
    assert objects_of_users(lab) == before


def test_it_can_be_installed_again_over_what_was_kept_and_removed_without_hooks(release: Release) -> None:
    lab = release.lab
    kept = objects_of_users(lab)
    release.run("uninstall", "galactic", "--no-hooks")
    assert objects_of_users(lab) == kept
    release.run("install", "galactic", str(CHART), values=nested("crds.keep", False))
    release.run("uninstall", "galactic", "--no-hooks")
    assert "galactic" not in lab.kubectl("get", ",".join(CONFIGURATIONS), "-o", "name"), (
        "nothing refuses pods"
    )
    eventually("the kinds go as well", lambda: GROUP not in lab.kubectl("get", "crds", "-o", "name"))


KEPT = {"name": "kept", "namespace": "default"}
THEIRS = (
    {
        "apiVersion": f"{GROUP}/v1alpha",
        "kind": "VPC",
        "metadata": KEPT,
        "spec": {"networks": ["10.9.0.0/24"]},
    },
    {
        "apiVersion": f"{GROUP}/v1alpha",
        "kind": "VPCAttachment",
        "metadata": KEPT,
        "spec": {"vpc": {"name": "kept"}},
    },
)


def accepted(release: Release) -> bool:
    """Whether the API server accepts the users' objects; False while it does not serve their kinds yet."""
    try:
        things = {"apiVersion": "v1", "kind": "List", "items": THEIRS}
        release.lab.kubectl("apply", "-f", "-", stdin=json.dumps(things))
    except Rejected as refusal:
        if "no matches for kind" in str(refusal) or "could not find the requested resource" in str(refusal):
            return False
        raise
    return True
