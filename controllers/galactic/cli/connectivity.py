"""``galactic connectivity test``: two VPCs with equal addresses, pods on two nodes, and who reaches whom."""

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
app = typer.Typer(help="Try it with pods made for that.", no_args_is_help=True, rich_markup_mode=None)


def _test(  # noqa: PLR0917 - as many as there are options
    options: ClusterOptions,
    timeout: Annotated[
        float, typer.Option(min=1.0, help="Seconds for pods to come up and reach each other.")
    ] = 120.0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything there afterwards.")] = False,
    cleanup: Annotated[bool, typer.Option("--cleanup", help="Only remove what earlier tests left.")] = False,
    image: Annotated[str, typer.Option(help="Of the pods; left out: the one that the nodes run.")] = "",
    nodes: Annotated[str, typer.Option(help="The two nodes, NAME,NAME; left out: two that are ready.")] = "",
    output: Form = Output.TABLE,
) -> int:
    """Make two VPCs with equal addresses, pods on two nodes, and see who reaches whom; remove it all again.

    Everything is in a namespace of its own. Ctrl-C removes it as well.
    """
    if cleanup:
        removed = options.run(_cleanup(options), seconds=CLEANUP_SECONDS)
        if not document(removed, output):
            print(f"removed: {', '.join(removed) or 'nothing was left'}")
        return FINE
    chosen = [name.strip() for name in nodes.split(",") if name.strip()]
    if nodes and len(chosen) != 2:
        raise Rejected(f"{nodes!r}: give two names, NAME,NAME", field="--nodes")
    report = asyncio.run(_interruptible(_tried(options, timeout, keep=keep, image=image, nodes=chosen)))
    if not document(report, output):
        _print(report)
    return FINE if report["passed"] else DEGRADED


async def _interruptible(work: Any) -> Any:
    """Ctrl-C and SIGTERM cancel the work, which then removes what it has made, and end the command with 130."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _progress(text: str) -> None:
    """Progress, beside the result."""
    print(text, file=sys.stderr, flush=True)


async def _tried(
    options: ClusterOptions, patience: float, *, keep: bool, image: str, nodes: list[str]
) -> dict[str, Any]:
    from galactic.cli.cluster_access import cluster_access  # noqa: PLC0415
    from galactic.cli.connectivity_plan import ConnectivityPlan  # noqa: PLC0415

    async with options.kube() as kube:
        chosen = await _nodes(kube, nodes)  # not patiently: an address where nobody answers is told at once
        used = (
            image
            or await _answered(cluster_access(options, kube).image, patience)
            or f"galactic:{__version__}"
        )
        plan = ConnectivityPlan(f"galactic-connectivity-{secrets.token_hex(3)}", chosen, used, patience)
        async with _made(kube, plan, keep=keep):
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
    """Two nodes that pods can be attached on; one twice where there is only one. Raises NotYet, Rejected."""
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
        raise NotYet("no node is ready for attachments and free for pods; galactic status says why")
    if len(chosen) == 1:
        _progress(f"only {chosen[0]} is ready: nothing crosses the underlay")
    return [chosen[0], chosen[-1]]


@asynccontextmanager
async def _made(kube: "Kube", plan: "ConnectivityPlan", *, keep: bool) -> AsyncIterator[None]:
    """Everything of the plan is there; afterwards it is gone, whatever happened, unless it is to be kept."""
    from galactic.kube.resources import NAMESPACES, PODS, VPC_ATTACHMENTS, VPCS  # noqa: PLC0415

    _progress(f"making namespace {plan.namespace}, on {' and '.join(dict.fromkeys(plan.nodes))}")
    try:
        await _created(kube, NAMESPACES, plan.home(), None, plan.patience)
        for vpc in plan.vpcs():
            await _created(kube, VPCS, vpc, plan.namespace, plan.patience)
        for attachment in plan.attachments():
            await _created(kube, VPC_ATTACHMENTS, attachment, plan.namespace, plan.patience)
        for pod in plan.pods():
            # Be it that the webhook wants to see the attachment ready first, or the account is not there yet.
            await _created(kube, PODS, pod, plan.namespace, plan.patience, refusals=GalacticError)
        yield
    finally:
        if keep:
            _progress(
                f"kept: kubectl get all,vpc,vpca -n {plan.namespace}; remove: galactic connectivity test --cleanup"
            )
        else:
            _progress(f"removing namespace {plan.namespace}")
            # Ctrl-C once more does not leave it half done.
            await asyncio.shield(asyncio.ensure_future(_removed(kube, plan.namespace)))


async def _answered(
    ask: Callable[[], Awaitable[T]], seconds: float, refusals: type[GalacticError] = Unreachable
) -> T:
    """What is answered, asked again for so long where that ends with one of ``refusals``."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await ask()
        except refusals:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(POLL_SECONDS)


async def _created(
    kube: "Kube",
    resource: Any,
    body: dict[str, Any],
    namespace: str | None,
    seconds: float,
    *,
    refusals: type[GalacticError] = Unreachable,
) -> None:
    """Made, by this try or by one before it whose answer got lost."""
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
        await _answered(make, seconds, refusals)
    except refusals as error:
        name = f"{body['kind']} {body['metadata']['name']}"
        raise Unreachable("connectivity", f"{name}: {error}") from error


async def _removed(kube: "Kube", namespace: str) -> None:
    """The namespace and all that is in it is gone, pods first: their attachments wait for them."""
    from galactic.kube.resources import NAMESPACES, PODS  # noqa: PLC0415

    deadline = time.monotonic() + CLEANUP_SECONDS
    with contextlib.suppress(GalacticError):
        for pod in (await kube.list(PODS, namespace))[0]:
            await kube.delete(PODS, pod["metadata"]["name"], namespace, grace=1)
    await _answered(lambda: kube.delete(NAMESPACES, namespace), CLEANUP_SECONDS)
    while await _answered(lambda: kube.find(NAMESPACES, namespace), CLEANUP_SECONDS) is not None:
        if time.monotonic() > deadline:
            raise Unreachable(
                "connectivity",
                f"namespace {namespace} is still going after {CLEANUP_SECONDS:.0f} s; see: kubectl describe namespace "
                f"{namespace}, and galactic status",
            )
        await asyncio.sleep(POLL_SECONDS)


async def _cleanup(options: ClusterOptions) -> list[str]:
    from galactic.kube.resources import NAMESPACES  # noqa: PLC0415

    async with options.kube() as kube:
        left = [namespace["metadata"]["name"] for namespace in (await kube.list(NAMESPACES, labels=LABEL))[0]]
        await asyncio.gather(*(_removed(kube, namespace) for namespace in left))
    return left


async def _results(kube: "Kube", plan: "ConnectivityPlan") -> list[dict[str, Any]]:
    """What all askers found, or why they could not."""
    from galactic.kube.resources import EVENTS, PODS  # noqa: PLC0415

    _progress("waiting for the pods to ask each other")
    deadline = time.monotonic() + 2 * plan.patience
    while True:
        listed, _ = await _answered(lambda: kube.list(PODS, plan.namespace), plan.patience)
        pods = {pod["metadata"]["name"]: pod for pod in listed}
        if plan.done(pods) or time.monotonic() > deadline:
            break
        await asyncio.sleep(POLL_SECONDS)
    events: list[dict[str, Any]] = []
    if not plan.done(pods):
        with contextlib.suppress(GalacticError):
            events = (await kube.list(EVENTS, plan.namespace, fields="type=Warning"))[0]
    return plan.results(pods, events)


def _print(report: dict[str, Any]) -> None:
    rows = [
        (
            result["from"],
            result["node"],
            result["to"],
            result["expected"] or "nobody",
            result["found"] or "nobody",
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
        print(paint(f"{wrong} of {len(rows)} are not as they should be.", RED, BOLD))
        print("  → galactic status; or again with --keep, and then: galactic trace -n NAMESPACE POD ADDRESS")
    else:
        print(paint(f"All {len(rows)} are as they should be; {report['seconds']:.0f} s.", GREEN, BOLD))


@app.command()
def answer(
    name: Annotated[str, typer.Option(help="What to answer.")],
    port: Annotated[int, typer.Option(min=1, max=65535)] = 17666,
) -> None:
    """Inside a pod: tell whoever connects this name."""
    from galactic.cli import probe  # noqa: PLC0415

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(probe.answer(name, port))


@app.command()
def probe(
    ask: Annotated[
        list[str], typer.Option(help="ADDRESS=NAME: who is to answer there; ADDRESS= for nobody.")
    ],
    patience: Annotated[float, typer.Option(min=0.0, help="Seconds until all must have answered.")] = 60.0,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 17666,
) -> None:
    """Inside a pod: ask who is at these addresses. Exit code 3, and a line each, where it is not who should be."""
    from galactic.cli import probe as asking  # noqa: PLC0415

    try:
        targets = [asking.target(text) for text in ask]
    except Rejected as error:
        typer.echo(f"galactic connectivity probe: {error}", err=True)
        raise typer.Exit(2) from error
    wrong = [answer for answer in asyncio.run(asking.ask(targets, patience, port)) if not answer.right]
    for answer in wrong:
        print(f"{answer.target} found={answer.found}")
    raise typer.Exit(DEGRADED if wrong else FINE)


app.command("test")(clustered(_test))
