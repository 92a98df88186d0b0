"""Galactic's controllers as the lab runs them: their settings, and those that live beside the control plane."""

import importlib.util
from typing import Final

from galactic.lab.processes import Program
from galactic.lab.state import (
    CONTROL,
    METRICS_PORT,
    SERVICES,
    SRV6_SPACE,
    WEBHOOK_PORT,
    State,
    environment,
    interpreter,
)

CONTROLLERS: Final = ("operator", "router")
WEBHOOK: Final = "webhook"


def settings(state: State, user: str) -> dict[str, str]:
    """The environment that tells a controller of ours where everything is."""
    return environment() | {
        "KUBECONFIG": str(state.identity(user)),
        "GALACTIC_MQTT_URL": state.mqtt_url,
        "GALACTIC_SRV6_SPACE": str(SRV6_SPACE),
        "GALACTIC_METRICS_PORT": str(METRICS_PORT),
        "PYTHONUNBUFFERED": "1",
    }


def installed(module: str) -> bool:
    """Whether there is such a module to run."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def controllers(state: State) -> list[Program]:
    """The operator and the router, as far as this tree has them. They share a namespace, so their ports differ."""
    programs = []
    for number, name in enumerate(CONTROLLERS):
        if installed(f"galactic.{name}.__main__"):
            variables = settings(state, f"galactic-{name}") | {
                "GALACTIC_METRICS_PORT": str(METRICS_PORT + number)
            }
            argv = [*interpreter(), "-m", f"galactic.{name}"]
            programs.append(Program(name, argv, variables, priority=600))
    return [*programs, webhook(state)]


def webhook(state: State) -> Program:
    """The admission webhooks. The API server asks them at an address: a lab has no Services that lead anywhere."""
    variables = settings(state, "galactic-webhook") | {
        "GALACTIC_METRICS_PORT": str(METRICS_PORT + len(CONTROLLERS)),
        "GALACTIC_PORT": str(WEBHOOK_PORT),
        "GALACTIC_URL": f"https://[{CONTROL}]:{WEBHOOK_PORT}",
        "GALACTIC_SERVICE_RANGES": str(SERVICES),
    }
    return Program(WEBHOOK, [*interpreter(), "-m", "galactic.operator.admission"], variables, priority=600)
