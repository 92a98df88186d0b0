"""Settings: flags, then environment, then a YAML file, then defaults; the same names everywhere.

Flag ``--mqtt-url``, variable ``GALACTIC_MQTT_URL``, key ``mqtt_url``. An unknown key or a bad value stops the process
at start, with its name and what is allowed. ``process`` has the settings of every program, ``mqtt`` those of the
broker's clients, ``operator``, ``webhook``, ``router`` and ``node`` those of one program; ``sources`` reads them,
``old_names`` replaces names that have changed, ``exposure`` finds readable connections.
"""

from galactic.settings.mqtt import MqttSettings
from galactic.settings.node import NodeSettings
from galactic.settings.operator import OperatorSettings
from galactic.settings.process import PREFIX, Settings
from galactic.settings.router import RouterSettings
from galactic.settings.sources import USAGE_ERROR, load
from galactic.settings.webhook import WebhookSettings

__all__ = [
    "PREFIX",
    "USAGE_ERROR",
    "MqttSettings",
    "NodeSettings",
    "OperatorSettings",
    "RouterSettings",
    "Settings",
    "WebhookSettings",
    "load",
]
