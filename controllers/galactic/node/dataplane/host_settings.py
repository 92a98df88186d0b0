"""Sysctls of the host that VPCs depend on and that are not Galactic's to set: other programs mean what they set there.

The condition ``HostSettings`` names the first that stops packets, with the remedy.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from galactic.linux import sysctl
from galactic.linux.namespace import Namespace
from galactic.node.dataplane.plan import Host
from galactic.node.state.condition import ConditionState

ARP_IGNORE = "net/ipv4/conf/all/arp_ignore"


def problems(values: Mapping[str, str]) -> Iterator[str]:
    """The sysctls that stop packets of VPCs, each with its remedy. ``values`` by path below /proc/sys.

    The kernel uses the larger value of ``all`` and the device for arp_ignore.
    """
    if values.get(ARP_IGNORE, "0") not in ("0", "1"):
        value = values[ARP_IGNORE]
        yield (
            f"net.ipv4.conf.all.arp_ignore is {value}: the node does not answer pods' ARP requests for their "
            "gateway; set it to 0 or 1"
        )
    for path, value in values.items():
        if path.endswith("/disable_ipv6") and value != "0":
            yield f"IPv6 is disabled on the underlay: set {path.replace('/', '.')} to 0"


def read(paths: Iterable[str]) -> dict[str, str]:
    """Their values in this process' network namespace."""
    return sysctl.values(Namespace.own(), paths)


class HostSettings:
    """Reads them at each report. ``host``: the facts of the plan, None while they are not known."""

    def __init__(
        self,
        host: Callable[[], Host | None],
        read: Callable[[Iterable[str]], Mapping[str, str]] = read,
    ) -> None:
        self._host, self._read = host, read

    def condition(self) -> ConditionState:
        paths = [ARP_IGNORE]
        if facts := self._host():
            paths.append(f"net/ipv6/conf/{facts.underlay}/disable_ipv6")
        if problem := "; ".join(problems(self._read(paths))):
            return ConditionState("HostSettings", False, "StopsPackets", problem)
        return ConditionState("HostSettings", True, "Compatible", "no sysctl of the host stops packets")
