"""``galactic connectivity test``: pods of two VPCs with equal addresses on two nodes, and which reaches which."""

import asyncio
import contextlib
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from galactic import __version__
from galactic.cli.cluster_options import DEGRADED, FINE, ClusterOptions, clustered
from galactic.cli.render import BOLD, GREEN, RED, Form, Output, document, paint, show, table
from galactic.errors import GalacticError, NotYet, Rejected, Unreachable

if TYPE_CHECKING:
    from galactic.cli.connectivity_plan import ConnectivityPlan
    from galactic.kube.client import Kube

T = TypeVar("T")
LABEL: Final = "galactic.datumapis.com/connectivity"
POLL_SECONDS: Final = 1.0
CLEANUP_SECONDS: Final = 120.0
app = typer.Typer(
    help="Test connectivity with temporary pods.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


def _test(  # noqa: PLR0917 - as many as there are options
    options: ClusterOptions,
    timeout: Annotated[
        float, typer.Option(min=1.0, help="Seconds for pods to start and reach each other.")
    ] = 120.0,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the namespace afterwards.")] = False,
    cleanup: Annotated[
        bool, typer.Option("--cleanup", help="Only remove namespaces of earlier tests.")
    ] = False,
    image: Annotated[str, typer.Option(help="Image of the pods; default: the image of galactic-node.")] = "",
    nodes: Annotated[str, typer.Option(help="The two nodes, NAME,NAME; default: two that are ready.")] = "",
    output: Form = Output.TABLE,
) -> int:
    """Create two VPCs with equal addresses and pods on two nodes, test which pods reach each other, and remove all.

    Everything is in a namespace of its own, which Ctrl-C removes as well.
    """
    if cleanup:
        removed = options.run(_cleanup(options), seconds=CLEANUP_SECONDS)
        if not document(removed, output):
            print(f"removed: {', '.join(removed) or 'nothing'}")
        return FINE
    chosen = [name.strip() for name in nodes.split(",") if name.strip()]
    if nodes and len(chosen) != 2:
        raise Rejected(f"{nodes!r}: give two names, NAME,NAME", field="--nodes")
    report = asyncio.run(_interruptible(_run_test(options, timeout, keep=keep, image=image, nodes=chosen)))
    if not document(report, output):
        _print(report)
    return FINE if report["passed"] else DEGRADED


async def _interruptible(work: Any) -> Any:
    """On Ctrl-C or SIGTERM cancels the work, which removes its objects; the command ends with 130."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _progress(text: str) -> None:
    """Prints progress on standard error."""
    print(text, file=sys.stderr, flush=True)


async def _run_test(
    options: ClusterOptions, patience: float, *, keep: bool, image: str, nodes: list[str]
) -> dict[str, Any]:
    from galactic.cli.cluster_access import cluster_access  # noqa: PLC0415
    from galactic.cli.connectivity_plan import ConnectivityPlan  # noqa: PLC0415

    async with options.kube() as kube:
        # Without retries: an API server that does not answer is reported at once.
        chosen = await _nodes(kube, nodes)
        used = (
            image
            or await _retried(cluster_access(options, kube).image, patience)
            or f"galactic:{__version__}"
        )
        plan = ConnectivityPlan(f"galactic-connectivity-{secrets.token_hex(3)}", chosen, used, patience)
        async with _installed(kube, plan, keep=keep):
            started = time.monotonic()
            results = await _results(kube, plan)
        seconds = time.monotonic() - started
    return {
        "passed": all(result["right"] for result in results),
        "namespace": plan.namespace,
        "kept": keep,
        "nodes": chosen,
        "seconds": round(seconds, 1),
        "results": results,
    }


async def _nodes(kube: "Kube", given: list[str]) -> list[str]:
    """Two nodes that can attach pods; one node twice if there is only one. Raises NotYet, Rejected."""
    from galactic.kube.resources import NODE_SEGMENTS, NODES  # noqa: PLC0415

    (all_nodes, _), (segments, _) = await asyncio.gather(kube.list(NODES), kube.list(NODE_SEGMENTS))
    able = {
        segment["metadata"]["name"]
        for segment in segments
        if any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in (segment.get("status") or {}).get("conditions") or ()
        )
    }
    free = [
        node["metadata"]["name"]
        for node in all_nodes
        if not node["spec"].get("unschedulable")
        and not any(taint.get("effect") != "PreferNoSchedule" for taint in node["spec"].get("taints") or ())
    ]
    if unable := [node for node in given if node not in able or node not in free]:
        raise Rejected(
            f"{', '.join(unable)}: no such node, or pods cannot be attached there", field="--nodes"
        )
    chosen = given or [node for node in sorted(free) if node in able][:2]
    if not chosen:
        raise NotYet("no node can attach and schedule pods; for the reason: galactic status")
    if len(chosen) == 1:
        _progress(f"only {chosen[0]} is ready: no packet crosses the underlay")
    return [chosen[0], chosen[-1]]


@asynccontextmanager
async def _installed(kube: "Kube", plan: "ConnectivityPlan", *, keep: bool) -> AsyncIterator[None]:
    """Creates the plan's objects, and removes them at the end in any case, unless ``keep``."""
    from galactic.kube.resources import NAMESPACES, PODS, VPC_ATTACHMENTS, VPCS  # noqa: PLC0415

    _progress(f"creating namespace {plan.namespace}, on {' and '.join(dict.fromkeys(plan.nodes))}")
    try:
        await _create(kube, NAMESPACES, plan.namespace_object(), None, plan.patience)
        for vpc in plan.vpcs():
            await _create(kube, VPCS, vpc, plan.namespace, plan.patience)
        for attachment in plan.attachments():
            await _create(kube, VPC_ATTACHMENTS, attachment, plan.namespace, plan.patience)
        for pod in plan.pods():
            # Retried while the attachment is not Ready or the service account does not exist.
            await _create(kube, PODS, pod, plan.namespace, plan.patience, refusals=GalacticError)
        yield
    finally:
        if keep:
            _progress(
                f"kept: kubectl get all,vpc,vpca -n {plan.namespace}; remove: galactic connectivity test --cleanup"
            )
        else:
            _progress(f"removing namespace {plan.namespace}")
            # A second Ctrl-C does not interrupt the removal.
            await asyncio.shield(asyncio.ensure_future(_remove(kube, plan.namespace)))


async def _retried(
    ask: Callable[[], Awaitable[T]], seconds: float, refusals: type[GalacticError] = Unreachable
) -> T:
    """The answer, retried for ``seconds`` while it is one of ``refusals``."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await ask()
        except refusals:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(POLL_SECONDS)


async def _create(
    kube: "Kube",
    resource: Any,
    body: dict[str, Any],
    namespace: str | None,
    seconds: float,
    *,
    refusals: type[GalacticError] = Unreachable,
) -> None:
    """Creates an object. A conflict after a retry means that a former attempt succeeded."""
    from galactic.kube.api import Conflict  # noqa: PLC0415

    tries = 0

    async def make() -> None:
        nonlocal tries
        tries += 1
        try:
            await kube.create(resource, body, namespace)
        except Conflict:
            if tries == 1:
                raise

    try:
        await _retried(make, seconds, refusals)
    except refusals as error:
        name = f"{body['kind']} {body['metadata']['name']}"
        raise Unreachable("connectivity", f"{name}: {error}") from error


async def _remove(kube: "Kube", namespace: str) -> None:
    """Removes the namespace, pods first, because attachments wait for them."""
    from galactic.kube.resources import NAMESPACES, PODS  # noqa: PLC0415

    deadline = time.monotonic() + CLEANUP_SECONDS
    with contextlib.suppress(GalacticError):
        for pod in (await kube.list(PODS, namespace))[0]:
            await kube.delete(PODS, pod["metadata"]["name"], namespace, grace=1)
    await _retried(lambda: kube.delete(NAMESPACES, namespace), CLEANUP_SECONDS)
    while await _retried(lambda: kube.find(NAMESPACES, namespace), CLEANUP_SECONDS) is not None:
        if time.monotonic() > deadline:
            raise Unreachable(
                "connectivity",
                f"namespace {namespace} still exists after {CLEANUP_SECONDS:.0f} s; see: kubectl describe namespace "
                f"{namespace}, and galactic status",
            )
        await asyncio.sleep(POLL_SECONDS)


async def _cleanup(options: ClusterOptions) -> list[str]:
    from galactic.kube.resources import NAMESPACES  # noqa: PLC0415

    async with options.kube() as kube:
        left = [namespace["metadata"]["name"] for namespace in (await kube.list(NAMESPACES, labels=LABEL))[0]]
        await asyncio.gather(*(_remove(kube, namespace) for namespace in left))
    return left


async def _results(kube: "Kube", plan: "ConnectivityPlan") -> list[dict[str, Any]]:
    """The probes' results, or the reason why there are none."""
    from galactic.kube.resources import EVENTS, PODS  # noqa: PLC0415

    _progress("waiting for the pods to reach each other")
    deadline = time.monotonic() + 2 * plan.patience
    while True:
        listed, _ = await _retried(lambda: kube.list(PODS, plan.namespace), plan.patience)
        pods = {pod["metadata"]["name"]: pod for pod in listed}
        if plan.finished(pods) or time.monotonic() > deadline:
            break
        await asyncio.sleep(POLL_SECONDS)
    events: list[dict[str, Any]] = []
    if not plan.finished(pods):
        with contextlib.suppress(GalacticError):
            events = (await kube.list(EVENTS, plan.namespace, fields="type=Warning"))[0]
    return plan.results(pods, events)


def _print(report: dict[str, Any]) -> None:
    rows = [
        (
            result["from"],
            result["node"],
            result["to"],
            result["expected"] or "none",
            result["found"] or "none",
            "✓" if result["right"] else "✗",
        )
        for result in report["results"]
    ]
    marks = [() if result["right"] else (RED,) for result in report["results"]]
    show(table(("FROM", "ON", "TO", "EXPECTED", "FOUND", ""), rows, marks))
    print()
    for why in dict.fromkeys(result["why"] for result in report["results"] if result["why"]):
        print(f"  {why}")
    wrong = sum(not result["right"] for result in report["results"])
    if wrong:
        print(paint(f"{wrong} of {len(rows)} tests failed.", RED, BOLD))
        print("  → galactic status; or again with --keep, and then: galactic trace -n NAMESPACE POD ADDRESS")
    else:
        print(paint(f"All {len(rows)} tests passed; {report['seconds']:.0f} s.", GREEN, BOLD))


@app.command()
def answer(
    name: Annotated[str, typer.Option(help="Name to answer with.")],
    port: Annotated[int, typer.Option(min=1, max=65535)] = 17666,
) -> None:
    """Inside a pod: answer each connection with this name."""
    from galactic.cli import probe  # noqa: PLC0415

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(probe.answer(name, port))


@app.command()
def probe(
    ask: Annotated[
        list[str], typer.Option(help="ADDRESS=NAME: expect this name; ADDRESS=: expect no answer.")
    ],
    patience: Annotated[float, typer.Option(min=0.0, help="Seconds within which all must answer.")] = 60.0,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 17666,
) -> None:
    """Inside a pod: connect to these addresses. Exit code 3, and a line for each unexpected answer."""
    from galactic.cli import probe as probing  # noqa: PLC0415

    try:
        targets = [probing.target(text) for text in ask]
    except Rejected as error:
        typer.echo(f"galactic connectivity probe: {error}", err=True)
        raise typer.Exit(2) from error
    wrong = [answer for answer in asyncio.run(probing.results(targets, patience, port)) if not answer.right]
    for answer in wrong:
        print(f"{answer.target} found={answer.found}")
    raise typer.Exit(DEGRADED if wrong else FINE)


app.command("test")(clustered(_test))
