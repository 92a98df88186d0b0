"""Making one paho client as the settings say, for one connection."""

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
    complaint: Callable[[str], None],
) -> mqtt.Client:
    """One that is not connected yet. ``window``: publishes without PUBACK that it sends at the most.

    ``complaint`` is told what goes wrong in it: its callbacks say less.
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
    made.enable_logger(_logger(complaint))
    return made


class _Complaints(logging.Handler):
    def __init__(self, complaint: Callable[[str], None]) -> None:
        super().__init__()
        self._complaint = complaint

    def emit(self, record: logging.LogRecord) -> None:
        self._complaint(record.getMessage())


def _logger(complaint: Callable[[str], None]) -> logging.Logger:
    """Of errors, for this client alone: why they are told of is said in our own words."""
    found = logging.Logger("paho", logging.ERROR)  # noqa: LOG001 - one of the process would be all clients'
    found.addHandler(_Complaints(complaint))
    return found
