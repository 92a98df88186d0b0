"""The router's database has the holders of an address with their times, also for a time when the database was away."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from routers import only_one
from story import ANSWER_SECONDS, Tenant, eventually

from galactic_lab.cluster import Lab

GALACTIC = Path(sys.executable).with_name("galactic")


@pytest.fixture
def steadfast(replicas: Lab) -> Iterator[None]:
    """Who begins to lead looks at what there is, and does not know since when."""
    with only_one(replicas):
        yield


@pytest.fixture
def blue(steadfast: None, tenants: Callable[..., Tenant]) -> Tenant:
    tenant = tenants("blue")
    tenant.settle({"one": ("node-1", "10.1.1.1/24"), "two": ("node-2", "10.1.1.2/24", "2001:10:1:1::2/64")})
    tenant.all_reach((("one", "10.1.1.2"),))
    return tenant


def history(tenant: Tenant, address: str) -> list[dict[str, Any]]:
    """The periods that `galactic history` prints, the first holder first; none while the database is away."""
    vpc = tenant.lab.get("vpc", "-n", tenant.namespace, "vpc")["status"]["identifier"]
    argv = [str(GALACTIC), "history", address, "--vpc", vpc, "-o", "json"]
    variables = os.environ | {"GALACTIC_DATABASE_URL": tenant.lab.state.database_url()}
    done = subprocess.run(
        argv, capture_output=True, text=True, env=variables, check=False, timeout=ANSWER_SECONDS
    )
    assert done.returncode in (0, 1, 4), done.stderr
    return list(reversed(json.loads(done.stdout or "[]")))


def holders(tenant: Tenant, address: str) -> list[tuple[str, str, bool]]:
    """(attachment, node, whether it still holds it) of all that ever did, in their order."""
    return [
        (period["attachment"], period["node"], period["until"] is None) for period in history(tenant, address)
    ]


def moved(blue: Tenant, node: str) -> None:
    """The pod ``two`` goes, and comes again elsewhere."""
    blue.delete_pod("two")
    blue.pod("two", node)
    blue.all_reach((("one", "10.1.1.2"),))


def test_attached_moved_and_gone(blue: Tenant) -> None:
    """One move happens while the database is away: routes do not wait for it, and the router records it later, once."""
    lab, two = blue.lab, f"{blue.namespace}/two"
    moved(blue, "node-3")
    expected = [(two, "node-2", False), (two, "node-3", True)]
    eventually("both places are written down", lambda: holders(blue, "10.1.1.2") == expected)
    lab.supervisor.stop("postgres")
    try:
        moved(blue, "node-2")
        blue.delete_pod("two")
    finally:
        lab.supervisor.start("postgres")
    expected = [(two, node, False) for node in ("node-2", "node-3", "node-2")]
    for address in ("10.1.1.2", "2001:10:1:1::2"):
        eventually(f"the history of {address} is complete", lambda a=address: holders(blue, a) == expected)
    periods = history(blue, "10.1.1.2")
    assert all(period["since"] < period["until"] for period in periods)
    assert all(one["until"] <= other["since"] for one, other in itertools.pairwise(periods))
    # The third is on a node that knows of no holder, so a clock that ran ahead elsewhere does not order it.
    first, second, third = (period["epoch"] for period in periods)
    assert first < second
    assert third not in (first, second)
    assert all(period["began_exactly"] and period["ended_exactly"] for period in periods)
    assert holders(blue, "10.1.1.1") == [(f"{blue.namespace}/one", "node-1", True)]
    assert holders(blue, "10.1.1.9") == []
