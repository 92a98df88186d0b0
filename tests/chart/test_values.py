"""Every value of the schema has its effect: where it is set, the manifests differ accordingly and nothing is
refused.
"""

from typing import Any

import pytest
import yaml
from charting import Helm, merged, nested
from values import CHART, SCHEMA, leaves

MQTTS = nested("mqtt.url", "mqtts://broker:8883")
OUTSIDE = MQTTS | nested("router.replicas", 0)
COMPONENTS = ("operator", "webhook", "router", "node")
TOLERATION = {"key": "k", "operator": "Exists", "effect": "NoExecute"}
AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone-42", "operator": "Exists"}]}]
        }
    }
}
VERIFIED = {"enabled": True, "certificateSecret": "s", "serverName": "name-42"}
READ_BY_TOKEN = {"enabled": True, "tokenSecret": {"name": "token-42", "key": "key-42"}}
MONITORS = {"serviceMonitor": "ServiceMonitor", "podMonitor": "PodMonitor", "rules": "PrometheusRule"}

Case = tuple[dict[str, Any], str]
"""The values, and what is in the manifests with them, and is not without."""


def _pods(component: str) -> dict[str, Case]:
    """The values that all components have."""
    cases: dict[str, tuple[Any, str]] = {
        "resources": ({"requests": {"cpu": "123m"}}, "cpu: 123m"),
        "nodeSelector": ({"disk": "ssd-42"}, "disk: ssd-42"),
        "affinity": (AFFINITY, "key: zone-42"),
        "tolerations": ([TOLERATION], "effect: NoExecute"),
        "priorityClassName": ("first-42", 'priorityClassName: "first-42"'),
        "podAnnotations": ({"note-42": "x"}, "note-42: x"),
        "podLabels": ({"team-42": "x"}, "team-42: x"),
        "extraEnv": ([{"name": "EXTRA_42", "value": "x"}], "name: EXTRA_42"),
        "extraArgs": (["--log-level=debug"], '"--log-level=debug"'),
        "containerSecurityContext": ({"readOnlyRootFilesystem": False}, "readOnlyRootFilesystem: false"),
        "serviceAccountAnnotations": ({"role-42": "x"}, "role-42: x"),
        "replicas": (4, "replicas: 4"),
    }
    known = SCHEMA["properties"][component]["properties"]
    return {
        f"{component}.{name}": (nested(f"{component}.{name}", value), text)
        for name, (value, text) in cases.items()
        if name in known
    }


CASES: dict[str, Case] = {
    "cluster": (nested("cluster", "east"), "value: east"),
    "srv6Space": (nested("srv6Space", "fd00::/16"), "value: fd00::/16"),
    "segments": (nested("segments", {"n1": "2001:db8:ff01:100::/56"}), "n1: 2001:db8:ff01:100::/56"),
    "pool.prefix": (nested("pool.prefix", "2001:db8:ff80::/44"), "pool_prefix: 2001:db8:ff80::/44"),
    "pool.length": (nested("pool", {"prefix": "2001:db8:ff80::/44", "length": 60}), "pool_length: 60"),
    "pool.rest": (nested("pool", {"prefix": "2001:db8:ff80::/44", "rest": 7.5}), "pool_rest: 7.5"),
    "strict": (nested("strict", True), "strict: true"),
    "mtu": (nested("mtu", 1400), "mtu: 1400"),
    "log.level": (nested("log.level", "debug"), "value: debug"),
    "log.format": (nested("log.format", "console"), "value: console"),
    "image.repository": (nested("image.repository", "registry:5000/g"), 'image: "registry:5000/g:0.1.0"'),
    "image.tag": (nested("image.tag", "v9"), 'image: "galactic:v9"'),
    "image.digest": (
        nested("image", {"tag": "v9", "digest": "sha256:" + "a" * 64}),
        'image: "galactic@sha256:aaaa',
    ),
    "image.pullPolicy": (nested("image.pullPolicy", "Always"), "imagePullPolicy: Always"),
    "imagePullSecrets": (nested("imagePullSecrets", [{"name": "pull-42"}]), "name: pull-42"),
    "crds.enabled": (nested("crds.enabled", False), "-kind: CustomResourceDefinition"),
    "crds.keep": (nested("crds.keep", False), "-helm.sh/resource-policy: keep"),
    "mqtt.url": (MQTTS, "value: mqtts://broker:8883"),
    "mqtt.base": (nested("mqtt.base", "a/b"), "topic readwrite a/b/vpcs/#"),
    "mqtt.caSecret.name": (merged(MQTTS, nested("mqtt.caSecret.name", "ca-42")), 'secretName: "ca-42"'),
    "mqtt.caSecret.key": (
        merged(MQTTS, nested("mqtt.caSecret", {"name": "ca-42", "key": "k.pem"})),
        "value: /etc/galactic/ca/k.pem",
    ),
    "mqtt.node.username": (
        merged(MQTTS, nested("mqtt.node.username", "{cluster}/{node}")),
        "value: default/$(NODE_NAME)",
    ),
    "mqtt.node.passwordSecret.name": (
        merged(MQTTS, nested("mqtt.node", {"username": "u", "passwordSecret": {"name": "p-42"}})),
        'secretName: "p-42"',
    ),
    "mqtt.node.passwordSecret.key": (
        merged(
            MQTTS, nested("mqtt.node", {"username": "u", "passwordSecret": {"name": "p-42", "key": "{node}"}})
        ),
        "value: /etc/galactic/password/$(NODE_NAME)",
    ),
    "mqtt.node.certificateHostPath": (
        merged(MQTTS, nested("mqtt.node.certificateHostPath", "/etc/pki-42")),
        'path: "/etc/pki-42"',
    ),
    "mqtt.node.url": (merged(MQTTS, nested("mqtt.node.url", "mqtts://b-42")), "value: mqtts://b-42"),
    "mqtt.node.issueCertificates": (
        merged(MQTTS, nested("mqtt.node.issueCertificates", True)),
        "issue_broker_certificates: true",
    ),
    "mqtt.router.username": (merged(MQTTS, nested("mqtt.router.username", "{pod}")), "value: $(POD_NAME)"),
    "mqtt.router.passwordSecret.name": (
        merged(MQTTS, nested("mqtt.router", {"username": "u", "passwordSecret": {"name": "p-42"}})),
        'secretName: "p-42"',
    ),
    "mqtt.router.passwordSecret.key": (
        merged(
            MQTTS,
            nested("mqtt.router", {"username": "u", "passwordSecret": {"name": "p-42", "key": "{pod}"}}),
        ),
        "value: /etc/galactic/password/$(POD_NAME)",
    ),
    "mqtt.router.certificateSecret": (
        merged(MQTTS, nested("mqtt.router.certificateSecret", "c-42")),
        'secretName: "c-42"',
    ),
    "mqtt.operator.username": (
        merged(OUTSIDE, nested("mqtt.operator.username", "{cluster}")),
        "publish_entitlements: true",
    ),
    "mqtt.operator.passwordSecret.name": (
        merged(OUTSIDE, nested("mqtt.operator", {"username": "u", "passwordSecret": {"name": "p-42"}})),
        'secretName: "p-42"',
    ),
    "mqtt.operator.passwordSecret.key": (
        merged(
            OUTSIDE,
            nested(
                "mqtt.operator", {"username": "u", "passwordSecret": {"name": "p-42", "key": "{cluster}"}}
            ),
        ),
        "value: /etc/galactic/password/default",
    ),
    "mqtt.operator.certificateSecret": (
        merged(OUTSIDE, nested("mqtt.operator.certificateSecret", "c-42")),
        'secretName: "c-42"',
    ),
    "broker.enabled": (merged(MQTTS, nested("broker.enabled", False)), "-name: galactic-broker"),
    "broker.image": (nested("broker.image", "mosquitto:42"), 'image: "mosquitto:42"'),
    "database.existingSecret": (nested("database.existingSecret", "db-42"), "name: db-42"),
    "database.key": (nested("database", {"existingSecret": "db-42", "key": "dsn"}), "key: dsn"),
    "database.caSecret.name": (
        nested("database", {"existingSecret": "db-42", "caSecret": {"name": "ca-42"}}),
        'secretName: "ca-42"',
    ),
    "database.caSecret.key": (
        nested("database", {"existingSecret": "db-42", "caSecret": {"name": "ca-42", "key": "k.pem"}}),
        "value: /etc/galactic/database/k.pem",
    ),
    "database.retentionDays": (
        nested("database", {"existingSecret": "db-42", "retentionDays": 42}),
        'value: "42"',
    ),
    "database.usageDays": (
        nested("database", {"existingSecret": "db-42", "usageDays": 42}),
        "name: GALACTIC_USAGE_RETENTION",
    ),
    "webhook.port": (nested("webhook.port", 4242), "containerPort: 4242, "),
    "webhook.patience": (nested("webhook.patience", 1.25), 'value: "1.25"'),
    "webhook.podFailurePolicy": (
        nested("webhook.podFailurePolicy", "Ignore"),
        "-failurePolicy: Fail\n    namespaceSelector:\n      matchExpressions",
    ),
    "webhook.podRanges": (
        nested("webhook.podRanges", ["10.42.0.0/16", "fd42::/64"]),
        "value: 10.42.0.0/16,fd42::/64",
    ),
    "webhook.serviceRanges": (nested("webhook.serviceRanges", ["10.43.0.0/16"]), "value: 10.43.0.0/16"),
    "webhook.hostNetwork": (nested("webhook", {"hostNetwork": True}), "+hostNetwork: true"),
    "webhook.certificate.mode": (nested("webhook.certificate.mode", "cert-manager"), "kind: Certificate"),
    "webhook.certificate.hours": (nested("webhook.certificate.hours", 42), 'value: "42"'),
    "webhook.certificate.issuer.name": (
        nested("webhook.certificate", {"mode": "cert-manager", "issuer": {"name": "issuer-42"}}),
        'name: "issuer-42"',
    ),
    "webhook.certificate.issuer.kind": (
        nested(
            "webhook.certificate",
            {"mode": "cert-manager", "issuer": {"name": "issuer-42", "kind": "ClusterIssuer"}},
        ),
        "kind: ClusterIssuer",
    ),
    "webhook.certificate.secretName": (
        nested("webhook.certificate", {"mode": "secret", "secretName": "cert-42"}),
        'secretName: "cert-42"',
    ),
    "webhook.clientCertificate.caConfigMap": (
        nested("webhook.clientCertificate.caConfigMap", "ca-42"),
        'configMap: {name: "ca-42"}',
    ),
    "webhook.clientCertificate.names": (
        nested("webhook.clientCertificate", {"caConfigMap": "ca-42", "names": ["api-1", "api-2"]}),
        "value: api-1,api-2",
    ),
    "webhook.maxInFlight": (nested("webhook.maxInFlight", 42), 'value: "42"'),
    "gateways.addresses": (
        nested("gateways.addresses", ["192.0.2.42/32"]),
        "gateway_addresses:\n    - 192.0.2.42/32",
    ),
    "gateways.nodeSelector": (
        nested("gateways.nodeSelector", {"edge": "42"}),
        'gateway_node_selector:\n      edge: "42"',
    ),
    "gateways.forbidden": (
        nested("gateways.forbidden", ["192.0.2.42/32"]),
        "gateway_forbidden:\n    - 192.0.2.42/32",
    ),
    "gateways.allowed": (
        nested("gateways.allowed", ["192.0.2.42/32"]),
        "gateway_allowed:\n    - 192.0.2.42/32",
    ),
    "operator.namespaceNetworks": (nested("operator.namespaceNetworks", 42), "namespace_networks: 42"),
    "operator.unattachedAfter": (nested("operator.unattachedAfter", 42), "unattached_after: 42"),
    "operator.scaledDownRetention": (
        nested("operator.scaledDownRetention", 42),
        "scaled_down_retention: 42",
    ),
    "operator.evictUnattached": (nested("operator.evictUnattached", True), "evict_unattached: true"),
    "operator.nodeTaint.remove": (nested("operator.nodeTaint.remove", False), "remove_node_taint: false"),
    "operator.nodeTaint.set": (nested("operator.nodeTaint.set", True), "set_node_taint: true"),
    "router.kind": (nested("router.kind", "StatefulSet"), "kind: StatefulSet"),
    "router.withdrawAfter": (nested("router.withdrawAfter", 42), 'value: "42"'),
    "node.underlayInterface": (nested("node.underlayInterface", "eth42"), "value: eth42"),
    "node.attachmentMetrics": (nested("node.attachmentMetrics", 42), 'value: "42"'),
    "node.usageInterval": (nested("node.usageInterval", 42), 'value: "42"'),
    "node.guard": (
        nested("node.guard", False),
        'name: GALACTIC_DROP_EXTERNAL_SIDS\n              value: "false"',
    ),
    "node.metricsPort": (nested("node.metricsPort", 4242), "hostPort: 4242"),
    "node.metricsAddress": (
        nested("node.metricsAddress", "192.0.2.42"),
        'path: /readyz, port: metrics, host: "192.0.2.42"',
    ),
    "node.cniBinDir": (nested("node.cniBinDir", "/opt/42"), 'hostPath: {path: "/opt/42",'),
    "node.cniConfDir": (nested("node.cniConfDir", "/etc/42"), 'hostPath: {path: "/etc/42",'),
    "node.stateDir": (nested("node.stateDir", "/run/42"), '"--socket","/run/42/agent.sock"'),
    "node.netnsDir": (nested("node.netnsDir", "/run/netns-42"), 'hostPath: {path: "/run/netns-42",'),
    "node.maxUnavailable": (nested("node.maxUnavailable", 3), "maxUnavailable: 3"),
    "podDisruptionBudgets.enabled": (
        nested("podDisruptionBudgets.enabled", False),
        "-kind: PodDisruptionBudget",
    ),
    "networkPolicies.enabled": (nested("networkPolicies.enabled", False), "-kind: NetworkPolicy"),
    "networkPolicies.metricsFrom": (
        nested("networkPolicies.metricsFrom", [{"namespaceSelector": {"matchLabels": {"name": "mon-42"}}}]),
        "name: mon-42",
    ),
    "metrics.port": (nested("metrics.port", 4242), "containerPort: 4242, "),
    "metrics.secure.enabled": (nested("metrics.secure.enabled", True), "scheme: HTTPS"),
    "metrics.secure.certificateSecret": (
        nested("metrics.secure", {"enabled": True, "certificateSecret": "tls-42"}),
        'secretName: "tls-42"',
    ),
    "metrics.secure.serverName": (
        nested("metrics", {"secure": VERIFIED, "serviceMonitor": {"enabled": True}}),
        'serverName: "name-42"',
    ),
    **{
        f"metrics.secure.tokenSecret.{key}": (
            nested("metrics", {"secure": READ_BY_TOKEN, "podMonitor": {"enabled": True}}),
            text,
        )
        for key, text in (("name", 'name: "token-42"'), ("key", 'key: "key-42"'))
    },
    **{
        f"metrics.{key}.enabled": (nested(f"metrics.{key}.enabled", True), f"kind: {kind}")
        for key, kind in MONITORS.items()
    },
    **{
        f"metrics.{key}.labels": (
            nested(f"metrics.{key}", {"enabled": True, "labels": {"l-42": "x"}}),
            "l-42: x",
        )
        for key in MONITORS
    },
    **{
        f"metrics.{key}.interval": (
            nested(f"metrics.{key}", {"enabled": True, "interval": "42s"}),
            'interval: "42s"',
        )
        for key in ("serviceMonitor", "podMonitor")
    },
    "metrics.rules.runbooks": (
        nested("metrics.rules", {"enabled": True, "runbooks": "https://docs.example/42/"}),
        "runbook_url: https://docs.example/42/",
    ),
    "admissionPolicies.enabled": (
        nested("admissionPolicies.enabled", False),
        "-kind: ValidatingAdmissionPolicy",
    ),
    "resourceQuota.enabled": (nested("resourceQuota.enabled", False), "-kind: ResourceQuota"),
    "openshift.enabled": (nested("openshift.enabled", True), "seLinuxOptions: {type: spc_t}"),
    "uninstall.enabled": (nested("uninstall.enabled", False), "-helm.sh/hook: pre-delete"),
    "uninstall.timeoutSeconds": (nested("uninstall.timeoutSeconds", 42), "activeDeadlineSeconds: 42"),
    "test.timeoutSeconds": (nested("test.timeoutSeconds", 420), '"--timeout=100"'),
    **{name: case for component in (*COMPONENTS, "broker") for name, case in _pods(component).items()},
}
CASES |= {
    "metrics.dashboards.enabled": (nested("metrics.dashboards.enabled", True), "name: galactic-dashboard-"),
    "metrics.dashboards.label": (nested("metrics.dashboards", {"enabled": True, "label": "l-42"}), "l-42: "),
    "metrics.dashboards.labelValue": (
        nested("metrics.dashboards", {"enabled": True, "labelValue": "v-42"}),
        "grafana_dashboard: v-42",
    ),
    "metrics.dashboards.annotations": (
        nested("metrics.dashboards", {"enabled": True, "annotations": {"folder": "f-42"}}),
        "folder: f-42",
    ),
}


@pytest.fixture(scope="module")
def without(helm: Helm) -> str:
    return helm.render()


@pytest.mark.parametrize("path", list(leaves()))
def test_every_value_has_an_effect(helm: Helm, without: str, path: str) -> None:
    values, text = CASES[path]
    rendered = helm.render(values)
    if text[0] == "-":
        assert text[1:] in without
        assert text[1:] not in rendered
    elif text[0] == "+":  # there is one more
        assert rendered.count(text[1:]) == without.count(text[1:]) + 1
    else:
        assert text not in without
        assert text in rendered


def test_the_defaults_are_in_the_schema_and_the_other_way_round() -> None:
    given = yaml.safe_load((CHART / "values.yaml").read_text())

    def paths(value: Any, schema: dict[str, Any], path: str = "") -> set[str]:
        if "properties" not in schema:
            return {path}
        assert isinstance(value, dict), path
        found = set()
        for name, below in value.items():
            found |= paths(below, schema["properties"][name], f"{path}.{name}".lstrip("."))
        return found

    assert paths(given, SCHEMA) == set(leaves())


def test_every_value_is_described() -> None:
    for path in leaves():
        schema = SCHEMA
        for name in path.split("."):
            schema = schema["properties"][name]
            assert schema["description"], path


def test_evictions_are_asked_for_and_come_with_the_right(helm: Helm) -> None:
    for evicts in (False, True):
        objects = helm.objects(
            merged(nested("operator.evictUnattached", evicts), nested("operator.unattachedAfter", 7))
        )
        named = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in objects}
        settings = yaml.safe_load(named["ConfigMap", "galactic-operator"]["data"]["settings.yaml"])
        assert (settings["evict_unattached"], settings["unattached_after"]) == (evicts, 7)
        rights = [
            rule
            for rule in named["ClusterRole", "galactic-operator"]["rules"]
            if "pods/eviction" in rule["resources"]
        ]
        assert [rule["verbs"] for rule in rights] == [["create"]] * evicts


def test_what_opens_nodes_runs_on_nodes_that_are_closed(helm: Helm) -> None:
    """Or a cluster all of whose Nodes are registered with the taint would wait for an operator that waits for it."""
    ours = {"key": "galactic.datumapis.com/agent-not-ready", "operator": "Exists"}
    pods = [
        workload for workload in helm.objects({}) if workload["kind"] in ("Deployment", "DaemonSet", "Job")
    ]
    assert len(pods) > 4
    for workload in pods:
        assert ours in workload["spec"]["template"]["spec"]["tolerations"], workload["metadata"]["name"]


def test_an_operator_that_removes_no_taint_may_not_patch_nodes(helm: Helm) -> None:
    for removes in (False, True):
        objects = helm.objects(nested("operator.nodeTaint.remove", removes))
        named = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in objects}
        rules = named["ClusterRole", "galactic-operator"]["rules"]
        (verbs,) = (rule["verbs"] for rule in rules if rule["resources"] == ["nodes"])
        assert ("patch" in verbs) is removes


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({}, {"GALACTIC_DROP_EXTERNAL_SIDS": "true"}, id="chart"),
        pytest.param({"GALACTIC_GUARD": "false"}, {"GALACTIC_GUARD": "false"}, id="old-name-replaces-ours"),
        pytest.param(
            {"GALACTIC_GUARD": "true", "GALACTIC_DROP_EXTERNAL_SIDS": "false"},
            {"GALACTIC_GUARD": "true", "GALACTIC_DROP_EXTERNAL_SIDS": "false"},
            id="both-names",
        ),
    ],
)
def test_a_variable_by_its_old_name_replaces_the_charts(
    helm: Helm, given: dict[str, str], expected: dict[str, str]
) -> None:
    extra = [{"name": name, "value": value} for name, value in given.items()]
    (daemonset,) = (
        manifest
        for manifest in helm.objects(nested("node.extraEnv", extra))
        if manifest["kind"] == "DaemonSet"
    )
    (container,) = daemonset["spec"]["template"]["spec"]["containers"]
    variables = [(variable["name"], variable.get("value")) for variable in container["env"]]
    names = ("GALACTIC_GUARD", "GALACTIC_DROP_EXTERNAL_SIDS")
    assert sorted(variable for variable in variables if variable[0] in names) == sorted(expected.items())


@pytest.mark.parametrize(
    ("given", "address", "host"),
    [
        pytest.param("", "$(HOST_IP)", None, id="the-nodes-own"),
        pytest.param("all", "", None, id="all"),
        pytest.param("127.0.0.1", "127.0.0.1", "127.0.0.1", id="loopback"),
    ],
)
def test_a_node_serves_its_metrics_at_one_address(
    helm: Helm, given: str, address: str, host: str | None
) -> None:
    (daemonset,) = (
        manifest
        for manifest in helm.objects(nested("node.metricsAddress", given))
        if manifest["kind"] == "DaemonSet"
    )
    (container,) = daemonset["spec"]["template"]["spec"]["containers"]
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert variables["GALACTIC_METRICS_ADDRESS"] == address
    assert container["readinessProbe"]["httpGet"].get("host") == host


def test_webhooks_on_the_network_of_their_host_serve_metrics_at_its_address(helm: Helm) -> None:
    for on_host in (False, True):
        rendered = helm.objects(nested("webhook.hostNetwork", on_host))
        (webhook,) = (
            manifest
            for manifest in rendered
            if (manifest["kind"], manifest["metadata"]["name"]) == ("Deployment", "galactic-webhook")
        )
        (container,) = webhook["spec"]["template"]["spec"]["containers"]
        assert ("GALACTIC_METRICS_ADDRESS" in {variable["name"] for variable in container["env"]}) is on_host


def test_without_the_check_for_multus_nothing_is_mounted(helm: Helm) -> None:
    rendered = helm.render(nested("node.cniConfDir", ""))
    assert "CNI_CONF_DIR" not in rendered
    assert "/etc/cni/net.d" not in rendered
    assert "/etc/cni/net.d" in helm.render({})


def test_a_cluster_that_is_served_from_outside_has_no_router_and_misses_none(helm: Helm) -> None:
    values = merged(MQTTS, nested("router.replicas", 0), nested("metrics.rules.enabled", True))
    objects = helm.objects(values)
    named = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in objects}
    assert named["Deployment", "galactic-router"]["spec"]["replicas"] == 0
    assert ("PodDisruptionBudget", "galactic-router") not in named
    settings = yaml.safe_load(named["ConfigMap", "galactic-operator"]["data"]["settings.yaml"])
    assert settings["router_outside"] is True
    rules = str(named["PrometheusRule", "galactic"]["spec"])
    assert 'absent(up{job="galactic-router"})' not in rules
    assert 'absent(up{job="galactic-node"})' in rules
    assert "publish_entitlements" not in settings, "without a user of its own at the broker"
    assert "router_outside" not in helm.render(MQTTS)


@pytest.mark.parametrize(
    ("seconds", "patience"), [pytest.param(None, 840, id="default"), pytest.param(10, 5, id="least")]
)
def test_the_job_of_uninstall_reports_its_obstacle_before_its_deadline(
    helm: Helm, seconds: int | None, patience: int
) -> None:
    values = {} if seconds is None else nested("uninstall.timeoutSeconds", seconds)
    (job,) = (manifest for manifest in helm.objects(values) if manifest["kind"] == "Job")
    deadline = job["spec"]["activeDeadlineSeconds"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert f"--patience={patience}" in container["args"]
    assert deadline > patience
    assert seconds is not None or deadline > 300, "Helm's own patience"


def test_secure_metrics_are_those_of_all_components(helm: Helm) -> None:
    """Each serves by HTTPS, is probed by HTTPS, and may ask the API server about tokens."""
    secure = {"enabled": True, "certificateSecret": "tls"}
    objects = helm.objects(nested("metrics", {"secure": secure, "serviceMonitor": {"enabled": True}}))
    programs = [
        manifest
        for manifest in objects
        if manifest["metadata"]["name"] in {f"galactic-{name}" for name in COMPONENTS}
    ]
    roles = {
        manifest["metadata"]["name"]: manifest["rules"]
        for manifest in objects
        if manifest["kind"] == "ClusterRole"
    }
    assert roles["galactic-metrics-reader"] == [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]
    workloads = [manifest for manifest in programs if manifest["kind"] in ("Deployment", "DaemonSet")]
    assert len(workloads) == len(COMPONENTS)
    for workload in workloads:
        (container,) = workload["spec"]["template"]["spec"]["containers"]
        values = {variable["name"]: variable.get("value") for variable in container["env"]}
        assert values["GALACTIC_METRICS_SECURE"] == "true"
        assert values["GALACTIC_METRICS_CERT_FILE"] == "/etc/galactic/metrics/tls.crt"
        assert "/etc/galactic/metrics" in {mount["mountPath"] for mount in container["volumeMounts"]}
        for probe in ("readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"]["scheme"] == "HTTPS"
        asked = {resource for rule in roles[workload["metadata"]["name"]] for resource in rule["resources"]}
        assert {"tokenreviews", "subjectaccessreviews"} <= asked
    monitors = [manifest for manifest in objects if manifest["kind"] == "ServiceMonitor"]
    assert len(monitors) == 3
    for monitor in monitors:
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint["scheme"] == "https"
        assert endpoint["bearerTokenFile"]
        assert endpoint["tlsConfig"] == {"insecureSkipVerify": True}
