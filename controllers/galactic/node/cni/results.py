"""What ADD answers, in the caller's version of CNI, and how CHECK compares it with what is attached."""

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
    """As much of a result as CHECK compares."""

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
    """The result of a successful ADD, in the version asked for, after what plugins before this one made. ``ends`` are
    the pair on the host and in the container.
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
    """What a result lists as this attachment's and the attachment does not have, or the other way round, in words.

    What other plugins listed or changed is theirs. Raises Failure where it is no result.
    """
    try:
        told = msgspec.convert(previous, _Result)
    except msgspec.ValidationError as error:
        raise Failure(INVALID_CONFIG, f"prevResult is not usable: {error}") from error
    inside = _Interface(attachment.ifname, attachment.netns)
    host_end = names.host_end(attachment.vpc, attachment.function)
    found = []
    if not any(each.name == host_end and not each.sandbox for each in told.interfaces):
        found.append(f"interface {host_end} is not in prevResult")
    if inside not in told.interfaces:
        return [*found, f"interface {inside.name} in {inside.sandbox} is not in prevResult"]
    index = told.interfaces.index(inside)
    given = {each.address for each in told.ips if each.interface == index}
    wanted = {str(address) for address in attachment.addresses}
    found += [f"address {address} is not in prevResult" for address in sorted(wanted - given)]
    found += [f"address {address} of prevResult is not given" for address in sorted(given - wanted)]
    gateways = {str(plan.GATEWAY4), str(plan.GATEWAY6)}
    there = {each["dst"] for each in _routes(attachment)}
    found += [
        f"route {each.dst} of prevResult is not given"
        for each in told.routes or ()
        if each.gw in gateways and each.dst not in there
    ]
    return found
