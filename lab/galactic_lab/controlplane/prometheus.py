"""The lab's Prometheus: it scrapes every controller with the labels that the Helm chart's monitors give, evaluates the
chart's alert rules, and answers over its HTTP API.

The job is ``galactic-<component>``, and a node's series have the label ``node``.
"""

import hashlib
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from galactic.errors import Rejected, Unreachable
from galactic_lab.builds import packages
from galactic_lab.controlplane.controllers import OPERATOR, PORTS, WEBHOOK, router_name, router_port
from galactic_lab.processes import Program
from galactic_lab.state import METRICS_PORT, PROMETHEUS_PORT, State, checkout

PACKAGE: Final = "prometheus"
NAME: Final = "prometheus"
SCRAPE_SECONDS: Final = 5
ANSWER_SECONDS: Final = 30.0


def tool(name: str) -> str:
    """The path of ``prometheus`` or ``promtool``; the package is installed when it is missing."""
    if not packages.program(name):
        packages.install([PACKAGE])
    if not (path := packages.program(name)):
        raise Rejected(f"the package {PACKAGE} brings no {name}", field="packages")
    return path


def rules() -> list[Path]:
    """The alert rules that the chart ships."""
    return sorted((checkout() / "charts/galactic/files/alerts").glob("*.yaml"))


def targets(state: State) -> list[dict[str, Any]]:
    """The targets, in the form of ``scrape_configs``."""
    routers = [(router_name(number), router_port(number)) for number in range(state.routers)]
    return [
        _job("operator", (OPERATOR, f"[::1]:{PORTS[OPERATOR]}")),
        _job("webhook", (WEBHOOK, f"[::1]:{PORTS[WEBHOOK]}")),
        _job("router", *((name, f"[::1]:{port}") for name, port in routers)),
        _job("node", *((node.name, f"[{node.address}]:{METRICS_PORT}") for node in state.members)),
    ]


def _job(component: str, *instances: tuple[str, str]) -> dict[str, Any]:
    """The name of a target is its ``instance`` (in a cluster an address); a node's name is also its ``node``."""
    return {
        "job_name": f"galactic-{component}",
        "static_configs": [
            {"targets": [at], "labels": {"instance": name, **({"node": name} if component == "node" else {})}}
            for name, at in instances
        ],
    }


def program(state: State) -> Program:
    """Prometheus, with its configuration in a file named after a hash of it. Another configuration, such as with a
    second router, makes another program, which supervisord starts in its place.
    """
    folder = state.data / NAME
    folder.mkdir(parents=True, exist_ok=True)
    configuration = {
        "global": {
            "scrape_interval": f"{SCRAPE_SECONDS}s",
            "scrape_timeout": f"{SCRAPE_SECONDS}s",
            "evaluation_interval": f"{SCRAPE_SECONDS}s",
        },
        "rule_files": [str(path) for path in rules()],
        "scrape_configs": targets(state),
    }
    text = yaml.safe_dump(configuration, sort_keys=False)
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.yaml"
    path.write_text(text)
    argv = [
        tool(NAME),
        f"--config.file={path}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--storage.tsdb.retention.time=1d",
        f"--web.listen-address=[::1]:{PROMETHEUS_PORT}",
        "--log.level=warn",
    ]
    return Program(NAME, argv, priority=650)


@dataclass(frozen=True, slots=True)
class Series:
    """One line: its labels, and its values by time in seconds since 1970."""

    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]


class Api:
    """Prometheus' HTTP API. Raises Rejected for an invalid query, Unreachable when Prometheus is away."""

    def __init__(self, url: str) -> None:
        self._url = url

    def query(self, expression: str, at: float | None = None) -> list[Series]:
        """The value of each series now, or at a time."""
        asked = {"query": expression} | ({"time": f"{at:.3f}"} if at else {})
        return [Series(one["metric"], (_point(one["value"]),)) for one in self._get("query", asked)["result"]]

    def query_range(self, expression: str, seconds: float, step: float) -> list[Series]:
        """The values of each series in the last ``seconds``."""
        now = time.time()
        asked = {"query": expression, "start": f"{now - seconds:.3f}", "end": f"{now:.3f}", "step": f"{step}"}
        found = self._get("query_range", asked)["result"]
        return [Series(one["metric"], tuple(map(_point, one["values"]))) for one in found]

    def label_values(self, label: str, selector: str) -> list[str]:
        """The values that a label has in the series selected."""
        return list(self._get(f"label/{label}/values", {"match[]": selector}))

    def down(self) -> dict[str, str]:
        """Instances that were not scraped the last time, or not yet, with the reason."""
        return {
            one["labels"]["instance"]: one["lastError"] or "not scraped yet"
            for one in self._get("targets", {"state": "active"})["activeTargets"]
            if one["health"] != "up"
        }

    def rules(self) -> list[dict[str, Any]]:
        """The alert rules, with their state and health."""
        return [rule for group in self._get("rules", {})["groups"] for rule in group["rules"]]

    def _get(self, what: str, asked: Mapping[str, str]) -> Any:
        url = f"{self._url}/api/v1/{what}?{urllib.parse.urlencode(asked)}"
        try:
            with urllib.request.urlopen(url, timeout=ANSWER_SECONDS) as answer:  # noqa: S310  (http, ours)
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise Rejected(f"{asked}: {error.read().decode(errors='replace')}", field="query") from error
        except OSError as error:
            raise Unreachable("prometheus", str(error)) from error


def _point(pair: list[Any]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])
