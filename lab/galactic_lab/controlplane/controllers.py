"""Galactic's controllers as the lab runs them: their settings, and those that live beside the control plane."""

import importlib.util
import os
from typing import Final

from galactic_lab.controlplane import broker
from galactic_lab.controlplane.credentials import WEBHOOK_CLIENT
from galactic_lab.processes import Program
from galactic_lab.state import (
    METRICS_PORT,
    NAMESPACE,
    SERVICES,
    SRV6_SPACE,
    WEBHOOK_PORT,
    State,
    environment,
    interpreter,
)

OPERATOR: Final = "operator"
ROUTER: Final = "router"
WEBHOOK: Final = "webhook"
PORTS: Final = {OPERATOR: METRICS_PORT, ROUTER: METRICS_PORT + 1, WEBHOOK: METRICS_PORT + 2}
"""The ports of /metrics and /healthz: the controllers share a namespace. Further routers have the next ports."""


def settings(state: State, user: str) -> dict[str, str]:
    """The environment of a controller, except for the broker's variables (``broker.variables``)."""
    own = environment()
    return own | {
        "PYTHONPATH": os.pathsep.join((str(state.version(user)), own["PYTHONPATH"])),
        "KUBECONFIG": str(state.identity(user)),
        "POD_NAMESPACE": NAMESPACE,
        "GALACTIC_CLUSTER": state.cluster,
        "GALACTIC_SRV6_BLOCK": str(SRV6_SPACE),
        "GALACTIC_METRICS_PORT": str(METRICS_PORT),
        "PYTHONUNBUFFERED": "1",
    }


def installed(module: str) -> bool:
    """Whether the module exists."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def controllers(state: State) -> list[Program]:
    """The operator, the webhooks, and the routers. A lab that joins another has no router."""
    routers = [] if state.join else [router(state, number) for number in range(state.routers)]
    return [operator(state), *routers, webhook(state)]


def operator(state: State) -> Program:
    variables = settings(state, "galactic-operator") | {"GALACTIC_METRICS_PORT": str(PORTS[OPERATOR])}
    if state.standalone or state.join:
        variables |= broker.variables(state, state.cluster)
        variables |= {"GALACTIC_ROUTER_OUTSIDE": "true", "GALACTIC_PUBLISH_ENTITLEMENTS": "true"}
    return Program(OPERATOR, [*interpreter(), "-m", "galactic.operator"], variables, priority=600)


def router_name(number: int) -> str:
    """``router``, ``router-2``, ``router-3``."""
    return f"{ROUTER}-{number + 1}" if number else ROUTER


def router_port(number: int) -> int:
    """The port of its /metrics."""
    return PORTS[ROUTER] if number == 0 else PORTS[WEBHOOK] + number


def router(state: State, number: int = 0) -> Program:
    """One of the routers, numbered from 0. All are one user in Kubernetes; each is a user of its own in the broker."""
    variables = settings(state, "galactic-router") | broker.variables(state, broker.router(number))
    variables |= {"GALACTIC_METRICS_PORT": str(router_port(number))}
    if state.standalone:
        variables |= {"GALACTIC_KUBERNETES": "false", "GALACTIC_ADMISSIONS": str(state.admissions)}
    if state.database:
        variables["GALACTIC_DATABASE_URL"] = state.database_url(inside=True)
    return Program(router_name(number), [*interpreter(), "-m", "galactic.router"], variables, priority=600)


def webhook(state: State) -> Program:
    """The admission webhooks. The API server calls them by address: no Service of this lab is routed."""
    variables = settings(state, "galactic-webhook") | {
        "GALACTIC_METRICS_PORT": str(PORTS[WEBHOOK]),
        "GALACTIC_PORT": str(WEBHOOK_PORT),
        "GALACTIC_DRAIN_SECONDS": "0",  # no other replica answers meanwhile
        "GALACTIC_WEBHOOK_URL": webhook_url(state),
        "GALACTIC_SERVICE_RANGES": str(SERVICES),
        "GALACTIC_CLIENT_CA_FILE": str(state.root / "pki" / "ca.crt"),
        "GALACTIC_CLIENT_NAMES": WEBHOOK_CLIENT,
    }
    return Program(WEBHOOK, [*interpreter(), "-m", "galactic.webhook"], variables, priority=600)


def webhook_url(state: State) -> str:
    """The URL at which the API server reaches the webhooks."""
    return f"https://[{state.control}]:{WEBHOOK_PORT}"
