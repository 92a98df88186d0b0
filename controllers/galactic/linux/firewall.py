"""The packet filter's part of the plan: its rules, and a separate process that installs them.

Galactic has four chains in each family, and one jump into each, first in a built-in chain. It changes nothing else.
``GALACTIC-FORWARD`` accepts packets of VPCs, whatever policy the chain has. ``GALACTIC-INPUT`` keeps tenants away from
services of the node, and accepts their ICMP. ``GALACTIC-PREROUTING`` (table raw) drops forged sources and keeps
tenants, the default network's pods and the outside away from SIDs: before connection tracking, and before any look-up.

There, and in ``GALACTIC-OUTPUT`` (table raw) for what the node sends itself, packets of VPCs and of the SRv6 space are
excluded from connection tracking: VPCs may use the same addresses and ports, so one table of connections cannot
distinguish them, and NAT of other programs applies to tracked packets only. The kernel forgets both a connection and
its exclusion when it encapsulates and when End.DT46 decapsulates (nf_reset_ct): the inner packet is excluded again
when it passes PREROUTING with the VRF.

What remains of packets of VPCs is accepted there: a rule behind it in raw, such as docker's for the addresses of its
containers, would be about the address of another host.

The wildcard ``G+`` is every host end, and every VRF as well: a packet from a pod passes PREROUTING twice, first with
the veth and then with the VRF as its incoming device, and FORWARD and INPUT with the VRF. Host ends alone are the
device group that their sources are checked by: what comes out of a tunnel passes PREROUTING with the VRF, and its way
back is not through the VRF.

python-iptables blocks, and can crash its process, so it runs in another: ``galactic.linux.iptables``.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Final, Literal

from galactic.errors import Unreachable
from galactic.linux.objects import HOST_ENDS

OURS: Final = "G+"
LOOPBACK: Final = "lo"
"""The device of the node's own packets to itself, the kernel's ICMP errors included."""
Family = Literal[4, 6]
Backend = Literal["legacy", "nft"]
BuiltIn = Literal["FORWARD", "INPUT", "PREROUTING", "OUTPUT"]
Place = tuple[Family, BuiltIn]
"""A family and a built-in chain that jumps into one of Galactic's."""
TABLES: Final[dict[BuiltIn, str]] = {
    "FORWARD": "filter",
    "INPUT": "filter",
    "PREROUTING": "raw",
    "OUTPUT": "raw",
}
PLACES: Final[tuple[Place, ...]] = tuple((family, chain) for family in (4, 6) for chain in TABLES)
ICMPV6_ERRORS: Final = (1, 2, 3, 4)
"""Destination unreachable, packet too big, time exceeded, parameter problem (RFC 4443 §2.1)."""
_TIMEOUT: Final = 60.0


@dataclass(frozen=True, slots=True)
class FirewallRule:
    """A rule of Galactic's chain below ``chain``. Empty or None: any. Networks as text, always with a length.

    ``forged``: the packet came from a host end other than the one that its source is reached through.
    """

    family: Family
    chain: BuiltIn
    target: Literal["ACCEPT", "DROP", "RETURN", "NOTRACK"]
    in_interface: str = ""
    out_interface: str = ""
    source: str = ""
    outside: bool = False  # ``source`` is negated
    destination: str = ""
    icmpv6: int | None = None  # a type
    not_icmp: bool = False
    forged: bool = False


@dataclass(frozen=True, slots=True)
class Installed:
    """The result: the backend and why it was chosen, and the chains that were changed, e.g. ``("IPv6 PREROUTING",)``.

    ``lacking``: what the kernel lacks to drop forged sources; else "". ``tracked``: what it lacks to exclude packets of
    VPCs from connection tracking; else "". ``fingerprint``: of the chains when they were correct
    (``galactic.linux.firewall_fingerprint``).
    """

    backend: Backend
    reason: str
    changed: tuple[str, ...]
    lacking: str
    fingerprint: str
    tracked: str = ""


def own(chain: BuiltIn) -> str:
    """The name of Galactic's chain that the built-in chain jumps into."""
    return f"GALACTIC-{chain}"


def firewall(
    space: IPv6Network,
    locator: IPv6Network,
    loopback: IPv6Address,
    uplinks: Sequence[str],
    *,
    guard: bool = True,
) -> tuple[FirewallRule, ...]:
    """The rules of a node, in order.

    Sources and destinations in the SRv6 space are believed only of packets that came in by ``uplinks``, the underlay's
    interfaces, and of the node itself. A pod of the default network could otherwise send into any VPC. Packets that
    End.DT46 unwrapped come in by their VRF; the node's ICMPv6 errors among them have its loopback as their source.

    ``guard`` drops what comes from outside the SRv6 space for this node's SIDs (RFC 8754 §5.1), except for ICMPv6
    errors to the loopback, which a router anywhere on the path may send: path MTU discovery depends on them.
    """
    inside, here = str(space), str(locator)
    trusted = (LOOPBACK, *uplinks)
    errors = (
        FirewallRule(
            6, "PREROUTING", "RETURN", in_interface=device, destination=f"{loopback}/128", icmpv6=number
        )
        for device in trusted
        for number in ICMPV6_ERRORS
    )
    outside = FirewallRule(6, "PREROUTING", "DROP", source=inside, outside=True, destination=here)
    return (
        *(rule for family in (4, 6) for rule in _either(family)),
        FirewallRule(4, "PREROUTING", "ACCEPT", in_interface=OURS),
        FirewallRule(6, "FORWARD", "ACCEPT", source=inside),
        FirewallRule(6, "FORWARD", "ACCEPT", destination=inside),
        FirewallRule(6, "PREROUTING", "DROP", in_interface=OURS, destination=inside),
        FirewallRule(6, "PREROUTING", "ACCEPT", in_interface=OURS),
        FirewallRule(6, "PREROUTING", "NOTRACK", destination=inside),
        *((*errors, outside) if guard else ()),
        *(FirewallRule(6, "PREROUTING", "RETURN", in_interface=device) for device in trusted),
        FirewallRule(6, "PREROUTING", "DROP", source=inside),
        FirewallRule(6, "PREROUTING", "DROP", destination=inside),
        FirewallRule(6, "OUTPUT", "NOTRACK", source=inside),
        FirewallRule(6, "OUTPUT", "NOTRACK", destination=inside),
    )


def _either(family: Family) -> tuple[FirewallRule, ...]:
    """The rules that both families share."""
    return (
        FirewallRule(family, "FORWARD", "ACCEPT", in_interface=OURS),
        FirewallRule(family, "FORWARD", "ACCEPT", out_interface=OURS),
        FirewallRule(family, "INPUT", "DROP", in_interface=OURS, not_icmp=True),
        FirewallRule(family, "INPUT", "ACCEPT", in_interface=OURS),
        FirewallRule(family, "PREROUTING", "DROP", forged=True),
        FirewallRule(family, "PREROUTING", "NOTRACK", in_interface=OURS),
        FirewallRule(family, "OUTPUT", "NOTRACK", out_interface=OURS),
    )


def arguments(rule: FirewallRule) -> str:
    """The rule as ``iptables -S`` prints it."""
    parts = []
    if rule.source:
        parts.append(f"{'! ' if rule.outside else ''}-s {rule.source}")
    if rule.destination:
        parts.append(f"-d {rule.destination}")
    if rule.in_interface:
        parts.append(f"-i {rule.in_interface}")
    if rule.out_interface:
        parts.append(f"-o {rule.out_interface}")
    if rule.not_icmp:
        parts.append("! -p icmp" if rule.family == 4 else "! -p ipv6-icmp")
    if rule.icmpv6 is not None:
        parts.append(f"-p ipv6-icmp -m icmp6 --icmpv6-type {rule.icmpv6}")
    if rule.forged:
        parts.append(f"-m devgroup --src-group {HOST_ENDS:#x} -m rpfilter --invert")
    target = "CT --notrack" if rule.target == "NOTRACK" else rule.target
    return " ".join([*parts, f"-j {target}"])


async def install(rules: Sequence[FirewallRule], *, backend: Backend | Literal[""] = "") -> Installed:
    """Makes Galactic's chains equal to ``rules``, changing only what differs; no rules for a chain: no chain.

    Raises Unreachable if it failed. An empty ``backend`` is detected, and then Galactic's chains in the other one
    are removed.
    """
    import asyncio  # noqa: PLC0415 - the process that is started here imports this module, and needs no event loop

    work = json.dumps({"backend": backend, "rules": [asdict(rule) for rule in rules]}).encode()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "galactic.linux.iptables",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # python-iptables wants distutils, in whose place setuptools, if it is installed, puts all of itself.
        env=os.environ | {"SETUPTOOLS_USE_DISTUTILS": "stdlib"},
    )
    try:
        async with asyncio.timeout(_TIMEOUT):
            output, complaint = await process.communicate(work)
    except TimeoutError as error:
        raise Unreachable("iptables", f"no answer within {_TIMEOUT:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0 or not output:
        lines = complaint.decode(errors="replace").strip().splitlines() or [f"exit code {process.returncode}"]
        raise Unreachable("iptables", lines[-1])
    answer = json.loads(output)
    return Installed(**(answer | {"changed": tuple(answer["changed"])}))
