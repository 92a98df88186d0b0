"""Helpers of all stories: a tenant, and waits for a state of the lab."""

import json
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from galactic_lab.cluster import Lab
from galactic_lab.controlplane import admission, helm_release
from galactic_lab.state import METRICS_PORT

API = "galactic.datumapis.com/v1alpha"
SECONDS = 120.0
POD_SECONDS = 400
"""Enough for the back-off that follows a runtime's first failure."""
TRIES = 60
"""At least as many tries: a slow or busy machine takes longer for each, and so has longer for all."""
PAUSES = (0.1, 1.0)
"""Seconds between two tries, at first and at most: a try costs a process, often one on the nodes' kernel. After a try
that took longer the pause is as long as the try, up to DEAR.
"""
DEAR = 3.0
MOST = 4
ANSWER_SECONDS = 400
"""For a command on the nodes' kernel."""
HEALTHY = f"""
import socket, sys
server = socket.create_connection(("::1", {METRICS_PORT}), 60)
server.sendall(b"GET /healthz HTTP/1.0\\r\\nHost: node\\r\\n\\r\\n")
sys.exit(b" 200 " not in server.makefile("rb").readline())
"""
"""Ends with 0 where ``/healthz`` answers with 200. With urllib it takes three times the processor time."""
DESTROY = """
for device in $(ip -br link | grep -oE '^(G[0-9a-zA-Z]{12}[HV]|lo-galactic)'); do ip link delete $device; done
for family in -4 -6; do
  while ip $family rule delete proto 154 2>/dev/null; do :; done
  ip $family route flush table all proto 154 2>/dev/null
done
for tables in iptables-legacy ip6tables-legacy iptables-nft ip6tables-nft; do
  $tables-save 2>/dev/null | sed -E '/GALACTIC-/d' | $tables-restore
done
sysctl -qw net.vrf.strict_mode=0 net.ipv6.conf.all.seg6_enabled=0
true
"""
"""Removes Galactic's objects from a node's kernel, and leaves those of other programs."""


def eventually(what: str | Callable[[], str], true: Callable[[], object], seconds: float = SECONDS) -> Any:
    """The first true answer of ``true``. Fails with ``what`` and the last answer after that time and TRIES, or after
    MOST times that time. The longer the wait, the longer the pauses.
    """
    began, tries = time.monotonic(), 0
    while True:
        asked_at = time.monotonic()
        if answer := true():
            return answer
        tries, now, took = tries + 1, time.monotonic() - began, time.monotonic() - asked_at
        if now > MOST * seconds or (now > seconds and tries >= TRIES):
            asked = what if isinstance(what, str) else what()
            pytest.fail(f"not within {now:.0f} s: {asked} (last answer: {answer!r})")
        time.sleep(max(min(max(PAUSES[0], now / 4), PAUSES[1]), min(took, DEAR)))


CONFIGURATIONS = "mutatingwebhookconfigurations,validatingwebhookconfigurations"


def configurations(lab: Lab) -> str:
    """The chart's webhook configurations for this lab. YAML."""
    return admission.manifest(lab.state, lab.assets.helm, helm_release.chart(), lab.assets.version)


def configure(lab: Lab) -> None:
    """Applies them, as `helm upgrade` would; running webhooks enter their CAs within half a minute."""
    lab.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=configurations(lab))


def steady(lab: Lab, node: str, read: Callable[[], Any]) -> Any:
    """The value of ``read`` once it is the same twice in a row, with nothing under way on the node: objects of earlier
    stories are gone.
    """
    last: list[Any] = [object()]

    def rests() -> bool:
        last.append(read() if not under_way(lab, node) else object())
        return bool(last[-1] == last[-2])

    eventually(lambda: f"{node} is at rest, which has yet: {under_way(lab, node)}", rests)
    return last[-1]


def under_way(lab: Lab, node: str) -> str:
    """The reason why a node's kernel will soon change; empty: none."""
    if not healthy(lab, node):
        return "a controller that is not at work yet"
    pods = lab.get("pods", "-A", f"--field-selector=spec.nodeName={node}")["items"]
    if going := [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" in pod["metadata"]]:
        return f"pods that go: {going}"
    listed = len(lab.get("nseg", node)["status"].get("endpoints") or ())
    ends = re.findall(r"^G\w{12}H", lab.exec(node, ["ip", "-br", "link"]), re.MULTILINE)
    return f"{len(ends)} attachments, of which {listed} are listed" if len(ends) != listed else ""


def healthy(lab: Lab, node: str) -> bool:
    """The controller serves ``/healthz``: it runs, and the kernel is as planned."""
    return lab.run(node, [sys.executable, "-ISEc", HEALTHY], check=False).returncode == 0


def taints(lab: Lab, node: str) -> list[str]:
    """The keys of a node's taints."""
    return [taint["key"] for taint in lab.get("node", node)["spec"].get("taints", ())]


def kernel(lab: Lab, node: str) -> list[str]:
    """Links, addresses, rules and routes of all tables of a node, in lines of ip."""
    script = "ip -br link; ip -br addr; ip rule; ip -6 rule; ip -4 route show table all; ip -6 route show table all"
    lines = lab.exec(node, ["sh", "-c", script]).splitlines()
    # Addresses of the kernel's own making and route caches come and go by themselves; the rule for VRFs comes with the
    # first there ever is, and stays.
    passing = ("proto kernel", "cache", "lookup [l3mdev-table]")
    return sorted(line for line in lines if not any(word in line for word in passing))


def echoes(count: int) -> list[str]:
    """Options of ping for ``count`` echoes; `lost` finds those without an answer. With -c alone ping waits two round
    trips for the last one, which is too short on a busy machine. With -w it waits until that many have come, and sends
    further ones as long as one is missing.
    """
    return ["-c1", "-W1"] if count == 1 else [f"-c{count}", "-w300"]


def lost(output: str, count: int) -> set[int]:
    """Those of the first ``count`` echoes that were not answered, in ping's output."""
    return set(range(1, count + 1)) - set(map(int, re.findall(r"icmp_seq=(\d+) ttl", output)))


def returns_to(what: str, before: list[str], read: Callable[[], list[str]]) -> None:
    """Waits until these lines are read again; fails with the difference."""
    last: list[str] = []

    def same() -> bool:
        last[:] = read()
        return last == before

    def differs() -> str:
        more, less = (sorted(set(one) - set(other)) for one, other in ((last, before), (before, last)))
        return f"{what} is as before; there is more: {more}, and less: {less}"

    eventually(differs, same)


@dataclass
class Tenant:
    """A namespace with one VPC, made for one story and gone after it."""

    lab: Lab
    namespace: str
    networks: list[str] = field(default_factory=lambda: ["10.1.1.0/24", "2001:10:1:1::/64"])
    identifier: str = ""
    """Of the VPC, which joins it to those of that identifier in other clusters; empty: it is given one."""
    _namespaces: dict[str, str] = field(default_factory=dict)

    def apply(self, *objects: dict[str, Any]) -> None:
        """Applies manifests in the namespace."""
        for manifest in objects:
            manifest.setdefault("metadata", {}).setdefault("namespace", self.namespace)
        items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.lab.kubectl("apply", "-f", "-", stdin=json.dumps(items))

    def make_vpc(self, name: str = "vpc") -> str:
        """Applies the VPC and waits until it is ready; its identifier."""
        self.apply(self._vpc(name))
        status = eventually(f"VPC {name} is ready", lambda: self._ready("vpc", name))
        return str(status["identifier"])

    def manifest(self, name: str, *addresses: str) -> dict[str, Any]:
        """A VPCAttachment in the namespace's VPC."""
        return self._attachment(name, addresses, "vpc", ())

    def attach(
        self, name: str, *addresses: str, vpc: str = "vpc", routes: tuple[dict[str, str], ...] = ()
    ) -> str:
        """Applies a VPCAttachment and waits until it is ready; its identifier."""
        self.apply(self._attachment(name, addresses, vpc, routes))
        status = eventually(f"attachment {name} is ready", lambda: self._ready("vpca", name))
        return str(status["identifier"])

    def pod(
        self, name: str, node: str, *, attachment: str | None = None, command: str = "", wait: bool = True
    ) -> None:
        """Applies a Pod that is attached by the attachment of its name, and waits until it is Ready."""
        self.apply(self._pod(name, node, attachment or name, command))
        if wait:
            self.wait_for_pods(name)

    def settle(
        self,
        pods: Mapping[str, tuple[str, ...]],
        *,
        routes: Mapping[str, tuple[dict[str, str], ...]] | None = None,
        commands: Mapping[str, str] | None = None,
    ) -> None:
        """The VPC and any number of Pods with an attachment each, (node, address…) by name, in one go: that is
        several times as fast as one after the other.
        """
        self.apply(
            self._vpc("vpc"),
            *(
                self._attachment(name, placement[1:], "vpc", (routes or {}).get(name, ()))
                for name, placement in pods.items()
            ),
            *(
                self._pod(name, placement[0], name, (commands or {}).get(name, ""))
                for name, placement in pods.items()
            ),
        )
        self.wait_for_pods(*pods)

    def wait_for_pods(self, *names: str) -> None:
        """Waits until they are Ready."""
        wanted = [f"pod/{name}" for name in names]
        self.lab.kubectl(
            "wait", "-n", self.namespace, "--for=condition=Ready", *wanted, f"--timeout={POD_SECONDS}s"
        )

    def delete_pod(self, name: str) -> None:
        """Deletes a Pod and waits until it is gone."""
        self.lab.kubectl("delete", "pod", "-n", self.namespace, name, f"--timeout={POD_SECONDS}s")
        self._namespaces.pop(name, None)

    def netns(self, name: str) -> str:
        """The file of a Pod's network namespace, on the kernel of the nodes, once its sandbox runs."""
        if name not in self._namespaces:
            eventually(f"pod {name} has a sandbox", lambda: name in self._read_namespaces())
        return self._namespaces[name]

    def _read_namespaces(self) -> dict[str, str]:
        """Those of all Pods at once: each reading costs processes."""
        pods = self.lab.get("pods", "-n", self.namespace)["items"]
        names = {pod["metadata"]["uid"]: pod["metadata"]["name"] for pod in pods}
        files = self.lab.pod_namespaces(names)
        self._namespaces = {names[uid]: file for uid, file in files.items()}
        return self._namespaces

    def forget_namespaces(self) -> None:
        """Reads them again next time: pods have other ones after a reboot, or with a new sandbox."""
        self._namespaces.clear()

    def command(self, pod: str, argv: list[str]) -> list[str]:
        """The command that runs ``argv`` in a Pod's network namespace, on the kernel of the nodes."""
        return ["nsenter", f"--net={self.netns(pod)}", "--", *argv]

    def attachment(self, name: str) -> dict[str, Any]:
        """The VPCAttachment as the API server has it."""
        return dict(self.lab.get("vpca", "-n", self.namespace, name))

    def endpoint(self, name: str) -> dict[str, Any] | None:
        """The endpoint of the attachment that the router published: its node and SID."""
        return self.attachment(name).get("status", {}).get("endpoint")

    def run(self, pod: str, argv: list[str], **options: Any) -> str:
        """The output of a command in a Pod."""
        return self.lab.run("kernel", self.command(pod, argv), **options).stdout

    def ping(self, pod: str, address: str, count: int = 1) -> bool:
        """Whether ``address`` answers ``pod``, each time of ``count``."""
        argv = ["ping", "-n", "-i0.2", *echoes(count), address]
        output = self.lab.run("kernel", self.command(pod, argv), check=False, timeout=ANSWER_SECONDS).stdout
        return not lost(output, count)

    def reaches(self, pod: str, address: str) -> None:
        """Waits until ``address`` answers ``pod``: routes take a moment, and then hold."""
        eventually(f"{self.namespace}/{pod} reaches {address}", lambda: self.ping(pod, address))
        assert self.ping(pod, address, count=3)

    def unanswered(self, pings: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Those of many pings, (pod, address), that stay without an answer. They are sent at the same time."""
        pairs = list(pings)
        script = "".join(
            f"({shlex.join(self.command(pod, ['ping', '-n', '-q', '-c1', '-W2', address]))} >/dev/null 2>&1"
            f" || echo {number}) &\n"
            for number, (pod, address) in enumerate(pairs)
        )
        output = self.lab.run("kernel", ["sh", "-c", f"{script}wait"], timeout=ANSWER_SECONDS).stdout
        return [pairs[int(number)] for number in output.split()]

    def all_reach(self, pings: Iterable[tuple[str, str]]) -> None:
        """Waits until every one of many pings, (pod, address), is answered."""
        left = list(pings)
        assert left

        def answered() -> bool:
            left[:] = self.unanswered(left)
            return not left

        eventually(lambda: f"in {self.namespace} an answer to {left}", answered)

    def _vpc(self, name: str) -> dict[str, Any]:
        spec = {"networks": self.networks, **({"identifier": self.identifier} if self.identifier else {})}
        return {"apiVersion": API, "kind": "VPC", "metadata": {"name": name}, "spec": spec}

    def _attachment(
        self, name: str, addresses: tuple[str, ...], vpc: str, routes: tuple[dict[str, str], ...]
    ) -> dict[str, Any]:
        interface: dict[str, Any] = {"name": "galactic0"}
        if addresses:
            interface["addresses"] = list(addresses)
        spec = {
            "vpc": {"apiVersion": API, "kind": "VPC", "name": vpc},
            "interface": interface,
            "routes": list(routes),
        }
        return {"apiVersion": API, "kind": "VPCAttachment", "metadata": {"name": name}, "spec": spec}

    def _pod(self, name: str, node: str, attachment: str, command: str) -> dict[str, Any]:
        container: dict[str, Any] = {"name": "main", "image": "nicolaka/netshoot:v0.13"}
        if command:
            container["command"] = ["sh", "-c", command]
            container["securityContext"] = {"capabilities": {"add": ["NET_ADMIN"]}}
        annotations = {"k8s.v1alpha.galactic.datumapis.com/vpc-attachment": attachment}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "annotations": annotations},
            "spec": {
                "nodeSelector": {"kubernetes.io/hostname": node},
                "terminationGracePeriodSeconds": 1,
                "containers": [container],
            },
        }

    def _ready(self, kind: str, name: str) -> dict[str, Any] | None:
        status = self.lab.get(kind, "-n", self.namespace, name).get("status") or {}
        return status if status.get("ready") else None


def fresh(lab: Lab, namespace: str) -> str:
    """Makes a namespace that pods can be made in; its name. One of that name, of an earlier story in the same lab, may
    still be terminating: this waits for its end.
    """
    lab.kubectl("wait", "--for=delete", f"namespace/{namespace}", f"--timeout={POD_SECONDS}s", check=False)
    lab.kubectl("create", "namespace", namespace)
    account = ("get", "serviceaccount", "default", "-n", namespace, "-o", "name", "--ignore-not-found")
    eventually(f"{namespace} has a service account", lambda: lab.kubectl(*account))
    return namespace


@contextmanager
def tenancy(lab: Lab, story: str) -> Iterator[Callable[..., Tenant]]:
    """Makes tenants in namespaces named after a story, which are gone afterwards."""
    made: list[Tenant] = []
    stem = "".join(letter if letter.isalnum() else "-" for letter in story.removeprefix("test_"))

    def make(name: str, **more: Any) -> Tenant:
        made.append(Tenant(lab, fresh(lab, f"{stem[:40].strip('-')}-{name}"), **more))
        return made[-1]

    yield make
    if not made:
        return
    names = [tenant.namespace for tenant in made]
    for wait in ("--wait=false", f"--timeout={POD_SECONDS}s"):  # all are asked to go before any is waited for
        for name in names:
            lab.kubectl("delete", "pods", "--all", "-n", name, wait, check=False)
    lab.kubectl("delete", "namespace", *names, "--wait=false", check=False)
