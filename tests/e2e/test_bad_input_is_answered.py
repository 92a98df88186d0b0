"""kubectl reports at once an object that cannot work: the field, the value and the remedy."""

import json
import os
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from story import API, CONFIGURATIONS, configure, eventually, fresh

from galactic.webhook.pod import CONVERGES
from galactic_lab.cluster import Lab
from galactic_lab.controlplane import readiness
from galactic_lab.kubeconfig import Access
from galactic_lab.places import HELD_UP
from galactic_lab.state import SERVICES, WEBHOOK_PORT

ATTACHMENT = "k8s.v1alpha.galactic.datumapis.com/vpc-attachment"
VPC = "k8s.v1alpha.galactic.datumapis.com/vpc"
TRIES = 20
MIRROR = "kubernetes.io/config.mirror"
NETWORKS = "k8s.v1.cni.cncf.io/networks"


class Namespaces:
    """The namespaces of these stories: bad-input has the VPC ``blue`` and attachments, stranger has nothing."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def kubectl(self, *arguments: str, stdin: Any = None) -> tuple[bool, str]:
        """Whether it succeeded, and its output. Repeats a request that timed out in a slow server."""
        for _ in range(TRIES):
            done = subprocess.run(
                [str(self.lab.assets.kubectl), *arguments],
                env=os.environ | {"KUBECONFIG": str(self.lab.kubeconfig)},
                input="" if stdin is None else json.dumps(stdin),
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode == 0 or not HELD_UP.search(done.stderr.replace(CONVERGES, "")):
                break
        return done.returncode == 0, done.stdout + done.stderr

    def refuses(self, thing: dict[str, Any], *messages: str, user: str = "") -> None:
        """Applying it fails, with all of these messages."""
        extra = [f"--as={user}", "--as-group=system:masters"] if user else []
        done, text = self.kubectl("apply", *extra, "-f", "-", stdin=thing)
        assert not done, f"was accepted: {text}"
        for message in messages:
            assert message in text

    def accepts(self, *things: dict[str, Any]) -> str:
        """Applying it succeeds; kubectl's output."""
        done, text = self.kubectl(
            "apply", "-f", "-", stdin={"apiVersion": "v1", "kind": "List", "items": things}
        )
        assert done, text
        return text

    def ready(self, kind: str, name: str) -> None:
        eventually(
            f"{kind} {name} is ready",
            lambda: self.lab.get(kind, "-n", "bad-input", name).get("status", {}).get("ready"),
        )


def vpc(name: str, *networks: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": API,
        "kind": "VPC",
        "metadata": {"name": name, "namespace": "bad-input"},
        "spec": {"networks": list(networks), **spec},
    }


def attachment(name: str, *addresses: str, namespace: str = "bad-input", **spec: Any) -> dict[str, Any]:
    interface: dict[str, Any] = {"name": spec.pop("ifname", "galactic0")}
    if addresses:
        interface["addresses"] = list(addresses)
    reference = {"apiVersion": API, "kind": "VPC", "name": "blue"} | spec.pop("vpc", {})
    return {
        "apiVersion": API,
        "kind": "VPCAttachment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"vpc": reference, "interface": interface, **spec},
    }


def pod(name: str, annotations: dict[str, str], namespace: str = "bad-input", **spec: Any) -> dict[str, Any]:
    containers = [{"name": "main", "image": "nicolaka/netshoot:v0.13"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "annotations": annotations},
        "spec": {"containers": containers, "terminationGracePeriodSeconds": 0, **spec},
    }


def segment(name: str, prefix: str) -> dict[str, Any]:
    return {"apiVersion": API, "kind": "NodeSegment", "metadata": {"name": name}, "spec": {"prefix": prefix}}


@pytest.fixture(scope="module")
def space(control_plane: Lab) -> Iterator[Namespaces]:
    names = Namespaces(control_plane)
    try:
        for name in ("bad-input", "stranger"):
            fresh(control_plane, name)
        gate = [{"destination": "192.168.3.0/24", "via": "10.1.1.3"}]
        names.accepts(
            vpc("blue", "10.1.1.0/24", "2001:10:1:1::/64"),
            vpc("other", "10.7.0.0/16"),
            attachment("web", "10.1.1.1/24", "2001:10:1:1::1/64"),
            attachment("gate", "10.1.1.3/24", routes=gate),
            attachment("waits", "10.1.1.9/24", vpc={"name": "absent"}),
            segment("far", "2001:db8:fffe:100::/56"),
        )
        for name in ("web", "gate"):
            names.ready("vpca", name)
        yield names
    finally:
        names.kubectl("delete", "nseg", "far", "--wait=false")
        names.kubectl("delete", "pods", "--all", "-n", "bad-input", "--grace-period=0", "--force")
        names.kubectl("delete", "namespace", "bad-input", "stranger", "--wait=false")


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        pytest.param(vpc("x", "10.1.1.0/33"), ["spec.networks[0]", "'10.1.1.0/33'"], id="bad-cidr"),
        pytest.param(
            vpc("x", "10.1.1.1/24"), ["spec.networks[0]", "host bits", "write 10.1.1.0/24"], id="host-bits"
        ),
        pytest.param(vpc("x", "10.1.0.0/16", "10.1.0.0/16"), ["spec.networks[1]", "twice"], id="duplicate"),
        pytest.param(
            vpc("x", "10.0.0.0/8", "10.1.0.0/16"), ["spec.networks[1]: 10.1.0.0/16 overlaps"], id="overlap"
        ),
        pytest.param(vpc("x", "239.1.0.0/16"), ["spec.networks[0]", "multicast"], id="multicast"),
        pytest.param(vpc("x", "169.254.7.0/24"), ["spec.networks[0]", "link-local"], id="link-local"),
        pytest.param(vpc("x", "127.1.0.0/16"), ["spec.networks[0]", "loopback"], id="loopback"),
        pytest.param(vpc("x", "fe80::/64"), ["spec.networks[0]", "link-local"], id="link-local-6"),
        pytest.param(vpc("x", "::ffff:10.1.1.0/120"), ["spec.networks[0]", "IPv4-mapped"], id="mapped"),
        pytest.param(vpc("x", "64:ff9b::/96"), ["spec.networks[0]", "translator"], id="translated"),
        pytest.param(vpc("x", "10.1.1.0/0.0.0.255"), ["spec.networks[0]", "write 10.1.1.0/24"], id="mask"),
        pytest.param(vpc("x", "2001:db8:ff01::/48"), ["spec.networks[0]", "SRv6 block"], id="srv6-block"),
        pytest.param(
            vpc("x", *(f"10.{n}.0.0/16" for n in range(65))), ["spec.networks", "64"], id="65-networks"
        ),
        pytest.param(vpc("x"), ["spec.networks", "1"], id="no-network"),
        pytest.param(
            vpc("x", "10.1.0.0/16", identifier="zz"), ["spec.identifier", "zz"], id="bad-identifier"
        ),
        pytest.param(
            vpc("x", "10.1.0.0/16", identifier="0" * 12), ["spec.identifier", "never"], id="identifier-0"
        ),
        pytest.param(
            vpc("blue", "10.9.0.0/16"), ["spec.networks", "10.1.1.1 (bad-input/web)"], id="network-in-use"
        ),
        pytest.param(
            vpc("blue", "10.1.1.0/24", "2001:10:1:1::/64", identifier="0000000004d2"),
            ["spec.identifier", "0000000004d2", "immutable"],
            id="identifier-changed",
        ),
        pytest.param(attachment("x", vpc={"kind": "Net"}), ["spec.vpc.kind", "Net"], id="unknown-kind"),
        pytest.param(
            attachment("x", namespace="stranger", vpc={"namespace": "bad-input"}),
            ["spec.vpc: VPC bad-input/blue does not exist or does not admit namespace stranger"],
            id="not-granted",
        ),
        pytest.param(
            attachment("x", namespace="stranger", vpc={"namespace": "bad-input", "name": "ghost"}),
            ["spec.vpc: VPC bad-input/ghost does not exist or does not admit namespace stranger"],
            id="not-granted-and-not-there",
        ),
        pytest.param(
            attachment("x", "10.1.1.7/24", routes=[{"destination": "10.9.0.0/16", "via": "2001:10:1:1::1"}]),
            ["spec.routes[0].via", "same family"],
            id="via-of-another-family",
        ),
        pytest.param(
            attachment("x", "10.1.1.1/24"),
            ["spec.interface.addresses[0]", "10.1.1.1 is held by VPCAttachment bad-input/web"],
            id="address-held",
        ),
        pytest.param(
            attachment("x", "10.1.1.7/24", routes=[{"destination": "192.168.3.0/24", "via": "10.1.1.7"}]),
            ["spec.routes[0].destination", "192.168.3.0/24 is held by VPCAttachment bad-input/gate"],
            id="termination-held",
        ),
        pytest.param(attachment("x", ifname="a" * 16), ["spec.interface.name", "15"], id="ifname-16"),
        pytest.param(attachment("x", ifname="a/b"), ["spec.interface.name"], id="ifname-slash"),
        pytest.param(attachment("x", ifname="a:b"), ["spec.interface.name"], id="ifname-colon"),
        pytest.param(attachment("x", ifname="."), ["spec.interface.name", "'.'"], id="ifname-dot"),
        pytest.param(attachment("x", ifname="g%d"), ["spec.interface.name", "'g%d'"], id="ifname-percent"),
        pytest.param(attachment("x", ifname="a@b"), ["spec.interface.name", "'a@b'"], id="ifname-at"),
        pytest.param(attachment("x", ifname="a,b"), ["spec.interface.name", "'a,b'"], id="ifname-comma"),
        pytest.param(attachment("x", ifname="a b"), ["spec.interface.name"], id="ifname-space"),
        pytest.param(attachment("x", ifname="lo"), ["spec.interface.name", "'lo' is in use"], id="ifname-lo"),
        pytest.param(
            attachment("x", ifname="eth0"), ["spec.interface.name", "'eth0' is in use"], id="ifname-eth0"
        ),
        pytest.param(
            attachment("web", "10.1.1.1/24", "2001:10:1:1::1/64", vpc={"name": "other"}),
            ["spec.vpc", "immutable once the attachment is ready"],
            id="another-vpc",
        ),
        pytest.param(
            pod("x", {ATTACHMENT: "ghost"}), ["no VPCAttachment bad-input/ghost"], id="attachment-missing"
        ),
        pytest.param(
            pod("x", {ATTACHMENT: "waits"}),
            ["bad-input/waits is not ready", "VPC bad-input/absent does not exist", "tries again by itself"],
            id="attachment-not-ready",
        ),
        pytest.param(
            pod("x", {ATTACHMENT: "web"}, hostNetwork=True), ["spec.hostNetwork: true"], id="host-network"
        ),
        pytest.param(
            pod("x", {ATTACHMENT: "web", MIRROR: "0"}), ["a static pod is not attached"], id="static-pod"
        ),
        pytest.param(
            pod("x", {ATTACHMENT: "web", NETWORKS: '[{"name": "web", "ips": ["10.1.1.7"]}]'}),
            ["'ips' of 'web' has no effect", "spec.interface.addresses"],
            id="address-in-the-networks",
        ),
        pytest.param(
            pod("x", {ATTACHMENT: "web", NETWORKS: "[{"}), [NETWORKS, "'[{'"], id="malformed-networks"
        ),
        pytest.param(
            pod("x", {ATTACHMENT: "web", NETWORKS: "a@galactic0"}),
            [NETWORKS, "would be called 'galactic0'"],
            id="interface-twice",
        ),
        pytest.param(pod("x", {VPC: "ghost"}), ["VPC bad-input/ghost does not exist"], id="vpc-missing"),
        pytest.param(
            pod("x", {VPC: "bad-input/blue"}, namespace="stranger"),
            ["VPC bad-input/blue does not exist or does not admit namespace stranger"],
            id="vpc-not-granted",
        ),
        pytest.param(
            segment("x", "2001:db8:fffe:180::/64"),
            ["spec.prefix", "NodeSegment far"],
            id="overlapping-prefix",
        ),
        pytest.param(
            segment("x", "2001:db8:fffd::/65"), ["spec.prefix", "/65", "/48 to /64"], id="prefix-too-long"
        ),
        pytest.param(
            segment("x", "2001:db8:ff00::/47"), ["spec.prefix", "/47", "/48 to /64"], id="prefix-too-short"
        ),
        pytest.param(segment("x", "10.0.0.0/24"), ["spec.prefix", "not an IPv6 prefix"], id="prefix-ipv4"),
    ],
)
def test_refused(space: Namespaces, thing: dict[str, Any], words: list[str]) -> None:
    space.refuses(thing, *words)


def test_a_node_writes_its_own_segment_only(space: Namespaces) -> None:
    mine = segment("far", "2001:db8:fffe:100::/57")
    space.refuses(mine, "node node-1 may write its own only", user="galactic-node-node-1")
    space.refuses(mine, "node node-1 may write its own only", user="system:node:node-1")
    # and its status, in which a node lists its attachments
    status = {"status": {"loopback": "::1"}}
    url = f"/apis/{API}/nodesegments/far/status"
    for user, allowed in (("galactic-node-node-1", False), ("galactic-node-far", True)):
        answer = patched(space.lab, url, status, user)
        assert ("may write its own only" in answer) != allowed, answer


def patched(lab: Lab, path: str, body: dict[str, Any], user: str) -> str:
    """The API server's answer to a merge patch by that user. (kubectl before 1.24 has no --subresource.)"""
    access = Access.read(lab.kubeconfig)
    request = urllib.request.Request(  # noqa: S310  (https, by the kubeconfig)
        access.server + path,
        json.dumps(body).encode(),
        {
            "Authorization": f"Bearer {access.token}",
            "Content-Type": "application/merge-patch+json",
            "Impersonate-User": user,
            "Impersonate-Group": "system:masters",
        },
        method="PATCH",
    )
    trusted = ssl.create_default_context(cafile=access.authority)
    try:
        with urllib.request.urlopen(request, context=trusted) as answer:  # noqa: S310
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()


SHARED = {"namespace": "bad-input", "name": "shared"}
OUTER = attachment(
    "outer",
    "10.9.0.1/16",
    vpc={"name": "shared"},
    routes=[{"destination": "192.168.9.0/24", "via": "10.9.0.1"}],
)
INSIDE = [{"destination": "192.168.9.128/25", "via": "10.9.0.2"}]


def test_a_tenant_takes_no_part_of_anothers_termination(space: Namespaces) -> None:
    """The longer prefix would win: a pod of another namespace would get the packets for a part of the network."""
    space.accepts(vpc("shared", "10.9.0.0/16", allowedNamespaces={"from": "All"}), OUTER)
    space.ready("vpca", "outer")
    inner = attachment("inner", "10.9.0.2/16", namespace="stranger", vpc=SHARED, routes=INSIDE)
    space.refuses(inner, "spec.routes: 192.168.9.128/25 lies inside", "a VPCAttachment of another namespace")
    space.refuses(
        attachment("held", "10.9.0.1/16", namespace="stranger", vpc=SHARED),
        "10.9.0.1 is held by a VPCAttachment of another namespace",
    )
    own = [{"destination": "192.168.10.0/24", "via": "10.9.0.2"}]
    allowed = attachment("allowed", "10.9.0.2/16", namespace="stranger", vpc=SHARED, routes=own)
    space.accepts(allowed)
    space.accepts(
        vpc("shared", "10.9.0.0/16", allowedNamespaces={"from": "All"}, allowedTerminations={"from": "Same"})
    )
    allowed["metadata"]["name"] = "later"
    allowed["spec"]["interface"]["addresses"] = ["10.9.0.3/16"]
    allowed["spec"]["routes"] = [{"destination": "192.168.11.0/24", "via": "10.9.0.3"}]
    space.refuses(
        allowed, "spec.routes: VPC bad-input/shared does not let namespace stranger terminate networks"
    )


def as_tenant(space: Namespaces, thing: dict[str, Any]) -> tuple[bool, str]:
    """Answer of kubectl to a user with Kubernetes' role edit in ``bad-input``."""
    return space.kubectl("apply", "--as=tenant", "-f", "-", stdin=thing)


def bound(kind: str, role: str, user: str) -> dict[str, Any]:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": f"{user}-{role}", "namespace": "bad-input"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }


def test_joining_needs_a_permission_of_its_own(space: Namespaces) -> None:
    """A tenant makes VPCs, but joins none of another cluster, until an administrator allows that one."""
    space.accepts(bound("ClusterRole", "edit", "tenant"))
    eventually("the tenant makes VPCs", lambda: as_tenant(space, vpc("own", "10.8.0.0/16"))[0])
    joining = vpc("joining", "10.8.0.0/16", identifier="00000000beef")
    done, output = as_tenant(space, joining)
    assert not done
    assert "spec.identifier: 00000000beef: tenant may not join a VPC by its identifier" in output
    rule = {"apiGroups": ["galactic.datumapis.com"], "resources": ["identifiers"], "verbs": ["join"]}
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "join-beef", "namespace": "bad-input"},
        "rules": [rule | {"resourceNames": ["00000000beef"]}],
    }
    space.accepts(role, bound("Role", "join-beef", "tenant"))
    eventually("the tenant joins", lambda: as_tenant(space, joining)[0])
    space.ready("vpc", "joining")
    assert space.lab.get("vpc", "-n", "bad-input", "joining")["status"]["identifier"] == "00000000beef"
    done, output = as_tenant(space, vpc("another", "10.8.0.0/16", identifier="00000000bee0"))
    assert not done
    assert "may not join" in output


def test_the_webhook_answers_the_api_server_alone(control_plane: Lab) -> None:
    """The webhook answers a client with the API server's certificate, and refuses the connection of any other."""
    state = control_plane.state
    pki = state.root / "pki"
    url = f"https://[{state.control}]:{WEBHOOK_PORT}/validate"
    inside = [
        "nsenter",
        f"--net=/run/netns/{state.namespace}",
        "curl",
        "-sk",
        "-d",
        "{}",
        "-w",
        "%{http_code}",
    ]
    certificate = ["--cert", str(pki / "kube-apiserver-webhook-client.crt")]
    certificate += ["--key", str(pki / "kube-apiserver-webhook-client.key")]
    asked = subprocess.run([*inside, url], capture_output=True, text=True, check=False)
    assert asked.returncode != 0, asked.stdout
    assert asked.stdout == "000"
    asked = subprocess.run([*inside, *certificate, url], capture_output=True, text=True, check=False)
    assert asked.stdout.endswith("400"), asked.stderr  # {} is no review


def test_what_still_works_is_warned_of(space: Namespaces) -> None:
    output = space.accepts(vpc("services", str(SERVICES)))
    assert "Warning: spec.networks" in output
    assert "the cluster's services" in output
    output = space.accepts(attachment("outside", "10.200.0.1/24"))
    assert "Warning" in output
    assert "10.200.0.1 lies outside the VPC's networks" in output


def test_an_annotation_without_effect_is_warned_of(space: Namespaces) -> None:
    slip = ATTACHMENT.replace("attachment", "attachement")
    output = space.accepts(pod("slip", {slip: "web"}))
    assert f"Warning: metadata.annotations[{slip}]: has no effect here; did you mean {ATTACHMENT}?" in output
    output = space.accepts(pod("slip-beside", {slip: "web", ATTACHMENT: "gate"}))
    assert output.count("has no effect here") == 1, "it is asked about once"
    named = vpc("named", "10.99.0.0/24")
    named["metadata"]["annotations"] = {"galactic.datumapis.com/identifier": "4d2", "example.com/x": "y"}
    output = space.accepts(named)
    assert output.count("has no effect here") == 1
    assert "galactic.datumapis.com/identifier]: has no effect here; remove it" in output


def test_annotations_of_a_pod_that_exists_stay(space: Namespaces) -> None:
    space.accepts(pod("fixed", {ATTACHMENT: "web"}))
    made = space.lab.get("pod", "-n", "bad-input", "fixed")
    assert made["metadata"]["annotations"][NETWORKS] == "web@galactic0"
    space.refuses(pod("fixed", {ATTACHMENT: "gate"}), ATTACHMENT, "'gate' cannot change on a pod that exists")
    done, output = space.kubectl("annotate", "pod", "-n", "bad-input", "fixed", f"{ATTACHMENT}-")
    assert not done
    assert "cannot be removed" in output
    done, output = space.kubectl("label", "pod", "-n", "bad-input", "fixed", "app=web")
    assert done, output

    # a second pod on the attachment is what a rolling update makes
    output = space.accepts(pod("surge", {ATTACHMENT: "web"}))
    assert "Warning: pod fixed has VPCAttachment web as well" in output


def test_both_forms_of_the_multus_annotation_are_appended_to(space: Namespaces) -> None:
    space.accepts(pod("comma", {ATTACHMENT: "gate", NETWORKS: "storage@net7"}))
    there = space.lab.get("pod", "-n", "bad-input", "comma")["metadata"]["annotations"][NETWORKS]
    assert there == "storage@net7,gate@galactic0"
    storage = {"name": "storage", "interface": "net7", "mac": "c2:b0:57:49:47:f1"}
    space.accepts(pod("objects", {ATTACHMENT: "gate", NETWORKS: json.dumps([storage])}))
    there = space.lab.get("pod", "-n", "bad-input", "objects")["metadata"]["annotations"][NETWORKS]
    assert json.loads(there) == [storage, {"name": "gate", "interface": "galactic0"}]


def test_a_pod_that_asks_for_nothing_is_left_alone(space: Namespaces) -> None:
    space.accepts(pod("plain", {"some": "annotation"}))
    made = space.lab.get("pod", "-n", "bad-input", "plain")["metadata"]
    assert NETWORKS not in made["annotations"]
    assert not made.get("labels")


@contextmanager
def unregistered(lab: Lab) -> Iterator[None]:
    """The API server calls no webhook, as after they were removed or in a cluster without them."""
    lab.supervisor.stop("webhook")
    try:
        lab.kubectl("delete", CONFIGURATIONS, "galactic-admission")
        yield
    finally:
        configure(lab)
        lab.supervisor.start("webhook")
        eventually("the webhooks are called", lambda: readiness.webhooks(lab))


@pytest.fixture(scope="class")
def without_webhooks(space: Namespaces) -> Iterator[Namespaces]:
    with unregistered(space.lab):
        yield space


class TestWithoutWebhooks:
    @pytest.mark.parametrize(
        ("thing", "answer"),
        [
            pytest.param(
                vpc("blue", "10.1.1.0/24", "2001:10:1:1::/64", identifier="0000000004d2"),
                ["spec.identifier", "0000000004d2 cannot replace", "make another VPC"],
                id="identifier-replaced",
            ),
            pytest.param(
                attachment("web", "10.1.1.1/24", "2001:10:1:1::1/64", vpc={"name": "other"}),
                ["spec.vpc", "other cannot replace bad-input/blue", "immutable once the attachment is ready"],
                id="another-vpc",
            ),
            pytest.param(
                attachment("web", "10.1.1.1/24", "2001:10:1:1::1/64", vpc={"namespace": "stranger"}),
                ["spec.vpc", "stranger/blue cannot replace bad-input/blue"],
                id="another-namespace",
            ),
            pytest.param(
                vpc("x", "10.1.1.0/24", "::/0"),
                ["spec.networks", "::/0 is every address"],
                id="default-route",
            ),
            pytest.param(
                vpc("x", "10.1.1.0/24", allowedNamespaces={"from": "Selector"}),
                ["spec.allowedNamespaces.selector", "needs a selector"],
                id="no-selector",
            ),
            pytest.param(
                vpc("x", "10.1.1.0/24", allowedNamespaces={"from": "All", "selector": {}}),
                ["spec.allowedNamespaces.selector", "has no effect with from: All"],
                id="needless-selector",
            ),
            pytest.param(
                attachment("x", ifname="eth0"), ["spec.interface.name", "'eth0' is in use"], id="ifname-eth0"
            ),
            pytest.param(
                attachment("x", routes=[{"destination": "10.9.0.0/16", "via": "2001:10:1:1::1"}]),
                ["spec.routes[0].via", "give an address of the same family"],
                id="via-of-another-family",
            ),
        ],
    )
    def test_the_api_server_refuses_by_itself(
        self, without_webhooks: Namespaces, thing: dict[str, Any], answer: list[str]
    ) -> None:
        without_webhooks.refuses(thing, *answer)

    def test_the_operator_refuses_a_part_of_anothers_termination(self, without_webhooks: Namespaces) -> None:
        granted = {"allowedNamespaces": {"from": "All"}}
        without_webhooks.accepts(
            vpc("shared", "10.9.0.0/16", **granted, allowedTerminations={"from": "Same"}), OUTER
        )
        without_webhooks.ready("vpca", "outer")
        inner = attachment(
            "inner",
            "10.9.0.5/16",
            namespace="stranger",
            vpc=SHARED,
            routes=[{"destination": "192.168.9.128/25", "via": "10.9.0.5"}],
        )
        without_webhooks.accepts(inner)
        read = lambda: without_webhooks.lab.get("vpca", "-n", "stranger", "inner").get("status", {})  # noqa: E731
        eventually(
            "the operator refuses it", lambda: "TerminationNotGranted" in str(read().get("conditions"))
        )
        without_webhooks.accepts(vpc("shared", "10.9.0.0/16", **granted))
        eventually("it is nested as well", lambda: "'Nested'" in str(read().get("conditions")))
        assert not read().get("ready")

    def test_nothing_joins(self, without_webhooks: Namespaces) -> None:
        """The operator gives an identifier by request to no VPC that the webhook has not seen."""
        without_webhooks.accepts(vpc("joins-alone", "10.8.0.0/16", identifier="00000000beee"))
        read = lambda: without_webhooks.lab.get("vpc", "-n", "bad-input", "joins-alone").get("status", {})  # noqa: E731
        eventually("the operator refuses it", lambda: "JoinNotAdmitted" in str(read().get("conditions")))
        assert "identifier" not in read()

    def test_the_api_server_takes_what_changes_nothing(self, without_webhooks: Namespaces) -> None:
        chosen = without_webhooks.lab.get("vpc", "-n", "bad-input", "blue")["status"]["identifier"]
        without_webhooks.accepts(
            vpc("blue", "10.1.1.0/24", "2001:10:1:1::/64", identifier=chosen),
            attachment("web", "10.1.1.1/24", "2001:10:1:1::1/64", vpc={"namespace": "bad-input"}),
            attachment("waits", "10.1.1.9/24", vpc={"name": "other"}),
        )
