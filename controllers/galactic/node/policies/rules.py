"""PolicySlices as values."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Final, Literal

from galactic.errors import Rejected
from galactic.kube.api import Object
from galactic.linux.objects import Network

Direction = Literal["in", "out"]
"""As the pod sees it."""
PROTOCOLS: Final = {"TCP": 6, "UDP": 17, "SCTP": 132}
LAST_PORT: Final = 65535
PortRange = tuple[int, int, int]
"""Protocol number, first and last port."""


@dataclass(frozen=True, slots=True)
class Allow:
    """One rule. ``ports`` None: any, of any protocol. ``anyone``: whatever address the other end has."""

    anyone: bool = False
    groups: frozenset[str] = frozenset()
    blocks: tuple[tuple[Network, tuple[Network, ...]], ...] = ()
    ports: tuple[PortRange, ...] | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """Of one policy. A direction that is None is not restricted."""

    name: str
    floor: bool
    ingress: tuple[Allow, ...] | None
    egress: tuple[Allow, ...] | None

    def of(self, direction: Direction) -> tuple[Allow, ...] | None:
        """The rules of a direction."""
        return self.ingress if direction == "in" else self.egress

    @property
    def groups(self) -> frozenset[str]:
        """The groups that any rule names."""
        return frozenset(
            group
            for allowed in (self.ingress, self.egress)
            for rule in allowed or ()
            for group in rule.groups
        )


CLOSED: Final = Rules("closed", False, (), ())
"""In place of rules that are not known: nothing passes."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Some of a group's addresses. ``first``: the slice that a group has when it is complete."""

    group: str
    first: bool
    addresses: frozenset[IPv4Address | IPv6Address]


def part(document: Object) -> Rules | Addresses:
    """A PolicySlice. Raises Rejected where it is not usable."""
    name, spec = document["metadata"]["name"], document["spec"]
    try:
        if spec["role"] == "Group":
            addresses = frozenset(map(ip_address, spec.get("addresses") or ()))
            return Addresses(spec["group"], name == f"{spec['group']}-0", addresses)
        return Rules(
            name, spec["role"] == "Floor", _allowed(spec.get("ingress")), _allowed(spec.get("egress"))
        )
    except (KeyError, ValueError) as error:
        raise Rejected(f"PolicySlice {name} is not usable: {error}") from error


def kept(document: Object) -> Object:
    """The part of a PolicySlice that is remembered."""
    meta = document["metadata"]
    return {
        "metadata": {name: meta[name] for name in ("name", "resourceVersion") if name in meta},
        "spec": document["spec"],
    }


def _allowed(rules: Any) -> tuple[Allow, ...] | None:
    return None if rules is None else tuple(map(_allow, rules))


def _allow(rule: Mapping[str, Any]) -> Allow:
    ports = rule.get("ports")
    return Allow(
        bool(rule.get("anyPeer")),
        frozenset(rule.get("groups") or ()),
        tuple(
            (ip_network(block["cidr"]), tuple(map(ip_network, block.get("except") or ())))
            for block in rule.get("blocks") or ()
        ),
        tuple(map(_port, ports)) if ports else None,
    )


def _port(port: Mapping[str, Any]) -> PortRange:
    number, first = PROTOCOLS[port.get("protocol") or "TCP"], port.get("port")
    if not first:
        return number, 0, LAST_PORT
    return number, first, port.get("endPort") or first
