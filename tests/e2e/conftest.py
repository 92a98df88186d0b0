"""One lab for all stories, and tenants in it.

The lab is named ``test``, or what ``GALACTIC_LAB`` says. One that is up already is used as it is and left as it was
(`galactic lab up --name test`), so that a story can be tried again and again; otherwise it is made and taken down.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console
from story import Tenant, eventually, tenancy

from galactic.lab import cleanup
from galactic.lab.cluster import Lab


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    one = Lab(os.environ.get("GALACTIC_LAB", "test"), Console(stderr=True))
    if one.running:
        yield one
        return
    before = traces(one)
    try:
        one.up(routers=2, database=True)
        yield one
        assert not forbidden(one), "the chart's roles lack what the stories' controllers asked for"
    finally:
        one.down()
    assert traces(one) == before, "`galactic lab down` left something behind"


def traces(lab: Lab) -> dict[str, object]:
    """What a lab leaves on a machine while it is up: processes, namespaces, devices, mounts, files."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return {
        "processes": cleanup.marked(lab.state.name),
        "namespaces": cleanup.lab_namespaces(lab.state),
        "devices": sorted(path.name for path in Path("/sys/class/net").iterdir()),
        "mounts": sorted(line for line in mounts if Path(line.split()[1]).is_relative_to(lab.state.root)),
        "files": lab.state.root.exists(),
    }


def forbidden(lab: Lab) -> list[str]:
    """Each right of a controller that it asked for and never had, from the API server's audit log.

    One that starts refuses for a moment what it grants before and after: until it has read the roles.
    """
    allowed: set[str] = set()
    refused: set[str] = set()
    for event in map(json.loads, lab.state.audit.read_text().splitlines()):
        thing = event.get("objectRef", {"path": event["requestURI"]})
        names = ("path", "apiGroup", "resource", "subresource", "namespace", "name")
        what = " ".join(thing[name] for name in names if name in thing)
        decision = event.get("annotations", {}).get("authorization.k8s.io/decision")
        found = {"allow": allowed, "forbid": refused}.get(decision, set())
        found.add(f"{event['user']['username']}: {event['verb']} {what}")
    return sorted(refused - allowed)


@pytest.fixture(scope="session")
def control_plane() -> Iterator[Lab]:
    """For stories that need the API server only: the stories' lab if that is up, else one without nodes."""
    name = os.environ.get("GALACTIC_LAB", "test")
    if Lab(name).running:
        yield Lab(name)
        return
    one = Lab(f"{name}-api", Console(stderr=True))
    try:
        one.up(nodes=0, routers=2, database=True)
        yield one
        assert not forbidden(one), "the chart's roles lack what the stories' controllers asked for"
    finally:
        one.down()


def replicated(lab: Lab) -> Lab:
    """The same with two routers and a database; one that somebody keeps at hand may have been brought up without."""
    if lab.state.routers < 2 or not lab.state.database:
        lab.up(routers=2, database=True)
    return lab


@pytest.fixture(scope="session")
def routers(control_plane: Lab) -> Lab:
    """For stories of several routers that need the API server and the broker only."""
    return replicated(control_plane)


@pytest.fixture(scope="session")
def replicas(lab: Lab) -> Lab:
    """For stories of several routers that need nodes."""
    return replicated(lab)


@pytest.fixture
def spaces(control_plane: Lab) -> Iterator[Callable[..., tuple[str, ...]]]:
    """Makes namespaces that pods can be made in, and that are gone after the story."""
    made: list[str] = []

    def make(*names: str) -> tuple[str, ...]:
        for name in names:
            control_plane.kubectl("create", "namespace", name)
            made.append(name)
        for name in names:
            account = ("get", "serviceaccount", "default", "-n", name, "-o", "name")
            eventually("there is a service account", lambda: control_plane.kubectl(*account, check=False))  # noqa: B023
        return names

    yield make
    for name in made:
        control_plane.kubectl(
            "delete", "pods", "--all", "-n", name, "--grace-period=0", "--force", check=False
        )
        control_plane.kubectl("delete", "namespace", name, "--wait=false", check=False)
    for name in made:
        control_plane.kubectl("wait", "--for=delete", f"namespace/{name}", "--timeout=60s", check=False)


@pytest.fixture
def tenants(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Callable[..., Tenant]]:
    """Makes tenants that are gone after the story."""
    with tenancy(lab, request.node.name) as make:
        yield make


@pytest.fixture(scope="module")
def lodgers(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Callable[..., Tenant]]:
    """Makes tenants that all stories of a file share."""
    with tenancy(lab, Path(request.node.name).stem) as make:
        yield make
