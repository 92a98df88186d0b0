"""Roles as they are written: no wildcards, one for each component, nothing that leads to more."""

import pytest
from charting import Helm, merged, nested

MORE = [
    pytest.param({}, id="defaults"),
    pytest.param(
        merged(nested("mqtt.url", "mqtts://b"), nested("router.kind", "StatefulSet")), id="own-broker"
    ),
    pytest.param(nested("webhook.certificate.mode", "cert-manager"), id="cert-manager"),
    pytest.param(
        merged(nested("mqtt.url", "mqtts://b"), nested("mqtt.node.issueCertificates", True)),
        id="issued-certificates",
    ),
]
ESCALATION = {"escalate", "bind", "impersonate", "*"}


@pytest.mark.parametrize("values", MORE)
def test_no_role_has_wildcards_or_leads_to_more(helm: Helm, values: dict[str, object]) -> None:
    roles = [manifest for manifest in helm.objects(values) if manifest["kind"] in ("ClusterRole", "Role")]
    assert len(roles) > 8
    for role in roles:
        for rule in role["rules"]:
            assert "nonResourceURLs" not in rule
            assert not ESCALATION & {*rule["verbs"], *rule["apiGroups"], *rule["resources"]}, role[
                "metadata"
            ]["name"]
            if "secrets" in rule["resources"] and role["kind"] == "Role":
                assert rule["verbs"] == ["create"] or rule["resourceNames"]
            assert role["kind"] == "Role" or "secrets" not in rule["resources"]


@pytest.mark.parametrize("values", MORE)
def test_each_component_has_an_account_of_its_own(helm: Helm, values: dict[str, object]) -> None:
    objects = helm.objects(values)
    accounts = {manifest["metadata"]["name"] for manifest in objects if manifest["kind"] == "ServiceAccount"}
    for manifest in objects:
        if manifest["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            pod = manifest["spec"]["template"]["spec"]
            assert pod["serviceAccountName"] == manifest["metadata"]["name"]
            assert pod["serviceAccountName"] in accounts
        if manifest["kind"].endswith("RoleBinding"):
            (subject,) = manifest["subjects"]
            assert subject["name"] in accounts


def test_certificates_that_others_make_need_no_secrets(helm: Helm) -> None:
    values = merged(
        nested("webhook.certificate", {"mode": "secret", "secretName": "s"}), nested("mqtt.url", "mqtts://b")
    )
    values |= {"uninstall": {"enabled": False}}
    for role in helm.objects(values):
        if role["kind"] in ("ClusterRole", "Role"):
            assert all("secrets" not in rule["resources"] for rule in role["rules"])
