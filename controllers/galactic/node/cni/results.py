"""The result of ADD, in the caller's version of CNI, and its comparison with the attachment for CHECK."""

from collections.abc import Mapping
from typing import Any

import msgspec

from galactic import names
from galactic.node.cni.protocol import INVALID_CONFIG, Failure
from galactic.node.dataplane import plan
from galactic.node.dataplane.sandbox import Device
from galactic.node.state.attachment import Attachment


class _Interface(msgspec.Struct, frozen=True):
    name: str = ""
    sandbox: str = ""


class _Ip(msgspec.Struct, frozen=True):
    address: str
    interface: int | None = None


class _Route(msgspec.Struct, frozen=True):
    dst: str
    gw: str | None = None


class _Result(msgspec.Struct, frozen=True):
    """The parts of a result that CHECK compares."""

    interfaces: tuple[_Interface, ...] = ()
    ips: tuple[_Ip, ...] = ()
    routes: tuple[_Route, ...] | None = ()


def result(
    attachment: Attachment,
    speaks: str,
    ends: tuple[Device | None, Device | None],
    dns: Mapping[str, Any],
    previous: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The result of a successful ADD, in version ``speaks``, behind the results of plugins before this one. ``ends``:
    the veth pair's ends on the host and in the container.
    """
    before: dict[str, list[Any]] = {
        name: list((previous or {}).get(name) or ()) for name in ("interfaces", "ips", "routes")
    }
    inside = len(before["interfaces"]) + 1
    ips: list[dict[str, Any]] = []
    for address in attachment.addresses:
        entry: dict[str, Any] = {
            "address": str(address),
            "gateway": str(plan.gateway(address)),
            "interface": inside,
        }
        if speaks.startswith("0."):
            entry["version"] = str(address.version)
        ips.append(entry)
    return {
        "cniVersion": speaks,
        "interfaces": [
            *before["interfaces"],
            {"name": names.host_end(attachment.vpc, attachment.function)} | _described(ends[0], speaks),
            {"name": attachment.ifname, "sandbox": attachment.netns} | _described(ends[1], speaks),
        ],
        "ips": before["ips"] + ips,
        "routes": before["routes"] + _routes(attachment),
        "dns": dict(dns) or (previous or {}).get("dns") or {},
    }


def _described(device: Device | None, speaks: str) -> dict[str, Any]:
    """MAC address and, since 1.1.0, MTU; nothing of a device that is gone again."""
    if device is None:
        return {}
    return {"mac": device.mac} | ({"mtu": device.mtu} if speaks >= "1.1" else {})


def _routes(attachment: Attachment) -> list[dict[str, str]]:
    families = {address.version for address in attachment.addresses}
    own = set(attachment.announces)
    return [
        {"dst": str(network), "gw": str(plan.GATEWAY4 if network.version == 4 else plan.GATEWAY6)}
        for network in dict.fromkeys((*attachment.networks, *attachment.routes))
        if network.version in families and network not in own
    ]


def differences(previous: Mapping[str, Any], attachment: Attachment) -> list[str]:
    """Differences between the attachment and its part of a result, in words. Raises Failure where it is no result.

    Entries of other plugins, and their changes, are not compared.
    """
    try:
        result = msgspec.convert(previous, _Result)
    except msgspec.ValidationError as error:
        raise Failure(INVALID_CONFIG, f"prevResult is not usable: {error}") from error
    inside = _Interface(attachment.ifname, attachment.netns)
    host_end = names.host_end(attachment.vpc, attachment.function)
    differing = []
    if not any(interface.name == host_end and not interface.sandbox for interface in result.interfaces):
        differing.append(f"interface {host_end} is not in prevResult")
    if inside not in result.interfaces:
        return [*differing, f"interface {inside.name} in {inside.sandbox} is not in prevResult"]
    index = result.interfaces.index(inside)
    listed = {ip.address for ip in result.ips if ip.interface == index}
    addresses = {str(address) for address in attachment.addresses}
    differing += [f"address {address} is not in prevResult" for address in sorted(addresses - listed)]
    differing += [
        f"address {address} of prevResult is not the attachment's" for address in sorted(listed - addresses)
    ]
    gateways = {str(plan.GATEWAY4), str(plan.GATEWAY6)}
    destinations = {route["dst"] for route in _routes(attachment)}
    differing += [
        f"route {route.dst} of prevResult is not the attachment's"
        for route in result.routes or ()
        if route.gw in gateways and route.dst not in destinations
    ]
    return differing
