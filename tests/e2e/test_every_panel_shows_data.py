"""Each query of each panel of the dashboards brings figures, with Prometheus scraping a lab where pods came and went;
and the alert rules are evaluated there without a fault.
"""

import itertools
import math
from collections.abc import Callable, Iterator

import pytest
from story import API, Tenant, eventually

from galactic_lab.cluster import Lab
from galactic_lab.controlplane.prometheus import Api
from observability.asked import queries, values
from observability.boards import BOARDS
from observability.panel import Board

AGAIN = 40
WIDE = {"__rate_interval": "1h"}
"""A window for rates that covers the whole story on a slow machine."""


GATEWAY = {
    "apiVersion": API,
    "kind": "VPCGateway",
    "metadata": {"name": "way"},
    "spec": {
        "vpc": {"name": "vpc"},
        "nodeSelector": {"story.seen": "yes"},
        "replicas": 1,
        "families": ["IPv4"],
        "snat": {"addresses": ["203.0.113.9"]},
    },
}


@pytest.fixture(scope="module")
def busy(asked: Api, lab: Lab, lodgers: Callable[..., Tenant]) -> Iterator[Tenant]:
    """A VPC on two nodes, in which a pod came, went, and came again. One of the nodes leads it out."""
    tenant = lodgers("seen")
    lab.kubectl("label", "node", "node-2", "story.seen=yes", "--overwrite")
    tenant.settle({"a": ("node-1", "10.1.1.1/24"), "b": ("node-2", "10.1.1.2/24")})
    tenant.apply(GATEWAY)
    _again(tenant)
    yield tenant
    lab.kubectl("label", "node", "node-2", "story.seen-")


def _again(tenant: Tenant) -> None:
    tenant.delete_pod("b")
    tenant.pod("b", "node-2")


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_every_panel_shows_data(board: Board, asked: Api, busy: Tenant) -> None:
    wished = {"node": "node-2", "vpc_name": f"{busy.namespace}/vpc"}
    (chosen,) = eventually(f"{wished} can be chosen", lambda: _choices(board, asked, wished))
    for panel, _, expression in queries(board, chosen | WIDE):
        eventually(f"figures in {panel.title}: {expression}", _shown(asked, busy, expression))


def _choices(board: Board, asked: Api, wished: dict[str, str]) -> list[dict[str, str]]:
    """A value for each variable; nothing while one has none."""
    try:
        return [values(board, asked, wished)]
    except KeyError:
        return []


def _shown(asked: Api, busy: Tenant, expression: str) -> Callable[[], list[float]]:
    """The figures of a query. After several empty answers the pod is made once more: Prometheus sees no growth of a
    counter that had its value at the first scrape.
    """
    questions = itertools.count(1)

    def figures() -> list[float]:
        found = _figures(asked, expression)
        if not found and next(questions) % AGAIN == 0:
            _again(busy)
        return found

    return figures


def _figures(asked: Api, expression: str) -> list[float]:
    """The finite values of a query. A quantile of no observations is none."""
    found = [value for series in asked.query(expression) for _, value in series.points]
    return [value for value in found if math.isfinite(value)]


def test_the_alert_rules_are_evaluated_without_a_fault(asked: Api) -> None:
    eventually(
        "all rules were evaluated", lambda: "unknown" not in {rule["health"] for rule in asked.rules()}
    )
    assert {rule["name"]: rule.get("lastError") for rule in asked.rules() if rule["health"] != "ok"} == {}
