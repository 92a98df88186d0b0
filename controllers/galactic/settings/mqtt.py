"""Settings of the programs that connect to the broker: address, credentials, TLS."""

import ssl
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from galactic.settings import exposure
from galactic.settings.process import Settings


def _mqtt_url(url: str) -> str:
    forms = "give mqtt://HOST[:PORT], mqtts://HOST[:PORT], ws://HOST[:PORT][/PATH] or wss://…"
    scheme, _, rest = url.partition("://")
    if scheme not in ("mqtt", "mqtts", "ws", "wss") or not rest:
        raise ValueError(forms)
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL ends up in logs: give mqtt_username and mqtt_password_file instead")
    if not parts.hostname or parts.port == 0:  # .port raises ValueError for other bad ports
        raise ValueError(forms)
    if parts.query or parts.fragment or (scheme in ("mqtt", "mqtts") and parts.path not in ("", "/")):
        raise ValueError(f"only ws:// and wss:// have a path, and none a query or fragment; {forms}")
    return url


class MqttSettings(Settings):
    """Settings of the programs that connect to the broker."""

    mqtt_url: Annotated[str, AfterValidator(_mqtt_url)] = Field(
        default="mqtt://localhost:1883", description="URL of the broker: mqtt://, mqtts://, ws:// or wss://"
    )
    mqtt_username: str | None = Field(
        default=None, description="user name at the broker; for a node CLUSTER/NODE"
    )
    mqtt_password: SecretStr | None = Field(default=None, description="password at the broker")
    mqtt_password_file: Path | None = Field(
        default=None, description="file with the password at the broker, read at each connection"
    )
    mqtt_ca_file: Path | None = Field(
        default=None,
        description="CA certificates (PEM) that sign the broker's certificate; none: the system's",
    )
    mqtt_cert_file: Path | None = Field(
        default=None, description="client certificate (PEM), read at each connection"
    )
    mqtt_key_file: Path | None = Field(
        default=None,
        description="key of the client certificate (PEM, not encrypted); none: the certificate's file has it",
    )
    mqtt_base: Annotated[str, Field(pattern=r"^[^+#/\s]+(/[^+#/\s]+)*$")] = Field(
        default="galactic/v1", description="first levels of every MQTT topic"
    )

    @model_validator(mode="after")
    def _credentials(self) -> Self:
        encrypted = urlsplit(self.mqtt_url).scheme in ("mqtts", "wss")
        for name in ("mqtt_ca_file", "mqtt_cert_file", "mqtt_key_file"):
            if getattr(self, name) is not None and not encrypted:
                raise ValueError(f"{name} is for mqtts:// and wss://, and mqtt_url is {self.mqtt_url}")
        if self.mqtt_key_file is not None and self.mqtt_cert_file is None:
            raise ValueError("mqtt_key_file needs mqtt_cert_file")
        if self.mqtt_password is not None and self.mqtt_password_file is not None:
            raise ValueError("give mqtt_password or mqtt_password_file, not both")
        if self.mqtt_username is None and (self.mqtt_password or self.mqtt_password_file):
            raise ValueError("a password needs mqtt_username")
        self.password()
        self.tls()
        return self

    @property
    def password_exposure(self) -> str | None:
        """The problem of a password that others on the way can read; None where there is none."""
        given = self.mqtt_password is not None or self.mqtt_password_file is not None
        return exposure.mqtt_password(self.mqtt_url) if given else None

    def password(self) -> str | None:
        """The current password. Raises ValueError if its file cannot be read."""
        if self.mqtt_password_file is None:
            return self.mqtt_password.get_secret_value() if self.mqtt_password else None
        return _read("mqtt_password_file", self.mqtt_password_file).rstrip("\r\n")

    def tls(self) -> ssl.SSLContext | None:
        """The TLS context, made from the files' current content; None: ``mqtt_url`` is not encrypted.

        The broker's certificate must be valid, chain to a trusted CA and name the host of ``mqtt_url``. Raises
        ValueError that names the file.
        """
        if urlsplit(self.mqtt_url).scheme not in ("mqtts", "wss"):
            return None
        context = ssl.create_default_context(cadata=self._authorities())
        # Private CAs often lack the extensions that RFC 5280 asks for, and Python requires from 3.13 on.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if self.mqtt_cert_file is None:
            return context
        _read("mqtt_cert_file", self.mqtt_cert_file)
        if self.mqtt_key_file is not None:
            _read("mqtt_key_file", self.mqtt_key_file)

        def encrypted() -> str:  # called by OpenSSL, which would otherwise prompt on the terminal
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
