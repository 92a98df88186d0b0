"""The cluster's own networks, to which no gateway leads: of Nodes and their pods, of Services, of the API server."""

from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any, Final

import structlog

from galactic.errors import Rejected
from galactic.kube.api import NotFound, Object
from galactic.kube.resources import ENDPOINT_SLICES, SERVICE_CIDRS
from galactic.operator.context import ReconcileContext
from galactic.operator.objects import Node
from galactic.validation.gateways import Owned

log = structlog.get_logger(__name__)
CLUSTER_SECONDS: Final = 60.0
"""For which the networks of Services and the API server's addresses are remembered."""


class ClusterNetworks:
    """Those of this cluster."""

    def __init__(self, context: ReconcileContext) -> None:
        self._context = context
        self._cluster: tuple[float, tuple[Owned, ...]] = (0.0, ())

    async def owned(self) -> tuple[Owned, ...]:
        """The cluster's own networks: of Nodes and their pods, of Services, of the API server, and the SRv6 block."""
        caches, rules = self._context.caches, self._context.rules
        until, cluster = self._cluster
        if self._context.clock() >= until:
            cluster = await self._services()
            self._cluster = self._context.clock() + CLUSTER_SECONDS, cluster
        owned = list(cluster)
        if rules.srv6_block:
            owned.append(Owned(rules.srv6_block, "the SRv6 block"))
        for (_, name), node in caches.nodes.items():
            owned += _of_node(name, node)
        return tuple(owned)

    async def _services(self) -> tuple[Owned, ...]:
        owned: list[Owned] = []
        for ranges in await self._listed(SERVICE_CIDRS):
            owned += _owned((ranges.get("spec") or {}).get("cidrs") or (), "the cluster's Services")
        selector = "kubernetes.io/service-name=kubernetes"
        for part in await self._listed(ENDPOINT_SLICES, "default", selector):
            for endpoint in part.get("endpoints") or ():
                owned += _owned(endpoint.get("addresses") or (), "the API server")
        return tuple(owned)

    async def _listed(
        self, resource: Any, namespace: str | None = None, labels: str = ""
    ) -> Sequence[Object]:
        """The objects; none of a kind that is not served, or that the role of an earlier chart does not permit."""
        try:
            return (await self._context.api.list(resource, namespace, labels=labels))[0]
        except NotFound:
            return ()
        except Rejected as error:
            if error.reason != "Forbidden":
                raise
            log.warning("kind not permitted, is the role of an earlier chart?", error=str(error))
            return ()


def _of_node(name: str, node: Node) -> list[Owned]:
    owned = _owned(node.addresses, f"an address of Node {name}")
    return owned + _owned(node.pod_networks, f"the pods of Node {name}")


def _owned(texts: Sequence[str], owner: str) -> list[Owned]:
    owned = []
    for text in texts:
        try:
            owned.append(Owned(ip_network(text, strict=False), owner))
        except ValueError:  # a name
            continue
    return owned
