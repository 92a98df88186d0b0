"""The chart is uninstalled, installed as it was in the version before, upgraded to the present one and rolled back, all
under traffic of which nothing is lost. The image is this checkout's all the time, and so are the kinds: the API server
drops fields that an earlier version's kinds do not have.
"""

import json
import shutil
from pathlib import Path

import audit
import pytest
import yaml
from previous_chart import unpack
from released import (
    COMPONENTS,
    EXAMPLES,
    HELM_SECONDS,
    but_the_brokers,
    granted,
    helm,
    pings,
    pods,
    ready,
    recreate,
    replaced,
    status,
    traffic,
)
from story import CONFIGURATIONS, POD_SECONDS, eventually

from galactic_lab.cluster import Lab
from galactic_lab.controlplane import helm_release, rbac
from galactic_lab.state import NAMESPACE, checkout

LEFT = "deployments,daemonsets,services,roles,rolebindings,configmaps,networkpolicies,jobs,secrets,leases"
ROLES = "clusterroles,clusterrolebindings"


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart of the version before; its image is that of this checkout, and so are its kinds."""
    chart = unpack(tmp_path_factory.mktemp("previous"))
    for kind in (checkout() / "crds").glob("*.yaml"):
        shutil.copy(kind, chart / "files" / "crds")
    return chart


def earlier_configurations(lab: Lab) -> None:
    """Writes the webhook configurations that the webhooks of the previous version made themselves, beside Helm; those
    of this checkout's image do not.
    """
    text = rbac.rendered(lab.assets.helm, helm_release.chart(), lab.assets.version, "admission")
    authorities = lab.get("secret", "galactic-webhook", "-n", NAMESPACE)["data"]["ca.crt"]
    things = [manifest for manifest in yaml.safe_load_all(text) if manifest]
    for manifest in things:
        manifest["metadata"] = {
            "name": "galactic-webhook",
            "labels": {"app.kubernetes.io/part-of": "galactic"},
        }
        for webhook in manifest["webhooks"]:
            webhook["clientConfig"]["caBundle"] = authorities
    listed = {"apiVersion": "v1", "kind": "List", "items": things}
    lab.kubectl("apply", "-f", "-", stdin=json.dumps(listed))


def configured(lab: Lab) -> set[str]:
    """The names of Galactic's webhook configurations."""
    names = lab.kubectl("get", CONFIGURATIONS, "-o", "name").split()
    return {name.partition("/")[2] for name in names if "galactic" in name}


def test_uninstalling_leaves_running_pods_connected(examples: Lab, previous: Path) -> None:
    """Attached pods keep their traffic and can be deleted; the next installation, of the previous chart, has them."""
    values = f"--values={helm_release.values_file(examples.state)}"
    wait = ("--wait", f"--timeout={HELM_SECONDS}s")
    rights, first = granted(examples, "galactic-retire"), len(audit.lines(examples.state.audit))
    held = lambda: examples.get("vpc", "blue", "-n", "blue")["metadata"].get("finalizers")  # noqa: E731
    with traffic(examples):
        assert held()
        helm(examples, "uninstall", "galactic", *wait)
        eventually("no pod of Galactic's is left", lambda: not pods(examples), POD_SECONDS)
        assert not held(), "it can be deleted"
        left = lambda: examples.kubectl("get", LEFT, "-n", NAMESPACE, "-o", "name")  # noqa: E731
        eventually("nothing is left in its namespace", lambda: "galactic" not in left())
        assert "galactic" not in examples.kubectl("get", ROLES, "-o", "name")
        assert not configured(examples)
        made = audit.requests(examples.state.audit, first)
        assert not audit.unused(rights, made, "galactic-retire")
        assert not audit.refused(made, "galactic-retire")
        examples.kubectl("delete", "pod", "-n", "green", "three", f"--timeout={POD_SECONDS}s")
        configure = json.dumps([{"name": "GALACTIC_CONFIGURE", "value": "false"}])
        given = f"--set-json=webhook.extraEnv={configure}"
        helm(examples, "install", "galactic", str(previous), values, given, *wait)
        earlier_configurations(examples)
        assert ready(examples) == COMPONENTS
    examples.kubectl("apply", "-f", EXAMPLES)
    examples.kubectl("wait", "-n", "green", "--for=condition=Ready", "pod/three", f"--timeout={POD_SECONDS}s")
    eventually("one reaches three", lambda: pings(examples, "green", "one", "10.1.1.4"))


def test_an_upgrade_and_a_rollback_under_traffic(examples: Lab) -> None:
    """Both replace every pod but the broker's, and what is made afterwards is attached."""
    wait = ("--wait", f"--timeout={HELM_SECONDS}s")
    values = f"--values={helm_release.values_file(examples.state)}"
    steps = (
        ("upgrade", "galactic", str(helm_release.chart()), values, *wait),
        ("rollback", "galactic", *wait),
    )
    with traffic(examples):
        examples.up()  # which installs nothing: there is a release
        for step in steps:
            before = but_the_brokers(examples)
            helm(examples, *step)
            if step[0] == "rollback":
                assert not configured(examples)
                earlier_configurations(examples)
            else:
                assert configured(examples) == {"galactic-admission"}, "those of the version before have gone"
            eventually(
                f"after {step[0]} others are Ready", lambda b=before: replaced(examples, b), POD_SECONDS
            )
            eventually(f"after {step[0]} nothing is wrong", lambda: "Nothing is wrong." in status(examples))
    history = json.loads(helm(examples, "history", "galactic", "--output=json"))
    assert [entry["status"] for entry in history] == ["superseded", "superseded", "deployed"]
    recreate(examples, "db")
    eventually("web reaches db", lambda: pings(examples, "blue", "web", "10.1.1.3"))
