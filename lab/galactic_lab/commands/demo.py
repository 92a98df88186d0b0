"""``galactic demo``: Galactic's main job in a lab, step by step, and the proof that it was done."""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from galactic.cli.cluster_options import ClusterOptions, sentence
from galactic.cli.render import show
from galactic.errors import GalacticError, Unreachable
from galactic_lab.cluster import Lab
from galactic_lab.commands.lab import ENCAPSULATED, exports
from galactic_lab.state import checkout

SETTLE_SECONDS: Final = 400.0
CAPTURE_SECONDS: Final = 120
INTERFACE: Final = "galactic0"
"""The pods' interface in the VPC. On real nodes they have eth0 as well, which leads to the underlay."""
REACH_TRIES: Final = 20
TRACES: Final = 3
"""The number of unexpected rows that are traced."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """One line of the table of results."""

    pod: str
    address: str
    why: str
    reached: bool = True


STORY: Final = (
    Expectation("blue/web", "10.1.1.2", "api, on another node"),
    Expectation("blue/web", "2001:10:1:1::2", "api, on another node"),
    Expectation("blue/api", "10.1.1.1", "and back"),
    Expectation("blue/web", "10.1.1.3", "db, on the same node"),
    Expectation("blue/web", "2001:10:1:1::3", "db, on the same node"),
    Expectation("blue/web", "192.168.3.1", "behind db, same node"),
    Expectation("blue/api", "192.168.3.1", "behind db, elsewhere"),
    Expectation("green/one", "10.1.1.2", "two, with api's address"),
    Expectation("green/one", "2001:10:1:1::2", "two, on another node"),
    Expectation("green/one", "10.1.1.3", "db is blue's", reached=False),
    Expectation("green/one", "2001:10:1:1::3", "db is blue's", reached=False),
    Expectation("green/two", "192.168.3.1", "blue's, behind db", reached=False),
    Expectation("blue/web", "10.1.1.4", "three is green's", reached=False),
    Expectation("blue/web", "fd00:2::2", "the underlay: no way out", reached=False),
)


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the lab running and print its KUBECONFIG.")
    ] = False,
    name: Annotated[str, typer.Option(help="The lab's name.")] = "default",
    nodes: Annotated[int, typer.Option(help="Number of nodes; the examples need 3.", min=3)] = 3,
) -> None:
    """Bring up a lab, apply examples/, and show which pods reach which. Exit code 1 on an unexpected result."""
    console = Console(highlight=False, emoji=False)
    started = time.monotonic()
    lab = Lab(name, console)
    found_running = lab.running
    try:
        _title(console, f"A Kubernetes cluster of {nodes} nodes on this machine")
        lab.up(nodes=nodes)
        console.print(f"[dim]{_versions(lab)}[/]")
        passed = _present(console, lab, checkout() / "examples")
    finally:
        if keep or found_running:
            _leave(console, lab)
        else:
            _title(console, "Taking the lab down")
            lab.down()
    verdict = "[bold green]as expected[/]" if passed else "[bold red]not as expected[/]"
    console.print(f"\nThe results are {verdict}; {time.monotonic() - started:.0f} s.")
    raise typer.Exit(0 if passed else 1)


def _versions(lab: Lab) -> str:
    """The kernel of the nodes, and Kubernetes; `galactic lab versions` has the rest."""
    return f"guest kernel {lab.state.linux_source}, Kubernetes {'.'.join(map(str, lab.assets.version))}"


def _present(console: Console, lab: Lab, examples: Path) -> bool:
    _title(
        console, "kubectl apply -f examples/", "two VPCs with the same addresses, their attachments and pods"
    )
    console.print(lab.kubectl("apply", "-f", str(examples)).rstrip(), style="dim")

    _title(console, "Waiting for the pods to be attached")
    _until(console, "pods are Ready", lambda: _pods_ready(lab), lab)
    _until(console, "the router has recorded where each one is", lambda: _recorded(lab), lab)
    _title(console, "kubectl get vpc,vpca,nseg -A -o wide")
    console.print(
        lab.kubectl("get", "vpc,vpca,nseg", "-A", "-o", "wide").rstrip(), style="dim", soft_wrap=True
    )

    _title(console, "One packet on the fabric", "blue/web pings blue/api, captured between the nodes")
    _until(console, "blue/web reaches blue/api", lambda: _ping(lab, "blue/web", "10.1.1.2"), lab)
    line = _captured(lab)
    console.print(line or "[red]nothing was captured[/]", soft_wrap=True)
    if not line:
        _status(console, lab)

    _title(console, "Who reaches whom")
    table = Table("from", "to", "which is", "expected", "found", "", box=None, padding=(0, 2, 0, 0))
    wrong = []
    for expected in STORY:
        reached = _reached(lab, expected)
        right = reached == expected.reached
        wrong += [] if right else [expected]
        words = ("reached" if one else "not reached" for one in (expected.reached, reached))
        mark = "[green]✓[/]" if right else "[bold red]✗[/]"
        table.add_row(expected.pod, expected.address, expected.why, *words, mark)
    console.print(table)
    for expected in wrong[:TRACES]:
        _trace(console, lab, expected)
    return bool(line) and not wrong


def _trace(console: Console, lab: Lab, expected: Expectation) -> None:
    """Prints the trace of a row."""
    from galactic.cli.trace import PROBE_SECONDS, print_way, traced  # noqa: PLC0415

    _title(console, f"galactic trace {expected.pod} {expected.address}", expected.why)
    options = ClusterOptions(str(lab.kubeconfig))
    try:
        found = options.run(
            traced(options, expected.pod, expected.address), seconds=options.seconds + PROBE_SECONDS
        )
    except GalacticError as error:
        console.print(sentence(error), style="red", markup=False, soft_wrap=True)
    else:
        for way in found["ways"]:
            print_way(way)


def _status(console: Console, lab: Lab) -> None:
    """Prints the status."""
    from galactic.cli.status import examine, screen  # noqa: PLC0415

    _title(console, "galactic status")
    options = ClusterOptions(str(lab.kubeconfig))

    async def looked() -> list[str]:
        async with options.kube() as kube:
            return [*screen(*await examine(options, kube), everything=False)]

    try:
        show(options.run(looked()))
    except GalacticError as error:
        console.print(sentence(error), style="red", markup=False, soft_wrap=True)


def _title(console: Console, title: str, explanation: str = "") -> None:
    console.print(f"\n[bold]▸ {title}[/]" + (f"  [dim]{explanation}[/]" if explanation else ""))


def _until(console: Console, what: str, true: Callable[[], bool], lab: Lab) -> None:
    started = time.monotonic()
    with console.status(f"{what} …"):
        while not true():
            if time.monotonic() - started > SETTLE_SECONDS:
                console.print(
                    lab.kubectl("get", "pods,vpca", "-A", "-o", "wide", check=False), soft_wrap=True
                )
                console.print(lab.kubectl("get", "events", "-A", check=False)[-3000:], soft_wrap=True)
                _status(console, lab)
                raise Unreachable(
                    "demo", f"not within {SETTLE_SECONDS:.0f} s: {what}; logs are in {lab.state.logs}"
                )
            time.sleep(0.2)
    console.print(f"[green]✓[/] {what} [dim]{time.monotonic() - started:.1f} s[/]")


def _pods_ready(lab: Lab) -> bool:
    pods = [pod for namespace in ("blue", "green") for pod in lab.get("pods", "-n", namespace)["items"]]
    return bool(pods) and all(
        any(
            one["type"] == "Ready" and one["status"] == "True"
            for one in pod["status"].get("conditions") or ()
        )
        for pod in pods
    )


def _recorded(lab: Lab) -> bool:
    attachments = lab.get("vpca", "-A")["items"]
    return bool(attachments) and all("endpoint" in one.get("status", {}) for one in attachments)


def _ping(lab: Lab, pod: str, address: str, count: int = 1) -> bool:
    argv = ["ping", "-n", "-I", INTERFACE, f"-c{count}", "-i0.2", "-W1", address]
    return lab.run(f"pod/{pod}", argv, check=False).returncode == 0


def _reached(lab: Lab, expected: Expectation) -> bool:
    """Whether the ping is answered. An expected answer is awaited; an unexpected one is tried three times."""
    if not expected.reached:
        return _ping(lab, expected.pod, expected.address, count=3)
    return any(_ping(lab, expected.pod, expected.address) for _ in range(REACH_TRIES))


def _captured(lab: Lab) -> str:
    """One line of tcpdump from the fabric; empty without an encapsulated packet within CAPTURE_SECONDS."""
    argv = ["timeout", str(CAPTURE_SECONDS), "tcpdump", "-n", "-l", "-c1", "-i", "any", ENCAPSULATED]
    with lab.popen("fabric", argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as capture:
        assert capture.stderr
        for line in capture.stderr:
            if "listening on" in line:
                break
        _ping(lab, "blue/web", "10.1.1.2", count=3)
        return capture.communicate()[0].strip()


def _leave(console: Console, lab: Lab) -> None:
    console.print(
        f"\nThe lab is left running.\n{exports(lab, '  ')}\n"
        "  kubectl get vpc,vpca,nseg -A -o wide\n"
        "  galactic lab exec --pod blue/web -- ping 10.1.1.2\n"
        "  galactic lab down",
        soft_wrap=True,
    )
