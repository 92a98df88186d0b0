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
    help="A Kubernetes cluster with SRv6 nodes on this machine: real control plane, real kernel, no containers.",
    no_args_is_help=True,
)
console = Console(highlight=False)

P = ParamSpec("P")
R = TypeVar("R")
Name = Annotated[str, typer.Option("--name", "-n", envvar="GALACTIC_LAB", help="Which lab.")]
ENCAPSULATED: Final = "ip6 proto 4 or ip6 proto 41"
"""What an H.Encaps.Red packet looks like from outside: an IPv4 or IPv6 packet right behind the IPv6 header."""
WORDS: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True}


def exports(lab: Lab, indent: str = "") -> str:
    """What a shell needs for kubectl, helm and galactic to be at hand and to lead to the lab."""
    path = f"{lab.state.tools}:{Path(sys.executable).parent}:$PATH"
    return f"{indent}export KUBECONFIG={lab.kubeconfig}\n{indent}export PATH={path}"


def told(command: Callable[P, R]) -> Callable[P, R]:
    """Errors of ours end the command with status 1 and their message, without a traceback."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except GalacticError as error:
            Console(stderr=True, highlight=False, markup=False).print(f"galactic lab: {error}")
            raise typer.Exit(1) from error
        except subprocess.CalledProcessError as error:
            said = error.stderr or ""
            text = said.decode(errors="replace") if isinstance(said, bytes) else said
            Console(stderr=True, highlight=False, markup=False).print(f"galactic lab: {error} {text}".strip())
            raise typer.Exit(1) from error

    return wrapper


def _interruptible() -> None:
    """SIGTERM ends a command like Ctrl-C does: what it was building is cleaned up."""

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)


@app.command()
@told
def up(  # noqa: PLR0917  (as many as there are options)
    name: Name = "default",
    nodes: Annotated[int | None, typer.Option(help="How many nodes; 3 unless the lab is up already.")] = None,
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
        int | None, typer.Option(help="How many routers, 1 to 3; may be changed while the lab is up.")
    ] = None,
    database: Annotated[
        bool | None, typer.Option("--database", help="With PostgreSQL, for `galactic history`.")
    ] = None,
    standalone: Annotated[
        bool | None, typer.Option(help="Routers outside Kubernetes, for several clusters; may be changed.")
    ] = None,
    join: Annotated[
        str | None, typer.Option(help="Be another cluster on the network and broker of that lab.")
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
        console.print(f"who may share a VPC: {lab.state.admissions}", soft_wrap=True)
    if lab.state.database:
        console.print(f"export GALACTIC_DATABASE_URL={lab.state.database_url()}", soft_wrap=True)
    if lab.state.prometheus:
        console.print(f"Prometheus: {lab.state.prometheus_url}", soft_wrap=True)


@app.command()
@told
def down(
    name: Name = "default",
    everything: Annotated[bool, typer.Option("--all", help="Every lab of this machine.")] = False,
) -> None:
    """Remove every trace of the lab, also after a crash. The builds stay in the cache."""
    for one in labs() if everything else [name]:
        Lab(one).down()
        console.print(f"lab {one} is gone")


@app.command()
@told
def build() -> None:
    """Only build what the lab and the tests need: Kubernetes, etcd, Helm, images, and every guest kernel."""
    _interruptible()
    lab = Lab(console=console)
    for one in lab.build(*map(lab.guest_kernel, guest_kernels.KERNELS), chart=True):
        console.print(f"{one.name:<18} {one.home}", soft_wrap=True)


@app.command()
@told
def status(
    name: Name = "default",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """What runs."""
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
@told
def versions(form: Form = Output.TABLE) -> None:
    """What labs and tests take from this machine: kernels, programs, libraries, builds in the cache."""
    facts = provenance.facts()
    if not document([asdict(fact) for fact in facts], form):
        show(provenance.table(facts))


@app.command("exec", context_settings=WORDS)
@told
def execute(
    context: typer.Context,
    target: Annotated[str, typer.Argument(help="A node, fabric, control, kernel, or pod/NAMESPACE/NAME.")],
    name: Name = "default",
    pod: Annotated[bool, typer.Option("--pod", help="TARGET is a Pod: NAMESPACE/NAME.")] = False,
) -> None:
    """Run a command there: ``galactic lab exec node-1 -- ip -6 route``. Its exit status becomes ours."""
    argv = context.args[1:] if context.args[:1] == ["--"] else context.args
    target = f"pod/{target}" if pod else target
    if not argv:
        raise Rejected("nothing to run; put the command after --", field="command")
    _replace(Lab(name), target, argv, terminal=False)


@app.command()
@told
def shell(
    target: Annotated[
        str, typer.Argument(help="A node, fabric, control, kernel, or pod/NAMESPACE/NAME.")
    ] = "node-1",
    name: Name = "default",
) -> None:
    """An interactive shell there."""
    _replace(Lab(name), target, [os.environ.get("SHELL", "/bin/sh")], terminal=sys.stdin.isatty())


def _replace(lab: Lab, target: str, argv: list[str], *, terminal: bool) -> None:
    lab.supervisor  # noqa: B018  (says so when the lab is not up)
    command = lab.command(target, argv, terminal=terminal)
    sys.stdout.flush()
    os.execvp(command[0], command)  # noqa: S606  (no shell is the point)


@app.command()
@told
def logs(
    component: Annotated[str | None, typer.Argument(help="Left out: the list of logs there are.")] = None,
    name: Name = "default",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows.")] = False,
    lines: Annotated[int, typer.Option(help="How many of the last lines.")] = 100,
) -> None:
    """A component's log, such as router, kube-apiserver, node-1.controller."""
    folder = Lab(name).state.logs
    known = sorted(path.name.removesuffix(".log") for path in folder.glob("*.log")) if folder.exists() else []
    if component is None:
        console.print("\n".join(known) or "no logs: the lab is not up")
        return
    if component not in known:
        raise Rejected(
            f"there is no log of {component!r}; there are {', '.join(known) or 'none'}", field="component"
        )
    argv = [
        "tail",
        f"--lines={lines}",
        *(["--follow=name"] if follow else []),
        str(folder / f"{component}.log"),
    ]
    os.execvp(argv[0], argv)  # noqa: S606  (no shell is the point)


@app.command()
@told
def restart(
    component: Annotated[str, typer.Argument(help="As status names it; kubelet/NODE too.")],
    name: Name = "default",
) -> None:
    """End a component in good order and start it again."""
    Lab(name).restart(component)


@app.command()
@told
def kill(
    component: Annotated[str, typer.Argument(help="As status names it; kubelet/NODE too.")],
    name: Name = "default",
    number: Annotated[str, typer.Option("--signal", "-s", help="Name or number.")] = "KILL",
) -> None:
    """Send a signal to a component. What dies is started again, as a cluster would."""
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
@told
def reboot(node: str, name: Name = "default") -> None:
    """Power a node off. It boots again at once."""
    Lab(name).reboot(node)


@app.command()
@told
def hold(node: str, name: Name = "default") -> None:
    """Keep a node's controller away, until `release`."""
    Lab(name).hold(node)


@app.command()
@told
def release(node: str, name: Name = "default") -> None:
    """Let a node's controller run again."""
    Lab(name).release(node)


@app.command()
@told
def multus(
    node: str,
    name: Name = "default",
    away: Annotated[bool, typer.Option("--away/--back", help="Take it away, or bring it back.")] = True,
) -> None:
    """Take Multus away from a node, as its daemon is while it restarts: pods start without their networks."""
    lab = Lab(name)
    if away:
        lab.take_multus(node)
    else:
        lab.bring_multus(node)


@app.command()
@told
def kubeconfig(name: Name = "default") -> None:
    """Print the path of the administrator's kubeconfig."""
    print(Lab(name).supervisor and Lab(name).kubeconfig)


@app.command()
@told
def listen(
    topic: Annotated[str, typer.Argument(help="What to listen to; + and # as in MQTT.")] = "galactic/v1/#",
    name: Name = "default",
) -> None:
    """What the broker retains, and from then on what is said, as topic and payload."""
    lab = Lab(name)
    if lab.state.chart:
        raise Rejected("the broker is the chart's: a pod, whose users are in Secrets", field="lab")
    lab.supervisor  # noqa: B018  (says so when the lab is not up)
    host = Lab(lab.state.join or name)
    _replace(host, "control", [*broker.client(lab.state, "mosquitto_sub"), "-v", "-t", topic], terminal=False)


@app.command(context_settings=WORDS)
@told
def capture(
    context: typer.Context,
    name: Name = "default",
    at: Annotated[str, typer.Option(help="Where: fabric, a node, or pod/NAMESPACE/NAME.")] = "fabric",
    interface: Annotated[str, typer.Option("--interface", "-i", help="The device.")] = "any",
) -> None:
    """tcpdump; its further arguments and filter after --. Without any: what pods send from node to node (SRv6)."""
    extra = context.args[1:] if context.args[:1] == ["--"] else context.args
    # The fabric also carries what the nodes say to broker and API server.
    seen = extra or ([ENCAPSULATED] if at == "fabric" else [])
    _replace(Lab(name), at, ["tcpdump", "-nli", interface, *seen], terminal=False)
