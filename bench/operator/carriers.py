"""The wait of an ADD for its carrier: ``python -P bench/operator/carriers.py [PODS]``.

An etcd, an API server and an operator of their own on this machine, as in ``bench/operator``. Pods of one node are
created one after the other, bound already. The clock runs from that request until a watch, the node controller's own,
brings the VPCAttachment with the carrier. A kubelet needs time for the sandbox meanwhile, so an ADD waits for less, or
not at all; one whose carrier is known waits for nothing. Prints the median and the longest.
"""

import asyncio
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Final

from servers import api_server, install, running

from galactic.kube.api import Key, Object
from galactic.kube.client import Kube, connect
from galactic.kube.informer import Informer
from galactic.kube.reflector import Selection
from galactic.kube.resources import NAMESPACES, NODES, PODS, VPC_ATTACHMENTS, VPCS, Resource
from galactic.names import API_VERSION, ATTACHMENT_LABEL, carrier_label

NAMESPACE: Final = "bench"
NODE: Final = "node-1"
SERVICE_ACCOUNTS: Final = Resource("", "v1", "serviceaccounts", "ServiceAccount")
GOAL_SECONDS: Final = 0.05
LIMIT_SECONDS: Final = 60.0


def vpc() -> Object:
    metadata = {"name": "vpc", "namespace": NAMESPACE}
    return {
        "apiVersion": API_VERSION,
        "kind": "VPC",
        "metadata": metadata,
        "spec": {"networks": ["10.0.0.0/16"]},
    }


def attachment(name: str) -> Object:
    metadata = {"name": name, "namespace": NAMESPACE}
    spec = {"vpc": {"apiVersion": API_VERSION, "kind": "VPC", "name": "vpc"}}
    return {"apiVersion": API_VERSION, "kind": "VPCAttachment", "metadata": metadata, "spec": spec}


def pod(name: str) -> Object:
    """As the webhook completes it."""
    annotations = {
        "k8s.v1alpha.galactic.datumapis.com/vpc-attachment": name,
        "k8s.v1.cni.cncf.io/networks": f"{name}@galactic0",
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "annotations": annotations,
            "labels": {ATTACHMENT_LABEL: name},
        },
        "spec": {
            "nodeName": NODE,
            "automountServiceAccountToken": False,
            "containers": [{"name": "main", "image": "none"}],
        },
    }


class Watch:
    """The attachments of one node, as its controller sees them."""

    def __init__(self, kube: Kube) -> None:
        self.ready: set[str] = set()
        self.carried: set[str] = set()
        self._changed = asyncio.Event()
        selected = Selection(VPC_ATTACHMENTS, labels=carrier_label(NODE), cached=True)
        self._parts = [
            Informer(kube, selected, self._carried),
            Informer(kube, Selection(VPC_ATTACHMENTS), self._all),
        ]

    async def run(self) -> None:
        await asyncio.gather(*(part.run() for part in self._parts))

    def _carried(self, key: Key, _old: Object | None, new: Object | None) -> None:
        if new and (new.get("status") or {}).get("carriers"):
            self.carried.add(key[1])
            self._changed.set()

    def _all(self, key: Key, _old: Object | None, new: Object | None) -> None:
        if new and (new.get("status") or {}).get("ready"):
            self.ready.add(key[1])
            self._changed.set()

    async def until(self, names: set[str], seen: set[str]) -> None:
        async with asyncio.timeout(LIMIT_SECONDS):
            while not names <= seen:
                self._changed.clear()
                await self._changed.wait()


async def waits(kube: Kube, names: list[str]) -> list[float]:
    """Seconds from the binding of each pod to its carrier at the node."""
    watch = Watch(kube)
    watching = asyncio.create_task(watch.run())
    await kube.create(VPCS, vpc(), NAMESPACE)
    for name in names:
        await kube.create(VPC_ATTACHMENTS, attachment(name), NAMESPACE)
    await watch.until(set(names), watch.ready)
    seconds = []
    for name in names:
        began = time.perf_counter()
        await kube.create(PODS, pod(name), NAMESPACE)
        await watch.until({name}, watch.carried)
        seconds.append(time.perf_counter() - began)
    watching.cancel()
    return seconds[1:]  # the first is for connections


async def main(pods: int) -> int:
    with api_server() as folder:
        os.environ["KUBECONFIG"] = str(folder / "kubeconfig")
        async with await connect() as kube:
            await install(kube)
            await kube.create(NAMESPACES, {"metadata": {"name": NAMESPACE}})
            await kube.create(SERVICE_ACCOUNTS, {"metadata": {"name": "default"}}, NAMESPACE)
            await kube.create(NODES, {"metadata": {"name": NODE}})
            variables = {"GALACTIC_METRICS_PORT": "0", "GALACTIC_LOG_LEVEL": "warning"}
            log = Path(os.environ.get("LOG", folder / "operator.log"))
            argv = [sys.executable, "-P", "-m", "galactic.operator"]
            with running(*argv, log=log, environment=variables):
                seconds = await waits(kube, [f"pod-{number}" for number in range(pods + 1)])
    median = statistics.median(seconds)
    print(
        f"binding → carrier at the node: {median * 1e3:.1f} ms, longest {max(seconds) * 1e3:.1f} ms, of {pods}"
    )
    print(f"goal: at most {GOAL_SECONDS * 1e3:.0f} ms at the median")
    return 0 if median <= GOAL_SECONDS else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else 50)))
