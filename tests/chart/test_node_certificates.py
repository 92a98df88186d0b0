"""Nodes' certificates for the broker, with a real API server, real tokens of pods, and the chart's own roles."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from charting import NAMESPACE, Helm, merged, nested
from cryptography import x509

from galactic.errors import Rejected
from galactic.kube.client import Kube, connect
from galactic.kube.client_certificates import AUTHORITY, generated, manifest
from galactic.kube.resources import CERTIFICATE_REQUESTS
from galactic.node.kubernetes.broker_certificate import BrokerCertificate
from galactic.operator.issuer import Issuer, Place
from galactic_lab.cluster import Lab

VALUES = merged(nested("mqtt.url", "mqtts://broker"), nested("mqtt.node.issueCertificates", True))
NODES = ("worker-1", "worker-2")
PATIENCE_SECONDS = 240.0


class Site:
    """The chart's accounts and rights on the lab's API server, a pod of each, and clients with their tokens."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder = lab, folder

    @asynccontextmanager
    async def client(self, account: str, pod: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kube]:
        """One with the token that a kubelet gives to that pod."""
        bound = ("--bound-object-kind=Pod", f"--bound-object-name={pod}")
        token = self.lab.kubectl("create", "token", account, "-n", NAMESPACE, *bound).strip()
        config = json.loads(self.lab.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": token}
        path = self.folder / f"{pod}.kubeconfig"
        path.write_text(json.dumps(config))
        monkeypatch.setenv("KUBECONFIG", str(path))
        async with await connect() as kube:
            yield kube


def pod(name: str, account: str, node: str) -> dict[str, Any]:
    container = {"name": "c", "image": "none"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"serviceAccountName": account, "nodeName": node, "containers": [container]},
    }


@pytest.fixture
def site(lab: Lab, helm: Helm, tmp_path: Path) -> Iterator[Site]:
    kinds = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
    rights = [role for role in helm.objects(VALUES) if role["kind"] in kinds]
    made = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        *rights,
        *({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}} for node in NODES),
        *(pod(f"galactic-node-{node}", "galactic-node", node) for node in NODES),
        pod("galactic-operator-0", "galactic-operator", NODES[0]),
        pod("galactic-router-0", "galactic-router", NODES[0]),
    ]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": made})
    lab.kubectl("apply", "-f", "-", stdin=text)
    yield Site(lab, tmp_path)
    lab.kubectl("delete", "csr", "--all")
    lab.kubectl("delete", "pods", "--all", "-n", NAMESPACE, "--force", "--grace-period=0")
    lab.kubectl("delete", "-f", "-", "--ignore-not-found", "--timeout=240s", stdin=text)


async def test_each_node_gets_its_own_and_no_other(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place("default", NAMESPACE)
    async with (
        site.client("galactic-operator", "galactic-operator-0", monkeypatch) as operator,
        site.client("galactic-node", "galactic-node-worker-1", monkeypatch) as first,
        site.client("galactic-node", "galactic-node-worker-2", monkeypatch) as second,
        site.client("galactic-router", "galactic-router-0", monkeypatch) as router,
    ):
        issuer = asyncio.create_task(Issuer(operator, place, lambda: True).run())
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                for kube, node in ((first, NODES[0]), (second, NODES[1])):
                    path = site.folder / f"{node}.pem"
                    await BrokerCertificate(kube, path, "default", node).renew()
                    certificate = x509.load_pem_x509_certificate(path.read_bytes())
                    assert certificate.subject.rfc4514_string() == f"CN=default/{node}"
                # With worker-1's token, for worker-2: the node refuses what it gets.
                with pytest.raises(Rejected, match="not the certificate of default/worker-2"):
                    await BrokerCertificate(first, site.folder / "theft.pem", "default", NODES[1]).renew()
                # Another client that may make requests, and one of Galactic's that may not.
                site.lab.kubectl(
                    "create", "-f", "-", stdin=json.dumps(manifest("tenant", generated("default/x")[1]))
                )
                while not (status := site.lab.get("csr", "tenant")["status"]):
                    await asyncio.sleep(0.2)
                assert "certificate" not in status
                assert [condition["reason"] for condition in status["conditions"]] == ["NotANode"]
                with pytest.raises(Rejected, match="forbidden"):
                    await router.create(CERTIFICATE_REQUESTS, manifest("router", generated("x")[1]))
        finally:
            issuer.cancel()
            (outcome,) = await asyncio.gather(issuer, return_exceptions=True)
            assert isinstance(outcome, asyncio.CancelledError), outcome
    secret = site.lab.get("secret", AUTHORITY, "-n", NAMESPACE)
    assert secret["type"] == "kubernetes.io/tls"
    assert x509.load_pem_x509_certificate(base64.b64decode(secret["data"]["tls.crt"]))
    may = lambda account: site.lab.kubectl(  # noqa: E731
        *("auth", "can-i", "get", f"secrets/{AUTHORITY}", "-n", NAMESPACE),
        f"--as=system:serviceaccount:{NAMESPACE}:galactic-{account}",
    )
    assert may("operator").strip() == "yes"
    for account in ("node", "router", "webhook"):
        with pytest.raises(Rejected):
            may(account)
