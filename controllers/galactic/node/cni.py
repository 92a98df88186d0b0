"""The Container Network Interface as the kubelet speaks it: requests, results, errors (CNI 0.3.1 to 1.1.0)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from galactic import names
from galactic.errors import GalacticError, NotYet, Rejected, Unreachable
from galactic.node import plan
from galactic.node.attachment import Attachment

VERSIONS: Final = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
VERBS: Final = ("add", "del", "check", "gc", "status")

INCOMPATIBLE: Final = 1
INVALID_ENVIRONMENT: Final = 4
UNDECODABLE: Final = 6
INVALID_CONFIG: Final = 7
TRY_AGAIN: Final = 11
NOT_AVAILABLE: Final = 50
NOT_AS_IT_SHOULD_BE: Final = 100  # ours, from the range that the specification leaves to plugins

_CONTAINER: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]{0,254}")
_IFNAME: Final = re.compile(r"[^\s/:]{1,15}")


class Failure(GalacticError):
    """What CNI calls an error."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code, self.details = code, details


class _Envelope(msgspec.Struct, frozen=True):
    """What every network configuration has, whoever's it is."""

    version: str = msgspec.field(name="cniVersion", default="0.4.0")
    name: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One call. ``config`` is the network configuration as it came."""

    verb: str
    container: str
    netns: str
    ifname: str
    arguments: Mapping[str, str]
    config: bytes
    version: str

    @property
    def pod(self) -> str:
        """The pod as the kubelet names it, for logs."""
        return (
            f"{self.arguments.get('K8S_POD_NAMESPACE', '')}/{self.arguments.get('K8S_POD_NAME', '')}".strip(
                "/"
            )
        )


def version(config: bytes) -> str:
    """The version that the caller speaks; ours where it cannot be read."""
    try:
        return msgspec.json.decode(config, type=_Envelope).version
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "1.0.0"


def request(verb: str, headers: Mapping[str, str], config: bytes) -> Request:
    """The call that the plugin passed on. Raises Failure on what CNI forbids."""
    if verb not in VERBS:
        raise Failure(INVALID_ENVIRONMENT, f"no such verb: {verb}")
    variables = {
        name: unquote(headers.get(f"CNI_{name}", ""), errors="surrogateescape")
        for name in ("CONTAINERID", "NETNS", "IFNAME", "ARGS")
    }
    container, netns, ifname = variables["CONTAINERID"], variables["NETNS"], variables["IFNAME"]
    if verb in ("add", "del", "check"):
        if not _CONTAINER.fullmatch(container):
            raise Failure(
                INVALID_ENVIRONMENT, f"CNI_CONTAINERID {container!r} is not a container's identifier"
            )
        if not _IFNAME.fullmatch(ifname) or ifname in (".", ".."):
            raise Failure(
                INVALID_ENVIRONMENT, f"CNI_IFNAME {ifname!r} is not an interface name of 1 to 15 characters"
            )
    if verb in ("add", "check") and not netns.startswith("/"):
        raise Failure(INVALID_ENVIRONMENT, f"CNI_NETNS {netns!r} is not the path of a network namespace")
    speaks = version(config)
    if verb != "del" and speaks not in VERSIONS:
        raise Failure(INCOMPATIBLE, f"cniVersion {speaks} is not one of {', '.join(VERSIONS)}")
    pairs = (pair.partition("=") for pair in variables["ARGS"].split(";") if pair)
    arguments = {key: value for key, _, value in pairs}
    return Request(verb, container, netns, ifname, arguments, config, speaks)


def result(attachment: Attachment, speaks: str) -> dict[str, Any]:
    """The result of a successful ADD, in the version asked for."""
    ips: list[dict[str, Any]] = []
    for address in attachment.addresses:
        entry: dict[str, Any] = {
            "address": str(address),
            "gateway": str(plan.gateway(address)),
            "interface": 1,
        }
        if speaks.startswith("0."):
            entry["version"] = str(address.version)
        ips.append(entry)
    families = {address.version for address in attachment.addresses}
    own = set(attachment.announces)
    routes = [
        {"dst": str(network), "gw": str(plan.GATEWAY4 if network.version == 4 else plan.GATEWAY6)}
        for network in (*attachment.networks, *attachment.routes)
        if network.version in families and network not in own
    ]
    return {
        "cniVersion": speaks,
        "interfaces": [
            {"name": names.host_end(attachment.vpc, attachment.function)},
            {"name": attachment.ifname, "sandbox": attachment.netns},
        ],
        "ips": ips,
        "routes": routes,
        "dns": {},
    }


def failure(error: GalacticError) -> Failure:
    """What CNI calls that error."""
    match error:
        case Failure():
            return error
        case Rejected():
            return Failure(INVALID_CONFIG, str(error))
        case NotYet() | Unreachable():
            return Failure(TRY_AGAIN, str(error))
        case _:
            return Failure(TRY_AGAIN, f"unexpected: {error}")


def error(problem: Failure, speaks: str) -> dict[str, Any]:
    """The error object."""
    return {"cniVersion": speaks, "code": problem.code, "msg": str(problem), "details": problem.details}
