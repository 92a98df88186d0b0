"""VPCAttachments as the operator writes them, made of the plugin configuration that goes with them."""

from collections.abc import Mapping, Sequence
from typing import Any

from galactic.names import from_base62, function_hex, vpc_hex


def vpcattachment(
    config: Mapping[str, Any], *, carriers: Sequence[Mapping[str, str]] | None = (), version: str = "1"
) -> dict[str, Any]:
    """The object whose status says what ``config`` says. ``carriers`` None: an operator that writes none."""
    namespace, _, name = config["attachment"].partition("/")
    status: dict[str, Any] = {
        "identifier": function_hex(from_base62(config["vpcattachment"])),
        "addresses": list(config["addresses"]),
        "configuration": {
            "vpc": vpc_hex(from_base62(config["vpc"])),
            "networks": list(config["networks"]),
            "terminations": [dict(one) for one in config["terminations"]],
            "routes": [one["destination"] for one in config["routes"]],
            "mtu": config["mtu"],
        },
    }
    if carriers is not None:
        status["carriers"] = [dict(one) for one in carriers]
    return {
        "metadata": {"namespace": namespace, "name": name, "resourceVersion": version},
        "spec": {"vpc": {"name": "blue"}},
        "status": status,
    }


def carrier(pod: str, uid: str, node: str = "node-1") -> dict[str, str]:
    """An entry of ``status.carriers``."""
    return {"pod": pod, "uid": uid, "node": node}
