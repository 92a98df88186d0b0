"""The chart on a real API server: installed, upgraded, rolled back, uninstalled; and its programs at work with the
rights that it gives them: a refused request fails a test, and so does a right that was never needed.

One release; the tests run in the order of this file.
"""

import base64
import http.client
import itertools
import json
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import audit
import pytest
import yaml
from apiserver import Server
from charting import NAMESPACE, Helm, Refused, merged, nested
from openapi import Kinds
from pods import Machine, Process
from previous_chart import unpack
from story import eventually as soon
from values import CHART

from galactic.errors import Rejected
from galactic_lab.cluster import Lab
from galactic_lab.places import HELD_UP
from galactic_lab.state import CONTROL, METRICS_PORT, SERVICES, WEBHOOK_PORT

GROUP = "galactic.datumapis.com"
CONFIGURATIONS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
NODE = "node-1"
FOREIGN = {"key": "not-for-tests", "effect": "NoSchedule"}
"""Keeps all pods but the DaemonSet's off the Node, which has no kubelet that could end them."""
AWAITED = {"key": f"{GROUP}/agent-not-ready", "effect": "NoSchedule"}
ROOM = {"cpu": "8", "memory": "8Gi", "pods": "10"}
ROOMY = json.dumps({"status": {"allocatable": ROOM, "capacity": ROOM}})
"""For the scheduler, which binds the DaemonSet's pods."""
PORTS = {
    "operator": METRICS_PORT,
    "router": METRICS_PORT + 1,
    "webhook": METRICS_PORT + 2,
    "node": METRICS_PORT + 3,
}

eventually = partial(soon, seconds=180.0)
"""On a machine where much else is going on."""
GONE = "--timeout=240s"
"""For kubectl, which waits for what it deletes."""
HOOKS = "--timeout=15m"
"""For Helm, which waits for the pods of its hooks."""
TRIES = 3

ELSEWHERE = {
    ("node", "get", "vpcattachments"): "test_a_node_restarts_with_nobody_there.py",
    ("node", "list", "policyslices"): "test_rules_inside_a_vpc.py",
    ("node", "watch", "policyslices"): "test_rules_inside_a_vpc.py",
    ("operator", "get", "leases/galactic-router"): "test_the_cli_says_what_is_wrong.py",
}
"""Rights that are needed where pods are attached, for which there has to be a kernel with VRFs, and the stories in
tests/e2e that look whether they were made use of.
"""


def variables(**more: str) -> dict[str, Any]:
    return {"extraEnv": [{"name": f"GALACTIC_{name}", "value": value} for name, value in more.items()]}


VALUES = merged(
    {
        # By a variable, as the previous version has no value for it. The router ignores it.
        name: variables(METRICS_PORT=str(port), SCALED_DOWN_RETENTION="0")
        for name, port in PORTS.items()
        if name not in ("webhook", "node")
    },
    {
        # There is nothing in a lab that leads to a Service.
        "webhook": variables(
            METRICS_PORT=str(PORTS["webhook"]),
            PORT=str(WEBHOOK_PORT),
            URL=f"https://[{CONTROL}]:{WEBHOOK_PORT}",
            CERTIFICATE_HOURS="0.1",
        )
        | {"serviceRanges": [str(SERVICES)]},
        "node": {"metricsPort": PORTS["node"]},
        "test": {"timeoutSeconds": 150},
        "uninstall": {"timeoutSeconds": 600},
    },
)


@dataclass
class Release:
    """The release and its surroundings. ``first``: the line of the audit log where it began."""

    lab: Lab
    helm: Helm
    machine: Machine
    folder: Path
    first: int = 0
    processes: dict[str, Process] = field(default_factory=dict)

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

    def start(self, component: str, *, init: bool = True) -> None:
        """A pod of the component, as the API server has it, at work."""
        node = NODE if component == "node" else ""
        pod = eventually(f"a pod of {component} was made", lambda: self.machine.replica(component, node))
        self.processes[component] = self.machine.run(pod, init=init)

    def requests(self) -> list[audit.Request]:
        return audit.requests(self.lab.state.audit, self.first)

    def apply(self, *things: dict[str, Any]) -> None:
        self.lab.kubectl(
            "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": [*things]})
        )

    def ready(self, what: str) -> Callable[[], bool]:
        """Whether the object exists and is ready."""

        def is_ready() -> bool:
            shown = self.lab.kubectl("get", *what.split(), "-o", "json", "--ignore-not-found")
            return bool(shown and json.loads(shown).get("status", {}).get("ready"))

        return is_ready


@pytest.fixture(scope="module")
def release(lab: Lab, helm: Helm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    folder = tmp_path_factory.mktemp("release")
    machine = Machine(lab, folder, NAMESPACE)
    yield Release(lab, helm, machine, folder, first=len(audit.lines(lab.state.audit)))
    machine.stop()


@pytest.fixture(scope="module")
def previous(release: Release) -> Path:
    """The chart of before (previous/README.md), of which one kind is taken a field: none has got one since."""
    chart = unpack(release.folder / "previous")
    kind = chart / "files/crds/vpc.yaml"
    crd = yaml.safe_load(kind.read_text())
    del crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"][
        "allowedNamespaces"
    ]
    kind.write_text(yaml.safe_dump(crd))
    return chart


def made_by_a_webhook(kind: str) -> dict[str, Any]:
    """A configuration as the webhooks of the version before made it: no object of Helm's."""
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": "galactic-webhook", "labels": {"app.kubernetes.io/part-of": "galactic"}},
        "webhooks": [
            {
                "name": f"pods.{GROUP}",
                "clientConfig": {"url": f"https://[{CONTROL}]:{WEBHOOK_PORT}/validate"},
                "rules": [
                    {
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE"],
                        "resources": ["pods"],
                    }
                ],
                "matchConditions": [{"name": "never", "expression": "false"}],
                "failurePolicy": "Fail",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            }
        ],
    }


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
    release.run("install", "galactic", str(previous), "--create-namespace", values=VALUES)
    assert not has_grants(lab)
    assert not has_token(lab)
    theirs = [vpc("kept", "10.9.0.0/24"), attachment("kept", "kept")]
    theirs = [merged(manifest, nested("metadata.namespace", "default")) for manifest in theirs]
    eventually("the kinds are served", lambda: accepted(release, *theirs))
    before = objects_of_users(lab)
    release.apply(*(made_by_a_webhook(kind) for kind in CONFIGURATIONS))
    release.run("upgrade", "galactic", str(CHART), values=VALUES)
    assert has_grants(lab), "an upgrade reaches the kinds"
    assert has_token(lab)
    assert objects_of_users(lab) == before
    stored = {
        (manifest["kind"], manifest["metadata"]["name"])
        for manifest in yaml.safe_load_all(release.run("get", "manifest", "galactic"))
    }
    assert stored == {
        (manifest["kind"], manifest["metadata"]["name"])
        for manifest in helm.objects(VALUES)
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
    release.run("upgrade", "galactic", str(CHART), values=VALUES)
    assert broker_secrets(release.lab) == there, "an upgrade changes no password"
    release.start("broker")
    assert broker_secrets(release.lab) == there, "the broker's own program has nothing to mend"


def test_every_field_was_one_that_the_api_server_knows(release: Release, helm: Helm) -> None:
    kinds = Kinds(json.loads(release.lab.kubectl("get", "--raw", "/openapi/v2")))
    for manifest in helm.objects(VALUES):
        if manifest["kind"] != "CustomResourceDefinition":
            assert not kinds.problems(manifest)


def test_a_second_installation_is_refused(release: Release) -> None:
    with pytest.raises(Refused, match="invalid ownership metadata"):
        release.helm.run(
            "install", "another", str(CHART), "--namespace=default", KUBECONFIG=str(release.lab.kubeconfig)
        )


def test_its_programs_do_their_work(release: Release) -> None:
    lab = release.lab
    for component in ("webhook", "operator"):
        release.start(component)
    eventually(
        "the configurations of the version before go",
        lambda: not lab.kubectl("get", ",".join(CONFIGURATIONS), "galactic-webhook", "--ignore-not-found"),
    )
    taints = {"metadata": {"name": NODE}, "spec": {"taints": [FOREIGN, AWAITED]}}
    release.apply({"apiVersion": "v1", "kind": "Node"} | taints)
    lab.kubectl("patch", "node", NODE, "--subresource=status", "--type=merge", "-p", ROOMY)
    lab.kubectl("annotate", "node", NODE, f"{GROUP}/srv6-prefix=2001:db8:ff01:100::/56")
    eventually(
        "the node has a segment", lambda: lab.kubectl("get", "nodesegment", NODE, "--ignore-not-found")
    )
    lab.kubectl("annotate", "--overwrite", "node", NODE, f"{GROUP}/srv6-prefix=2001:db8:ff01:200::/56")

    def prefix() -> str:
        return str(lab.get("nodesegment", NODE)["spec"]["prefix"])

    eventually("the prefix follows the annotation", lambda: prefix() == "2001:db8:ff01:200::/56")
    release.start("router")
    release.start("node", init=False)

    eventually("webhooks answer", lambda: "denied the request" in refusal(lab, vpc("probe", "10.0.0.1/8")))
    lab.kubectl("create", "namespace", "tenant")
    eventually(
        "there is a service account", lambda: lab.kubectl("get", "sa", "default", "-n", "tenant", check=False)
    )
    release.apply(vpc("blue", "10.1.1.0/24"), attachment("one", "blue"))
    eventually("an attachment is ready", release.ready("vpcattachment one -n tenant"))
    eventually("a pod is let in", lambda: not refusal(lab, pod("one", "vpc-attachment", "one")))
    eventually(
        "it is held", lambda: lab.get("vpcattachment", "one", "-n", "tenant")["metadata"].get("finalizers")
    )
    eventually("a pod of a VPC is let in", lambda: not refusal(lab, pod("two", "vpc", "blue")))
    eventually("it gets its own", lambda: len(lab.get("vpcattachments", "-n", "tenant")["items"]) == 2)
    release.apply(stateful_set("db", "blue"))
    eventually("an ordinal has its own", release.ready("vpcattachment db-0 -n tenant"))
    publishes_addresses(release)
    publishes_rules(release)
    leads_out(release)
    lab.kubectl("scale", "statefulset", "db", "-n", "tenant", "--replicas=0")
    left = lambda: lab.kubectl("get", "vpcattachment", "db-0", "-n", "tenant", "--ignore-not-found")  # noqa: E731
    eventually("it is released", lambda: not left())
    eventually("it is missed", lambda: "missing" in refusal(lab, pod("three", "vpc-attachment", "missing")))
    other = merged(attachment("other", "kept"), nested("spec.vpc.namespace", "default"))
    eventually("another namespace's VPC is closed", lambda: "denied the request" in refusal(lab, other))
    for number in ("4d2", "4d3"):
        joined = merged(vpc(f"joined-{number}", "10.8.0.0/24"), nested("spec.identifier", f"{number:0>12}"))
        release.apply(joined)
        eventually("it has the identifier of its choice", release.ready(f"vpc joined-{number} -n tenant"))
    release.apply(vpc("blue", "10.1.1.0/24", "10.1.2.0/24"))
    nad = lambda: lab.get("net-attach-def", "one", "-n", "tenant")["spec"]["config"]  # noqa: E731
    eventually("the definition follows", lambda: "10.1.2.0/24" in nad())
    release.apply(attachment("lost", "nowhere"))
    reason = lambda: lab.get("vpcattachment", "lost", "-n", "tenant").get("status", {}).get("conditions")  # noqa: E731
    eventually("a condition names the missing VPC", lambda: "VPCNotFound" in str(reason()))
    lab.kubectl("delete", "vpcattachment", "lost", "-n", "tenant")


def test_the_router_checks_registrations(release: Release) -> None:
    lab = release.lab
    found = lab.get("vpcattachment", "one", "-n", "tenant")["status"]
    identifier = lab.get("vpc", "blue", "-n", "tenant")["status"]["identifier"]
    address = found["addresses"][0].partition("/")[0]
    digits = ":".join(identifier[start : start + 4] for start in (0, 4, 8))
    numbers = itertools.count(time.time_ns())

    def register(prefix: str) -> None:
        number = next(numbers)
        endpoint = {
            "vpc": identifier,
            "function": found["identifier"],
            "attachment": "tenant/one",
            "sid": str(IPv6Address(f"{prefix}:{digits}:{found['identifier']}")),
            "networks": [f"{address}/32"],
            "epoch": number,
        }
        publish(
            release,
            f"galactic/v1/nodes/default/{NODE}-b/endpoints",
            {"sequence": number, "endpoints": [endpoint]},
        )

    # Of a node of its own, as the node controller that runs here speaks for the other one.
    release.apply(segment(f"{NODE}-b", "2001:db8:ff02:100::/56"))
    carrier = pod("carrier", "vpc-attachment", "one")
    carrier["spec"]["nodeName"] = f"{NODE}-b"

    def events() -> str:
        return lab.kubectl("get", "events", "-n", "tenant", "-o", "jsonpath={.items[*].source.component}")

    eventually(
        "an Event reports the false registration",
        lambda: (register("2001:db8:ff09:100"), "galactic-router" in events())[1],
    )
    status = lambda: lab.get("vpcattachment", "one", "-n", "tenant")["status"]  # noqa: E731
    eventually(
        "the true registration is recorded",
        lambda: (release.apply(carrier), register("2001:db8:ff02:100"), status().get("endpoint"))[2],
    )
    lab.kubectl("delete", "pod", "carrier", "-n", "tenant", "--force", "--grace-period=0")


def authorities(lab: Lab, kind: str) -> set[str]:
    """The CAs in a configuration's webhooks."""
    webhooks = lab.get(kind, "galactic-admission")["webhooks"]
    return {webhook["clientConfig"].get("caBundle", "") for webhook in webhooks}


def test_configurations_that_were_spoilt_are_put_right(release: Release) -> None:
    """Their CAs by the webhooks, all else by Helm: the webhooks may not make one that was deleted, and report it."""
    lab = release.lab
    for kind in CONFIGURATIONS:
        before = authorities(lab, kind)
        assert len(before) == 1
        spoilt = json.dumps([{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}])
        lab.kubectl("patch", kind, "galactic-admission", "--type=json", "-p", spoilt)
        eventually("the CAs are back", lambda b=before, k=kind: authorities(lab, k) == b)
    spoilt = json.dumps([{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}])
    lab.kubectl("patch", CONFIGURATIONS[0], "galactic-admission", "--type=json", "-p", spoilt)
    lab.kubectl("delete", CONFIGURATIONS[1], "galactic-admission")
    overlapping = segment("node-9", "2001:db8:ff01:200::/57")
    release.apply(overlapping)  # nothing refuses it any more
    conditions = lambda: lab.get("nodesegment", "node-9").get("status", {}).get("conditions")  # noqa: E731
    eventually("a condition reports the overlap", conditions)
    lab.kubectl("delete", "nodesegment", "node-9")
    missing = f"{CONFIGURATIONS[1]} galactic-admission does not exist; `helm upgrade` makes it"
    eventually("the webhooks report it", lambda: missing in not_ready(lab, PORTS["webhook"]))
    # Another's change of a field is a conflict to Helm, which applies on the server.
    release.run("upgrade", "galactic", str(CHART), "--force-conflicts", values=VALUES)
    mutating = lab.get(CONFIGURATIONS[0], "galactic-admission")
    assert {webhook["failurePolicy"] for webhook in mutating["webhooks"]} == {"Fail"}
    eventually("it is overlapped no more", lambda: "overlaps" in refusal(lab, overlapping))
    eventually("the webhooks are ready", lambda: not not_ready(lab, PORTS["webhook"]))


def not_ready(lab: Lab, port: int) -> str:
    """Why a program is not ready; empty where it is."""
    done = lab.run(
        "control", ["curl", "-s", "-w", "%{http_code}", f"http://[::1]:{port}/readyz"], check=False
    )
    return "" if done.stdout.endswith("200") else done.stdout


def test_a_damaged_secret_is_made_again(release: Release) -> None:
    lab = release.lab
    spoilt = json.dumps({"data": {"tls.key": "bm9uZQ=="}})
    lab.kubectl("patch", "secret", "galactic-webhook", "-n", NAMESPACE, "--type=merge", "-p", spoilt)
    data = lambda: lab.get("secret", "galactic-webhook", "-n", NAMESPACE)["data"]["tls.key"]  # noqa: E731
    eventually("the certificate is a new one", lambda: data() != "bm9uZQ==")
    lab.kubectl(
        "patch",
        "secret",
        "galactic-broker-node",
        "-n",
        NAMESPACE,
        "--type=merge",
        "-p",
        '{"data":{"username":"bm9uZQ=="}}',
    )
    before = broker_secrets(lab)
    lab.kubectl("delete", "secret", "galactic-broker-router", "-n", NAMESPACE)
    release.processes["broker"].stop()
    release.start("broker")
    after = broker_secrets(lab)
    assert after["galactic-broker-node"]["username"] != "bm9uZQ=="
    assert after["galactic-broker-router"]["password"] != before["galactic-broker-router"]["password"]
    assert after["galactic-broker"] == before["galactic-broker"], "what is right stays"


def test_the_taint_goes_when_the_node_is_ready(release: Release) -> None:
    lab = release.lab
    name = f"{NODE}-b"  # no controller writes its conditions
    release.apply(
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name},
            "spec": {"taints": [FOREIGN, AWAITED]},
        }
    )
    ready = json.dumps({"status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    # By a token that is a node's, of a server that does not put the node's name into it: the webhooks look at the pod.
    agent = eventually("there is a pod of that node", lambda: release.machine.replica("node", NODE))
    bound = ("--bound-object-kind=Pod", f"--bound-object-name={agent['metadata']['name']}")
    token = lab.kubectl("create", "token", "galactic-node", "-n", NAMESPACE, *bound).strip()
    answer = lambda: patched(lab, token, f"nodesegments/{name}/status", ready)  # noqa: E731
    eventually("it is refused", lambda: "node-1 may write its own only" in answer())
    lab.kubectl("patch", "nodesegment", name, "--subresource=status", "--type=merge", "-p", ready)
    lab.kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", ROOMY)
    own = eventually("the node has a pod", lambda: release.machine.replica("node", name))["metadata"]["name"]
    lab.kubectl("patch", "pod", own, "-n", NAMESPACE, "--subresource=status", "--type=merge", "-p", ready)
    taints = lambda: [taint["key"] for taint in lab.get("node", name)["spec"].get("taints", ())]  # noqa: E731
    eventually("the Node is open", lambda: AWAITED["key"] not in taints())
    assert FOREIGN["key"] in taints()


def test_a_node_writes_its_own_status_while_no_webhook_is_there(release: Release) -> None:
    """Writes to another node's status are refused while no webhook can check them."""
    lab = release.lab
    foreign, patch = f"{NODE}-b", json.dumps({"status": {"counts": {"vpcs": 4}}})
    agent = eventually("there is a pod of that node", lambda: release.machine.replica("node", NODE))
    bound = ("--bound-object-kind=Pod", f"--bound-object-name={agent['metadata']['name']}")
    token = lab.kubectl("create", "token", "galactic-node", "-n", NAMESPACE, *bound).strip()
    release.processes["webhook"].stop()
    own = patched(lab, token, f"nodesegments/{NODE}/status", json.dumps({"status": {"loopback": "::7"}}))
    assert '"loopback":"::7"' in own.replace(" ", ""), own
    assert "failed calling webhook" in patched(lab, token, f"nodesegments/{foreign}/status", patch)
    # The operator and administrators of the cluster are no node.
    lab.kubectl("patch", "nodesegment", foreign, "--subresource=status", "--type=merge", "-p", patch)
    wider = json.dumps({"spec": {"prefix": "2001:db8:ff02:100::/57"}})
    with pytest.raises(Rejected, match="failed calling webhook"):
        lab.kubectl("patch", "nodesegment", foreign, "--type=merge", "-p", wider)
    release.start("webhook")
    eventually(
        "webhooks answer again",
        lambda: "denied the request" in refusal(lab, vpc("probe", "10.0.0.1/8")),
    )


def test_helm_test_may_do_what_it_does_and_no_more(release: Release, helm: Helm) -> None:
    """No pod runs here, so it fails, reports the reason, and removes its objects; its rights go with it.

    The reason is the scheduler's: where that, or the maker of the account's token, is slower than the test's patience,
    it runs once more.
    """
    lab, account = release.lab, "galactic-test"
    free = "node-free"  # no pod is scheduled there either: it has no allocatable resources
    release.apply(
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": free}},
        segment(free, "2001:db8:ff03:100::/56"),
    )
    ready = json.dumps({"status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    lab.kubectl("patch", "nodesegment", free, "--subresource=status", "--type=merge", "-p", ready)
    first = len(audit.lines(lab.state.audit))
    outputs: list[str] = []

    def tested() -> bool:
        with (
            release.machine.kubelet("app.kubernetes.io/component=test") as ended,
            pytest.raises(Refused) as refusal,
        ):
            release.once("test", "galactic", HOOKS)
        outputs.append(ended[-1].output() if ended else str(refusal.value))
        return "nodes are available" in outputs[-1]

    eventually(lambda: f"the scheduler's reason is reported: {outputs}", tested)
    assert "tests failed" in outputs[-1], outputs
    rights = audit.granted(helm.objects(VALUES), account)
    assert rights
    made = partial(audit.requests, lab.state.audit, first)
    eventually("each right is made use of", lambda: not audit.unused(rights, made(), account))
    assert not audit.refused(made(), account)
    assert "galactic-test" not in lab.kubectl("get", "clusterroles,clusterrolebindings", "-o", "name")
    assert "galactic-connectivity" not in lab.kubectl("get", "namespaces", "-o", "name")
    lab.kubectl("delete", "pod", "galactic-test", "-n", NAMESPACE, "--force", "--grace-period=0")
    for kind in ("nodesegment", "node"):
        lab.kubectl("delete", kind, free)


VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")


def test_the_api_server_reads_the_roles_as_the_tests_do(release: Release, helm: Helm) -> None:
    """Every verb, on every resource that any role names: allowed where a role has it, and nowhere else."""
    server = Server(release.lab.kubeconfig)
    objects = helm.objects(VALUES)
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
    release.run("upgrade", "galactic", str(CHART), values=VALUES)
    assert has_grants(lab)
    assert has_token(lab)
    assert objects_of_users(lab) == before
    eventually(
        "it still works", lambda: "denied the request" in refusal(release.lab, vpc("probe", "10.0.0.1/8"))
    )
    for kind in ("vpcattachment", "vpc"):
        lab.kubectl("delete", kind, "kept", "-n", "default", GONE)


def test_uninstall_leaves_nothing_that_hangs(release: Release, helm: Helm) -> None:
    lab = release.lab
    held = lambda: lab.get("vpc", "blue", "-n", "tenant")["metadata"].get("finalizers", [])  # noqa: E731
    assert held()
    release.machine.stop()  # as they would with their pods; later requests would be refused
    first = len(audit.lines(lab.state.audit))
    with release.machine.kubelet() as ended:
        release.run("uninstall", "galactic", HOOKS)
    assert "VPC: finalizer removed from " in ended[-1].output()
    assert held() == [], "kinds and objects stay"
    lab.kubectl("delete", "pods", "--all", "-n", NAMESPACE, "--force", "--grace-period=0")

    rights = audit.granted(helm.objects(VALUES), "galactic-retire")
    made = partial(audit.requests, lab.state.audit, first)
    eventually("each right is made use of", lambda: not audit.unused(rights, made(), "galactic-retire"))
    assert not audit.refused(made(), "galactic-retire")
    left = "deployments,daemonsets,services,roles,rolebindings,configmaps,networkpolicies,jobs,secrets,leases"
    names = ("get", left, "-n", NAMESPACE, "-o", "name")
    eventually("nothing is left in its namespace", lambda: "galactic" not in lab.kubectl(*names))
    cluster = "clusterroles,clusterrolebindings,mutatingwebhookconfigurations,validatingwebhookconfigurations"
    assert "galactic" not in lab.kubectl("get", cluster, "-o", "name")
    lab.kubectl("delete", "namespace", "tenant", GONE)


@pytest.mark.parametrize("component", ["operator", "webhook", "router", "broker", "node"])
def test_it_may_do_what_it_does_and_no_more(release: Release, helm: Helm, component: str) -> None:
    """Now that all have ended: a watch may be written down no sooner than at its end."""
    account = f"galactic-{component}"
    rights = audit.granted(helm.objects(VALUES), account)
    needed = {
        right
        for right in rights
        if not {(component, right.verb, name) for name in (right.resource, named(right))} & ELSEWHERE.keys()
    }
    assert len(rights - needed) == sum(1 for name, *_ in ELSEWHERE if name == component), (
        "an exception that is none"
    )
    unused = lambda: audit.unused(needed, release.requests(), account)  # noqa: E731
    eventually(lambda: f"each right is made use of, but {unused()}", lambda: not unused())
    made = release.requests()
    seldom = rights - needed  # refused once, before a role is in force, they may not be used again here
    refused = audit.refused(made, account)
    assert not [request for request in refused if not any(audit.covers(right, request) for right in seldom)]
    assert not audit.lacking(rights, made, account)
    for right in needed:
        missed = {
            (request.verb, request.resource) for request in audit.lacking(rights - {right}, made, account)
        }
        assert missed == {(right.verb, right.resource)}, "without it nothing would have been noticed"


@pytest.mark.parametrize(("component", "verb", "resource"), ELSEWHERE)
def test_what_is_looked_at_elsewhere_is(component: str, verb: str, resource: str) -> None:
    story = (Path(__file__).parents[1] / "e2e" / ELSEWHERE[component, verb, resource]).read_text()
    assert f'"{verb}", "{resource}"' in story


def test_it_can_be_installed_again_over_what_was_kept_and_removed_without_hooks(release: Release) -> None:
    lab = release.lab
    release.run("install", "galactic", str(CHART), values=merged(VALUES, nested("crds.keep", False)))
    release.run("uninstall", "galactic", "--no-hooks")
    assert "galactic" not in lab.kubectl("get", ",".join(CONFIGURATIONS), "-o", "name"), (
        "nothing refuses pods"
    )
    eventually("the kinds go as well", lambda: GROUP not in lab.kubectl("get", "crds", "-o", "name"))


# Helpers of the tests.


def named(right: audit.Right) -> str:
    """The resource and the names of its objects, as ``leases/galactic-router``."""
    return "/".join((right.resource, *sorted(right.names)))


def accepted(release: Release, *things: dict[str, Any]) -> bool:
    """Whether the API server accepts them; False while it does not serve their kinds yet."""
    try:
        release.apply(*things)
    except Rejected as refusal:
        if "no matches for kind" in str(refusal) or "could not find the requested resource" in str(refusal):
            return False
        raise
    return True


def refusal(lab: Lab, thing: dict[str, Any]) -> str:
    """The API server's reason not to create it; empty where it does."""
    done = subprocess.run(
        [str(lab.state.tools / "kubectl"), f"--kubeconfig={lab.kubeconfig}", "create", "-f", "-"],
        input=json.dumps(thing),
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 or "AlreadyExists" in done.stderr else done.stderr


def patched(lab: Lab, token: str, path: str, patch: str) -> str:
    """The API server's answer to a merge patch of one of Galactic's objects, without the GET that kubectl sends
    first.
    """
    context = ssl.create_default_context(cafile=str(lab.state.root / "pki" / "ca.crt"))
    connection = http.client.HTTPSConnection("127.0.0.1", lab.state.port, context=context, timeout=60)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/merge-patch+json"}
    connection.request("PATCH", f"/apis/{GROUP}/v1alpha/{path}", patch, headers)
    return connection.getresponse().read().decode()


def publish(release: Release, topic: str, message: dict[str, Any]) -> None:
    """Publishes a node's message with the nodes' credentials."""
    path = release.folder / "password"
    secret = release.lab.get("secret", "galactic-broker-node", "-n", NAMESPACE)["data"]
    path.write_bytes(base64.b64decode(secret["ca.crt"]))
    user, password = (base64.b64decode(secret[name]).decode() for name in ("username", "password"))
    argv = [
        "mosquitto_pub",
        "-h",
        "::1",
        "-p",
        "8884",
        "--cafile",
        str(path),
        "--insecure",
        "-u",
        user,
        "-P",
        password,
    ]
    # Callers publish again until the router has it, so one attempt may fail.
    release.lab.run("control", [*argv, "-q", "1", "-t", topic, "-m", json.dumps(message)], check=False)


def vpc(name: str, *networks: str) -> dict[str, Any]:
    meta = {"name": name, "namespace": "default" if name == "probe" else "tenant"}
    return {
        "apiVersion": f"{GROUP}/v1alpha",
        "kind": "VPC",
        "metadata": meta,
        "spec": {"networks": [*networks]},
    }


def attachment(name: str, of: str) -> dict[str, Any]:
    meta = {"name": name, "namespace": "tenant"}
    return {
        "apiVersion": f"{GROUP}/v1alpha",
        "kind": "VPCAttachment",
        "metadata": meta,
        "spec": {"vpc": {"name": of}},
    }


def segment(name: str, prefix: str) -> dict[str, Any]:
    return {
        "apiVersion": f"{GROUP}/v1alpha",
        "kind": "NodeSegment",
        "metadata": {"name": name},
        "spec": {"prefix": prefix},
    }


def publishes_addresses(release: Release) -> None:
    """A Service of a pod that is bound to a Node: its slice is made, changed and deleted."""
    lab = release.lab
    selected = merged(pod("named", "vpc-attachment", "one"), nested("spec.nodeName", NODE))
    selected["metadata"]["labels"] = {"app": "named"}
    manifest = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "named", "namespace": "tenant", "annotations": {f"{GROUP}/vpc": "blue"}},
        "spec": {"clusterIP": "None", "selector": {"app": "named"}},
    }
    release.apply(manifest, selected)
    ours = (
        "endpointslices",
        "-n",
        "tenant",
        "-l",
        f"endpointslice.kubernetes.io/managed-by=operator.{GROUP}",
    )

    def endpoints() -> list[dict[str, Any]]:
        return [
            endpoint for endpoint_slice in lab.get(*ours)["items"] for endpoint in endpoint_slice["endpoints"]
        ]

    (first,) = eventually("its address is published", endpoints)
    assert not first["conditions"]["ready"], "there is no kubelet"
    lab.kubectl(
        "patch", "service", "named", "-n", "tenant", "-p", '{"spec":{"publishNotReadyAddresses":true}}'
    )
    eventually("the slice is changed", lambda: endpoints()[0]["conditions"]["ready"])
    lab.kubectl("annotate", "service", "named", "-n", "tenant", f"{GROUP}/vpc-")
    eventually("the slice is deleted", lambda: not lab.get(*ours)["items"])
    lab.kubectl("delete", "service", "named", "-n", "tenant")
    lab.kubectl("delete", "pod", "named", "-n", "tenant", "--force", "--grace-period=0")


def publishes_rules(release: Release) -> None:
    """A VPCPolicy of an attachment: its slices are made, changed and deleted."""
    lab = release.lab
    manifest = {
        "apiVersion": f"{GROUP}/v1alpha",
        "kind": "VPCPolicy",
        "metadata": {"name": "rules", "namespace": "tenant"},
        "spec": {
            "vpc": {"name": "blue"},
            "ingress": [{"from": [{"attachmentSelector": {}}], "ports": [{"port": 80}]}],
        },
    }
    release.apply(manifest)

    def ports() -> list[Any]:
        return [
            one["spec"]["ingress"][0]["ports"][0]["port"]
            for one in lab.get("policyslices")["items"]
            if one["spec"]["role"] == "Policy"
        ]

    eventually("its rules are published", lambda: ports() == [80])
    listed = lambda: lab.get("vpcattachment", "one", "-n", "tenant")["status"].get("policies")  # noqa: E731
    eventually("the attachment has them", listed)
    manifest["spec"] = {**manifest["spec"], "ingress": [{"ports": [{"port": 81}]}]}
    release.apply(manifest)
    eventually("the slice is changed", lambda: ports() == [81])
    lab.kubectl("delete", "vpcpolicy", "rules", "-n", "tenant")
    eventually("the slices are deleted", lambda: not lab.get("policyslices")["items"])
    eventually("the attachment has none", lambda: not listed())


def leads_out(release: Release) -> None:
    """A VPCGateway: it waits for a Node, and the API server's own address is refused."""
    lab = release.lab
    manifest = {
        "apiVersion": f"{GROUP}/v1alpha",
        "kind": "VPCGateway",
        "metadata": {"name": "way", "namespace": "tenant"},
        "spec": {
            "vpc": {"name": "blue"},
            "nodeSelector": {"edge": "none"},
            "snat": {"addresses": ["203.0.113.1"]},
        },
    }
    release.apply(manifest)

    def reason() -> str:
        status = lab.get("vpcgateway", "way", "-n", "tenant").get("status") or {}
        return next((one["reason"] for one in status.get("conditions") or () if one["type"] == "Ready"), "")

    eventually("it has no node", lambda: reason() == "NoNodes")
    manifest["spec"] = {
        **manifest["spec"],
        "snat": {"addresses": [lab.get("service", "kubernetes")["spec"]["clusterIP"]]},
    }
    release.apply(manifest)
    eventually("an address of a Service is refused", lambda: reason() == "AddressInUse")
    lab.kubectl("delete", "vpcgateway", "way", "-n", "tenant")


def stateful_set(name: str, vpc_name: str) -> dict[str, Any]:
    """One of one pod, which has an attachment of its own in the VPC."""
    template = pod(name, "vpc", vpc_name)
    labels = {"app": name}
    template["metadata"] = {"labels": labels, "annotations": template["metadata"]["annotations"]}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name, "namespace": "tenant"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": template["metadata"], "spec": template["spec"]},
        },
    }


def pod(name: str, annotation: str, value: str) -> dict[str, Any]:
    meta = {"name": name, "namespace": "tenant", "annotations": {f"k8s.v1alpha.{GROUP}/{annotation}": value}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta,
        "spec": {"containers": [{"name": "c", "image": "c"}]},
    }
