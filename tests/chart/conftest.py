"""Helm, and an API server to try on what it renders."""

from pathlib import Path

import pytest
from charting import Helm

from galactic.lab.build_tools import HELM3, TOOLS


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
