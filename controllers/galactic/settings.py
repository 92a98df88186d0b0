"""Settings: flags, then environment, then a YAML file, then defaults; the same names everywhere.

Flag ``--mqtt-url``, variable ``GALACTIC_MQTT_URL``, key ``mqtt_url``. An unknown key or a bad value stops the process
at start, with its name and what is allowed.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from ipaddress import IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn, Self, TypeVar

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from galactic import __version__

PREFIX: Final = "GALACTIC_"
USAGE_ERROR: Final = 2
S = TypeVar("S", bound="Settings")


def _mqtt_url(url: str) -> str:
    scheme, _, rest = url.partition("://")
    if scheme not in ("mqtt", "mqtts", "ws", "wss") or not rest:
        raise ValueError("give mqtt://HOST[:PORT], mqtts://…, ws://… or wss://…")
    return url


def _socket(path: Path) -> Path:
    if len(os.fsencode(path)) > 107:
        raise ValueError("a unix socket's path has at most 107 bytes (unix(7))")
    return path


class Settings(BaseSettings):
    """What every controller knows."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="forbid",
        frozen=True,
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_implicit_flags=False,
        cli_avoid_json=True,
    )

    cluster: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=63)] = Field(
        default="default", description="the name of this cluster among those that share a broker"
    )
    srv6_space: IPv6Network | None = Field(
        default=None, description="the network that all nodes' prefixes lie in, e.g. 2001:db8:ff00::/40"
    )
    metrics_port: int = Field(
        default=9090, ge=0, le=65535, description="port of /metrics and /healthz; 0: none"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least severe level"
    )
    log_format: Literal["json", "console"] = Field(
        default="json", description="json for machines, console for eyes"
    )


class MqttSettings(Settings):
    """Those that talk to the broker."""

    mqtt_url: Annotated[str, AfterValidator(_mqtt_url)] = Field(
        default="mqtt://localhost:1883", description="the broker: mqtt://, mqtts://, ws:// or wss://"
    )
    mqtt_username: str | None = Field(default=None, description="user name at the broker")
    mqtt_password: SecretStr | None = Field(default=None, description="password at the broker")
    mqtt_ca_file: Path | None = Field(
        default=None, description="CA certificates (PEM) that the broker's must chain to"
    )
    mqtt_cert_file: Path | None = Field(default=None, description="client certificate (PEM)")
    mqtt_key_file: Path | None = Field(default=None, description="key of the client certificate (PEM)")
    mqtt_base: Annotated[str, Field(pattern=r"^[^+#/\s]+(/[^+#/\s]+)*$")] = Field(
        default="galactic/v1", description="first levels of every topic"
    )


class OperatorSettings(Settings):
    """The operator's."""

    strict: bool = Field(
        default=False,
        description="refuse addresses outside their VPC's networks instead of warning about them",
    )
    mtu: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="MTU of attachments; 0: what each node's underlay leaves room for",
    )


def _networks(text: str) -> str:
    for one in filter(None, (part.strip() for part in text.split(","))):
        try:
            ip_network(one)
        except ValueError as error:
            raise ValueError(
                f"{error}; write networks, separated by commas: 10.96.0.0/12,fd00::/108"
            ) from error
    return text


class WebhookSettings(Settings):
    """The admission webhooks'."""

    strict: bool = Field(
        default=False,
        description="refuse addresses outside their VPC's networks instead of warning about them",
    )
    patience: float = Field(
        default=2.0,
        ge=0,
        le=3.5,
        description="seconds for which a pod waits for its attachment to be ready before it is refused",
    )
    node_identities: str = Field(
        default="system:node:{node},galactic-node-{node},system:serviceaccount:galactic-system:galactic-node",
        description="users that are a node, separated by commas; {node} stands for its name, and without it the node "
        "is the one that the service account's token is for",
    )
    pod_ranges: Annotated[str, AfterValidator(_networks)] = Field(
        default="", description="networks of the cluster's pods, besides the Nodes' podCIDRs"
    )
    service_ranges: Annotated[str, AfterValidator(_networks)] = Field(
        default="", description="networks of the cluster's services, besides its ServiceCIDRs"
    )
    port: int = Field(default=9443, ge=1, le=65535, description="port of the webhooks (HTTPS)")
    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)] = Field(
        default="galactic-webhook", description="name of the configurations, the Service and the Secret"
    )
    namespace: str = Field(default="galactic-system", description="namespace of the Service and the Secret")
    url: Annotated[str, Field(pattern=r"^(https://[^/?#]+)?$")] = Field(
        default="", description="how the API server reaches the webhooks; empty: as the Service"
    )
    configure: bool = Field(
        default=True, description="write the webhook configurations; false: somebody else does"
    )
    pod_failure_policy: Literal["Fail", "Ignore"] = Field(
        default="Fail", description="what becomes of pods while no webhook server is there"
    )
    certificate_hours: float = Field(
        default=2160.0, gt=0, description="for how long certificates of our own are valid"
    )
    cert_file: Path | None = Field(
        default=None, description="a certificate that others make (PEM); none: our own, renewed by us"
    )
    key_file: Path | None = Field(default=None, description="its key (PEM)")
    ca_file: Path | None = Field(
        default=None, description="the CAs to enter into the configurations (PEM); none: left to others"
    )
    inject_ca_from: str = Field(
        default="", description="cert-manager's Certificate, namespace/name, whose CA its injector enters"
    )

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together; give both or neither")
        return self


class RouterSettings(MqttSettings):
    """The router's."""

    kubernetes: bool = Field(
        default=True,
        description="false: standalone, with the broker alone and without history (database_url is not there yet)",
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="postgresql://… to keep routes and history in; not there yet, so it must be left out",
    )


class NodeSettings(MqttSettings):
    """The node controller's."""

    node_name: str = Field(default="", description="the Node's name; in the DaemonSet spec.nodeName")
    underlay_interface: str = Field(
        default="", description="the interface of the underlay; empty: the default route's"
    )
    socket: Annotated[Path, AfterValidator(_socket)] = Field(
        default=Path("/var/run/galactic/agent.sock"), description="unix socket that the CNI plugin talks to"
    )
    guard: bool = Field(
        default=True,
        description="drop what is sent to this node's SIDs from outside the SRv6 space (RFC 8754 §5.1)",
    )


def load(kind: type[S], arguments: Sequence[str] | None = None, *, program: str = "galactic") -> S:
    """The settings of one process. Prints what is wrong and exits 2 rather than return half of them."""
    flags, config = _split(list(sys.argv[1:] if arguments is None else arguments))
    if config and not config.is_file():
        _refuse(program, f"--config {config}: no such file")
    try:
        sourced = _sourced(kind, config)
        cli = CliSettingsSource[Any](sourced, root_parser=_parser(kind, program), cli_parse_args=flags)
        return sourced(_cli_settings_source=cli)
    except ValidationError as error:
        _refuse(program, *(_sentence(kind, detail) for detail in error.errors(include_url=False)))


def _parser(kind: type[Settings], program: str) -> argparse.ArgumentParser:
    """For the flags of the settings, and what goes for all of them."""
    parser = argparse.ArgumentParser(
        program,
        description=kind.__doc__,
        epilog=f"Flags go before the environment ({PREFIX}MQTT_URL for --mqtt-url), and that before the YAML file "
        f"(key mqtt_url) of --config or {PREFIX}CONFIG.",
    )
    parser.add_argument("--version", action="version", version=f"{program} {__version__}")
    parser.add_argument("--config", metavar="Path", help="YAML file with further settings")
    return parser


def _sourced(kind: type[S], config: Path | None) -> type[S]:
    """The same settings, reading environment and that file below the flags."""

    def sources(
        _cls: type[BaseSettings], /, settings_cls: type[BaseSettings], **given: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = YamlConfigSettingsSource(settings_cls, yaml_file=config)
        return given["init_settings"], given["env_settings"], file

    return type(
        kind.__name__, (kind,), {"settings_customise_sources": classmethod(sources), "__doc__": kind.__doc__}
    )


def _split(arguments: list[str]) -> tuple[list[str], Path | None]:
    """Flags for the settings, and the file that ``--config`` or ``GALACTIC_CONFIG`` names."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path, default=os.environ.get(f"{PREFIX}CONFIG"))
    known, rest = parser.parse_known_args(arguments)
    return rest, Path(known.config) if known.config else None


def _sentence(kind: type[Settings], detail: Any) -> str:
    name = ".".join(map(str, detail["loc"]))
    field = kind.model_fields.get(name)
    if detail["type"] == "extra_forbidden":
        return f"{name}: no such setting; there are {', '.join(kind.model_fields)}"
    given = "" if field and field.annotation is SecretStr else f" (given: {detail['input']!r})"
    return f"{name}: {detail['msg']}{given}" + (f" - {field.description}" if field else "")


def _refuse(program: str, *sentences: str) -> NoReturn:
    sys.stderr.writelines(f"{program}: {sentence}\n" for sentence in sentences)
    raise SystemExit(USAGE_ERROR)
