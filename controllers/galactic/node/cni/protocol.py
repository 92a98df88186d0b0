"""The Container Network Interface as the kubelet speaks it: requests and errors (CNI 0.3.1 to 1.1.0)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from galactic.errors import GalacticError, NotYet, Rejected, Unreachable
from galactic.node.state.attachment import PluginConfig, PodRef

VERSIONS: Final = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
SINCE: Final = {"check": "0.4.0", "gc": "1.1.0", "status": "1.1.0"}
"""The version that brought a verb."""
VERBS: Final = ("add", "del", "check", "gc", "status")
DEFAULT_VERSION: Final = "0.1.0"
"""Of a configuration without cniVersion, as in libcni."""

INCOMPATIBLE: Final = 1
UNSUPPORTED: Final = 2
INVALID_ENVIRONMENT: Final = 4
UNDECODABLE: Final = 6
INVALID_CONFIG: Final = 7
TRY_AGAIN: Final = 11
NOT_AVAILABLE: Final = 50
NOT_AVAILABLE_AND_LIMITED: Final = 51
NOT_AS_IT_SHOULD_BE: Final = 100  # ours, from the range that the specification leaves to plugins
CODES: Final = (
    INCOMPATIBLE,
    UNSUPPORTED,
    INVALID_ENVIRONMENT,
    UNDECODABLE,
    INVALID_CONFIG,
    TRY_AGAIN,
    NOT_AVAILABLE,
    NOT_AVAILABLE_AND_LIMITED,
    NOT_AS_IT_SHOULD_BE,
)

_CONTAINER: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]{0,254}")
_NETWORK: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_IFNAME: Final = re.compile(r"(?!\.{1,2}$)[!-~]{1,15}")
_FORBIDDEN: Final = frozenset("/:%")
"""The kernel replaces % by a number of its choice."""
_LONGEST_PATH: Final = 4095
_COMMON: Final = frozenset(
    {
        "cniVersion",
        "cniVersions",
        "name",
        "type",
        "args",
        "capabilities",
        "runtimeConfig",
        "disableCheck",
        "disableGC",
        "loadOnlyInlinedPlugins",
    }
)
"""Fields that the specification gives every configuration; this plugin has nothing to do for them."""


class Failure(GalacticError):
    """An error as CNI has it."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code, self.details = code, details


class _Envelope(msgspec.Struct, frozen=True):
    """The fields that every plugin's network configuration has."""

    version: str = msgspec.field(name="cniVersion", default=DEFAULT_VERSION)
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
    def pod(self) -> PodRef:
        """The pod that the kubelet names in CNI_ARGS."""
        return PodRef(*(self.arguments.get(f"K8S_POD_{name}", "") for name in ("NAMESPACE", "NAME", "UID")))


def version(config: bytes) -> str:
    """The version that the caller speaks; ours where it cannot be read."""
    try:
        return _envelope(config).version
    except Failure:
        return "1.0.0"


def request(verb: str, headers: Mapping[str, str], config: bytes) -> Request:
    """The call that the plugin passed on. Raises Failure on what CNI forbids.

    DEL is taken with any configuration, of any version and even of none, and with any container and interface: where
    nothing of that name was attached, there is nothing to detach, and a DEL that fails keeps the pod from ending.
    """
    if verb not in VERBS:
        raise Failure(INVALID_ENVIRONMENT, f"no such verb: {verb}")
    variables = {
        name: unquote(headers.get(f"CNI_{name}", ""), errors="surrogateescape")
        for name in ("CONTAINERID", "NETNS", "IFNAME", "ARGS")
    }
    container, netns, ifname = variables["CONTAINERID"], variables["NETNS"], variables["IFNAME"]
    if wrong := _wrong(verb, container, netns, ifname):
        raise Failure(INVALID_ENVIRONMENT, "; ".join(wrong))
    speaks = version(config) if verb == "del" else _checked(verb, config)
    pairs = (pair.partition("=") for pair in variables["ARGS"].split(";") if pair)
    arguments = {key: value for key, _, value in pairs}
    return Request(verb, container, netns, ifname, arguments, config, speaks)


def _wrong(verb: str, container: str, netns: str, ifname: str) -> list[str]:
    """The problems of the variables that this verb needs."""
    wrong = []
    if verb in ("add", "check"):
        if not _CONTAINER.fullmatch(container):
            wrong.append(f"CNI_CONTAINERID {container!r} is not a container's identifier")
        if not _IFNAME.fullmatch(ifname) or _FORBIDDEN & set(ifname):
            wrong.append(f"CNI_IFNAME {ifname!r} is not an interface name of 1 to 15 characters")
        printable = netns.isprintable() and len(netns) <= _LONGEST_PATH
        if not netns.startswith("/") or not printable or ".." in netns.split("/"):
            wrong.append(f"CNI_NETNS {netns[:200]!r} is not the path of a network namespace")
    return wrong


def _checked(verb: str, config: bytes) -> str:
    """The version of the configuration, which that verb may be called with."""
    envelope = _envelope(config)
    speaks = envelope.version
    if speaks not in VERSIONS:
        raise Failure(INCOMPATIBLE, f"cniVersion {speaks} is not one of {', '.join(VERSIONS)}")
    if VERSIONS.index(speaks) < VERSIONS.index(SINCE.get(verb, VERSIONS[0])):
        raise Failure(
            INCOMPATIBLE, f"cniVersion {speaks} has no {verb.upper()}: that came with {SINCE[verb]}"
        )
    if not _NETWORK.fullmatch(envelope.name):
        raise Failure(INVALID_CONFIG, f"name: {envelope.name!r} is not the name of a network")
    return speaks


def _envelope(config: bytes) -> _Envelope:
    try:
        return msgspec.json.decode(config, type=_Envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Failure(UNDECODABLE, f"the network configuration is not usable JSON: {error}") from error


def supported(config: bytes) -> None:
    """Raises Failure on a field that this plugin does not support: a typing error, or another plugin's field.

    A field with a domain before a slash belongs to another program, and one without a value has no effect.
    """
    fields: dict[str, Any] = msgspec.json.decode(config)
    for key, value in fields.items():
        if (
            value
            and "/" not in key
            and key not in _COMMON
            and key not in PluginConfig.__struct_encode_fields__
        ):
            text = msgspec.json.encode(value).decode()
            raise Failure(UNSUPPORTED, f"unsupported field {key!r} with value {text[:200]}")


def failure(error: GalacticError) -> Failure:
    """That error as CNI has it."""
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
