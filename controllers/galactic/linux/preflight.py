"""Features of this kernel that Galactic needs, tried in a temporary network namespace."""

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_network
from typing import Final, Literal

from galactic.errors import GalacticError
from galactic.linux import sysctl
from galactic.linux.kernel import LinuxKernel
from galactic.linux.namespace import Namespace
from galactic.linux.objects import (
    LOOPBACK_DEVICE,
    MAIN_TABLE,
    Balanced,
    Encap,
    EndDT46,
    Link,
    LookupOrder,
    Objects,
    Rule,
    change,
    route_key,
)
from galactic.names import host_end, vrf

_TABLE: Final = 100_000
_VRF: Final = vrf(1)
_VETH: Final = host_end(1, 1)
_SEGMENT: Final = IPv6Address("2001:db8::1:1")
STRICT: Final = "net/vrf/strict_mode"
_WRITTEN: Final = ("net/ipv4/conf/all/forwarding", "net/ipv6/conf/all/forwarding")
_DISABLED: Final = ("net/ipv6/conf/all/disable_ipv6", "net/ipv6/conf/default/disable_ipv6")
_END_DT46_SINCE: Final = (5, 14)
_READ_ONLY: Final = "galactic-node-prepare, as a privileged init container, sets what a read-only one cannot"
_REDUCED: Final = "needs Linux 6.0; until then packets are 24 bytes longer (encap)"
Encapsulation = Literal["encap.red", "encap"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one trial. ``name`` is the CamelCase word for conditions."""

    name: str
    ok: bool
    message: str
    required: bool = True


@dataclass(frozen=True, slots=True)
class Preflight:
    """All findings, and the encapsulation to use: the reduced one if the kernel supports it."""

    kernel: str
    encap: Encapsulation
    findings: tuple[Finding, ...]
    multipath: bool = True  # IPv4 routes may have several next hops

    @property
    def ok(self) -> bool:
        """Whether pods can be attached."""
        return all(finding.ok for finding in self.findings if finding.required)

    @property
    def complete(self) -> bool:
        """Whether the kernel has every optional feature too."""
        return all(finding.ok for finding in self.findings)


async def preflight() -> Preflight:
    """Tries everything that the plan needs. A missing feature is a finding with a remedy, not an error.

    Creating a device makes the kernel load its module, if the node has it and modprobe.
    """
    release = os.uname().release
    findings = [_sysctls(), _ipv6()]
    try:
        namespace = Namespace.fresh()
    except OSError as error:
        refused = (
            f"no network namespace to try things in ({error.strerror}): give the container CAP_SYS_ADMIN, "
            "on a kernel with CONFIG_NET_NS"
        )
        return Preflight(
            release, "encap", (*findings, Finding("NetworkNamespaces", ok=False, message=refused))
        )
    with namespace:
        kernel = LinuxKernel(namespace)
        try:
            findings += [await trial.made(kernel) for trial in _trials()]
            multipath = (await _MULTIPATH.made(kernel)).ok
        finally:
            kernel.close()
    can = {finding.name for finding in findings if finding.ok}
    encap: Encapsulation = "encap.red" if "ReducedEncapsulation" in can else "encap"
    return Preflight(release, encap, _corrected(findings, release), multipath)


@dataclass(frozen=True, slots=True)
class _Trial:
    name: str
    wanted: Objects
    what: str
    remedy: str
    required: bool = True

    async def made(self, kernel: LinuxKernel) -> Finding:
        try:
            await kernel.write(change(self.wanted, Objects()))
        except GalacticError as error:
            refused = os.strerror(errno.EPERM) in str(error) and self.name != "EndDT46"
            remedy = "give the container CAP_NET_ADMIN" if refused else self.remedy
            message = f"no {self.what}: {remedy} ({error})"
            return Finding(self.name, ok=False, message=message, required=self.required)
        return Finding(self.name, ok=True, message=self.what, required=self.required)


def _trials() -> Iterator[_Trial]:
    """The trials, each after those that it depends on."""
    sid = IPv6Network(_SEGMENT)
    inner = route_key(_TABLE, ip_network("192.0.2.0/24"))
    segment = _SEGMENT.packed
    seg6 = "CONFIG_IPV6_SEG6_LWTUNNEL=y, which is no module: it takes another kernel"
    yield _Trial("Dummy", Objects(links={LOOPBACK_DEVICE: Link("dummy")}), "dummy devices", _module("dummy"))
    yield _Trial("Veth", Objects(links={_VETH: Link("veth")}), "veth devices", _module("veth"))
    yield _Trial("VRF", Objects(links={_VRF: Link("vrf", table=_TABLE)}), "VRF devices", _module("vrf"))
    yield _Trial(
        "PolicyRules",
        Objects(
            rules={Rule(999, sid, MAIN_TABLE): None}, lookups={4: LookupOrder(), 6: LookupOrder(block=sid)}
        ),
        "policy rules",
        "needs a kernel with CONFIG_IP_MULTIPLE_TABLES, CONFIG_IPV6_MULTIPLE_TABLES and CONFIG_NET_L3_MASTER_DEV",
    )
    yield _Trial(
        "StrictMode", Objects(sysctls={STRICT: "1"}), "net.vrf.strict_mode", f"needs VRF, and {_READ_ONLY}"
    )
    end = Objects(routes={route_key(MAIN_TABLE, sid): EndDT46(_VRF, _TABLE)})
    yield _Trial("EndDT46", end, "seg6local End.DT46", f"needs Linux 5.14, net.vrf.strict_mode=1, and {seg6}")
    full = Objects(routes={inner: Encap(_VETH, segment, "encap")})
    yield _Trial("Encapsulation", full, "seg6 encap", f"needs {seg6}")
    reduced = Objects(routes={inner: Encap(_VETH, segment, "encap.red")})
    yield _Trial("ReducedEncapsulation", reduced, "seg6 encap.red", _REDUCED, required=False)


_UNNAMED: Final = ""
_MULTIPATH: Final = _Trial(
    _UNNAMED,
    wanted=Objects(
        routes={
            route_key(_TABLE, ip_network("198.51.100.0/24")): Balanced(
                _VETH, ((_SEGMENT.packed, 1), ((_SEGMENT + 1).packed, 1)), "encap"
            )
        }
    ),
    what="several next hops",
    remedy="needs a kernel with CONFIG_IP_ROUTE_MULTIPATH",
    required=False,
)
"""No finding: without it a node uses one gateway of a VPC for IPv4."""


def _module(name: str) -> str:
    return f"`modprobe {name}` on the node, or a kernel that has the module {name}"


def _corrected(findings: list[Finding], release: str) -> tuple[Finding, ...]:
    """The findings, corrected for a read-only /proc/sys.

    There (an init container has set it) the trials of strict mode and of End.DT46, which depends on it, mean nothing:
    the node's own strict mode and the kernel's version decide.
    """
    if sysctl.writable(_WRITTEN[0]):
        return tuple(findings)
    strict = sysctl.values(Namespace.own(), [STRICT]).get(STRICT) == "1"
    by = "set on this node already" if strict else f"neither set nor writable on this node: {_READ_ONLY}"
    young = tuple(int(number) for number in re.findall(r"\d+", release)[:2]) >= _END_DT46_SINCE
    since = "" if young else f", and {release} is older than Linux 5.14, which brought it"
    corrected = {
        "StrictMode": Finding("StrictMode", ok=strict, message=f"net.vrf.strict_mode is {by}"),
        "EndDT46": Finding(
            "EndDT46", ok=strict and young, message=f"not tried: net.vrf.strict_mode is {by}{since}"
        ),
    }
    return tuple(corrected.get(finding.name, finding) for finding in findings)


def _sysctls() -> Finding:
    wrong = [path for path, value in sysctl.values(Namespace.own(), _WRITTEN).items() if value != "1"]
    refused = [path for path in wrong if not sysctl.writable(path)]
    if refused:
        message = f"/proc/sys/{refused[0]} is off and cannot be written: {_READ_ONLY}"
        return Finding("Sysctls", ok=False, message=message)
    done = "/proc/sys/net is as it should be" if not wrong else "/proc/sys/net can be written"
    return Finding("Sysctls", ok=True, message=done)


def _ipv6() -> Finding:
    switches = sysctl.values(Namespace.own(), _DISABLED)
    if not switches:
        return Finding("IPv6", ok=False, message="no IPv6: boot without ipv6.disable=1")
    if off := [path for path, value in switches.items() if value != "0"]:
        names = " and ".join(path.replace("/", ".") for path in off)
        return Finding("IPv6", ok=False, message=f"IPv6 is switched off: set {names} to 0")
    return Finding("IPv6", ok=True, message="IPv6")
