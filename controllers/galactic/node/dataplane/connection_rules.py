"""The packet filter's rules that bound the connections of a VPC through its gateway. Pure.

The host's connection tracking is one table for all VPCs led out by a node, and for the host itself. An entry that was
answered stays until it times out, five days for TCP; a full table refuses everybody. So each connection of a VPC has an
element in a set of bounded size, and a new one that finds no room is dropped before the kernel stores its entry.

An element outlasts its entry: it is renewed by each packet, and lives as long as the kernel's default time-outs
(net/netfilter/nf_conntrack_proto_*.c). An established connection passes whether there is room or not.
"""

from typing import Final

from galactic import names
from galactic.linux.nftables import Chain, Set
from galactic.node.state.gateways import Gateway

CONNECTIONS: Final = 16384
"""Of a VPC, in each family and direction. A sixteenth of the usual nf_conntrack_max of hosts with 4 GiB or more."""
REFUSED: Final = "refused"
"""A set that counts the packets dropped at each device."""
_FAMILIES: Final = {4: ("ip", "ipv4_addr"), 6: ("ip6", "ipv6_addr")}
_OPENING: Final = "10s"
"""A connection without an answer: the kernel itself gives up such entries when its table is full."""
_ESTABLISHED: Final = "5d"
_CLOSING: Final = "2m"
_UDP: Final = "3m"
_OTHERS: Final = "10m"
_ECHOES: Final = "100/second burst 200 packets"
"""New exchanges of ICMP echoes, whose entries live for 30 seconds: 3,000 at most."""


def ends(gateway: Gateway) -> dict[str, str]:
    """The devices by which a VPC's connections leave a VRF, with the first letter of their sets: E for its own, I for
    those to its published ports.
    """
    number = gateway.vpc, gateway.function
    own = {names.exit_end(*number): "o"}
    return own | ({names.inner_end(*number): "i"} if gateway.published else {})


def sets(gateway: Gateway, connections: int) -> dict[str, Set]:
    """Filled by the rules."""
    made = {REFUSED: Set("set", "type ifname; flags dynamic; size 65536;")}
    for letter in ends(gateway).values():
        for family, (_, kind) in _FAMILIES.items():
            tail = f"flags dynamic,timeout; size {connections};"
            flow = f"type inet_proto . {kind} . inet_service . {kind} . inet_service; {tail}"
            talk = f"type inet_proto . {kind} . {kind}; {tail}"
            made[_name(letter, "flows", family, gateway, connections)] = Set("set", flow)
            made[_name(letter, "talks", family, gateway, connections)] = Set("set", talk)
    return made


def chains(gateway: Gateway, connections: int) -> dict[str, Chain]:
    """A chain an end: what has no room is dropped, all else accepted."""
    return {
        _chain(letter, gateway): Chain(
            tuple(rule for family in _FAMILIES for rule in _bounded(gateway, letter, family, connections))
        )
        for letter in ends(gateway).values()
    }


def bounded(gateway: Gateway) -> list[str]:
    """To those chains. Behind all rules that drop."""
    return [f'oifname "{device}" goto {_chain(letter, gateway)}' for device, letter in ends(gateway).items()]


def _bounded(gateway: Gateway, letter: str, family: int, connections: int) -> list[str]:
    word = _FAMILIES[family][0]
    flows, talks = (f"@{_name(letter, kind, family, gateway, connections)}" for kind in ("flows", "talks"))
    flow = f"meta l4proto . {word} saddr . th sport . {word} daddr . th dport"
    talk = f"meta l4proto . {word} saddr . {word} daddr"
    own = f"meta nfproto ipv{family} ct direction original"

    def counted(match: str, timeout: str) -> str:
        return f"{own} {match} update {flows} {{ {flow} timeout {timeout} }} accept"

    dropped = f"update @{REFUSED} {{ oifname counter }} drop"
    return [
        counted("tcp flags & (fin | rst) != 0x0", _CLOSING),
        counted("meta l4proto tcp ct state established", _ESTABLISHED),
        counted("meta l4proto udp ct state established", _UDP),
        counted("meta l4proto { tcp, udp } ct state new", _OPENING),
        f"{own} meta l4proto {{ icmp, ipv6-icmp }} ct state new limit rate over {_ECHOES} {dropped}",
        f"{own} meta l4proto {{ icmp, ipv6-icmp }} accept",
        f"{own} meta l4proto != {{ tcp, udp }} update {talks} {{ {talk} timeout {_OTHERS} }} accept",
        f"{own} ct state new {dropped}",
    ]


def _chain(letter: str, gateway: Gateway) -> str:
    return f"{letter}-{names.vpc_hex(gateway.vpc)}"


def _name(letter: str, kind: str, family: int, gateway: Gateway, connections: int) -> str:
    """With the size: a set that the kernel has keeps the size that it was made with."""
    return f"{letter}-{kind}{family}-{connections}-{names.vpc_hex(gateway.vpc)}"
