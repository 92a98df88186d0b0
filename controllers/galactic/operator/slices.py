"""EndpointSlices: which endpoints each has. A change writes the slices that it concerns, and no others."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from galactic.kube.resources import ENDPOINT_SLICES, SERVICES
from galactic.names import GROUP
from galactic.validation.services import VpcService

MAX_ENDPOINTS: Final = 100
"""In a slice: as many as Kubernetes' own controller puts into one."""
SPARSE: Final = 2
"""Slices are packed again where there are more than so many times as many as needed."""
MANAGED_BY: Final = "endpointslice.kubernetes.io/managed-by"
MANAGER: Final = f"operator.{GROUP}"
SERVICE_NAME: Final = "kubernetes.io/service-name"
HEADLESS: Final = "service.kubernetes.io/headless"
"""kube-proxy ignores slices with it."""
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Port:
    """A port of all endpoints of a slice."""

    name: str
    protocol: str
    number: int
    app_protocol: str = ""

    @property
    def body(self) -> dict[str, Any]:
        """As the API server has it."""
        body = {"name": self.name, "port": self.number, "protocol": self.protocol}
        return body | ({"appProtocol": self.app_protocol} if self.app_protocol else {})


@dataclass(frozen=True, slots=True)
class Group:
    """The common part of all endpoints of a slice. ``family``: IPv4 or IPv6."""

    family: str
    ports: tuple[Port, ...]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address of a Pod. ``uid``: the Pod's. ``body``: as the API server has it."""

    uid: str
    address: str
    body: Mapping[str, Any]

    @property
    def key(self) -> Key:
        return self.uid, self.address


@dataclass(frozen=True, slots=True)
class Slice:
    """An EndpointSlice of the operator's. ``owner``: the UID of its Service."""

    namespace: str
    name: str
    version: str
    service: str
    owner: str
    group: Group
    endpoints: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Change:
    """The endpoints that a slice is to have. ``present`` None: it is to be made."""

    group: Group
    endpoints: tuple[Mapping[str, Any], ...]
    present: Slice | None = None

    @property
    def adds(self) -> bool:
        """Whether it has an endpoint that it had not before."""
        before = {key_of(body) for body in self.present.endpoints} if self.present else set()
        return any(key_of(body) not in before for body in self.endpoints)


@dataclass(frozen=True, slots=True)
class Plan:
    """Writes in their order: those that add endpoints come first, so that none is missing while it moves."""

    changes: tuple[Change, ...] = ()
    surplus: tuple[Slice, ...] = ()


@dataclass(slots=True)
class _Part:
    """A slice while it is planned."""

    present: Slice | None
    endpoints: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return self.present is None or tuple(self.endpoints) != self.present.endpoints


def plan(present: Sequence[Slice], wanted: Mapping[Group, Mapping[Key, Endpoint]]) -> Plan:
    """The writes that give a Service's slices the wanted endpoints, by (UID, address)."""
    changes: list[Change] = []
    surplus: list[Slice] = []
    by_group: dict[Group, list[Slice]] = {group: [] for group in wanted}
    for one in present:
        by_group.setdefault(one.group, []).append(one)
    for group, slices in by_group.items():
        for part in _parts(slices, dict(wanted.get(group, {}))):
            if not part.endpoints:
                if part.present is not None:
                    surplus.append(part.present)
            elif part.changed:
                changes.append(Change(group, tuple(part.endpoints), part.present))
    changes.sort(key=lambda change: not change.adds)
    return Plan(tuple(changes), tuple(surplus))


def _parts(slices: Sequence[Slice], left: dict[Key, Endpoint]) -> Iterator[_Part]:
    """Endpoints stay in their slice. New ones go into a slice that changes anyway, then into one with room."""
    needed = -(-len(left) // MAX_ENDPOINTS)
    fullest = sorted(slices, key=lambda one: (-len(one.endpoints), one.name))
    kept = fullest[:needed] if len(slices) > SPARSE * needed else fullest
    parts = [_Part(one) for one in fullest]
    for part in parts[: len(kept)]:
        assert part.present is not None
        for body in part.present.endpoints:
            endpoint = left.pop(key_of(body), None)
            if endpoint is not None and len(part.endpoints) < MAX_ENDPOINTS:
                part.endpoints.append(endpoint.body)
            elif endpoint is not None:
                left[endpoint.key] = endpoint
    waiting = [left[key].body for key in sorted(left, key=lambda key: _order(left[key]))]
    for part in sorted(parts[: len(kept)], key=lambda part: not part.changed):
        room = MAX_ENDPOINTS - len(part.endpoints)
        part.endpoints += waiting[:room]
        waiting = waiting[room:]
    parts += [
        _Part(None, waiting[start : start + MAX_ENDPOINTS]) for start in range(0, len(waiting), MAX_ENDPOINTS)
    ]
    yield from parts


def _order(endpoint: Endpoint) -> tuple[str, str]:
    return endpoint.body["targetRef"]["name"], endpoint.address


def key_of(body: Mapping[str, Any]) -> Key:
    """(UID, address) of an endpoint as the API server has it."""
    addresses = body.get("addresses") or ("",)
    return (body.get("targetRef") or {}).get("uid", ""), addresses[0]


def parse_slice(item: Mapping[str, Any]) -> Slice:
    """From the API server's object."""
    meta = item["metadata"]
    owners = [owner.get("uid", "") for owner in meta.get("ownerReferences") or () if owner.get("controller")]
    ports = tuple(
        Port(
            port.get("name") or "",
            port.get("protocol") or "",
            port.get("port") or 0,
            port.get("appProtocol") or "",
        )
        for port in item.get("ports") or ()
    )
    return Slice(
        meta["namespace"],
        meta["name"],
        meta.get("resourceVersion", ""),
        (meta.get("labels") or {}).get(SERVICE_NAME, ""),
        owners[0] if owners else "",
        Group(item.get("addressType", ""), ports),
        tuple(item.get("endpoints") or ()),
    )


def manifest(service: VpcService, change: Change, letters: Callable[[], str]) -> dict[str, Any]:
    """A new slice of the Service."""
    return {
        "apiVersion": ENDPOINT_SLICES.api_version,
        "kind": ENDPOINT_SLICES.kind,
        "metadata": {
            "name": f"{service.name}-{letters()}",
            "namespace": service.namespace,
            "labels": {MANAGED_BY: MANAGER, SERVICE_NAME: service.name, HEADLESS: ""},
            "ownerReferences": [
                {
                    "apiVersion": SERVICES.api_version,
                    "kind": SERVICES.kind,
                    "name": service.name,
                    "uid": service.uid,
                    "controller": True,
                }
            ],
        },
        "addressType": change.group.family,
        "ports": [port.body for port in change.group.ports],
        "endpoints": list(change.endpoints),
    }
