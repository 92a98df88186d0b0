"""Helm refuses values that cannot work before it sends anything to a cluster, and names the value."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from charting import Helm, Refused, merged, nested
from previous_chart import unpack
from values import CHART

from release.proven import OLDEST

MQTT, MQTTS = nested("mqtt.url", "mqtt://broker"), nested("mqtt.url", "mqtts://broker")

CASES = [
    pytest.param({"nope": 1}, "nope", id="unknown"),
    pytest.param(nested("operator.replica", 1), "operator replica", id="unknown-below"),
    pytest.param(
        nested("webhook.certificate.issuer.nam", "x"), "webhook certificate issuer nam", id="unknown-deep"
    ),
    pytest.param(nested("cluster", "East"), "cluster", id="cluster-in-capitals"),
    pytest.param(nested("srv6Space", "10.0.0.0/8"), "srv6Space pattern", id="space-is-ipv4"),
    pytest.param(nested("srv6Space", ""), "srv6Space", id="no-space"),
    pytest.param(nested("segments", {"n1": "2001:db8::/40"}), "segments n1", id="prefix-too-short"),
    pytest.param(nested("segments", {"N1": "2001:db8::/56"}), "N1", id="no-name-of-a-node"),
    pytest.param(nested("pool.length", 65), "pool length", id="pool-length"),
    pytest.param(
        nested("srv6Space", "2001:db8:ff00:1::/56"),
        "srv6Space 2001:db8:ff00:1::/56 bits",
        id="space-has-host-bits",
    ),
    pytest.param(
        nested("segments", {"n1": "2001:db8:ff01:101::/56"}), "segments.n1 bits", id="prefix-has-host-bits"
    ),
    pytest.param(
        nested("segments", {"n.1": "2001:db8:fe01::/56"}),
        "segments.n.1 2001:db8:fe01::/56 srv6Space",
        id="prefix-outside-the-space",
    ),
    pytest.param(
        nested(
            "segments",
            {"n1": "2001:db8:ff01::/55", "n2": "2001:db8:ff01:100::/56", "a": "2001:db8:ff01:200::/56"},
        ),
        "segments.n1 segments.n2 overlap",
        id="prefixes-overlap",
    ),
    pytest.param(
        nested("segments", {"n1": "2001:db8:ff01::/56", "n2": "2001:db8:ff01:0:0:0:0:0/56"}),
        "segments.n1 segments.n2 overlap",
        id="one-prefix-twice",
    ),
    pytest.param(
        nested("pool.prefix", "2001:db8:ee00::/48"),
        "pool.prefix 2001:db8:ee00::/48 srv6Space",
        id="pool-outside",
    ),
    pytest.param(nested("pool.prefix", "2001:db8:ff00:1::/48"), "pool.prefix bits", id="pool-has-host-bits"),
    pytest.param(nested("pool.prefix", "2001:db8:ff00::/60"), "pool.length /60 56", id="pool-too-small"),
    pytest.param(nested("mtu", 1000), "mtu", id="mtu"),
    pytest.param(nested("image.digest", "abc"), "image digest", id="digest"),
    pytest.param(nested("image.pullPolicy", "Sometimes"), "image pullPolicy", id="pull-policy"),
    pytest.param(nested("mqtt.url", "http://broker"), "mqtt url", id="http"),
    pytest.param(nested("mqtt.url", "mqtt://user:secret@broker"), "mqtt url", id="password-in-url"),
    pytest.param(nested("mqtt.base", "a/+/b"), "mqtt base", id="wildcard"),
    pytest.param(nested("mqtt.url", "mqtt://2001:db8::1"), "mqtt url", id="ipv6-without-brackets"),
    pytest.param(nested("mqtt.url", "mqtts://[2001:db8::1"), "mqtt url", id="ipv6-bracket-left-open"),
    pytest.param(nested("mqtt.url", "mqtts://broker:port"), "mqtt url", id="port-in-words"),
    pytest.param(nested("mqtt.url", "mqtts://broker/path"), "mqtt url", id="path-without-websockets"),
    pytest.param(nested("broker.enabled", False), "broker enabled", id="no-broker-at-all"),
    pytest.param(nested("router.replicas", 0), "router replicas", id="no-router-at-our-own-broker"),
    pytest.param(
        nested("database", {"existingSecret": "s", "key": ".."}), "database key", id="no-key-of-a-secret"
    ),
    pytest.param(
        nested("database.retentionDays", 30), "database retentionDays", id="retention-without-database"
    ),
    pytest.param(nested("database.usageDays", 30), "database usageDays", id="usage-days-without-database"),
    pytest.param(nested("mqtt.caSecret.name", "ca"), "mqtt caSecret name", id="ca-of-our-own-broker"),
    pytest.param(merged(MQTT, nested("mqtt.caSecret.name", "ca")), "mqtt caSecret name", id="ca-without-tls"),
    pytest.param(
        merged(MQTT, nested("mqtt.router.certificateSecret", "c")),
        "mqtt router certificateSecret",
        id="certificate-without-tls",
    ),
    pytest.param(
        merged(MQTT, nested("mqtt.node.certificateHostPath", "/c")),
        "mqtt node certificateHostPath",
        id="node-certificate-without-tls",
    ),
    pytest.param(
        merged(MQTT, nested("mqtt.node.issueCertificates", True)),
        "mqtt.node.issueCertificates mqtts:// mqtt.url",
        id="issued-certificates-without-tls",
    ),
    pytest.param(
        merged(MQTTS, nested("mqtt.node", {"issueCertificates": True, "url": "mqtt://b"})),
        "mqtt.node.issueCertificates mqtts:// mqtt.node.url",
        id="issued-certificates-without-tls-for-nodes",
    ),
    pytest.param(
        merged(MQTTS, nested("mqtt.node", {"issueCertificates": True, "username": "u"})),
        "mqtt.node.issueCertificates username",
        id="issued-certificates-and-a-user",
    ),
    pytest.param(
        merged(MQTTS, nested("mqtt.node.passwordSecret.name", "p")),
        "mqtt node username",
        id="password-without-user",
    ),
    pytest.param(
        merged(MQTTS, nested("mqtt.router.passwordSecret.name", "p")),
        "mqtt router username",
        id="password-without-user-of-the-router",
    ),
    pytest.param(nested("mqtt.router.username", "u"), "mqtt router username", id="user-at-our-own-broker"),
    *(
        pytest.param(
            nested(f"mqtt.{name}", value), f"mqtt {name.replace('.', ' ')}", id=f"{name}-at-our-own-broker"
        )
        for name, value in (
            ("node.username", "u"),
            ("node.passwordSecret.name", "p"),
            ("node.certificateHostPath", "/c"),
            ("node.issueCertificates", True),
            ("node.url", "mqtts://b"),
            ("router.passwordSecret.name", "p"),
            ("router.certificateSecret", "c"),
        )
    ),
    pytest.param(
        nested("webhook.certificate.mode", "secret"),
        "webhook certificate secretName",
        id="mode-secret-without",
    ),
    pytest.param(
        nested("webhook.certificate.secretName", "s"), "webhook certificate secretName", id="secret-not-used"
    ),
    pytest.param(
        nested("webhook.certificate.issuer.name", "i"),
        "webhook certificate issuer name",
        id="issuer-not-used",
    ),
    pytest.param(
        nested("webhook.clientCertificate.names", ["n"]),
        "webhook clientCertificate names",
        id="names-without-ca",
    ),
    pytest.param(nested("webhook.certificate.mode", "mine"), "webhook certificate mode", id="mode"),
    pytest.param(nested("webhook.patience", 14), "webhook patience", id="patience-beyond-the-time-out"),
    pytest.param(nested("webhook.port", 9090), "webhook.port metrics.port 9090", id="one-port-twice"),
    pytest.param(nested("router.kind", "DaemonSet"), "router kind", id="kind"),
    pytest.param(nested("operator.replicas", 0), "operator replicas", id="nobody"),
    pytest.param(nested("node.replicas", 2), "node replicas", id="replicas-of-a-daemonset"),
    pytest.param(nested("node.stateDir", "run/galactic"), "node stateDir", id="relative-path"),
    pytest.param(nested("node.extraArgs", ["verbose"]), "node extraArgs", id="no-flag"),
    pytest.param(
        nested("node.resources", {"requests": {"cpu": "much"}}), "node resources requests cpu", id="quantity"
    ),
    pytest.param(
        nested("node.tolerations", [{"key": "k", "operator": "Equals"}]), "node tolerations", id="toleration"
    ),
    pytest.param(nested("node.podLabels", {"a b": "c"}), "node podLabels", id="label"),
    pytest.param(
        nested("node.containerSecurityContext", {"privileged": True}),
        "node containerSecurityContext privileged",
        id="privileged",
    ),
    pytest.param(
        nested("operator.containerSecurityContext", {"runAsUser": 0, "runAsNonRoot": True}),
        "operator containerSecurityContext runAsUser",
        id="root-that-is-not",
    ),
    pytest.param(
        nested("operator.containerSecurityContext", {"runAsUser": 0}),
        "operator containerSecurityContext runAsUser",
        id="root-where-nobody-is",
    ),
    pytest.param(
        nested("node.containerSecurityContext", {"runAsNonRoot": True}),
        "node containerSecurityContext runAsNonRoot",
        id="nodes-are-root",
    ),
    pytest.param(
        nested("operator.nodeTaint", {"remove": False, "set": True}),
        "operator.nodeTaint set remove",
        id="a-taint-that-stays",
    ),
    pytest.param(
        nested("node.stateDir", "/etc/cni/net.d"), "node.cniConfDir node.stateDir", id="another-folder-twice"
    ),
    pytest.param(
        nested("node.stateDir", "/opt/cni/bin"), "node.cniBinDir node.stateDir", id="one-folder-twice"
    ),
    pytest.param(nested("node.metricsAddress", "node-1"), "node metricsAddress", id="address-is-a-name"),
    pytest.param(
        nested("metrics", {"secure": {"enabled": True}, "podMonitor": {"enabled": True}}),
        "metrics.secure PodMonitor metrics.secure.tokenSecret",
        id="a-podmonitor-without-a-token",
    ),
    pytest.param(
        nested("metrics.secure", {"enabled": True, "serverName": "galactic"}),
        "metrics.secure.serverName metrics.secure.certificateSecret",
        id="a-name-that-nothing-verifies",
    ),
    pytest.param(
        merged(nested("node.metricsAddress", "127.0.0.1"), nested("metrics.podMonitor.enabled", True)),
        "metrics.podMonitor node.metricsAddress 127.0.0.1",
        id="a-monitor-that-reaches-nothing",
    ),
    pytest.param(
        nested("webhook", {"hostNetwork": True, "port": 9154}),
        "webhook.hostNetwork webhook.port node.metricsPort 9154",
        id="one-port-of-the-host-twice",
    ),
    pytest.param(
        nested("networkPolicies", {"enabled": False, "metricsFrom": [{"namespaceSelector": {}}]}),
        "networkPolicies metricsFrom",
        id="peers-of-no-policy",
    ),
    pytest.param(nested("networkPolicies.metricsFrom", [{}]), "networkPolicies metricsFrom", id="peer"),
    *(
        pytest.param(
            nested("networkPolicies.metricsFrom", [{"podSelector": {}}, {"ipBlock": {"cidr": cidr}}]),
            f"networkPolicies.metricsFrom[1].ipBlock.cidr {cidr} beyond",
            id=f"peer-{cidr}",
        )
        for cidr in ("10.1.1.1/24", "10.64.0.0/9", "255.255.255.255/31", "2001:db8::1/64", "::c6/126")
    ),
    pytest.param(
        nested("metrics.serviceMonitor.interval", "often"), "metrics serviceMonitor interval", id="interval"
    ),
    pytest.param(nested("uninstall.timeoutSeconds", 1), "uninstall timeoutSeconds", id="timeout"),
]


@pytest.mark.parametrize(("values", "words"), CASES)
def test_is_refused_by_name(helm: Helm, values: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused) as refusal:
        helm.render(values)
    for word in words.split():
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    "values", [{"nope": 1}, nested("broker.enabled", False)], ids=["unknown", "combination"]
)
def test_helm_3_refuses_too(helm3: Helm, values: dict[str, Any]) -> None:
    with pytest.raises(Refused, match=r"nope|broker.enabled"):
        helm3.render(values)


def test_the_oldest_kubernetes_that_it_takes_is_the_oldest_that_is_tested(helm: Helm) -> None:
    """The same as in docs/install.md, which names the tested minors."""
    page = (CHART.parents[1] / "docs/install.md").read_text()
    (oldest,) = re.findall(r"(?m)^- Kubernetes 1\.(\d+) to 1\.\d+:", page)
    assert f"1.{oldest}" == OLDEST
    assert helm.render(version=f"1.{oldest}.0")
    with pytest.raises(Refused, match=rf"1\.{oldest}\.0"):
        helm.render(version=f"1.{int(oldest) - 1}.9")


def test_values_of_the_previous_chart_without_the_defaults_of_this_one(helm: Helm, tmp_path: Path) -> None:
    """As ``helm upgrade --reuse-values`` renders them. Newer Helm has ``--reset-then-reuse-values``."""
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart)
    shutil.copy(unpack(tmp_path / "previous") / "values.yaml", chart)
    with pytest.raises(Refused, match="missing property"):
        helm.run("template", "galactic", str(chart), f"--kube-version={OLDEST}.0")
