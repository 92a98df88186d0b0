"""Helm, and an API server to try on what it renders."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from charting import NAMESPACE, Helm
from rich.console import Console

from galactic.lab.build_tools import HELM3, TOOLS
from galactic.lab.cluster import Lab


@pytest.fixture(scope="session")
def tools() -> Path:
    """Where kubectl and the newest helm are."""
    return TOOLS.ensure(lambda _done, _title: None)


@pytest.fixture(scope="session")
def helm(tools: Path) -> Helm:
    return Helm(tools / "helm")


@pytest.fixture(scope="session")
def helm3() -> Helm:
    return Helm(HELM3.ensure(lambda _done, _title: None) / "helm")


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A control plane without anything of Galactic's in it. One that is up already is emptied, and stays up."""
    one = Lab(os.environ.get("GALACTIC_CHART_LAB", "chart"), Console(stderr=True))
    stays = one.running
    try:
        if not stays:
            one.up(nodes=0)
        empty(one)
        yield one
    finally:
        if not stays:
            one.down()


def empty(lab: Lab) -> None:
    """What the lab itself put there is gone."""
    lab.supervisor.stop("operator", "router", "webhook", "mosquitto")
    webhooks = "mutatingwebhookconfigurations,validatingwebhookconfigurations"
    lab.kubectl("delete", webhooks, "galactic-webhook", "--ignore-not-found")
    for kind in ("clusterrolebindings", "clusterroles", "crds"):
        if names := [name for name in lab.kubectl("get", kind, "-o", "name").split() if "galactic" in name]:
            lab.kubectl("delete", *names, "--timeout=60s")
    of_default = ("role,rolebinding", "-n", "default", "galactic-webhook-kubernetes")
    lab.kubectl("delete", *of_default, "--ignore-not-found")
    lab.kubectl("delete", "nodes", "--all")
    lab.kubectl("delete", "pods", "--all", "-n", NAMESPACE, "--force", "--grace-period=0")
    lab.kubectl("delete", "namespace", NAMESPACE, "tenant", "--ignore-not-found", "--timeout=60s")
