"""The webhook configurations as they are rendered; test_lifecycle.py and tests/e2e have an API server go by them."""

from typing import Any

import pytest
from charting import NAMESPACE, Helm, merged, nested

KINDS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")


def configurations(helm: Helm, *values: dict[str, Any]) -> list[dict[str, Any]]:
    return [manifest for manifest in helm.objects(merged(*values)) if manifest["kind"] in KINDS]


def webhooks(helm: Helm, *values: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        webhook for configuration in configurations(helm, *values) for webhook in configuration["webhooks"]
    ]


def extra(**variables: str) -> dict[str, Any]:
    given = [{"name": f"GALACTIC_{name}", "value": value} for name, value in variables.items()]
    return nested("webhook.extraEnv", given)


def conditions(webhook: dict[str, Any]) -> dict[str, str]:
    return {condition["name"]: condition["expression"] for condition in webhook["matchConditions"]}


def test_every_webhook_fails_closed_in_time_and_hinders_no_deletion(helm: Helm) -> None:
    seconds = {"pods": 15, "pod-annotations": 5}
    for webhook in webhooks(helm):
        name = webhook["name"].partition(".")[0]
        assert webhook["failurePolicy"] == ("Ignore" if name == "pod-annotations" else "Fail"), (
            "a warning may fail"
        )
        assert webhook["timeoutSeconds"] == seconds.get(name, 10)
        assert webhook["sideEffects"] == ("NoneOnDryRun" if webhook["name"].startswith("kinds.") else "None")
        assert not any("DELETE" in rule["operations"] for rule in webhook["rules"])
        if any("UPDATE" in rule["operations"] for rule in webhook["rules"]):
            assert conditions(webhook)["stays"] == "!has(object.metadata.deletionTimestamp)"


def test_the_policy_of_pods_is_a_value_and_that_of_others_is_none(helm: Helm) -> None:
    for webhook in webhooks(helm, nested("webhook.podFailurePolicy", "Ignore")):
        assert webhook["failurePolicy"] == (
            "Ignore" if webhook["name"].startswith(("pod", "services")) else "Fail"
        )


def test_pods_of_two_namespaces_and_of_those_with_the_label_are_not_asked_about(helm: Helm) -> None:
    pods = [webhook for webhook in webhooks(helm) if webhook["name"].startswith("pod")]
    assert len(pods) == 3
    for webhook in pods:
        keys = {part["key"]: part["values"] for part in webhook["namespaceSelector"]["matchExpressions"]}
        assert keys == {
            "galactic.datumapis.com/admission": ["ignore"],
            "kubernetes.io/metadata.name": ["kube-system", NAMESPACE],
        }


def test_no_object_of_the_release_waits_for_the_webhooks(helm: Helm) -> None:
    """Or an installation would refuse itself, as no CA is entered before the webhooks run."""
    kinds = {manifest["kind"] for manifest in helm.objects() if manifest["kind"] not in KINDS}
    assert not kinds & {"VPC", "VPCAttachment", "NodeSegment"}
    assert all("caBundle" not in webhook["clientConfig"] for webhook in webhooks(helm))
    assert {webhook["clientConfig"]["service"]["namespace"] for webhook in webhooks(helm)} == {NAMESPACE}


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(extra(WEBHOOK_URL="https://[fd00::1]:9443/"), id="variable"),
        pytest.param(extra(URL="https://[fd00::1]:9443"), id="old-variable"),
        pytest.param(nested("webhook.extraArgs", ["--webhook-url=https://[fd00::1]:9443"]), id="flag"),
    ],
)
def test_the_webhooks_are_at_the_url_of_their_settings(helm: Helm, values: dict[str, Any]) -> None:
    for webhook in webhooks(helm, values):
        path = "mutate" if "reinvocationPolicy" in webhook else "validate"
        assert webhook["clientConfig"] == {"url": f"https://[fd00::1]:9443/{path}"}


def test_nodes_are_recognised_by_the_webhooks_settings(helm: Helm) -> None:
    def foreign(*values: dict[str, Any]) -> str:
        (one,) = [
            webhook for webhook in webhooks(helm, *values) if webhook["name"].startswith("node-statuses.")
        ]
        return conditions(one)["is-of-another-node"]

    user, key = "request.userInfo.username", "'authentication.kubernetes.io/node-name'"
    extra_ = "request.userInfo.extra"
    assert foreign(extra(NODE_IDENTITIES="a-{node}-b, gs:node")) == (
        f"({user}.startsWith('a-') && {user}.endsWith('-b') && {user} != 'a-' + request.name + '-b') || "
        f"({user} == 'gs:node' && !(has({extra_}) && {key} in {extra_} && {extra_}[{key}] == [request.name]))"
    )
    assert f"'system:serviceaccount:{NAMESPACE}:galactic-node'" in foreign()


def test_cert_manager_enters_its_ca_and_the_webhooks_may_not(helm: Helm) -> None:
    mode = nested("webhook.certificate.mode", "cert-manager")
    for configuration in configurations(helm, mode):
        assert configuration["metadata"]["annotations"] == {
            "cert-manager.io/inject-ca-from": f"{NAMESPACE}/galactic-webhook"
        }
    assert all("annotations" not in configuration["metadata"] for configuration in configurations(helm))
    for values, verbs in (({}, ["get", "update"]), (mode, ["get"])):
        (role,) = [
            manifest
            for manifest in helm.objects(values)
            if (manifest["kind"], manifest["metadata"]["name"]) == ("ClusterRole", "galactic-webhook")
        ]
        rules = [rule for rule in role["rules"] if "admissionregistration.k8s.io" in rule["apiGroups"]]
        assert [rule["resourceNames"] for rule in rules] == [["galactic-admission"], ["galactic-webhook"]]
        assert [rule["verbs"] for rule in rules] == [verbs, ["delete"]]
