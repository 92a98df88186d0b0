"""``galactic lab …``: a Kubernetes cluster with SRv6 nodes on this machine, to try, show and test Galactic."""

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from galactic.cli.render import Form, Output, document, show
from galactic.errors import GalacticError, Rejected
from galactic_lab import provenance
from galactic_lab.builds import build_modules, guest_kernels
from galactic_lab.cluster import Lab
from galactic_lab.controlplane import broker, helm_release
from galactic_lab.state import labs

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    help="A Kubernetes cluster with SRv6 nodes on this machine: real control plane, real kernel, no containers.",
    no_args_is_help=True,
)
console = Console(highlight=False)

P = ParamSpec("P")
R = TypeVar("R")
Name = Annotated[str, typer.Option("--name", "-n", envvar="GALACTIC_LAB", help="The lab's name.")]
ENCAPSULATED: Final = "ip6 proto 4 or ip6 proto 41"
"""Matches H.Encaps.Red packets: an IPv4 or IPv6 packet right behind the IPv6 header."""
WORDS: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True}


def exports(lab: Lab, indent: str = "") -> str:
    """Exports for a shell: kubectl, helm and galactic in PATH, with the lab's kubeconfig."""
    path = f"{lab.state.tools}:{Path(sys.executable).parent}:$PATH"
    return f"{indent}export KUBECONFIG={lab.kubeconfig}\n{indent}export PATH={path}"


def reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Errors of ``galactic.errors`` end the command with exit code 1 and their message, without a traceback."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except GalacticError as error:
            Console(stderr=True, highlight=False, markup=False).print(f"galactic lab: {error}")
            raise typer.Exit(1) from error
        except subprocess.CalledProcessError as error:
            output = error.stderr or ""
            text = output.decode(errors="replace") if isinstance(output, bytes) else output
            Console(stderr=True, highlight=False, markup=False).print(f"galactic lab: {error} {text}".strip())
            raise typer.Exit(1) from error

    return wrapper


def _interruptible() -> None:
    """SIGTERM ends a command like Ctrl-C does: a running build is cleaned up."""

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)


@app.command()
@reports_errors
def up(  # noqa: PLR0917  (as many as there are options)
    name: Name = "default",
    nodes: Annotated[int | None, typer.Option(help="Number of nodes; 3 for a new lab.")] = None,
    latency: Annotated[
        float | None, typer.Option(help="Milliseconds from one node to another, one way.")
    ] = None,
    linux: Annotated[
        str | None,
        typer.Option(
            envvar=guest_kernels.SETTING,
            help=f"The guest kernel: {' or '.join(guest_kernels.KERNELS)}.",
            show_envvar=True,
        ),
    ] = None,
    kubernetes: Annotated[
        str | None,
        typer.Option(
            envvar=build_modules.SETTING,
            help="The version of Kubernetes, such as 1.34 or 1.34.4; the newest unless given.",
            show_envvar=True,
        ),
    ] = None,
    chart: Annotated[
        bool | None,
        typer.Option("--chart", help="Install the image and the chart on the nodes: Galactic runs as pods."),
    ] = None,
    routers: Annotated[
        int | None, typer.Option(help="Number of routers, 1 to 3; may change while the lab is up.")
    ] = None,
    database: Annotated[
        bool | None, typer.Option("--database", help="With PostgreSQL, for `galactic history`.")
    ] = None,
    standalone: Annotated[
        bool | None, typer.Option(help="Routers outside Kubernetes, for several clusters; may change.")
    ] = None,
    join: Annotated[
        str | None, typer.Option(help="The lab whose network and broker this one joins, as another cluster.")
    ] = None,
    prometheus: Annotated[
        bool | None, typer.Option("--prometheus", help="With Prometheus and the alert rules of the chart.")
    ] = None,
) -> None:
    """Bring the lab up, or back up. The first time builds Kubernetes, containerd and a guest kernel."""
    _interruptible()
    lab = Lab(name, console)
    lab.up(
        nodes,
        latency,
        linux=linux,
        kubernetes=kubernetes,
        chart=chart,
        routers=routers,
        database=database,
        prometheus=prometheus,
        standalone=standalone,
        join=join,
    )
    console.print(f"\n{exports(lab)}", soft_wrap=True)
    if lab.state.chart:
        console.print(f"values of the chart: {helm_release.values_file(lab.state)}", soft_wrap=True)
    if lab.state.standalone:
        console.print(f"admissions of the routers: {lab.state.admissions}", soft_wrap=True)
    if lab.state.database:
        console.print(f"export GALACTIC_DATABASE_URL={lab.state.database_url()}", soft_wrap=True)
    if lab.state.prometheus:
        console.print(f"Prometheus: {lab.state.prometheus_url}", soft_wrap=True)


@app.command()
@reports_errors
def down(
    name: Name = "default",
    everything: Annotated[bool, typer.Option("--all", help="Every lab of this machine.")] = False,
) -> None:
    """Remove every trace of the lab, also after a crash. The builds stay in the cache."""
    for one in labs() if everything else [name]:
        Lab(one).down()
        console.print(f"lab {one} is removed")


@app.command()
@reports_errors
def build() -> None:
    """Only build what the lab and the tests need: Kubernetes, etcd, Helm, images, and every guest kernel."""
    _interruptible()
    lab = Lab(console=console)
    for one in lab.build(*map(lab.guest_kernel, guest_kernels.KERNELS), chart=True):
        console.print(f"{one.name:<18} {one.home}", soft_wrap=True)


@app.command()
@reports_errors
def status(
    name: Name = "default",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show the state of the lab's programs."""
    lab = Lab(name)
    if not lab.running:
        raise Rejected(f"lab {name!r} is not up; run `galactic lab up`", field="lab")
    rows = [(one["name"], one["statename"].lower(), one["description"]) for one in lab.supervisor.status()]
    rows += helm_release.status(lab) if lab.state.chart else []
    for member in () if lab.state.chart else lab.state.members:
        pid = lab.controller_pid(member.name)
        held = lab.state.hold(member.name).exists()
        state = "held" if held else "running" if pid else "down"
        rows.append((f"controller/{member.name}", state, f"pid {pid} (nodes' kernel)" if pid else ""))
    if as_json:
        print(json.dumps([dict(zip(("name", "state", "description"), row, strict=True)) for row in rows]))
        return
    kernel = lab.state.linux_source or "none"
    table = Table("component", "state", "", title=f"lab {name}: {lab.state.nodes} nodes, kernel {kernel}")
    for row in rows:
        table.add_row(*row, style="" if row[1] == "running" else "yellow")
    console.print(table)


@app.command()
@reports_errors
def versions(form: Form = Output.TABLE) -> None:
    """List what labs and tests use of this machine: kernels, programs, libraries, cached builds."""
    facts = provenance.facts()
    if not document([asdict(fact) for fact in facts], form):
        show(provenance.table(facts))


@app.command("exec", context_settings=WORDS)
@reports_errors
def execute(
    context: typer.Context,
    target: Annotated[str, typer.Argument(help="A node, fabric, control, kernel, or pod/NAMESPACE/NAME.")],
    name: Name = "default",
    pod: Annotated[bool, typer.Option("--pod", help="TARGET is a Pod: NAMESPACE/NAME.")] = False,
) -> None:
    """Run a command on a node or in a pod: `galactic lab exec node-1 -- ip -6 route`. Exits with its exit code."""
    argv = context.args[1:] if context.args[:1] == ["--"] else context.args
    target = f"pod/{target}" if pod else target
    if not argv:
        raise Rejected("nothing to run; put the command after --", field="command")
    _replace(Lab(name), target, argv, terminal=False)


@app.command()
@reports_errors
def shell(
    target: Annotated[
        str, typer.Argument(help="A node, fabric, control, kernel, or pod/NAMESPACE/NAME.")
    ] = "node-1",
    name: Name = "default",
) -> None:
    """Open a shell on a node or in a pod."""
    _replace(Lab(name), target, [os.environ.get("SHELL", "/bin/sh")], terminal=sys.stdin.isatty())


def _replace(lab: Lab, target: str, argv: list[str], *, terminal: bool) -> None:
    lab.supervisor  # noqa: B018  (raises Rejected when the lab is not up)
    command = lab.command(target, argv, terminal=terminal)
    sys.stdout.flush()
    os.execvp(command[0], command)  # noqa: S606  (no shell is the point)


@app.command()
@reports_errors
def logs(
    component: Annotated[str | None, typer.Argument(help="By default lists the logs.")] = None,
    name: Name = "default",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow the log.")] = False,
    lines: Annotated[int, typer.Option(help="Number of last lines.")] = 100,
) -> None:
    """Print a component's log, such as router, kube-apiserver, node-1.controller."""
    folder = Lab(name).state.logs
    known = sorted(path.name.removesuffix(".log") for path in folder.glob("*.log")) if folder.exists() else []
    if component is None:
        console.print("\n".join(known) or "no logs: the lab is not up")
        return
    if component not in known:
        raise Rejected(f"no log of {component!r}; there are {', '.join(known) or 'none'}", field="component")
    argv = [
        "tail",
        f"--lines={lines}",
        *(["--follow=name"] if follow else []),
        str(folder / f"{component}.log"),
    ]
    os.execvp(argv[0], argv)  # noqa: S606  (no shell is the point)


@app.command()
@reports_errors
def restart(
    component: Annotated[str, typer.Argument(help="As status names it; kubelet/NODE too.")],
    name: Name = "default",
) -> None:
    """Stop a component and start it again."""
    Lab(name).restart(component)


@app.command()
@reports_errors
def kill(
    component: Annotated[str, typer.Argument(help="As status names it; kubelet/NODE too.")],
    name: Name = "default",
    number: Annotated[str, typer.Option("--signal", "-s", help="Name or number.")] = "KILL",
) -> None:
    """Send a signal to a component. A component that ends is started again."""
    try:
        chosen = (
            signal.Signals(int(number))
            if number.isdigit()
            else signal.Signals[f"SIG{number.removeprefix('SIG')}"]
        )
    except (KeyError, ValueError) as error:
        raise Rejected(f"{number!r} is no signal", field="signal") from error
    Lab(name).kill(component, chosen)


@app.command()
@reports_errors
def reboot(node: str, name: Name = "default") -> None:
    """Power a node off. It boots again at once."""
    Lab(name).reboot(node)


@app.command()
@reports_errors
def hold(node: str, name: Name = "default") -> None:
    """Stop a node's controller until `release`."""
    Lab(name).hold(node)


@app.command()
@reports_errors
def release(node: str, name: Name = "default") -> None:
    """Let a node's controller run again."""
    Lab(name).release(node)


@app.command()
@reports_errors
def multus(
    node: str,
    name: Name = "default",
    away: Annotated[bool, typer.Option("--away/--back", help="Remove it, or restore it.")] = True,
) -> None:
    """Remove Multus from a node, as while its daemon restarts: pods start without their networks."""
    lab = Lab(name)
    if away:
        lab.remove_multus(node)
    else:
        lab.restore_multus(node)


@app.command()
@reports_errors
def kubeconfig(name: Name = "default") -> None:
    """Print the path of the administrator's kubeconfig."""
    print(Lab(name).supervisor and Lab(name).kubeconfig)


@app.command()
@reports_errors
def listen(
    topic: Annotated[str, typer.Argument(help="Topic filter, with + and # as in MQTT.")] = "galactic/v1/#",
    name: Name = "default",
) -> None:
    """Print retained and new messages of the broker, as topic and payload."""
    lab = Lab(name)
    if lab.state.chart:
        raise Rejected("the broker is the chart's: a pod, whose users are in Secrets", field="lab")
    lab.supervisor  # noqa: B018  (raises Rejected when the lab is not up)
    host = Lab(lab.state.join or name)
    _replace(host, "control", [*broker.client(lab.state, "mosquitto_sub"), "-v", "-t", topic], terminal=False)


@app.command(context_settings=WORDS)
@reports_errors
def capture(
    context: typer.Context,
    name: Name = "default",
    at: Annotated[str, typer.Option(help="Where: fabric, a node, or pod/NAMESPACE/NAME.")] = "fabric",
    interface: Annotated[str, typer.Option("--interface", "-i", help="The device.")] = "any",
) -> None:
    """Run tcpdump, with arguments and filter after --. By default: packets of pods between nodes (SRv6)."""
    extra = context.args[1:] if context.args[:1] == ["--"] else context.args
    # The fabric also carries the nodes' traffic with broker and API server.
    seen = extra or ([ENCAPSULATED] if at == "fabric" else [])
    _replace(Lab(name), at, ["tcpdump", "-nli", interface, *seen], terminal=False)
