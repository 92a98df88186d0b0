"""Helm, and an API server for the manifests that it renders.

The lab is named ``chart``, or by ``GALACTIC_CHART_LAB``. One that is up already is emptied, and stays up, unless
a killed run left it; otherwise it is made and taken down.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from charting import NAMESPACE, Helm
from owning import owned
from rich.console import Console

from galactic_lab.assets import server_version
from galactic_lab.builds import build_modules
from galactic_lab.builds.build_helm import HELM, HELM3
from galactic_lab.cluster import Lab

HERE = Path(__file__).parent
GONE = "--timeout=240s"
OWNER = "chart-tests"
"""The file of a lab that the tests who made it keep locked while they live."""
TEST_SECONDS = 3600
"""The first test fetches Helm and brings the lab up; a busy machine takes a multiple of the usual time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))


@pytest.fixture(scope="session")
def kubernetes() -> tuple[int, int]:
    """Of the API server in the lab."""
    return server_version(os.environ.get(build_modules.SETTING, ""))


@pytest.fixture(scope="session")
def helm(kubernetes: tuple[int, int]) -> Helm:
    """The newest."""
    return Helm(HELM.ensure(lambda _done, _title: None) / "helm", kubernetes)


@pytest.fixture(scope="session")
def helm3(kubernetes: tuple[int, int]) -> Helm:
    return Helm(HELM3.ensure(lambda _done, _title: None) / "helm", kubernetes)


@pytest.fixture(scope="session")
def lab(pytestconfig: pytest.Config) -> Iterator[Lab]:
    """A control plane without anything of Galactic's in it. It ends with the last test of this folder."""
    with ExitStack() as stack:
        pytestconfig.pluginmanager.register(Ending(stack))
        yield stack.enter_context(lab_up())


class Ending:
    """Ends the lab before the first test of another folder."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if not item.path.is_relative_to(HERE):
            self._stack.close()


@contextmanager
def lab_up() -> Iterator[Lab]:
    """The lab. One that is not up is made, and removed afterwards."""
    one = named()
    if one.running and owned(one, OWNER) is not False:
        empty(one)
        yield one
        return
    one.down()
    one.state.root.mkdir(parents=True)
    with (one.state.root / OWNER).open("w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        try:
            one.up(nodes=0)
            empty(one)
            yield one
        finally:
            one.down()


def named() -> Lab:
    """The lab to use; where other tests are using that of the usual name, one with a name of our own."""
    given = os.environ.get("GALACTIC_CHART_LAB")
    one = Lab(given or "chart", Console(stderr=True))
    return one if given or not owned(one, OWNER) else Lab(f"chart-{os.getpid()}", Console(stderr=True))


def empty(lab: Lab) -> None:
    """Deletes the objects that the lab itself applied."""
    lab.supervisor.stop("operator", "router", "webhook", "mosquitto")
    webhooks = "mutatingwebhookconfigurations,validatingwebhookconfigurations"
    lab.kubectl("delete", webhooks, "galactic-admission", "galactic-webhook", "--ignore-not-found")
    for kind in ("clusterrolebindings", "clusterroles", "crds"):
        if names := [name for name in lab.kubectl("get", kind, "-o", "name").split() if "galactic" in name]:
            lab.kubectl("delete", *names, GONE)
    of_default = ("role,rolebinding", "-n", "default", "galactic-webhook-kubernetes")
    lab.kubectl("delete", *of_default, "--ignore-not-found")
    lab.kubectl("delete", "nodes", "--all")
    lab.kubectl("delete", "pods", "--all", "-n", NAMESPACE, "--force", "--grace-period=0")
    lab.kubectl("delete", "namespace", NAMESPACE, "tenant", "--ignore-not-found", GONE)
