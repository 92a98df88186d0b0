"""The part of a Pod that Services depend on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

READY: Final = "Ready"


@dataclass(frozen=True, slots=True)
class Backend:
    """``ports``: numbers by name and protocol."""

    labels: Mapping[str, str] = field(default_factory=dict)
    hostname: str = ""
    subdomain: str = ""
    ready: bool = False
    ports: Mapping[tuple[str, str], int] = field(default_factory=dict)


def backend(item: Mapping[str, Any]) -> Backend:
    """Of the API server's Pod."""
    spec, status = item.get("spec") or {}, item.get("status") or {}
    ready = any(
        condition.get("type") == READY and condition.get("status") == "True"
        for condition in status.get("conditions") or ()
    )
    # A sidecar is an init container that goes on; its ports come after those of the containers.
    sidecars = [one for one in spec.get("initContainers") or () if one.get("restartPolicy") == "Always"]
    return Backend(
        item["metadata"].get("labels") or {},
        spec.get("hostname") or "",
        spec.get("subdomain") or "",
        ready,
        _ports([*(spec.get("containers") or ()), *sidecars]),
    )


def _ports(containers: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], int]:
    ports: dict[tuple[str, str], int] = {}
    for container in containers:
        for port in container.get("ports") or ():
            if name := port.get("name"):
                ports.setdefault((name, port.get("protocol") or "TCP"), port["containerPort"])
    return ports
