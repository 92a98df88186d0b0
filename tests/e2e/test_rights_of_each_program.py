"""The chart's programs use every right that it gives them, and ask for no other: as pods, by the API server's audit
log. What they have to do for that is done here, and what they put right is spoilt.

The stories run in the order in which they stand here.
"""

import http.client
import json
import ssl
from collections.abc import Iterator
from typing import Any

import audit
import pytest
from apiserver import Server
from released import HELM_SECONDS, OPTED, granted, helm, pods, run_helm, settled
from story import API, CONFIGURATIONS, POD_SECONDS, Tenant, eventually, taints, tenancy

from galactic.errors import Rejected
from galactic.names import ATTACHMENT_ANNOTATION, NOT_READY_TAINT, VPC_ANNOTATION
from galactic_lab.cluster import Lab
from galactic_lab.controlplane import helm_release
from galactic_lab.state import NAMESPACE, checkout

GROUP = API.partition("/")[0]
KINDS = CONFIGURATIONS.split(",")
SPARE = "node-8"
"""A Node without a machine. While it exists, the DaemonSet has a pod that waits."""
KEEP_OFF = {"key": "not-for-tests", "effect": "NoSchedule"}
PROGRAMS = ("operator", "webhook", "router", "broker", "node")

ELSEWHERE = {
    ("node", "get", "vpcattachments"): "test_a_node_restarts_with_nobody_there.py",
    ("operator", "get", "leases/galactic-router"): "test_the_cli_says_what_is_wrong.py",
}
"""Rights for what happens here by chance at most, and the stories that look whether they are made use of."""


@pytest.fixture(scope="module")
def release(charted: Lab) -> Lab:
    """The release with the chart's defaults, but for times."""
    upgrade(charted)
    eventually("everything is Ready", lambda: settled(charted), POD_SECONDS)
    return charted


def upgrade(lab: Lab, *options: str) -> None:
    values = f"--values={helm_release.values_file(lab.state)}"
    times = "--set=operator.scaledDownRetention=0,test.timeoutSeconds=150"
    wait = ("--wait", f"--timeout={HELM_SECONDS}s")
    helm(lab, "upgrade", "galactic", str(helm_release.chart()), values, times, *options, *wait)


@pytest.fixture(scope="module")
def blue(release: Lab) -> Iterator[Tenant]:
    with tenancy(release, "rights") as make:
        tenant = make("blue")
        tenant.make_vpc()
        yield tenant


def test_a_service_has_a_slice_and_a_policy_has_some(blue: Tenant) -> None:
    """They are made, changed and deleted."""
    blue.settle({"one": ("node-1",), "two": ("node-2",)})
    blue.lab.kubectl("label", "pod", "one", "-n", blue.namespace, "app=named")
    spec = {"clusterIP": "None", "selector": {"app": "named"}}
    metadata = {"name": "named", "annotations": {f"{GROUP}/vpc": "vpc"}}
    blue.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
    managed = f"endpointslice.kubernetes.io/managed-by=operator.{GROUP}"

    def addresses() -> set[str]:
        slices = blue.lab.get("endpointslices", "-n", blue.namespace, "-l", managed)["items"]
        return {
            address
            for one in slices
            for endpoint in one["endpoints"] or ()
            for address in endpoint["addresses"]
        }

    eventually("one is published", lambda: len(addresses()) == 2)
    blue.lab.kubectl("label", "pod", "two", "-n", blue.namespace, "app=named")
    eventually("and two", lambda: len(addresses()) == 4)
    blue.lab.kubectl("annotate", "service", "named", "-n", blue.namespace, f"{GROUP}/vpc-")
    eventually("its slices are deleted", lambda: not addresses())

    def ports() -> list[int]:
        specs = [one["spec"] for one in blue.lab.get("policyslices")["items"]]
        policies = [spec for spec in specs if (spec["vpc"], spec["role"]) == (identifier, "Policy")]
        return [rule["ports"][0]["port"] for spec in policies for rule in spec["ingress"]]

    identifier = blue.lab.get("vpc", "vpc", "-n", blue.namespace)["status"]["identifier"]
    metadata = {"name": "rules"}
    peers = [{"attachmentSelector": {}}]
    for port in (80, 81):
        spec = {"vpc": {"name": "vpc"}, "ingress": [{"from": peers, "ports": [{"port": port}]}]}
        blue.apply({"apiVersion": API, "kind": "VPCPolicy", "metadata": metadata, "spec": spec})
        eventually(f"rules with port {port} are published", lambda p=port: ports() == [p])
        eventually("they are in force", lambda: not blue.ping("one", address_of(blue, "two")))
    blue.lab.kubectl("delete", "vpcpolicy", "rules", "-n", blue.namespace)
    eventually("the slices are deleted", lambda: not ports())
    eventually("two answers one", lambda: blue.ping("one", address_of(blue, "two")))


def address_of(tenant: Tenant, name: str) -> str:
    """The IPv4 address of an attachment."""
    return next(
        text.partition("/")[0] for text in tenant.attachment(name)["status"]["addresses"] if "." in text
    )


def test_an_ordinal_that_is_gone_gives_its_attachment_back(blue: Tenant) -> None:
    labels = {"app": "db"}
    container = {"name": "main", "image": "nicolaka/netshoot:v0.13"}
    template = {
        "metadata": {"labels": labels, "annotations": {VPC_ANNOTATION: "vpc"}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]},
    }
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    blue.apply({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"}, "spec": spec})
    words = ("get", "vpca", "db-0", "-n", blue.namespace, "-o", "name", "--ignore-not-found")
    eventually("it has one", lambda: blue.lab.kubectl(*words))
    blue.lab.kubectl("scale", "statefulset", "db", "-n", blue.namespace, "--replicas=0")
    eventually("it is deleted", lambda: not blue.lab.kubectl(*words), POD_SECONDS)


def test_a_gateway_is_refused_an_address_of_a_service(blue: Tenant) -> None:
    address = blue.lab.get("service", "kubernetes", "-n", "default")["spec"]["clusterIP"]

    def not_ready() -> str:
        status = blue.lab.get("vpcgateway", "way", "-n", blue.namespace).get("status") or {}
        return next((one["reason"] for one in status.get("conditions") or () if one["type"] == "Ready"), "")

    for expected, given in (("NoNodes", "203.0.113.1"), ("AddressInUse", address)):
        spec = {"vpc": {"name": "vpc"}, "nodeSelector": {"edge": "none"}, "snat": {"addresses": [given]}}
        blue.apply(manifest("VPCGateway", "way", **spec))
        eventually(f"its condition is {expected}", lambda e=expected: not_ready() == e)
    blue.lab.kubectl("delete", "vpcgateway", "way", "-n", blue.namespace)


def test_webhooks_look_at_others_of_the_cluster(blue: Tenant) -> None:
    """At VPCs and namespaces, and whether a user may choose an identifier; a VPC that changes changes its NADs."""
    other = {"name": "kept", "namespace": "default"}
    refused(blue, "does not exist or does not admit", manifest("VPCAttachment", "other", vpc=other))
    for number in ("4d2", "4d3"):
        blue.apply(manifest("VPC", f"joined-{number}", networks=["10.8.0.0/24"], identifier=f"{number:0>12}"))
        ready = ("vpc", f"joined-{number}", "-n", blue.namespace)
        eventually(
            "it has its identifier", lambda r=ready: (blue.lab.get(*r).get("status") or {}).get("ready")
        )
    blue.apply(manifest("VPC", "vpc", networks=[*blue.networks, "10.1.2.0/24"]))
    nad = lambda: blue.lab.get("net-attach-def", "one", "-n", blue.namespace)["spec"]["config"]  # noqa: E731
    eventually("its definition follows", lambda: "10.1.2.0/24" in nad())
    spec = {"containers": [{"name": "main", "image": "none"}]}
    metadata = {"name": "three", "annotations": {ATTACHMENT_ANNOTATION: "missing"}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    refused(blue, "there is no VPCAttachment", pod)


def manifest(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name}, "spec": spec}


def refused(tenant: Tenant, text: str, thing: dict[str, Any]) -> None:
    """The webhooks do not let it in, for that reason."""
    thing["metadata"]["namespace"] = tenant.namespace
    eventually(f"{thing['kind']} is refused: {text}", lambda: text in reason(tenant.lab, thing))


def reason(lab: Lab, thing: dict[str, Any]) -> str:
    """The API server's reason not to make the object; empty where it would."""
    try:
        return Server(lab.kubeconfig, patience=0).dry_run(thing)
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {error}"


def test_a_prefix_follows_its_node(release: Lab) -> None:
    """Of a Node that no program serves."""
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": SPARE}, "spec": {"taints": [KEEP_OFF]}}
    release.kubectl("apply", "-f", "-", stdin=json.dumps(node))
    shown = ("get", "nodesegment", SPARE, "-o", "jsonpath={.spec.prefix}", "--ignore-not-found")
    try:
        for prefix in ("2001:db8:ff0e:100::/56", "2001:db8:ff0e:200::/56"):
            release.kubectl("annotate", "--overwrite", "node", SPARE, f"{GROUP}/srv6-prefix={prefix}")
            eventually(f"its prefix is {prefix}", lambda p=prefix: release.kubectl(*shown) == p)
    finally:
        release.kubectl("delete", "node", SPARE)
        # The DaemonSet's controller looks at it no sooner than something else happens.
        waiting = ("-n", NAMESPACE, "--field-selector=status.phase=Pending")
        release.kubectl("delete", "pod", *waiting, f"--timeout={POD_SECONDS}s")
        release.kubectl("delete", "nodesegment", SPARE, "--ignore-not-found")


def test_configurations_that_were_spoilt_are_put_right(release: Lab) -> None:
    """Their CAs by the webhooks, all else by Helm: the webhooks may not make one that was deleted, and report it."""
    for kind in KINDS:
        before = authorities(release, kind)
        assert len(before) == 1
        spoilt = json.dumps([{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}])
        release.kubectl("patch", kind, "galactic-admission", "--type=json", "-p", spoilt)
        eventually("the CAs are back", lambda b=before, k=kind: authorities(release, k) == b)
    mutating, validating = KINDS
    spoilt = json.dumps([{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}])
    release.kubectl("patch", mutating, "galactic-admission", "--type=json", "-p", spoilt)
    release.kubectl("delete", validating, "galactic-admission")
    overlapping = segment(SPARE, "2001:db8:ff03:100::/57")  # node-3's
    eventually("nothing refuses it any more", lambda: not reason(release, overlapping))
    release.kubectl("apply", "-f", "-", stdin=json.dumps(overlapping))
    conditions = lambda: (release.get("nodesegment", SPARE).get("status") or {}).get("conditions")  # noqa: E731
    eventually("a condition reports the overlap", conditions)
    release.kubectl("delete", "nodesegment", SPARE)
    missing = "ValidatingWebhookConfiguration galactic-admission does not exist; `helm upgrade` makes it"
    eventually("the webhooks report it", lambda: missing in readiness(release))
    # Another's change of a field is a conflict to Helm, which applies on the server.
    upgrade(release, "--force-conflicts")
    webhooks = release.get(mutating, "galactic-admission")["webhooks"]
    assert {webhook["failurePolicy"] for webhook in webhooks} == {"Fail"}
    eventually("the webhooks are Ready", lambda: settled(release), POD_SECONDS)
    eventually("an overlap is refused", lambda: "overlaps" in reason(release, overlapping))


def authorities(lab: Lab, kind: str) -> set[str]:
    """The CAs in a configuration's webhooks."""
    webhooks = lab.get(kind, "galactic-admission")["webhooks"]
    return {webhook["clientConfig"].get("caBundle", "") for webhook in webhooks}


def segment(name: str, prefix: str) -> dict[str, Any]:
    return {"apiVersion": API, "kind": "NodeSegment", "metadata": {"name": name}, "spec": {"prefix": prefix}}


def readiness(lab: Lab) -> str:
    """The answers of the webhook's pods to the kubelet's probe."""
    urls = [
        f"http://[{pod['status']['podIP']}]:9090/readyz"
        for pod in pods(lab).values()
        if pod["spec"]["serviceAccountName"] == "galactic-webhook"
    ]
    return lab.run("node-1", ["curl", "-s", *urls], check=False).stdout


def test_a_damaged_secret_is_made_again(release: Lab) -> None:
    spoil(release, "galactic-webhook", "tls.key")
    eventually("the certificate is a new one", lambda: secret(release, "galactic-webhook")["tls.key"] != BAD)
    spoil(release, "galactic-broker-node", "username")
    names = ("galactic-broker", "galactic-broker-node", "galactic-broker-router")
    before = {name: secret(release, name) for name in names}
    release.kubectl("delete", "secret", "galactic-broker-router", "-n", NAMESPACE)
    component = "app.kubernetes.io/component=broker"
    release.kubectl("delete", "pod", "-n", NAMESPACE, "-l", component, f"--timeout={POD_SECONDS}s")
    eventually("everything is Ready", lambda: settled(release), POD_SECONDS)
    after = {name: secret(release, name) for name in names}
    assert after["galactic-broker-node"]["username"] != BAD
    assert after["galactic-broker-router"]["password"] != before["galactic-broker-router"]["password"]
    assert after["galactic-broker"] == before["galactic-broker"], "what is right stays"


BAD = "bm9uZQ=="


def spoil(lab: Lab, name: str, key: str) -> None:
    patch = json.dumps({"data": {key: BAD}})
    lab.kubectl("patch", "secret", name, "-n", NAMESPACE, "--type=merge", "-p", patch)


def secret(lab: Lab, name: str) -> dict[str, str]:
    return dict(lab.get("secret", name, "-n", NAMESPACE)["data"])


def test_the_taint_goes_when_the_node_is_ready(release: Lab) -> None:
    """And no other one."""
    others = [*release.get("node", "node-3")["spec"].get("taints", ()), KEEP_OFF]
    awaited = {"key": NOT_READY_TAINT, "effect": "NoSchedule"}
    patch = json.dumps({"spec": {"taints": [*others, awaited]}})
    release.kubectl("patch", "node", "node-3", "--type=merge", "-p", patch)
    try:
        eventually("the Node is open", lambda: NOT_READY_TAINT not in taints(release, "node-3"))
        assert KEEP_OFF["key"] in taints(release, "node-3")
    finally:
        release.kubectl("taint", "node", "node-3", f"{KEEP_OFF['key']}-")


def test_a_node_writes_its_own_status_while_no_webhook_is_there(release: Lab) -> None:
    """Writes to another node's status are refused, by the webhooks, and while none can check them."""
    agent = next(
        pod
        for pod in pods(release).values()
        if pod["spec"]["nodeName"] == "node-1" and pod["spec"]["serviceAccountName"] == "galactic-node"
    )
    bound = ("--bound-object-kind=Pod", f"--bound-object-name={agent['metadata']['name']}")
    token = release.kubectl("create", "token", "galactic-node", "-n", NAMESPACE, *bound).strip()
    patch = json.dumps({"status": {"counts": {"vpcs": 4}}})
    foreign = lambda: patched(release, token, "nodesegments/node-2/status", patch)  # noqa: E731
    eventually("it is refused", lambda: "node-1 may write its own only" in foreign())
    scale = ("scale", "deployment", "galactic-webhook", "-n", NAMESPACE)
    release.kubectl(*scale, "--replicas=0")
    try:
        eventually("no webhook answers", lambda: "failed calling webhook" in foreign(), POD_SECONDS)
        own = patched(release, token, "nodesegments/node-1/status", patch)
        assert '"vpcs":4' in own.replace(" ", ""), own
        # The operator and administrators of the cluster are no node.
        status = ("--subresource=status", "--type=merge", "-p", patch)
        release.kubectl("patch", "nodesegment", "node-2", *status)
        other = json.dumps({"spec": {"prefix": "2001:db8:ff0e:100::/56"}})
        with pytest.raises(Rejected, match="failed calling webhook"):
            release.kubectl("patch", "nodesegment", "node-2", "--type=merge", "-p", other)
    finally:
        release.kubectl(*scale, "--replicas=2")
    eventually("everything is Ready", lambda: settled(release), POD_SECONDS)


def patched(lab: Lab, token: str, path: str, patch: str) -> str:
    """The API server's answer to a merge patch of one of Galactic's objects, without the GET that kubectl sends
    first.
    """
    context = ssl.create_default_context(cafile=str(lab.state.root / "pki" / "ca.crt"))
    connection = http.client.HTTPSConnection("127.0.0.1", lab.state.port, context=context, timeout=60)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/merge-patch+json"}
    connection.request("PATCH", f"/apis/{API}/{path}", patch, headers)
    return connection.getresponse().read().decode()


def test_the_test_of_the_chart_says_why_a_pod_does_not_start(release: Lab) -> None:
    """Here no node has the name that it looks for. It removes its objects, and its rights go with it."""
    first = len(audit.lines(release.state.audit))
    label, shown = "kubernetes.io/hostname", [""]
    release.kubectl("label", "--overwrite", "node", "node-1", f"{label}=another")

    def tested() -> bool:
        """Whether it had the scheduler's reason within its patience, which is short."""
        done = run_helm(release, "test", "galactic", f"--timeout={HELM_SECONDS}s")
        assert done.returncode, done.stdout
        shown[0] = release.kubectl("logs", "-n", NAMESPACE, "galactic-test", check=False) or done.stderr
        return "nodes are available" in shown[0] and "tests failed" in shown[0]

    try:
        eventually(lambda: f"the scheduler's reason is reported: {shown[0]}", tested, POD_SECONDS)
    finally:
        release.kubectl("label", "--overwrite", "node", "node-1", f"{label}=node-1")
        gone = ("--ignore-not-found", f"--timeout={POD_SECONDS}s")
        release.kubectl("delete", "pod", "-n", NAMESPACE, "galactic-test", *gone)
    rights, account = granted(release, "galactic-test"), "galactic-test"
    assert rights
    made = audit.requests(release.state.audit, first)
    assert not audit.unused(rights, made, account)
    assert not audit.refused(made, account)
    assert "galactic-test" not in release.kubectl("get", "clusterroles,clusterrolebindings", "-o", "name")
    assert "galactic-connectivity" not in release.kubectl("get", "namespaces", "-o", "name")


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_may_do_what_it_does_and_no_more(release: Lab, program: str) -> None:
    account = f"galactic-{program}"
    rights = granted(release, account)
    needed = {right for right in rights if (program, right.verb, named(right)) not in ELSEWHERE}
    assert len(rights - needed) == sum(1 for name, *_ in ELSEWHERE if name == program), (
        "an exception that is none"
    )
    unused = lambda: audit.unused(needed, audit.requests(release.state.audit), account)  # noqa: E731
    eventually(lambda: f"each right is made use of, but {unused()}", lambda: not unused())
    made, opted = audit.requests(release.state.audit), granted(release, account, OPTED)
    assert not audit.refused(made, account)
    assert not audit.lacking(rights | opted, made, account)
    for right in needed:
        missed = {
            (request.verb, request.resource)
            for request in audit.lacking((rights | opted) - {right}, made, account)
        }
        assert missed == {(right.verb, right.resource)}, "without it nothing would have been noticed"


def named(right: audit.Right) -> str:
    """The resource and the names of its objects, as ``leases/galactic-router``."""
    return "/".join((right.resource, *sorted(right.names)))


@pytest.mark.parametrize(("program", "verb", "resource"), ELSEWHERE)
def test_what_is_looked_at_elsewhere_is(program: str, verb: str, resource: str) -> None:
    story = (checkout() / "tests/e2e" / ELSEWHERE[program, verb, resource]).read_text()
    assert f'"{verb}", "{resource}"' in story
