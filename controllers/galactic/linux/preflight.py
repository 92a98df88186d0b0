"""What this kernel can and cannot do, tried rather than guessed: in a throw-away network namespace, gone afterwards."""

import os
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
    Encap,
    EndDT46,
    Link,
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
_STRICT: Final = "net/vrf/strict_mode"
_WRITTEN: Final = ("net/ipv4/conf/all/forwarding", "net/ipv6/conf/all/seg6_enabled")
Encapsulation = Literal["encap.red", "encap"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing the kernel was asked. ``name`` is the CamelCase word for conditions."""

    name: str
    ok: bool
    message: str
    required: bool = True


@dataclass(frozen=True, slots=True)
class Preflight:
    """All findings, and the encapsulation to use: the reduced one where the kernel has it."""

    kernel: str
    encap: Encapsulation
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return all(finding.ok for finding in self.findings if finding.required)


async def preflight() -> Preflight:
    """Tries everything the plan needs. Never raises for what the kernel cannot do: that is a finding."""
    release = os.uname().release
    findings = [_sysctls()]
    try:
        namespace = Namespace.fresh()
    except OSError as error:
        refused = f"cannot make one to try things in: {error.strerror}"
        return Preflight(
            release, "encap", (*findings, Finding("NetworkNamespaces", ok=False, message=refused))
        )
    with namespace:
        kernel = LinuxKernel(namespace)
        try:
            findings += [await trial.made(kernel) for trial in _trials()]
        finally:
            kernel.close()
    can = {finding.name for finding in findings if finding.ok}
    return Preflight(release, "encap.red" if "ReducedEncapsulation" in can else "encap", _sober(findings))


@dataclass(frozen=True, slots=True)
class _Trial:
    name: str
    wanted: Objects
    what: str
    need: str
    required: bool = True

    async def made(self, kernel: LinuxKernel) -> Finding:
        try:
            await kernel.write(change(self.wanted, Objects()))
        except GalacticError as error:
            message = f"no {self.what}: needs {self.need} ({error})"
            return Finding(self.name, ok=False, message=message, required=self.required)
        return Finding(self.name, ok=True, message=self.what, required=self.required)


def _trials() -> Iterator[_Trial]:
    """In the order in which each builds on those before."""
    sid = IPv6Network(_SEGMENT)
    inner = route_key(_TABLE, ip_network("192.0.2.0/24"))
    segment = _SEGMENT.packed
    seg6 = "CONFIG_IPV6_SEG6_LWTUNNEL"
    yield _Trial("Dummy", Objects(links={LOOPBACK_DEVICE: Link("dummy")}), "dummy devices", "CONFIG_DUMMY")
    yield _Trial("Veth", Objects(links={_VETH: Link("veth")}), "veth devices", "CONFIG_VETH")
    yield _Trial("VRF", Objects(links={_VRF: Link("vrf", table=_TABLE)}), "VRF devices", "CONFIG_NET_VRF")
    yield _Trial(
        "PolicyRules",
        Objects(rules={Rule(999, sid, MAIN_TABLE): None}),
        "IPv6 rules",
        "CONFIG_IPV6_MULTIPLE_TABLES",
    )
    yield _Trial(
        "StrictMode", Objects(sysctls={_STRICT: "1"}), "net.vrf.strict_mode", "VRF and a writable /proc/sys"
    )
    end = Objects(routes={route_key(MAIN_TABLE, sid): EndDT46(_VRF, _TABLE)})
    yield _Trial("EndDT46", end, "seg6local End.DT46", f"Linux 5.14 with {seg6}, and net.vrf.strict_mode=1")
    full = Objects(routes={inner: Encap(_VETH, segment, "encap")})
    yield _Trial("Encapsulation", full, "seg6 encap", f"Linux 4.14 with {seg6}")
    reduced = Objects(routes={inner: Encap(_VETH, segment, "encap.red")})
    yield _Trial("ReducedEncapsulation", reduced, "seg6 encap.red", "Linux 6.0", required=False)


def _sober(findings: list[Finding]) -> tuple[Finding, ...]:
    """What the trials say of this node.

    Where /proc/sys is read-only (an init container has set it) those of strict mode and of End.DT46, which depends on
    it, say nothing: then what counts is the node's own strict mode.
    """
    if findings[0].ok:
        return tuple(findings)
    strict = sysctl.values(Namespace.own(), [_STRICT]).get(_STRICT) == "1"
    by = "set on this node already" if strict else "neither set nor writable on this node"
    told = {
        "StrictMode": Finding("StrictMode", ok=strict, message=f"net.vrf.strict_mode is {by}"),
        "EndDT46": Finding("EndDT46", ok=strict, message=f"not tried: net.vrf.strict_mode is {by}"),
    }
    return tuple(told.get(finding.name, finding) for finding in findings)


def _sysctls() -> Finding:
    refused = [path for path in _WRITTEN if not sysctl.writable(path)]
    if refused:
        return Finding(
            "Sysctls", ok=False, message=f"/proc/sys/{refused[0]} cannot be written", required=False
        )
    return Finding("Sysctls", ok=True, message="/proc/sys/net can be written", required=False)
