"""Queries that relate the node's series, by a VPC's name, to the router's, by its identifier."""

import json
import subprocess
from pathlib import Path

import pytest

from observability.boards.fleet import BEHIND_FOR_A_MINUTE
from observability.boards.queries import behind

SERIES = {
    'galactic_operator_vpc_info{instance="a", vpc="0000000004d2", vpc_name="blue/blue"}': "1x20 _x60",
    'galactic_operator_vpc_info{instance="b", vpc="0000000004d2", vpc_name="blue/blue"}': "_x18 1x10 _x60",
    'galactic_router_revision{instance="a", vpc="0000000004d2"}': "9000x60",
    'galactic_node_vpc_revision{node="n1", vpc_name="blue/blue"}': "4000x60",
    'galactic_node_vpc_revision{node="n2", vpc_name="blue/blue"}': "9000x60",
}


@pytest.mark.parametrize(
    "at", [pytest.param("19m", id="leaders-change"), pytest.param("50m", id="none-leads")]
)
def test_the_lag_of_a_node_is_that_of_its_table(promtool: str, tmp_path: Path, at: str) -> None:
    late = {"labels": '{node="n1", vpc_name="blue/blue"}', "value": 5}
    checks = [
        {"expr": behind('{node="n1"}'), "eval_time": at, "exp_samples": [late]},
        {
            "expr": f"sum by (node) ({BEHIND_FOR_A_MINUTE})",
            "eval_time": at,
            "exp_samples": [{"labels": '{node="n1"}', "value": 1}, {"labels": '{node="n2"}', "value": 0}],
        },
    ]
    series = [{"series": name, "values": values} for name, values in SERIES.items()]
    test = {"interval": "1m", "input_series": series, "promql_expr_test": checks}
    path = tmp_path / "queries.yaml"
    path.write_text(json.dumps({"evaluation_interval": "1m", "tests": [test]}))
    done = subprocess.run([promtool, "test", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
