"""The packet filter's part of the plan: which rules, and having them put into place by a process of their own.

Two chains are ours, and one jump into each; nothing else is ever changed. ``GALACTIC-FORWARD`` (filter, FORWARD)
accepts what is forwarded for VPCs, whatever policy others have set. ``GALACTIC-PREROUTING`` (raw, PREROUTING) keeps
tenants and the outside away from SIDs: before connection tracking, and before any look-up.

The wildcard ``G+`` is every host end, and every VRF as well: a packet from a pod passes PREROUTING twice, first with
the veth and then with the VRF as its incoming device, and FORWARD with the VRF.

python-iptables blocks, and can crash its process, so it runs in another: ``galactic.linux.iptables``.
"""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Final, Literal

from galactic.errors import Unreachable

OURS: Final = "G+"
CHAINS: Final = {"filter": ("FORWARD", "GALACTIC-FORWARD"), "raw": ("PREROUTING", "GALACTIC-PREROUTING")}
"""Table → (built-in chain that jumps, our chain)."""
PLACES: Final = ((4, "filter"), (6, "filter"), (6, "raw"))
"""Address families and tables in which something of ours may be."""
ICMPV6_ERRORS: Final = (1, 2, 3, 4)
"""Destination unreachable, packet too big, time exceeded, parameter problem (RFC 4443 §2.1)."""
_TIMEOUT: Final = 60.0


@dataclass(frozen=True, slots=True)
class FirewallRule:
    """One rule of our chain in ``table``. Empty or None: does not matter. Networks as text, always with a length."""

    family: Literal[4, 6]
    table: Literal["filter", "raw"]
    target: Literal["ACCEPT", "DROP", "RETURN"]
    in_interface: str = ""
    out_interface: str = ""
    source: str = ""
    outside: bool = False  # ``source`` is negated
    destination: str = ""
    icmpv6: int | None = None  # a type


@dataclass(frozen=True, slots=True)
class Installed:
    """What came of it: the backend and why that one, and what had to be changed, e.g. ``("IPv6 raw",)``."""

    backend: Literal["legacy", "nft"]
    reason: str
    changed: tuple[str, ...]


def firewall(
    space: IPv6Network, locator: IPv6Network, loopback: IPv6Address, *, guard: bool = True
) -> tuple[FirewallRule, ...]:
    """The rules of a node, in order.

    ``guard`` drops what comes from outside the SRv6 space for this node's SIDs (RFC 8754 §5.1), except for ICMPv6
    errors to the loopback, which a router anywhere on the path may send: path MTU discovery lives on them.
    """
    inside, here = str(space), str(locator)
    errors = (
        FirewallRule(6, "raw", "RETURN", destination=f"{loopback}/128", icmpv6=number)
        for number in ICMPV6_ERRORS
    )
    outside = FirewallRule(6, "raw", "DROP", source=inside, outside=True, destination=here)
    return (
        FirewallRule(4, "filter", "ACCEPT", in_interface=OURS),
        FirewallRule(4, "filter", "ACCEPT", out_interface=OURS),
        FirewallRule(6, "filter", "ACCEPT", in_interface=OURS),
        FirewallRule(6, "filter", "ACCEPT", out_interface=OURS),
        FirewallRule(6, "filter", "ACCEPT", source=inside),
        FirewallRule(6, "filter", "ACCEPT", destination=inside),
        FirewallRule(6, "raw", "DROP", in_interface=OURS, destination=inside),
        *((*errors, outside) if guard else ()),
    )


async def install(rules: Sequence[FirewallRule], *, backend: Literal["legacy", "nft", ""] = "") -> Installed:
    """Makes our chains be exactly that, changing nothing that is right; no rules in a table: no chain in it.

    Raises Unreachable when it could not be done. ``backend`` is detected where it is not given.
    """
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
    return Installed(answer["backend"], answer["reason"], tuple(answer["changed"]))
