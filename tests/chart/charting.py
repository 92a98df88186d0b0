"""Helm as a process, and what comes out of it."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import yaml
from values import CHART

from galactic_lab.places import HELD_UP, HELD_UP_SECONDS

NAMESPACE = "galactic-system"


class Refused(Exception):
    """Helm failed; the message is its standard error."""


class Helm:
    """One helm binary. It renders for an API server of that version by default."""

    def __init__(self, path: Path, version: tuple[int, int]) -> None:
        self._path = path
        self._version = f"{version[0]}.{version[1]}.0"

    def run(self, *arguments: str, values: dict[str, Any] | None = None, **variables: str) -> str:
        """Its output. Raises Refused. Runs again where a slow cluster could not be reached at the beginning."""
        given = ["--values=-"] if values is not None else []
        deadline = time.monotonic() + HELD_UP_SECONDS
        while True:
            done = subprocess.run(
                [str(self._path), *arguments, *given],
                input=None if values is None else json.dumps(values),
                env={
                    "HOME": "/nonexistent",
                    "PATH": "/usr/bin:/bin",
                    "HELM_CACHE_HOME": "/tmp/helm-cache",
                    **variables,
                },
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode == 0:
                return done.stdout
            unasked = "cluster unreachable" in done.stderr and HELD_UP.search(done.stderr)
            if not unasked or time.monotonic() > deadline:
                raise Refused(done.stderr.strip())
            time.sleep(1)

    def render(
        self,
        values: dict[str, Any] | None = None,
        *more: str,
        version: str = "",
        release: str = "galactic",
    ) -> str:
        """The text of all manifests."""
        arguments = (
            "template",
            release,
            str(CHART),
            f"--namespace={NAMESPACE}",
            f"--kube-version={version or self._version}",
            *more,
        )
        return self.run(*arguments, values=values or {})

    def objects(
        self,
        values: dict[str, Any] | None = None,
        *more: str,
        version: str = "",
        release: str = "galactic",
    ) -> list[dict[str, Any]]:
        """All objects."""
        text = self.render(values, *more, version=version, release=release)
        return [manifest for manifest in yaml.load_all(text, yaml.CSafeLoader) if manifest]


def nested(path: str, value: Any) -> dict[str, Any]:
    """``{"a": {"b": value}}`` for the path ``a.b``."""
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def merged(*parts: dict[str, Any]) -> dict[str, Any]:
    """All of them as one, groups within groups."""
    result: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            both = isinstance(value, dict) and isinstance(result.get(name), dict)
            result[name] = merged(result[name], value) if both else value
    return result
