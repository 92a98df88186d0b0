"""One paho client, configured from the settings."""

import logging
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from galactic.settings import MqttSettings

QOS: Final = 1
CONNECT_SECONDS: Final = 5.0
_PORTS: Final = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}


def address(url: str) -> tuple[str, int]:
    """Host and port of ``mqtt_url``."""
    parts = urlsplit(url)
    return parts.hostname or "localhost", parts.port or _PORTS[parts.scheme]


def client(
    settings: MqttSettings,
    name: str,
    version: MQTTProtocolVersion,
    *,
    will: tuple[str, bytes] | None,
    window: int,
    on_error: Callable[[str], None],
) -> mqtt.Client:
    """Not connected yet. ``window``: the most publishes without PUBACK that it sends.

    ``on_error`` is called with paho's error messages, which have more detail than its callbacks.
    """
    web = urlsplit(settings.mqtt_url).scheme in ("ws", "wss")
    made = mqtt.Client(
        CallbackAPIVersion.VERSION2,
        client_id=name,
        clean_session=None if version == MQTTProtocolVersion.MQTTv5 else True,
        protocol=version,
        transport="websockets" if web else "tcp",
    )
    made.max_inflight_messages_set(window)
    made.connect_timeout = CONNECT_SECONDS
    if settings.mqtt_username is not None:
        made.username_pw_set(settings.mqtt_username, settings.password())
    if (context := settings.tls()) is not None:
        made.tls_set_context(context)
    if web:
        made.ws_set_options(path=urlsplit(settings.mqtt_url).path or "/mqtt")
    if will:
        made.will_set(will[0], will[1], QOS, retain=True)
    # Not on_log: for that paho writes a line about each packet, which takes longer than the packet.
    made.enable_logger(_logger(on_error))
    return made


class _ErrorHandler(logging.Handler):
    def __init__(self, on_error: Callable[[str], None]) -> None:
        super().__init__()
        self._on_error = on_error

    def emit(self, record: logging.LogRecord) -> None:
        self._on_error(record.getMessage())


def _logger(on_error: Callable[[str], None]) -> logging.Logger:
    """A logger of errors for this client alone. Galactic logs them in its own words."""
    logger = logging.Logger("paho", logging.ERROR)  # noqa: LOG001 - a named one would be shared by all clients
    logger.addHandler(_ErrorHandler(on_error))
    return logger
