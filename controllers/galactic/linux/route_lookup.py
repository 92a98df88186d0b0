"""The route that the kernel chooses for a packet, whichever program wrote it (``ip route get``)."""

import errno
import socket
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any, Final

from pyroute2.iproute.linux import AsyncIPRoute

from galactic.errors import Unreachable
from galactic.linux.devices import translated
from galactic.linux.namespace import Namespace, device_index, device_name
from galactic.linux.objects import Address

_NO_ROUTE: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.ESRCH})
_TYPES: Final = {1: "unicast", 2: "local", 6: "blackhole", 7: "unreachable", 8: "prohibit"}


@dataclass(frozen=True, slots=True)
class ChosenRoute:
    """The first hop towards an address. ``type``: unicast, local, or the reason why there is none."""

    type: str
    device: str = ""
    gateway: str = ""
    segment: str = ""
    """The SID that the packet is encapsulated to, if it is."""


async def chosen_route(
    destination: Address, *, device: str = "", namespace: Namespace | None = None
) -> ChosenRoute:
    """The route to ``destination`` from this node, or from inside the VRF ``device``. Raises Unreachable."""
    within = namespace or Namespace.own()
    with within.netlink() as names:
        index = device_index(names, device) if device else 0
        if device and not index:
            return ChosenRoute("no such device")
        netlink = AsyncIPRoute(fileno=within.netlink(packed=False).detach())
        request: dict[str, Any] = {"dst": str(destination)} | ({"oif": index} if index else {})
        family = socket.AF_INET6 if destination.version == 6 else socket.AF_INET
        chosen = ChosenRoute("unreachable")
        try:
            with translated(*_NO_ROUTE):
                for answer in await netlink.route("get", family=family, **request):
                    chosen = ChosenRoute(
                        _TYPES.get(answer["type"], f"type {answer['type']}"),
                        device_name(names, answer.get("oif") or 0) if answer.get("oif") else "",
                        _gateway(answer),
                        _segment(answer),
                    )
        except OSError as error:
            raise Unreachable("kernel", f"route to {destination}: {error}") from error
        else:
            return chosen
        finally:
            netlink.close()


def _gateway(answer: Any) -> str:
    via = answer.get("via")
    return str(answer.get("gateway") or (via.get("addr") if via else "") or "")


def _segment(answer: Any) -> str:
    """The segment of a seg6 encapsulation, from the routing header in the kernel's answer."""
    encap = answer.get("encap")
    srh = encap.get("SEG6_IPTUNNEL_SRH") if hasattr(encap, "get") else None
    segments = srh.get("segs") if isinstance(srh, dict) else None
    return str(IPv6Address(segments[0])) if segments else ""
