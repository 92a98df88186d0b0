"""The objects of a cluster, made as its users make them: Nodes, VPCs, and pods that are bound at once."""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Final

import yaml

from galactic.errors import GalacticError
from galactic.kube.api import Object
from galactic.kube.client import Kube
from galactic.kube.resources import (
    MUTATING_WEBHOOKS,
    NADS,
    NAMESPACES,
    NODES,
    PODS,
    VALIDATING_WEBHOOKS,
    VPC_ATTACHMENTS,
    VPCS,
    Resource,
)
from galactic.names import API_VERSION, ATTACHMENT_ANNOTATION, VPC_ANNOTATION
from galactic.settings import WebhookSettings
from galactic_lab import assets
from galactic_lab.controlplane import rbac

NAMESPACE: Final = "bench"
CHART: Final = Path(__file__).parents[2] / "charts" / "galactic"
GROUP: Final = 10
"""Nodes that share VPCs of their own, of GROUP pods a node, so of 100 attachments."""
WIDE: Final = "wide"
"""The VPC in which each node has one pod."""
AT_ONCE: Final = 32
AGAIN_SECONDS: Final = 1.0
SERVICE_ACCOUNTS: Final = Resource("", "v1", "serviceaccounts", "ServiceAccount")


def narrow(node: int, row: int) -> str:
    """The VPC of that node's pod in a row: the rows 0 to GROUP - 1 share one."""
    return f"v{(node - 1) // GROUP}-{row // GROUP}"


def placed(number: int, nodes: int) -> tuple[int, str]:
    """Node and VPC of a pod: each node has one in the VPC that all nodes have, then its narrow ones."""
    node, row = 1 + number % nodes, number // nodes
    return node, narrow(node, row - 1) if row else WIDE


def pod(name: str, vpc: str) -> Object:
    metadata = {"name": name, "namespace": NAMESPACE, "annotations": {VPC_ANNOTATION: vpc}}
    containers = [{"name": "main", "image": "none"}]
    spec = {"automountServiceAccountToken": False, "containers": containers}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


class Load:
    """``bound``: when each pod was bound, on the monotonic clock. It also stands in for the garbage collector."""

    def __init__(self, kube: Kube, nodes: int) -> None:
        self._kube, self._nodes = kube, nodes
        self.bound: dict[str, float] = {}
        self.refused = 0
        self._attachment_of: dict[str, str] = {}

    async def namespaces(self, *names: str) -> None:
        for name in names:
            await self._kube.create(NAMESPACES, {"metadata": {"name": name}})
            await self._kube.create(SERVICE_ACCOUNTS, {"metadata": {"name": "default"}}, name)

    async def admission(self, url: str) -> None:
        """The chart's webhook configurations, for a webhook at that address."""
        found = assets.find()
        variables = {
            "GALACTIC_WEBHOOK_URL": url,
            "GALACTIC_NODE_IDENTITIES": WebhookSettings.model_fields["node_identities"].default,
        }
        given = json.dumps([{"name": name, "value": value} for name, value in variables.items()])
        text = rbac.rendered(
            found.helm, CHART, found.version, "admission", f"--set-json=webhook.extraEnv={given}"
        )
        kinds = {resource.kind: resource for resource in (MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS)}
        for manifest in filter(None, yaml.safe_load_all(text)):
            await self._kube.create(kinds[manifest["kind"]], manifest)

    async def nodes(self) -> None:
        async def make(number: int) -> None:
            await self._kube.create(NODES, {"metadata": {"name": f"n{number}"}})

        await each(range(1, self._nodes + 1), make)

    async def vpcs(self, count: int) -> None:
        """All VPCs of that many pods; returns when they are ready."""
        names = sorted({placed(number, self._nodes)[1] for number in range(count)} | {narrow(1, 0)})

        async def make(name: str) -> None:
            body = {"apiVersion": API_VERSION, "kind": "VPC", "metadata": {"name": name}}
            networks = {"networks": ["10.0.0.0/16", "fd00::/64"]}
            await self._kube.create(VPCS, body | {"spec": networks}, NAMESPACE)

        await each(names, make)
        while True:
            items, _ = await self._kube.list(VPCS)
            if sum(bool((item.get("status") or {}).get("ready")) for item in items) == len(names):
                return
            await asyncio.sleep(0.2)

    async def start(self, name: str, node: int, vpc: str) -> None:
        """The pod, bound to its node: two requests, of its controller, which tries again, and of the scheduler."""
        while True:
            try:
                made = await self._kube.create(PODS, pod(name, vpc), NAMESPACE)
                break
            except GalacticError as error:
                self.refused += 1
                print(f"pod {name} not made yet: {error}", file=sys.stderr)
                await asyncio.sleep(AGAIN_SECONDS)
        self._attachment_of[name] = made["metadata"]["annotations"][ATTACHMENT_ANNOTATION]
        self.bound[name] = time.monotonic()
        target = {"apiVersion": "v1", "kind": "Node", "name": f"n{node}"}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        await self._kube._json("POST", PODS.path(NAMESPACE, name, "binding"), body=binding)  # noqa: SLF001

    async def fill(self, numbers: Iterable[int]) -> None:
        """Those of the pods of ``placed``, as fast as the API server takes them."""

        async def make(number: int) -> None:
            await self.start(f"p{number}", *placed(number, self._nodes))

        await each(numbers, make)

    async def delete(self, name: str) -> None:
        """The pod, then what it owns."""
        await self._kube.delete(PODS, name, NAMESPACE, grace=0)
        for resource in (VPC_ATTACHMENTS, NADS):
            await self._kube.delete(resource, self._attachment_of[name], NAMESPACE)


async def each(
    items: Iterable[Any], work: Callable[[Any], Awaitable[object]], *, at_once: int = AT_ONCE
) -> None:
    """Some of them at a time."""
    iterator = iter(items)

    async def worker() -> None:
        for item in iterator:
            await work(item)

    await asyncio.gather(*(worker() for _ in range(at_once)))


class Audit:
    """The requests in the API server's audit log: (user, kind and subresource, verb) → number.

    ``lists``: those so far.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self.lists = Counter[tuple[str, str, str]]()

    def drain(self) -> Counter[tuple[str, str, str]]:
        """The writes since the last call."""
        writes = Counter[tuple[str, str, str]]()
        with self._path.open("rb") as log:
            log.seek(self._read)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                event = json.loads(line)
                object_ = event.get("objectRef") or {}
                kind = "/".join(filter(None, (object_.get("resource"), object_.get("subresource"))))
                requests = self.lists if event["verb"] == "list" else writes
                # a request that was cancelled before its token was checked has no name
                requests[event["user"].get("username", ""), kind, event["verb"]] += 1
        return writes
