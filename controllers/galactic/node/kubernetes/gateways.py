"""The VPCGateways of the cluster: from the API server, and from this node's disk until it was read.

Nodes act by their status, which the operator alone writes. There are few of them, and each concerns every node with
pods of its VPC, so every node reads all (docs/design/gateways.md).
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import structlog

from galactic.crds.model import parse
from galactic.crds.vpcgateway import VpcGateway
from galactic.errors import GalacticError, Rejected
from galactic.kube.api import Api, Key, Object
from galactic.kube.informer import Informer
from galactic.kube.reflector import Selection
from galactic.kube.resources import VPC_GATEWAYS
from galactic.node.state.gateways import Gateway, by_vpc, gateway_of

log = structlog.get_logger(__name__)


class Gateways(Protocol):
    """The gateways in force. The node's store is the real one."""

    def set_gateways(self, gateways: Mapping[int, Gateway]) -> None: ...


class Records(Protocol):
    """The gateways of an earlier life. The node's checkpoint is the real one."""

    def gateways(self) -> tuple[dict[str, Any], ...]: ...

    def put_gateways(self, gateways: Iterable[dict[str, Any]]) -> None: ...


class GatewayWatch:
    """Follows all VPCGateways."""

    def __init__(self, api: Api, store: Gateways, records: Records) -> None:
        self._store, self._records = store, records
        self._informer = Informer(
            api, Selection(VPC_GATEWAYS, cached=True), self._on_change, keep=kept, listed=self._update
        )

    async def run(self) -> None:
        """For ever."""
        await self._informer.run()

    def _on_change(self, key: Key, old: Object | None, new: Object | None) -> None:
        del key, old, new
        if self._informer.synced.is_set():  # a list that is under way is not all of them
            self._update()

    def _update(self) -> None:
        objects = list(self._informer.objects.values())
        self._store.set_gateways(parsed(objects))
        try:
            self._records.put_gateways(objects)
        except GalacticError as error:
            log.warning("gateways not recorded", error=str(error))


def restore(store: Gateways, records: Records) -> None:
    """The gateways of an earlier life of this process."""
    store.set_gateways(parsed(records.gateways()))


def parsed(objects: Iterable[Object]) -> dict[int, Gateway]:
    """The gateways by VPC. What does not fit the kind counts as absent."""
    gateways = []
    for item in objects:
        try:
            gateway = gateway_of(parse(VpcGateway, item))
        except (Rejected, ValueError) as error:
            log.warning(
                "VPCGateway ignored: its status is not valid",
                gateway=item["metadata"].get("name"),
                error=str(error),
            )
            continue
        if gateway is not None:
            gateways.append(gateway)
    return by_vpc(gateways)


def kept(item: Object) -> Object:
    """The part of an object that is remembered."""
    meta, spec = item["metadata"], item.get("spec") or {}
    names = {name: meta[name] for name in ("name", "namespace", "resourceVersion") if name in meta}
    status = {name: value for name, value in (item.get("status") or {}).items() if name != "conditions"}
    return {"metadata": names, "spec": {"vpc": spec.get("vpc") or ""}, "status": status}
