"""The chart's alert rules."""

from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from galactic_lab.controlplane import prometheus

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
INSTALLING_SECONDS: Final = 1200
"""Timeout of the first test: it may fetch a Debian package from a slow mirror."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(INSTALLING_SECONDS))


@pytest.fixture(scope="session")
def promtool() -> str:
    return prometheus.tool("promtool")


@pytest.fixture(scope="session")
def alerts() -> dict[str, dict[str, Any]]:
    """The rules by name."""
    groups = [group for path in prometheus.rules() for group in yaml.safe_load(path.read_text())["groups"]]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}
