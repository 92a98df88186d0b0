"""VPCAttachments as the operator writes them, made of the plugin configuration that goes with them."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from galactic.errors import Rejected
from galactic.names import from_base62, function_hex, vpc_hex
from galactic.node.state.attachment import PluginConfig, PodRef, plugin_config


def vpcattachment(
    config: Mapping[str, Any], *, carriers: Sequence[Mapping[str, str]] | None = (), version: str = "1"
) -> dict[str, Any]:
    """The object with ``config`` in its status. ``carriers`` None: an operator that writes none."""
    namespace, _, name = config["attachment"].partition("/")
    status: dict[str, Any] = {
        "identifier": function_hex(from_base62(config["vpcattachment"])),
        "vpc": f"{namespace}/blue",
        "addresses": list(config["addresses"]),
        "configuration": {
            "vpc": vpc_hex(from_base62(config["vpc"])),
            "networks": list(config["networks"]),
            "terminations": [dict(termination) for termination in config["terminations"]],
            "routes": [route["destination"] for route in config["routes"]],
            "mtu": config["mtu"],
        },
    }
    if carriers is not None:
        status["carriers"] = [dict(entry) for entry in carriers]
    return {
        "metadata": {"namespace": namespace, "name": name, "resourceVersion": version},
        "spec": {"vpc": {"name": "blue"}},
        "status": status,
    }


def carrier(pod: str, uid: str, node: str = "node-1") -> dict[str, str]:
    """An entry of ``status.carriers``."""
    return {"pod": pod, "uid": uid, "node": node}


class Statuses:
    """The entitlements of a test: each attachment is as it was put, or as ``otherwise`` has it. No pod is refused."""

    def __init__(self, otherwise: Callable[[str], Mapping[str, Any]]) -> None:
        self._otherwise = otherwise
        self._configs: dict[str, PluginConfig] = {}

    def put(self, body: Mapping[str, Any] | bytes) -> None:
        with suppress(Rejected, AttributeError, TypeError):
            config = plugin_config(body if isinstance(body, bytes) else json.dumps(body).encode())
            self._configs[config.attachment] = config

    async def entitled(self, _pod: PodRef, name: str) -> PluginConfig:
        if name not in self._configs:
            self.put(self._otherwise(name))
        return self._configs[name]
