"""The chart on real nodes, installed as docs/install.md has it: the objects that it installs, and their work.

Galactic's programs are pods from the image that `make image` builds. The stories run in the order in which they
stand here, with the pods of examples/; test_upgrades_of_the_chart.py goes on from there.
"""

import json
import subprocess
import sys
from typing import Any

from released import (
    COMPONENT,
    COMPONENTS,
    HELM_SECONDS,
    OPTED,
    Questions,
    but_the_brokers,
    helm,
    pings,
    pods,
    ready,
    replaced,
    settled,
    status,
    traffic,
)
from story import ANSWER_SECONDS, API, POD_SECONDS, eventually, taints

from galactic.names import ATTACHMENT_ANNOTATION, NOT_READY_TAINT, VPC_ANNOTATION
from galactic_lab.cluster import Lab
from galactic_lab.controlplane import helm_release
from galactic_lab.node import proxy
from galactic_lab.state import NAMESPACE, checkout

CHART = checkout() / "charts" / "galactic"
NEWER_TABLE = """table ip newer {
    set addresses { type ipv4_addr; }
    map services { type ipv4_addr . inet_proto . inet_service : verdict; }
}
"""
CLOSED = {
    "apiVersion": API,
    "kind": "VPCPolicy",
    "metadata": {"name": "closed", "namespace": "blue"},
    "spec": {"vpc": {"name": "blue"}, "attachmentSelector": {}, "policyTypes": ["Ingress"]},
}


def test_everything_runs_as_pods(charted: Lab) -> None:
    assert ready(charted) == COMPONENTS
    images = {
        container["image"]
        for pod in pods(charted).values()
        for container in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"])
    }
    assert len(images) == 2, f"Galactic's and the broker's, not {images}"
    programs = {entry["name"] for entry in charted.supervisor.status()}
    assert not programs & {"operator", "router", "webhook", "mosquitto"}
    assert not any(charted.controller_pid(member.name) for member in charted.state.members)
    eventually("nothing is wrong", lambda: "Nothing is wrong." in status(charted))


def test_programs_run_under_the_runtimes_seccomp_profile(charted: Lab) -> None:
    for pod in pods(charted).values():
        name, (container,) = pod["metadata"]["name"], pod["spec"]["containers"]
        inside = ("exec", "-n", NAMESPACE, name, "-c", container["name"], "--")
        mode = charted.kubectl(*inside, "grep", "Seccomp:", "/proc/1/status")
        assert mode.split() == ["Seccomp:", "2"], f"{name}: no filter (seccomp(2))"


def test_the_examples(examples: Lab) -> None:
    """Two tenants with equal addresses: whom they reach, by commands inside of their containers."""
    for pod, address in (
        ("web", "10.1.1.2"),
        ("web", "2001:10:1:1::2"),
        ("web", "10.1.1.3"),
        ("api", "192.168.3.1"),
    ):
        eventually(f"{pod} reaches {address}", lambda p=pod, a=address: pings(examples, "blue", p, a))
    assert not pings(examples, "green", "one", "10.1.1.3"), "db is blue's"
    assert not pings(examples, "blue", "web", "10.1.1.4"), "three is green's"
    eventually("nothing is wrong", lambda: "Nothing is wrong." in status(examples))


def test_rules_beside_tables_of_a_newer_nft(examples: Lab) -> None:
    """Another program's nft is newer than the first one of the image, as the kube-proxy of a current Kubernetes has it.
    On node-2, whose kube-proxy uses iptables.
    """
    (name,) = [
        pod["metadata"]["name"]
        for pod in pods(examples).values()
        if pod["spec"]["nodeName"] == "node-2" and pod["metadata"]["name"].startswith("galactic-node")
    ]
    inside = ("exec", "-i", "-n", NAMESPACE, name, "-c", "node", "--")
    examples.kubectl(*inside, "nft-newer", "-f", "-", stdin=NEWER_TABLE)
    try:
        crashed = examples.kubectl(*inside, "sh", "-c", "nft list tables; echo $?")
        assert crashed.split() == ["139"], "the first one reads it now: is there need of a second?"
        examples.kubectl("apply", "-f", "-", stdin=json.dumps(CLOSED))
        eventually("api is closed", lambda: not pings(examples, "blue", "web", "10.1.1.2"))
        (enforced,) = [
            condition
            for condition in examples.get("nodesegment", "node-2")["status"]["conditions"]
            if condition["type"] == "Policies"
        ]
        assert enforced["status"] == "True", enforced["message"]
        assert pings(examples, "blue", "api", "10.1.1.2"), "its own address"
    finally:
        examples.kubectl("delete", "vpcpolicy", "closed", "-n", "blue", "--ignore-not-found")
        examples.kubectl(*inside, "nft-newer", "delete", "table", "ip", "newer")
    eventually("api is open", lambda: pings(examples, "blue", "web", "10.1.1.2"))


def test_a_node_is_powered_off_and_on(examples: Lab) -> None:
    """Its pods run again, the attached one with its interface; traffic of other nodes was not interrupted."""
    ours = {uid for uid, pod in pods(examples).items() if pod["spec"]["nodeName"] == "node-3"}
    with traffic(examples):
        examples.reboot("node-3")
        eventually(
            "its pods run again", lambda: ours <= restarted(examples) and settled(examples), POD_SECONDS
        )
    eventually("two reaches one", lambda: pings(examples, "green", "two", "10.1.1.1"), POD_SECONDS)
    eventually("nothing is wrong", lambda: "Nothing is wrong." in status(examples))


def restarted(lab: Lab) -> set[str]:
    """Galactic's pods of which a container was started again, by UID."""
    return {
        uid
        for uid, pod in pods(lab).items()
        if any(container["restartCount"] for container in pod["status"].get("containerStatuses") or ())
    }


def test_services_lead_to_pods_beside_a_vpc(examples: Lab) -> None:
    """kube-proxy in either mode has its rules where Galactic has its own, and pods of a VPC reach Services."""
    address = examples.get("service", "kubernetes", "-n", "default")["spec"]["clusterIP"]
    modes = set()
    for pod in examples.get("pods", "-n", "blue")["items"]:
        name, node = pod["metadata"]["name"], pod["spec"]["nodeName"]
        modes.add(examples.exec(node, fetching("http://[::1]:10249/proxyMode")).strip())
        done = examples.run(f"pod/blue/{name}", fetching(f"https://[{address}]/version"), check=False)
        assert "gitVersion" in done.stdout, f"{name} on {node}: {done.stderr}"
    assert modes == set(proxy.MODES)


def test_a_rolling_update_on_one_node_ends(examples: Lab) -> None:
    """One replica with a named attachment: the API server warns of a strategy that starts the new pod first, which
    waits for the old one; with the strategy that the warning names it ends.
    """
    spec = {"vpc": {"name": "blue"}, "interface": {"name": "galactic0", "addresses": ["10.1.1.9/24"]}}
    named = {"name": "rolled", "namespace": "blue"}
    one = {"apiVersion": API, "kind": "VPCAttachment", "metadata": named, "spec": spec}
    rolled = deployment("rolled", node="node-1")
    rolled["spec"]["template"]["metadata"]["annotations"] = {ATTACHMENT_ANNOTATION: "rolled"}
    examples.kubectl("apply", "-f", "-", stdin=json.dumps(one))
    status = ("rollout", "status", "deployment/rolled", "-n", "blue", f"--timeout={POD_SECONDS}s")
    remedy = "set type: Recreate or rollingUpdate.maxSurge: 0"
    try:
        assert remedy in warnings(examples, rolled)
        examples.kubectl(*status)
        (first,) = of(examples, "rolled")
        examples.kubectl("rollout", "restart", "deployment/rolled", "-n", "blue")
        events = ("get", "events", "-n", "blue", "--field-selector=reason=FailedCreatePodSandBox")
        waits = "a rolling update ends with strategy Recreate, or maxSurge 0"
        eventually("the new pod waits", lambda: waits in examples.kubectl(*events, "-o", "json"), POD_SECONDS)
        assert first in of(examples, "rolled")
        assert pings(examples, "blue", "api", "10.1.1.9"), "the old pod keeps its attachment"
        rolled["spec"]["strategy"] = {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
        assert "Warning" not in warnings(examples, rolled)
        examples.kubectl(*status)
        eventually("the old pod is gone", lambda: len(of(examples, "rolled")) == 1)
        assert first not in of(examples, "rolled")
        eventually("the new one is reached", lambda: pings(examples, "blue", "api", "10.1.1.9"))
    finally:
        examples.kubectl(
            "delete", "deployment/rolled", "vpca/rolled", "-n", "blue", f"--timeout={POD_SECONDS}s"
        )


def warnings(lab: Lab, thing: dict[str, Any]) -> str:
    """Applies it, and returns kubectl's warnings."""
    command = [str(lab.assets.kubectl), f"--kubeconfig={lab.kubeconfig}", "apply", "-f", "-"]
    done = subprocess.run(
        command, input=json.dumps(thing), capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def fetching(url: str) -> list[str]:
    """A command that prints the body at a URL, with any certificate."""
    program = (
        "import ssl, sys, urllib.request as r; "
        "print(r.urlopen(sys.argv[1], timeout=60, context=ssl._create_unverified_context()).read().decode())"
    )
    return [sys.executable, "-ISEc", program, url]


def test_no_request_is_refused_while_every_pod_is_replaced(examples: Lab) -> None:
    """By an upgrade: VPCs, attachments and pods are admitted all the time. The stories after this one need its values:
    both of the operator's opt-ins, and secure metrics.
    """
    before = but_the_brokers(examples)
    with Questions(examples) as questions:
        values = (f"--values={helm_release.values_file(examples.state)}", f"--set={OPTED}")
        helm(examples, "upgrade", "galactic", str(CHART), *values, "--wait", f"--timeout={HELM_SECONDS}s")
        eventually("others are Ready", lambda: replaced(examples, before), POD_SECONDS)
    assert not questions.refusals, (
        f"{len(questions.refusals)} refused, {questions.answered} admitted: {questions.refusals[:5]}"
    )
    assert questions.answered > len(before)


def test_a_pod_that_multus_missed_is_evicted(examples: Lab) -> None:
    """With the operator's two opt-ins: a node without Multus is closed, and a pod that it started is replaced."""
    examples.remove_multus("node-2")
    try:
        eventually("the node is closed", lambda: NOT_READY_TAINT in taints(examples, "node-2"))
        examples.kubectl("apply", "-f", "-", stdin=json.dumps(deployment("missed", node="node-2")))
        (first,) = eventually("it has a pod", lambda: of(examples, "missed"))
        wait = ("wait", "-n", "blue", "--for=condition=Ready", f"pod/{first}", f"--timeout={POD_SECONDS}s")
        examples.kubectl(*wait)
    finally:
        examples.restore_multus("node-2")
    try:
        eventually("another pod takes its place", lambda: of(examples, "missed") - {first}, POD_SECONDS)
        eventually(
            "which is attached", lambda: attached(examples, of(examples, "missed") - {first}), POD_SECONDS
        )
        eventually("the node is open", lambda: NOT_READY_TAINT not in taints(examples, "node-2"))
    finally:
        examples.kubectl("delete", "deployment", "-n", "blue", "missed", f"--timeout={POD_SECONDS}s")


def test_a_node_is_drained_while_the_database_is_away(examples: Lab) -> None:
    """It is optional: routers are Ready without it, so that their PodDisruptionBudget holds up no drain."""
    away = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "database", "namespace": NAMESPACE},
        "stringData": {"url": "postgresql://galactic@127.0.0.1:1/galactic"},
    }
    examples.kubectl("apply", "-f", "-", stdin=json.dumps(away))
    node = ""
    try:
        change_values(examples, "database.existingSecret=database")
        eventually("the database is missed", lambda: "check PostgreSQL" in status(examples))
        assert settled(examples)
        node = next(
            pod["spec"]["nodeName"]
            for pod in pods(examples).values()
            if pod["metadata"]["labels"][COMPONENT] == "router"
        )
        evicted = {
            uid
            for uid, pod in pods(examples).items()
            if pod["spec"]["nodeName"] == node and pod["metadata"]["labels"][COMPONENT] != "node"
        }
        ours = "--pod-selector=app.kubernetes.io/name=galactic"
        with traffic(examples):
            examples.kubectl(
                *("drain", node, ours, "--ignore-daemonsets", "--delete-emptydir-data"),
                f"--timeout={POD_SECONDS}s",
            )
            eventually(
                "all run elsewhere",
                lambda: not evicted & pods(examples).keys() and settled(examples),
                POD_SECONDS,
            )
    finally:
        if node:
            examples.kubectl("uncordon", node)
        change_values(examples, "database.existingSecret=")
        examples.kubectl("delete", "secret", "database", "-n", NAMESPACE)


def change_values(lab: Lab, *values: str) -> None:
    """Upgrades the release with those values changed."""
    options = ("--reuse-values", "--set", ",".join(values), "--wait")
    helm(lab, "upgrade", "galactic", str(CHART), *options, f"--timeout={HELM_SECONDS}s")
    eventually("the changed pods are replaced", lambda: settled(lab), POD_SECONDS)


def deployment(name: str, node: str) -> dict[str, Any]:
    """One replica with an attachment of its own, bound to a node past the scheduler, which taints would keep away."""
    labels = {"app": name}
    template = {
        "metadata": {"labels": labels, "annotations": {VPC_ANNOTATION: "blue"}},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": "nicolaka/netshoot:v0.13"}],
        },
    }
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    metadata = {"name": name, "namespace": "blue"}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def of(lab: Lab, name: str) -> set[str]:
    """The names of a Deployment's pods."""
    return {pod["metadata"]["name"] for pod in lab.get("pods", "-n", "blue", "-l", f"app={name}")["items"]}


def attached(lab: Lab, names: set[str]) -> bool:
    """Whether one of these pods has its attachment in force."""
    return any(
        owner["name"] in names and (attachment.get("status") or {}).get("endpoint")
        for attachment in lab.get("vpca", "-n", "blue")["items"]
        for owner in attachment["metadata"].get("ownerReferences") or ()
    )


def test_the_connectivity_test_of_the_image(charted: Lab) -> None:
    """`helm test` runs `galactic connectivity test` in a pod, whose pods run the same image."""
    assert "Succeeded" in helm(charted, "test", "galactic", f"--timeout={HELM_SECONDS}s")
    shown = charted.kubectl("logs", "-n", NAMESPACE, "galactic-test")
    assert "All 20 tests passed" in shown, shown
    charted.kubectl("delete", "pod", "-n", NAMESPACE, "galactic-test", f"--timeout={POD_SECONDS}s")
    left = charted.kubectl("get", "namespaces", "-l", "galactic.datumapis.com/connectivity", "-o", "name")
    assert not left


def test_metrics_are_for_those_whom_the_api_server_allows(examples: Lab) -> None:
    """By HTTPS, at a node's own address, from its host, where every pod's packets to it arrive as well."""
    (node, *_) = (member.name for member in examples.state.members)
    addresses = examples.get("node", node)["status"]["addresses"]
    (address,) = {entry["address"] for entry in addresses if entry["type"] == "InternalIP"}
    for account in ("prometheus", "curious"):
        examples.kubectl("create", "serviceaccount", "-n", "blue", account)
    reader = ("--clusterrole=galactic-metrics-reader", "--serviceaccount=blue:prometheus")
    examples.kubectl("create", "clusterrolebinding", "prometheus-reads-galactic", *reader)
    tokens = {
        name: examples.kubectl("create", "token", name, "-n", "blue").strip()
        for name in ("prometheus", "curious")
    }
    tokens |= {"forged": tokens["prometheus"][:-8] + "AAAAAAAA", "none": ""}

    def scraped(who: str, path: str = "metrics") -> str:
        words = scraping(f"https://[{address}]:9154/{path}", tokens[who])
        return examples.run(node, words, check=False).stdout.strip()

    try:
        eventually("Prometheus reads", lambda: scraped("prometheus").startswith("200 "))
        assert "galactic_node_" in scraped("prometheus")
        assert scraped("curious").startswith("403 system:serviceaccount:blue:curious may not get /metrics")
        assert scraped("forged").startswith("401 ")
        assert scraped("none").startswith("401 ")
        assert scraped("none", "livez") == "200 ok", "as the kubelet's probes ask"
    finally:
        examples.kubectl("delete", "clusterrolebinding", "prometheus-reads-galactic")
        examples.kubectl("delete", "serviceaccount", "-n", "blue", "prometheus", "curious")


def scraping(url: str, token: str) -> list[str]:
    """A command that prints status and text of the answer."""
    program = (
        "import ssl, sys, urllib.error, urllib.request as r\n"
        "asked = r.Request(sys.argv[1], headers={'Authorization': 'Bearer ' + sys.argv[2]} if sys.argv[2] else {})\n"
        "try: answer = r.urlopen(asked, timeout=60, context=ssl._create_unverified_context())\n"
        "except urllib.error.HTTPError as error: answer = error\n"
        "print(answer.status, answer.read().decode())"
    )
    return [sys.executable, "-ISEc", program, url, token]
