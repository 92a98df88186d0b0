"""A lab as a ``ClusterAccess``: its programs are supervised processes, its nodes namespaces, and it has no images."""

import asyncio
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from galactic import __version__
from galactic.cli.cluster_access import Inspection
from galactic.cli.snapshot import Component
from galactic.errors import Unreachable
from galactic.linux.namespace import Namespace
from galactic_lab.cluster import Lab
from galactic_lab.state import HOME, METRICS_PORT, State, interpreter

PROGRAMS: Final = ("operator", "router", "webhook", "mosquitto")
"""Names, or their beginnings, of a lab's programs that are Galactic's or that Galactic needs."""
LOG_BYTES: Final = 1 << 20
SECONDS: Final = 60.0
FETCH_SECONDS: Final = 5.0
FETCH: Final = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode(), end="")
except urllib.error.HTTPError as error:
    print(error.read().decode(), end="")
"""


def lab_of(files: Iterable[Path]) -> "LabAccess | None":
    """The lab that one of these kubeconfig files belongs to; None for one with the chart, which is like any cluster."""
    for path in files:
        resolved = path.resolve()
        if resolved.is_relative_to(HOME):
            name = resolved.relative_to(HOME).parts[0]
            state = State.load(name)
            if state is not None and not state.chart:
                return LabAccess(Lab(name))
    return None


class LabAccess:
    """One lab."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    async def components(self) -> tuple[Component, ...]:
        found = await asyncio.gather(*(self._component(entry) for entry in self._programs()))
        return (*found, *self._controllers())

    def router_outside(self, components: Sequence[Component]) -> bool:  # noqa: ARG002 - the lab knows without
        return self._lab.state.standalone or bool(self._lab.state.join)

    def _programs(self) -> list[dict[str, Any]]:
        return [entry for entry in self._lab.supervisor.status() if entry["name"].startswith(PROGRAMS)]

    async def _component(self, entry: dict[str, Any]) -> Component:
        name = "broker" if entry["name"] == "mosquitto" else entry["name"]
        shown = self._log(entry["name"])
        if entry["statename"] != "RUNNING":
            return Component(name, 0, 1, problem=entry["statename"].lower(), log=shown)
        if name == "broker":
            return Component(name, 1, 1, log=shown)
        try:
            health = await self._fetch(f"http://[::1]:{_port(entry['pid'])}/healthz")
        except Unreachable as error:
            return Component(name, 0, 1, __version__, str(error), log=shown)
        ready = health.strip() == "ok"
        problem = "" if ready else "; ".join(filter(None, map(str.strip, health.splitlines())))
        return Component(name, int(ready), 1, __version__, problem, log=shown)

    def _log(self, name: str) -> str:
        of = "" if self._lab.state.name == "default" else f" --name {self._lab.state.name}"
        return f"galactic lab logs {name}{of}"

    def _controllers(self) -> list[Component]:
        lab, found = self._lab, []
        for member in lab.state.members:
            held = lab.state.hold(member.name).exists()
            runs = not held and lab.controller_pid(member.name) is not None
            problem = "" if runs else "held: galactic lab release" if held else "it does not run"
            shown = self._log(f"{member.name}.controller")
            found.append(Component("node", int(runs), 1, __version__, problem, member.name, shown))
        return found

    async def inspect(self, node: str, arguments: Sequence[str]) -> Inspection:
        self._lab.state.node(node)
        argv = [*interpreter(), "-m", "galactic.node.inspection", *arguments]
        found = json.loads(await self._run(node, argv))
        assert isinstance(found, dict)
        return found

    async def router_tables(self, vpcs: Sequence[str]) -> list[dict[str, Any]]:
        argv = [*interpreter(), "-m", "galactic.router.inspection", *vpcs]
        found = json.loads(await self._run("control", argv))
        assert isinstance(found, list)
        return found

    async def logs(self) -> AsyncIterator[tuple[str, str]]:
        for path in sorted(self._lab.state.logs.glob("*.log")):
            yield path.name, path.read_text(errors="replace")[-LOG_BYTES:]

    async def metrics(self) -> AsyncIterator[tuple[str, str]]:
        for entry in self._programs():
            if entry["statename"] == "RUNNING" and entry["name"] != "mosquitto":
                url = f"http://[::1]:{_port(entry['pid'])}/metrics"
                yield f"{entry['name']}.prom", await self._or_why(self._fetch(url))
        for member in self._lab.state.members:
            url = f"http://[::1]:{METRICS_PORT}/metrics"
            yield f"node.{member.name}.prom", await self._or_why(self._fetch_on(member.name, url))

    async def image(self) -> str:
        return ""

    async def _or_why(self, work: Any) -> str:
        try:
            return str(await work)
        except Unreachable as error:
            return f"not to be had: {error}\n"

    async def _fetch(self, url: str) -> str:
        """The text at ``url`` in the control plane's namespace. Raises Unreachable.

        A thread of this process enters the namespace: a process for each program takes longer than all the rest.
        """

        def inside() -> str:
            try:
                with Namespace.at(f"/run/netns/{self._lab.state.namespace}") as namespace:
                    return namespace.run(lambda: _text(url))
            except (OSError, http.client.HTTPException) as error:
                raise Unreachable("control", str(error)) from error

        return await asyncio.to_thread(inside)

    async def _fetch_on(self, node: str, url: str) -> str:
        """The same on a node."""
        return await self._run(node, [*interpreter(), "-c", FETCH, url])

    async def _run(self, target: str, argv: Sequence[str]) -> str:
        """The output of ``argv`` at ``target``. Raises Unreachable."""
        process = await asyncio.create_subprocess_exec(
            *self._lab.command(target, argv),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(SECONDS):
                output, errors = await process.communicate()
        except TimeoutError as error:
            raise Unreachable(target, f"no answer within {SECONDS:g} s") from error
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode:
            lines = errors.decode(errors="replace").strip().splitlines() or [
                f"exit code {process.returncode}"
            ]
            raise Unreachable(target, lines[-1])
        return output.decode()


def _text(url: str) -> str:
    """Also of an answer that is an error, such as that of ``/healthz``. Raises OSError."""
    try:
        with urllib.request.urlopen(url, timeout=FETCH_SECONDS) as answer:  # noqa: S310  (a program of the lab)
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()


def _port(pid: int) -> int:
    """The port of a process' metrics, from its environment. Raises Unreachable."""
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError as error:
        raise Unreachable("process", f"{pid}: {error}") from error
    ports = [word.partition(b"=")[2] for word in words if word.startswith(b"GALACTIC_METRICS_PORT=")]
    return int(ports[0]) if ports else METRICS_PORT
