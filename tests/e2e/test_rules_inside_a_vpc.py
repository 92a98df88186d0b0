"""VPCPolicy by packets: default deny, what is allowed by selector, block and port, the owner's floor, a pod that starts
under rules, and a node controller that is away.
"""

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from story import ANSWER_SECONDS, API, Tenant, eventually, healthy

from galactic.errors import Rejected
from galactic_lab.cluster import Lab

KNOCK = Path(__file__).with_name("knock.py")
ADDRESSES = {
    "web": ("10.1.1.1", "2001:10:1:1::1"),
    "client": ("10.1.1.2", "2001:10:1:1::2"),
    "other": ("10.1.1.3", "2001:10:1:1::3"),
}
NODES = {"web": "node-1", "client": "node-2", "other": "node-1"}
PORTS = (80, 81, 82)
POD_VPC = "k8s.v1alpha.galactic.datumapis.com/vpc"


def policy(name: str, selector: dict[str, Any] | None = None, /, **spec: Any) -> dict[str, Any]:
    body = {
        "vpc": {"name": "vpc"},
        "attachmentSelector": selector if selector is not None else app("web"),
        **spec,
    }
    return {"apiVersion": API, "kind": "VPCPolicy", "metadata": {"name": name}, "spec": body}


def app(name: str) -> dict[str, Any]:
    return {"matchLabels": {"app": name}}


def settle(tenant: Tenant, *names: str) -> None:
    """The pods, on attachments with a label of their own."""
    pods = {
        name: (NODES[name], *(f"{text}/{24 if '.' in text else 64}" for text in ADDRESSES[name]))
        for name in names
    }
    tenant.settle(pods)
    for name in names:
        tenant.lab.kubectl("label", "vpca", "-n", tenant.namespace, name, f"app={name}")


@contextmanager
def listening(tenant: Tenant, *names: str) -> Iterator[None]:
    """The pods answer on PORTS."""
    argv = [sys.executable, "-P", str(KNOCK), "listen", *map(str, PORTS)]
    servers = [
        tenant.lab.popen("kernel", tenant.command(name, argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for name in names
    ]
    try:
        for server in servers:
            assert server.stdout
            assert server.stdout.readline() == "listening\n"
        yield
    finally:
        for server in servers:
            server.kill()
            server.wait(ANSWER_SECONDS)


def knocks(server: str, ports: Iterable[int] = PORTS, protocols: Iterable[str] = ("tcp",)) -> set[str]:
    return {
        f"{protocol}/{address}/{port}"
        for protocol in protocols
        for address in ADDRESSES[server]
        for port in ports
    }


def answered(tenant: Tenant, clients: Iterable[str], targets: set[str]) -> dict[str, set[str]]:
    """The targets that answer each client. All clients ask at the same time."""
    program = [sys.executable, "-ISE", str(KNOCK), "2.0", *sorted(targets)]
    asking = "".join(
        f"echo {client} $({shlex.join(tenant.command(client, program))} || echo failed) &\n"
        for client in clients
    )
    output = tenant.lab.run("kernel", ["sh", "-c", f"{asking}wait"], timeout=ANSWER_SECONDS).stdout
    lines = (line.split() for line in output.splitlines())
    return {client: set(answers) for client, *answers in lines}


def become(tenant: Tenant, expected: dict[str, set[str]], of: set[str]) -> None:
    """Of these targets each client gets answers of the expected ones, and goes on to."""
    last: dict[str, set[str]] = {}

    def same() -> bool:
        last.update(answered(tenant, expected, of))
        return last == expected

    eventually(lambda: f"{expected} answer; last: {last}", same)
    assert answered(tenant, expected, of) == expected


def becomes(tenant: Tenant, client: str, expected: set[str], of: set[str]) -> None:
    become(tenant, {client: expected}, of)


def condition(tenant: Tenant, name: str, kind: str) -> dict[str, Any]:
    status = tenant.lab.get("vpcpolicy", "-n", tenant.namespace, name).get("status") or {}
    return next((one for one in status.get("conditions") or () if one["type"] == kind), {})


def test_default_deny_and_what_is_allowed(tenants: Callable[..., Tenant], lab: Lab) -> None:
    blue = tenants("blue")
    settle(blue, "web", "client", "other")
    both = knocks("web", protocols=("tcp", "udp"))
    with listening(blue, "web", "client"):
        become(blue, {"client": both, "other": both}, both)

        blue.apply(policy("deny", {}, policyTypes=["Ingress"]))
        become(blue, {"client": set(), "other": set()}, both)
        pings = [(client, ADDRESSES["web"][0]) for client in ("client", "other")]
        assert set(blue.unanswered(pings)) == set(pings)
        eventually("three attachments are counted", lambda: count(blue, "deny") == 3)
        assert condition(blue, "deny", "Enforced")["status"] == "True"

        blue.apply(
            policy("deny", policyTypes=["Ingress"])
        )  # the web pod alone, so that its questions are answered
        asked = knocks("client", protocols=("tcp", "udp"))
        becomes(blue, "web", asked, asked)
        assert blue.ping("web", ADDRESSES["client"][1]), "an echo's reply passes"
        becomes(blue, "client", set(), both)

        allowed = [{"from": [{"attachmentSelector": app("client")}], "ports": [{"port": 80, "endPort": 81}]}]
        blue.apply(policy("allow", ingress=allowed))
        become(blue, {"client": knocks("web", (80, 81)), "other": set()}, both)

        block = {"cidr": "10.1.1.0/24", "except": ["10.1.1.2/32"]}
        blue.apply(
            policy(
                "allow", ingress=[{"from": [{"ipBlock": block}], "ports": [{"protocol": "UDP", "port": 82}]}]
            )
        )
        become(blue, {"other": {"udp/10.1.1.1/82"}, "client": set()}, both)

        lab.kubectl("label", "vpca", "-n", blue.namespace, "other", "app=client", "--overwrite")
        blue.apply(policy("allow", ingress=allowed))
        becomes(blue, "other", knocks("web", (80, 81)), both)

        blue.apply(
            policy("out", policyTypes=["Egress"], egress=[{"to": [{"attachmentSelector": app("client")}]}])
        )
        lab.kubectl("label", "vpca", "-n", blue.namespace, "client", "app=somebody", "--overwrite")
        becomes(blue, "web", set(), asked)
        becomes(blue, "other", knocks("web", (80, 81)), both)  # whose replies pass

        lab.kubectl("delete", "vpcpolicy", "--all", "-n", blue.namespace)
        become(blue, {"client": both, "other": both}, both)


def count(tenant: Tenant, name: str) -> int:
    status = tenant.lab.get("vpcpolicy", "-n", tenant.namespace, name).get("status") or {}
    return int(status.get("attachments", -1))


def test_a_floor_is_not_lifted(tenants: Callable[..., Tenant], lab: Lab) -> None:
    """The VPC's owner lets attachments of other namespaces be reached by its own alone."""
    blue, green = tenants("blue"), tenants("green")
    settle(blue, "client")
    floor = {
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"attachmentSelector": {}}], "ports": [{"port": 80}]}],
    }
    spec = {"networks": blue.networks, "allowedNamespaces": {"from": "All"}, "policies": [floor]}
    blue.apply({"apiVersion": API, "kind": "VPC", "metadata": {"name": "vpc"}, "spec": spec})
    for name in ("web", "other"):
        addresses = [f"{text}/{24 if '.' in text else 64}" for text in ADDRESSES[name]]
        reference = {"name": "vpc", "namespace": blue.namespace}
        green.apply(
            {
                "apiVersion": API,
                "kind": "VPCAttachment",
                "metadata": {"name": name, "labels": {"app": name}},
                "spec": {"vpc": reference, "interface": {"addresses": addresses}},
            }
        )
        green.pod(name, NODES[name], wait=False)
    green.wait_for_pods("web", "other")
    shared = {"name": "vpc", "namespace": blue.namespace}
    green.apply(policy("all", {}, vpc=shared, ingress=[{}]))
    with listening(green, "web"), listening(blue, "client"):
        becomes(blue, "client", knocks("web", (80,)), knocks("web"))
        becomes(green, "other", set(), knocks("web"))
        becomes(green, "web", knocks("client"), knocks("client"))  # the floor is not about the owner's own
        green.apply(policy("none", {}, vpc=shared, ingress=[]))
        green.apply(policy("all", {}, vpc=shared, ingress=[]))
        becomes(blue, "client", set(), knocks("web"))  # own rules restrict further
        lab.kubectl("delete", "vpcpolicy", "--all", "-n", green.namespace)
        becomes(blue, "client", knocks("web", (80,)), knocks("web"))
        becomes(green, "other", set(), knocks("web"))


def test_a_pod_starts_under_its_rules(tenants: Callable[..., Tenant], lab: Lab) -> None:
    """Pings that arrive all the while it starts are never answered; those to a pod without rules are."""
    blue = tenants("blue")
    settle(blue, "client")
    blue.apply(policy("deny", app("web"), policyTypes=["Ingress"]))
    for name in ("web", "other"):
        manifest = blue.manifest(name, *(f"{text}/{24 if '.' in text else 64}" for text in ADDRESSES[name]))
        manifest["metadata"]["labels"] = {"app": name}
        blue.apply(manifest)
    argv = ["ping", "-n", "-i0.05"]
    pings = {
        name: lab.popen("kernel", blue.command("client", [*argv, ADDRESSES[name][0]]), stdout=subprocess.PIPE)
        for name in ("web", "other")
    }
    try:
        for name in ("web", "other"):
            blue.pod(name, NODES[name], wait=False)
        blue.wait_for_pods("web", "other")
        blue.reaches("web", ADDRESSES["client"][0])
        blue.reaches("client", ADDRESSES["other"][0])
        assert not blue.ping("client", ADDRESSES["web"][0])
    finally:
        for ping in pings.values():
            ping.send_signal(signal.SIGINT)
        replies = {name: ping.communicate(timeout=ANSWER_SECONDS)[0] for name, ping in pings.items()}
    assert not re.findall(r"icmp_seq=\d+ ttl", replies["web"])
    assert re.findall(r"icmp_seq=\d+ ttl", replies["other"])


def test_a_generated_attachment_has_its_pods_labels(tenants: Callable[..., Tenant], lab: Lab) -> None:
    blue = tenants("blue")
    settle(blue, "client")
    pod = blue._pod("made", "node-1", "none", "")
    pod["metadata"] |= {"annotations": {POD_VPC: "vpc"}, "labels": {"app": "made"}}
    blue.apply(policy("deny", app("made"), policyTypes=["Ingress"]), pod)
    blue.wait_for_pods("made")
    (attachment,) = (
        one
        for one in lab.get("vpca", "-n", blue.namespace)["items"]
        if one["metadata"]["name"].startswith("made")
    )
    address = attachment["status"]["addresses"][0].partition("/")[0]
    blue.reaches("made", ADDRESSES["client"][0])
    assert not blue.ping("client", address)
    lab.kubectl("label", "pod", "-n", blue.namespace, "made", "app=another", "--overwrite")
    blue.reaches("client", address)


def test_rules_stay_while_the_node_controller_is_away(tenants: Callable[..., Tenant], lab: Lab) -> None:
    blue = tenants("blue")
    settle(blue, "web", "client")
    blue.apply(policy("deny", app("web"), policyTypes=["Ingress"]))
    with listening(blue, "web", "client"):
        becomes(blue, "client", set(), knocks("web"))
        argv = blue.command("client", ["ping", "-n", "-i0.05", ADDRESSES["web"][0]])
        ping = lab.popen("kernel", argv, stdout=subprocess.PIPE)
        try:
            for number in (signal.SIGKILL, signal.SIGTERM):
                lab.kill("controller/node-1", number)
                becomes(blue, "web", knocks("client"), knocks("client"))
                eventually("the node controller is at work again", lambda: healthy(lab, "node-1"))
        finally:
            ping.send_signal(signal.SIGINT)
            replies = ping.communicate(timeout=ANSWER_SECONDS)[0]
        assert not re.findall(r"icmp_seq=(\d+) ttl", replies)
        lab.exec("node-1", ["nft", "flush", "chain", "inet", "galactic-policy", "packets-in"])
        becomes(blue, "client", set(), knocks("web"))  # another program's change is put back


REFUSED = (
    ({"ingress": [{"ports": [{"port": 90, "endPort": 80}]}]}, "endPort is the last port of a range"),
    ({"ingress": [{"ports": [{"port": "http"}]}]}, "port"),
    ({"ingress": [{"from": [{}]}]}, "a peer is either an ipBlock"),
    ({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}]}, r"ipBlock\.cidr: '10\.0\.0\.0/33'"),
    (
        {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/8"]}}]}]},
        "11.0.0.0/8 is not within 10.0.0.0/8",
    ),
    (
        {"attachmentSelector": {"matchExpressions": [{"key": "app", "operator": "Is"}]}},
        "operator 'Is' does not exist",
    ),
    ({"vpc": {"namespace": "kube-system", "name": "none"}}, "does not exist or does not admit namespace"),
)


def test_bad_rules_are_refused(tenants: Callable[..., Tenant]) -> None:
    blue = tenants("blue")
    for spec, refusal in REFUSED:
        with pytest.raises(Rejected, match=refusal):
            blue.apply(policy("bad", **spec))
