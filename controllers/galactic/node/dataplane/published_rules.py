"""The packet filter's rules for published ports: from a gateway's address outside to a ready pod. Pure.

All of it happens in the gateway's own VRF, in the VPC's connection tracking zone. A new connection gets its pod where
it enters by E, and its source where it leaves by I: an address of the VPC that leads back here. So the connection stays
with its pod, whichever pods are ready later. A connection to a port without a ready pod is refused ahead of M, where
the host answers with the address that was asked.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from galactic import names
from galactic.linux.objects import Address
from galactic.node.state.gateways import Gateway, Published

_IP: Final = {4: "ip", 6: "ip6"}


def tracked(inner: str, published: Iterable[Published], zone: int) -> list[str]:
    """Ahead of connection tracking: answers of pods are in the VPC's zone, although they are for an address of it."""
    return [
        f'iifname "{inner}" {_IP[inside.version]} daddr {inside} ct zone set {zone} accept'
        for inside in _distinct(one.inside for one in published)
    ]


def admitted(gateway: Gateway, published: Iterable[Published]) -> list[str]:
    """Behind it: new connections come in to a published port only, and nothing but answers to an inside address."""
    number = gateway.vpc, gateway.function
    out, inner = names.exit_end(*number), names.inner_end(*number)
    published = list(published)
    rules = [
        f'iifname "{inner}" {_IP[inside.version]} daddr {inside} ct state != {{ established, related }} drop'
        for inside in _distinct(one.inside for one in published)
    ]
    return rules + [
        f'iifname "{out}" ct state new {_asked(one)} accept' for one in published if one.endpoints
    ]


def destinations(out: str, published: Iterable[Published]) -> list[str]:
    """A new connection's pod: one of them at random, each as likely."""
    return [
        f'iifname "{out}" {_asked(one)} dnat {_IP[one.address.version]} to {_chosen(one)}'
        for one in published
        if one.endpoints
    ]


def sources(gateway: Gateway, published: Iterable[Published]) -> list[str]:
    """The source that pods see, by the address that was asked."""
    inner = names.inner_end(gateway.vpc, gateway.function)
    return [
        f'oifname "{inner}" ct status dnat ct original {_IP[address.version]} daddr {address} '
        f"snat {_IP[address.version]} to {inside}"
        for address, inside in dict.fromkeys((one.address, one.inside) for one in published)
    ]


def refused(main: str, published: Iterable[Published]) -> list[str]:
    """Connections to a port that no pod is ready for."""
    opening = "tcp flags & (syn | ack) == syn"
    answer = {"tcp": f"{opening} reject with tcp reset", "udp": "reject with icmpx type port-unreachable"}
    return [
        f'oifname "{main}" {_asked(one)} {answer[one.protocol]}' for one in published if not one.endpoints
    ]


def _asked(one: Published) -> str:
    return f"{_IP[one.address.version]} daddr {one.address} {one.protocol} dport {one.port}"


def _chosen(one: Published) -> str:
    host = f"[{one.endpoints[0]}]" if one.address.version == 6 else one.endpoints[0]
    if len(one.endpoints) == 1:
        return f"{host}:{one.target}"
    choices = ", ".join(f"{index} : {address}" for index, address in enumerate(one.endpoints))
    return f"numgen random mod {len(one.endpoints)} map {{ {choices} }} : {one.target}"


def _distinct(addresses: Iterable[Address]) -> Sequence[Address]:
    return tuple(dict.fromkeys(addresses))
