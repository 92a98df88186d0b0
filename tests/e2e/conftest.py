"""One lab for all stories, and tenants in it.

The lab is named ``test``, or by ``GALACTIC_LAB``. One that is up already is used and left up
(`galactic lab up --name test`), so that a story can be tried again and again; otherwise it is made and taken down. A
lab left by a killed run is replaced. With ``-n 2 --dist loadfile`` there are two labs, named after the workers.
"""

import fcntl
import json
import os
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import witnesses
from owning import owned
from pieces import LONG, rank
from released import EXAMPLES
from rich.console import Console
from story import POD_SECONDS, Tenant, eventually, fresh, tenancy

from galactic.errors import GalacticError
from galactic_lab import cleanup
from galactic_lab.builds.guest_kernels import PINNED
from galactic_lab.cluster import Lab
from galactic_lab.controlplane import prometheus

LABS = pytest.StashKey[dict[str, Lab]]()
CHARTED = pytest.StashKey[ExitStack]()
"""Ends the lab with the chart."""
BEGAN = pytest.StashKey[dict[str, dict[Path, int]]]()
"""How long the logs of each lab were when a story began."""
HERE = Path(__file__).parent
OWNER = "stories"
"""The file of a lab that those who made it keep locked while they live."""
DEVICES = re.compile(r"tap0$|uplink$|control$|lo-galactic$|podnet|node-\d|site-\d|galactic|G\w{12}[HGV]$")
"""Names of a lab's devices. Other programs of the machine have devices that come and go."""
STORY_SECONDS = 1800
"""The first story brings a lab up; a busy machine takes a multiple of the usual time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(STORY_SECONDS))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Notes the logs' lengths: lines written before are not this story's."""
    labs = item.config.stash.get(LABS, {})
    item.config.stash[BEGAN] = {name: witnesses.positions(lab) for name, lab in labs.items()}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Appends the labs' state to a failed story's report: a reader may have nothing but this text."""
    report = yield
    if report.failed:
        for name, lab in item.config.stash.get(LABS, {}).items():
            report.sections.append((f"lab {name}", witnesses.testimony(lab, item.config.stash[BEGAN][name])))
    return report


@contextmanager
def lab_up(config: pytest.Config, name: str, **wanted: Any) -> Iterator[Lab]:
    """The lab of that name. One that is not up is made, and removed afterwards without a trace."""
    one = Lab(name, Console(stderr=True))
    config.stash.setdefault(LABS, {})[name] = one
    config.stash.setdefault(BEGAN, {})[name] = witnesses.positions(one)
    if one.running and not abandoned(one):
        yield one
        return
    one.down()
    before = traces(one)
    one.state.make_root()
    owner = (one.state.root / OWNER).open("w")
    fcntl.flock(owner, fcntl.LOCK_EX)
    try:
        try:
            one.up(**wanted)
        except GalacticError as error:  # the report is read after the lab is gone
            error.add_note(witnesses.testimony(one, {}))
            raise
        yield one
        assert not forbidden(one), "the chart's roles lack what the stories' controllers asked for"
    finally:
        one.down()
        owner.close()
        del config.stash[LABS][name]
    assert traces(one) == before, "`galactic lab down` left something behind"


def abandoned(lab: Lab) -> bool:
    """Whether a killed run left it: its state is unknown."""
    return owned(lab, OWNER) is False


@pytest.fixture(scope="session")
def lab_name(pytestconfig: pytest.Config) -> str:
    """Stories that run in parallel have a lab each: a component that one kills would be missing for all."""
    given, worker = os.environ.get("GALACTIC_LAB"), os.environ.get("PYTEST_XDIST_WORKER")
    if given and worker:
        pytest.exit(f"GALACTIC_LAB={given} is one lab: no -n with it", returncode=pytest.ExitCode.USAGE_ERROR)
    return given or (f"test-{worker}" if worker else "test")


@pytest.fixture(scope="session")
def lab(pytestconfig: pytest.Config, lab_name: str) -> Iterator[Lab]:
    """The stories' lab. In a worker, one with the chart ends before."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        pytestconfig.stash.get(CHARTED, ExitStack()).close()
    with ExitStack() as stack:
        pytestconfig.pluginmanager.register(Ending(stack))
        yield stack.enter_context(lab_up(pytestconfig, lab_name, routers=2, database=True))


class Ending:
    """In a worker, takes the stories' lab down after the last story: the tests that follow (pieces.py) need none."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if "PYTEST_XDIST_WORKER" in os.environ and rank(item.nodeid) == len(LONG):
            self._stack.close()


@pytest.fixture(scope="session")
def charted(pytestconfig: pytest.Config, lab_name: str) -> Iterator[Lab]:
    """A lab in which the chart installs Galactic."""
    with ExitStack() as stack:
        pytestconfig.stash[CHARTED] = stack
        yield stack.enter_context(lab_up(pytestconfig, f"{lab_name}-chart", chart=True))


@pytest.fixture(scope="module")
def examples(charted: Lab) -> Iterator[Lab]:
    """A lab with the chart in which the pods of examples/ run."""
    charted.kubectl("apply", "-f", EXAMPLES)
    try:
        for namespace in ("blue", "green"):
            timeout = f"--timeout={POD_SECONDS}s"
            charted.kubectl("wait", "-n", namespace, "--for=condition=Ready", "pod", "--all", timeout)
        yield charted
    finally:
        charted.kubectl("delete", "-f", EXAMPLES, f"--timeout={POD_SECONDS}s", "--ignore-not-found")


@pytest.fixture(scope="module")
def oldest(pytestconfig: pytest.Config, lab_name: str) -> Iterator[Lab]:
    """A lab in a guest of the oldest kernel, which is slow: it has as many nodes as its stories need."""
    with lab_up(pytestconfig, f"{lab_name}-oldest", linux=PINNED, nodes=2) as one:
        yield one


def traces(lab: Lab) -> dict[str, object]:
    """A lab's processes, namespaces, devices, mounts and files on the machine."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return {
        "processes": cleanup.marked(lab.state.name),
        "namespaces": cleanup.lab_namespaces(lab.state),
        "devices": sorted(path.name for path in Path("/sys/class/net").iterdir() if DEVICES.match(path.name)),
        "mounts": sorted(line for line in mounts if Path(line.split()[1]).is_relative_to(lab.state.root)),
        "files": lab.state.root.exists() or lab.state.memory.exists(),
    }


def forbidden(lab: Lab) -> list[str]:
    """Requests of controllers that their roles forbid, from the API server's audit log.

    An API server that starts refuses permitted requests until it has read the roles. So a request that was refused, and
    not allowed later, is reviewed once more.
    """
    allowed: set[str] = set()
    refused: dict[str, dict[str, Any]] = {}
    whole, _, _being_written = lab.state.audit.read_text().rpartition("\n")
    for event in map(json.loads, whole.splitlines()):
        thing = event.get("objectRef", {"path": event["requestURI"]})
        names = ("path", "apiGroup", "resource", "subresource", "namespace", "name")
        what = {name: thing[name] for name in names if name in thing}
        request = f"{event['user']['username']}: {event['verb']} {' '.join(what.values())}"
        decision = event.get("annotations", {}).get("authorization.k8s.io/decision")
        if decision == "allow":
            allowed.add(request)
        elif decision == "forbid":
            refused[request] = review(event["user"], event["verb"], what)
    return sorted(
        request
        for request, body in refused.items()
        if request not in allowed
        and not json.loads(lab.kubectl("create", "-f", "-", "-o", "json", stdin=json.dumps(body)))["status"][
            "allowed"
        ]
    )


def review(user: dict[str, Any], verb: str, what: dict[str, str]) -> dict[str, Any]:
    """A SubjectAccessReview of that request by that user."""
    attributes = {"group" if name == "apiGroup" else name: value for name, value in what.items()} | {
        "verb": verb
    }
    kind = "nonResourceAttributes" if "path" in what else "resourceAttributes"
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user["username"], "groups": user.get("groups", []), kind: attributes},
    }


@pytest.fixture(scope="session")
def control_plane(
    request: pytest.FixtureRequest, pytestconfig: pytest.Config, lab_name: str
) -> Iterator[Lab]:
    """For stories that need the API server only: the stories' lab if that is up or some story of this run needs it,
    else one without nodes.
    """
    if Lab(lab_name).running or any(
        "lab" in getattr(item, "fixturenames", ()) for item in request.session.items
    ):
        yield request.getfixturevalue("lab")
        return
    with lab_up(pytestconfig, f"{lab_name}-api", nodes=0, routers=2, database=True) as one:
        yield one


def replicated(lab: Lab) -> Lab:
    """The lab with two routers and a database: a lab that was up already may lack them."""
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


@pytest.fixture(scope="module")
def asked(replicas: Lab) -> Iterator[prometheus.Api]:
    """The Prometheus of a lab with two routers and a database. Asking every controller all the time costs the nodes
    more than stories do: it rests afterwards, unless it was there before.
    """
    there = any(
        process["name"] == prometheus.NAME and process["pid"] for process in replicas.supervisor.status()
    )
    if not there:
        replicas.up(prometheus=True)
    api = prometheus.Api(replicas.state.prometheus_url)
    eventually("every controller is scraped", lambda: not api.down())
    yield api
    if not there:
        replicas.supervisor.stop(prometheus.NAME)


@pytest.fixture
def spaces(control_plane: Lab) -> Iterator[Callable[..., tuple[str, ...]]]:
    """Makes namespaces that pods can be made in, and that go after the story."""
    made: list[str] = []

    def make(*names: str) -> tuple[str, ...]:
        made.extend(fresh(control_plane, name) for name in names)
        return names

    yield make
    for name in made:
        force = ("--grace-period=0", "--force")
        control_plane.kubectl("delete", "pods", "--all", "-n", name, *force, check=False)
    if made:
        control_plane.kubectl("delete", "namespace", *made, "--wait=false", check=False)


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
