"""Hops judged from kernel counters: neighbours that were asked, and echo requests that the pod sent.

A correctly configured path may still lose packets. So a trace sends echo requests of a size of their own and compares
the counters of both nodes: packets of the devices at both ends, packets and bytes of each DROP rule of Galactic. Pure
functions.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Final, Self

from galactic.cli.hop import STOPS, UNKNOWN, Hop, controller_remedy

NO_ANSWER: Final = frozenset({"FAILED", "INCOMPLETE"})
SOLICITATION_SIZES: Final = (72, 64)
"""Bytes of a neighbour solicitation or advertisement (RFC 4861 §4.3, 4.4) with a link-layer address, and without."""
SOLICITATIONS: Final = 3
"""Solicitations of one attempt."""
OVERHEADS: Final = (0, 40, 64)
"""Bytes added to a packet: none, encap.red, encap."""
SMALLEST_PACKET: Final = {4: 20, 6: 40}
LARGEST_PACKET: Final = 65535
PACKETS: Final = ("rx_packets", "tx_packets")
ERROR_SOURCE: Final = "the error's source drops the packets; 169.254.1.1 and fe80::1 are nodes"

Counted = Mapping[str, Any]
"""``drops`` and ``links``: counters that rose on a node during the echo requests, as in ``galactic-node-inspect``."""


@dataclass(frozen=True, slots=True)
class Echo:
    """Echo requests of one pod to one address, with counters of its node and, if known, of the other node."""

    sent: int
    answered: int
    size: int
    milliseconds: float | None = None
    refused: str = ""
    errors: Sequence[str] = ()
    gateways: Mapping[str, str] = field(default_factory=dict)
    local: Counted = field(default_factory=dict)
    remote: Counted | None = None

    @classmethod
    def of(cls, plain: Mapping[str, Any], remote: Counted | None = None) -> Self:
        """From the output of ``galactic-node-inspect --echo``. With both pods on one node, ``remote`` is ``local``."""
        counted = {"drops": plain["drops"], "links": plain["links"]}
        names = ("sent", "answered", "size", "milliseconds", "refused", "errors", "gateways")
        return cls(**{name: plain[name] for name in names}, local=counted, remote=remote)

    @property
    def complete(self) -> bool:
        """Whether every request was answered."""
        return self.sent > 0 and self.answered == self.sent


def rises(before: Mapping[str, Any], after: Mapping[str, Any]) -> Counted:
    """Counters that rose between two inspections of a node."""
    from galactic.linux.drop_counters import Drops, rise  # noqa: PLC0415  (it imports netlink)

    then, now = ([Drops(**rule) for rule in inspection["drops"]] for inspection in (before, after))
    links: dict[str, dict[str, int]] = {}
    for device, link in after["links"].items():
        old = before["links"].get(device, {})
        links[device] = {name: link[name] - old[name] for name in PACKETS if name in link and name in old}
    return {"drops": [rule.plain() for rule in rise(then, now)], "links": links}


def silent_gateway(where: str, node: str, ifname: str, gateway: str, echo: Echo | None) -> Iterator[Hop]:
    """The pod's next hop does not answer."""
    state = echo.gateways.get(gateway, "") if echo else ""
    if echo is None or echo.complete or state not in NO_ANSWER:
        return
    blame = _dropping_rule(node, gateway, echo.local)
    remedy = _rule_remedy(node) if blame else _filter_remedy(node, gateway, f"{ifname} in the pod")
    yield Hop(where, _unanswered(gateway, ifname, state) + blame, STOPS, remedy)


def silent_neighbour(
    where: str, node: str, way: Mapping[str, Any], resolving: Counted, cause: str = ""
) -> Iterator[Hop]:
    """A node's next hop does not answer, or did not at the last attempt. ``cause``: the remedy, if known."""
    neighbour, device = way.get("neighbour") or {}, way["device"]
    state, address = neighbour.get("state", ""), neighbour.get("address", "")
    if state not in NO_ANSWER:
        return
    if not neighbour["asked"]:
        what = f"neighbour {address} on {device}: {state} at the last attempt"
        yield Hop(where, what, UNKNOWN, "trace without --no-probe to ask it again")
        return
    blame = _dropping_rule(node, address, resolving)
    remedy = _rule_remedy(node) if blame else cause or _filter_remedy(node, address, f"{device} on {node}")
    yield Hop(where, _unanswered(address, device, state) + blame, STOPS, remedy)


def _unanswered(address: str, device: str, state: str) -> str:
    """E.g. ``neighbour 10.1.1.1 on G…H: FAILED (no answer to ARP)``."""
    how = "ARP" if ip_address(address).version == 4 else "neighbour discovery"
    return f"neighbour {address} on {device}: {state} (no answer to {how})"


def _dropping_rule(node: str, address: str, counted: Counted) -> str:
    """Galactic's rule that dropped solicitations or advertisements; empty for none. ARP passes none of its chains."""
    if ip_address(address).version == 6:
        for rule in counted.get("drops", ()):
            if rule["discovery"] and any(explained(rule, SOLICITATIONS, size) for size in SOLICITATION_SIZES):
                return f"; {_rule(rule, node)}"
    return ""


def _filter_remedy(node: str, address: str, link: str) -> str:
    """The commands that find the packet filter."""
    rules = "arptables-save -c" if ip_address(address).version == 4 else "ip6tables-save -c"
    return (
        f"a packet filter drops it, on {node} or in the pod: {rules}, nft list ruleset; "
        f"then: ip neigh show dev {link}"
    )


def dropped(node: str, echo: Echo | None, counted: Counted | None) -> Iterator[Hop]:
    """Galactic's rule on that node that dropped the unanswered requests."""
    if echo is None or echo.complete or not counted:
        return
    lost = echo.sent - echo.answered
    for rule in counted.get("drops", ()):
        sizes = [echo.size + more for more in OVERHEADS]
        if lost and rule["icmp"] and any(explained(rule, lost, size) for size in sizes):
            sent = f"while {echo.sent} echo requests of {echo.size} bytes were sent"
            yield Hop(f"{rule['chain']} on {node}", f"{_rule(rule, node)}, {sent}", STOPS, _rule_remedy(node))
            return


def blocked(
    node: str, family: int, echo: Echo | None, inspection: Mapping[str, Any], *, tunnelled: bool
) -> Iterator[Hop]:
    """Chains of other programs on that node that drop such packets. ``tunnelled``: they leave as SRv6 packets there."""
    if echo is not None and echo.complete:
        return
    concerned = (f"IPv{family}", *(("SRv6",) if tunnelled else ()))
    for chain in inspection.get("foreign", ()):
        if any(word in chain["packets"] for word in concerned):
            counted = f" ({chain['counted']} packets so far)" if chain["counted"] else ""
            state = UNKNOWN if echo is None else STOPS
            yield Hop(f"packet filter of {node}", f"{chain['text']}{counted}", state, chain["remedy"])


def stopped(node: str, devices: Collection[str], echo: Echo | None, inspection: Counted) -> Iterator[Hop]:
    """Sysctls of these devices, or of all, that stop packets on that node."""
    if echo is not None and echo.complete:
        return
    for setting in inspection.get("settings", ()):
        if setting["device"] in {*devices, "all"}:
            state = UNKNOWN if echo is None else STOPS
            remedy = (
                f"sysctl -w on {node}; {controller_remedy(node)}; the program that set it does so for each new "
                "device: sysctl --system shows its file"
            )
            yield Hop(f"sysctls of {node}", setting["text"], state, remedy)


def explained(rule: Mapping[str, Any], packets: int, size: int) -> bool:
    """Whether a rule's counters fit ``packets`` packets of ``size`` bytes plus others of possible sizes."""
    more: int = rule["packets"] - packets
    rest: int = rule["bytes"] - packets * size
    return more * SMALLEST_PACKET[rule["family"]] <= rest <= more * LARGEST_PACKET


def _rule(rule: Mapping[str, Any], node: str) -> str:
    """E.g. ``GALACTIC-INPUT rule 1 on node-1 (IPv6, nft tables) dropped 3 packets, 216 bytes; it drops …``."""
    return (
        f"{rule['chain']} rule {rule['rule']} on {node} (IPv{rule['family']}, {rule['backend']} tables) dropped "
        f"{rule['packets']} packets, {rule['bytes']} bytes; it drops {rule['what']}"
    )


def _rule_remedy(node: str) -> str:
    return (
        f"docs/security.md explains each rule; compare the chain with the plan: kubectl describe nseg {node}, "
        "condition PacketFilter"
    )


def answered(address: str, echo: Echo | None) -> Iterator[Hop]:
    """The last hop of a path whose end is not visible."""
    if echo is not None:
        yield _answer(address, echo)


def arrived(  # noqa: PLR0917 - both ends of a way
    address: str, source: tuple[str, str, str], node: str, device: str, pod: str, echo: Echo | None
) -> Iterator[Hop]:
    """The last hop of a path whose configuration lets packets pass.

    ``source``: the pod, its host end and its node. ``node``, ``device`` and ``pod`` are the destination's.
    """
    if echo is None:
        return
    if echo.answered or echo.refused or echo.errors or not echo.sent:
        yield _answer(address, echo)
        return
    sender, near_device, near = source
    requests = f"{echo.sent} echo requests"
    if (out := _packets(echo.local, near_device, "rx_packets")) is not None and out < echo.sent:
        remedy = "a packet filter or a route in the pod: iptables-save -c and ip route get in its namespace"
        yield Hop(sender, f"{_at_most(out)} of {requests} came out of it", STOPS, remedy)
        return
    into = _packets(echo.remote, device, "tx_packets")
    back = _packets(echo.remote, device, "rx_packets")
    if into is not None and into < echo.sent:
        between = f"another program's packet filter on {node}: iptables-save -c, ip6tables-save -c, nft list ruleset"
        if near != node:
            between = (
                f"{between} and the same on {near}, or the underlay: tcpdump -ni any 'ip6 proto 4 or ip6 proto 41' "
                "on both shows how far packets get"
            )
        yield Hop(f"{device} on {node}", f"{_at_most(into)} of {requests} went to the pod", STOPS, between)
        return
    if back is not None and back < echo.sent:
        what = (
            f"{requests} went into it, {_at_most(back)} of {echo.sent} answers came out of it: "
            "it may not answer pings"
        )
        remedy = "a packet filter in the pod, or a pod that only forwards packets: try its service instead"
        yield Hop(pod, what, UNKNOWN, remedy)
        return
    yield _answer(address, echo)


def _at_most(count: int) -> str:
    """A count in words; it may include other packets."""
    return f"at most {count}" if count else "none"


def _packets(counted: Counted | None, device: str, name: str) -> int | None:
    """The rise of a device's counter; None if unknown. Inspections omit counters that did not rise."""
    if counted is None or "links" not in counted:
        return None
    count = counted["links"].get(device, {name: 0}).get(name)
    return None if count is None else int(count)


def _answer(address: str, echo: Echo) -> Hop:
    """The result of the requests at the sender."""
    if echo.refused and not echo.sent:
        return Hop(
            address,
            f"the pod's kernel sends no echo request: {echo.refused}",
            STOPS,
            "a route or a packet filter in the pod: ip route get and iptables-save -c in its namespace",
        )
    if echo.complete:
        return Hop(
            address, f"answers: {echo.answered} of {echo.sent} echo requests, {echo.milliseconds:g} ms"
        )
    if echo.errors:
        what = f"{echo.answered} of {echo.sent} echo requests were answered; {'; '.join(echo.errors)}"
        return Hop(address, what, STOPS, ERROR_SOURCE)
    if echo.answered:
        what = f"answers {echo.answered} of {echo.sent} echo requests: packets are lost on the way"
        return Hop(address, what, UNKNOWN, "trace again; check errors and drops of the devices: ip -s link")
    what = f"no answer to {echo.sent} echo requests; all visible hops pass: the pod may not answer pings"
    return Hop(address, what, UNKNOWN, "try a service of the pod instead; galactic connectivity test")
