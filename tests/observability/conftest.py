"""The rules as the chart ships them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from galactic.lab import prometheus

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def promtool() -> str:
    return prometheus.tool("promtool")


@pytest.fixture(scope="session")
def alerts() -> dict[str, dict[str, Any]]:
    """By name."""
    groups = [group for path in prometheus.rules() for group in yaml.safe_load(path.read_text())["groups"]]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}
