"""Settings: flags, then environment, then a YAML file, then defaults; the same names everywhere.

Flag ``--mqtt-url``, variable ``GALACTIC_MQTT_URL``, key ``mqtt_url``. An unknown key or a bad value stops the process
at start, with its name and what is allowed.
"""

import argparse
import os
import re
import ssl
import sys
from collections.abc import Sequence
from ipaddress import IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn, Self, TypeVar, get_args
from urllib.parse import urlsplit

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
    forms = "give mqtt://HOST[:PORT], mqtts://HOST[:PORT], ws://HOST[:PORT][/PATH] or wss://…"
    scheme, _, rest = url.partition("://")
    if scheme not in ("mqtt", "mqtts", "ws", "wss") or not rest:
        raise ValueError(forms)
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL ends up in logs: give mqtt_username and mqtt_password_file instead")
    if (
        not parts.hostname or parts.port == 0
    ):  # a port that is no number, or too large, is a ValueError as well
        raise ValueError(forms)
    if parts.query or parts.fragment or (scheme in ("mqtt", "mqtts") and parts.path not in ("", "/")):
        raise ValueError(f"only ws:// and wss:// have a path, and none a query or fragment; {forms}")
    return url


def _database_url(url: SecretStr) -> SecretStr:
    if not url.get_secret_value().startswith(("postgresql://", "postgres://")):
        raise ValueError("give postgresql://USER:PASSWORD@HOST:PORT/NAME")
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
    mqtt_username: str | None = Field(
        default=None, description="user name at the broker; a node's is CLUSTER/NODE"
    )
    mqtt_password: SecretStr | None = Field(default=None, description="password at the broker")
    mqtt_password_file: Path | None = Field(
        default=None, description="file with the password, read again for each connection"
    )
    mqtt_ca_file: Path | None = Field(
        default=None, description="CA certificates (PEM) that the broker's must chain to; none: the system's"
    )
    mqtt_cert_file: Path | None = Field(
        default=None, description="client certificate (PEM), read again for each connection"
    )
    mqtt_key_file: Path | None = Field(
        default=None,
        description="key of the client certificate (PEM, not encrypted); none: in the same file",
    )
    mqtt_base: Annotated[str, Field(pattern=r"^[^+#/\s]+(/[^+#/\s]+)*$")] = Field(
        default="galactic/v1", description="first levels of every topic"
    )

    @model_validator(mode="after")
    def _credentials(self) -> Self:
        encrypted = urlsplit(self.mqtt_url).scheme in ("mqtts", "wss")
        for name in ("mqtt_ca_file", "mqtt_cert_file", "mqtt_key_file"):
            if getattr(self, name) is not None and not encrypted:
                raise ValueError(f"{name} is for mqtts:// and wss://, and mqtt_url is {self.mqtt_url}")
        if self.mqtt_key_file is not None and self.mqtt_cert_file is None:
            raise ValueError("mqtt_key_file is of no use without mqtt_cert_file")
        if self.mqtt_password is not None and self.mqtt_password_file is not None:
            raise ValueError("give mqtt_password or mqtt_password_file, not both")
        if self.mqtt_username is None and (self.mqtt_password or self.mqtt_password_file):
            raise ValueError("a password needs mqtt_username")
        self.password()
        self.tls()
        return self

    def password(self) -> str | None:
        """The password as it is now. Raises ValueError where its file cannot be read."""
        if self.mqtt_password_file is None:
            return self.mqtt_password.get_secret_value() if self.mqtt_password else None
        return _read("mqtt_password_file", self.mqtt_password_file).rstrip("\r\n")

    def tls(self) -> ssl.SSLContext | None:
        """What a connection is encrypted and checked with, made of the files as they are now; None: not encrypted.

        The broker's certificate must be valid, chain to a trusted CA and name the host of ``mqtt_url``. Raises
        ValueError that names the file.
        """
        if urlsplit(self.mqtt_url).scheme not in ("mqtts", "wss"):
            return None
        context = ssl.create_default_context(cadata=self._authorities())
        if self.mqtt_cert_file is None:
            return context
        _read("mqtt_cert_file", self.mqtt_cert_file)
        if self.mqtt_key_file is not None:
            _read("mqtt_key_file", self.mqtt_key_file)

        def encrypted() -> str:  # asked for by OpenSSL, which would otherwise ask the terminal
            raise ValueError("mqtt_key_file: the key is encrypted; give one that is not")

        try:
            context.load_cert_chain(self.mqtt_cert_file, self.mqtt_key_file, encrypted)
        except ssl.SSLError as error:
            files = f"mqtt_cert_file {self.mqtt_cert_file}, mqtt_key_file {self.mqtt_key_file}"
            raise ValueError(
                f"{files}: no PEM certificate with the key that belongs to it ({error})"
            ) from error
        return context

    def _authorities(self) -> str | None:
        if self.mqtt_ca_file is None:
            return None
        text = _read("mqtt_ca_file", self.mqtt_ca_file)
        try:
            ssl.create_default_context(cadata=text)
        except (ssl.SSLError, ValueError) as error:
            raise ValueError(
                f"mqtt_ca_file: {self.mqtt_ca_file} has no PEM certificates ({error})"
            ) from error
        return text


def _read(name: str, path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{name}: {path} cannot be read: {error}") from error


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
    segments: dict[str, str] = Field(
        default_factory=dict, description="the SRv6 prefixes of Nodes that no annotation gives one, by name"
    )
    pool_prefix: IPv6Network | None = Field(
        default=None,
        description="the network that all other Nodes get SRv6 prefixes from; none: they wait for one",
    )
    pool_length: int = Field(default=56, ge=48, le=64, description="length of the prefixes from the pool")
    router_outside: bool = Field(
        default=False,
        description="this cluster's routers run outside of it and write nothing into it: no attachment is called "
        "NotRouted for that",
    )
    unattached_after: float = Field(
        default=30.0,
        gt=0,
        description="seconds after which a pod that runs without its VPC interface is reported (PodNotAttached)",
    )
    evict_unattached: bool = Field(
        default=False,
        description="evict such pods, so that their owners make others; a PodDisruptionBudget is respected, and a pod "
        "without an owner is left alone",
    )
    remove_node_taint: bool = Field(
        default=True,
        description="take the taint galactic.datumapis.com/agent-not-ready off a Node on which pods can be attached",
    )
    set_node_taint: bool = Field(
        default=False,
        description="put that taint (NoSchedule) on a Node on which pods cannot be attached any more",
    )

    @model_validator(mode="after")
    def _taint(self) -> Self:
        if self.set_node_taint and not self.remove_node_taint:
            raise ValueError("set_node_taint without remove_node_taint would close Nodes for ever; give both")
        return self

    @model_validator(mode="after")
    def _pool(self) -> Self:
        if self.pool_prefix is None:
            return self
        if self.pool_prefix.prefixlen > self.pool_length:
            raise ValueError(
                f"pool_prefix {self.pool_prefix} has no prefixes of pool_length {self.pool_length}"
            )
        if self.srv6_space and not self.pool_prefix.subnet_of(self.srv6_space):
            raise ValueError(f"pool_prefix {self.pool_prefix} lies outside srv6_space {self.srv6_space}")
        return self


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
        default=10.0,
        ge=0,
        le=11,
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
        description="false: standalone, for which a broker is enough; with a database several replicas may run",
    )
    database_url: Annotated[SecretStr, AfterValidator(_database_url)] | None = Field(
        default=None,
        description="postgresql://USER:PASSWORD@HOST/NAME for endpoints and their history; none: not kept",
    )
    history_retention: float = Field(
        default=0.0, ge=0, description="days for which history is kept after its end; 0: for ever"
    )
    withdraw_after: float = Field(
        default=0.0,
        ge=0,
        description="seconds after which a node that went offline loses its routes; 0: never",
    )
    admissions: Path | None = Field(
        default=None,
        description="YAML file that says which clusters may be in which VPC, read again when it changes (standalone)",
    )

    @model_validator(mode="after")
    def _several(self) -> Self:
        if self.admissions is not None and self.kubernetes:
            raise ValueError(
                "admissions: a router in Kubernetes serves its own cluster; give kubernetes=false"
            )
        return self


class NodeSettings(MqttSettings):
    """The node controller's."""

    node_name: str = Field(default="", description="the Node's name; in the DaemonSet spec.nodeName")
    underlay_interface: str = Field(
        default="", description="the interface of the underlay; empty: the default route's"
    )
    socket: Annotated[Path, AfterValidator(_socket)] = Field(
        default=Path("/var/run/galactic/agent.sock"), description="unix socket that the CNI plugin talks to"
    )
    cni_conf_dir: Path | None = Field(
        default=None,
        description="folder of the container runtime's network configurations, of which Multus' must be the first "
        "(condition MultusConfigured); none: not looked at",
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
    if not name:  # about several settings at once, secrets maybe among them: what was given is not shown
        return str(detail["msg"]).removeprefix("Value error, ")
    secret = field is not None and SecretStr in (field.annotation, *get_args(field.annotation))
    shown = re.sub(r"//[^/@]*@", "//…@", repr(detail["input"]))
    given = "" if secret else f" (given: {shown})"
    return f"{name}: {detail['msg']}{given}" + (f" - {field.description}" if field else "")


def _refuse(program: str, *sentences: str) -> NoReturn:
    sys.stderr.writelines(f"{program}: {sentence}\n" for sentence in sentences)
    raise SystemExit(USAGE_ERROR)
