"""A User Mode Linux guest as the nodes' kernel: one process of the machine, its files read-only, its network a tap."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from galactic_lab.builds import cache
from galactic_lab.builds.build_linux import Source, build
from galactic_lab.kernel import fabric
from galactic_lab.kernel.agent import WRITABLE
from galactic_lab.kernel.kernel import entering
from galactic_lab.processes import Program
from galactic_lab.state import AGENT_PORT, GATEWAY, State, checkout, environment, interpreter

MEMORY: Final = "3G"
CHART_MEMORY: Final = "4G"
"""With the chart, whose pods need another gigabyte."""
TAP: Final = "tap0"
OFFLOADS: Final = ("tso", "gso", "gro", "tx", "sg")
REMOTE: Final = Path(__file__).with_name("remote.py")


class Uml:
    """All nodes in one guest. Commands reach its agent over a unix socket, through the forwarder."""

    def __init__(self, state: State) -> None:
        self._state = state

    def programs(self) -> list[Program]:
        init = self._state.root / "guest" / "init"
        linux = build(Source.parse(self._state.linux_source)).home / "linux"
        argv = [
            *(*interpreter(), "-m", "galactic_lab.kernel.guest", self._state.namespace),
            str(linux),
            f"mem={CHART_MEMORY if self._state.chart else MEMORY}",
            "root=/dev/root",
            "rootfstype=hostfs",
            "rootflags=/",
            "ro",
            "quiet",
            "seccomp=auto",
            f"umid=galactic-{self._state.name}",
            f"uml_dir={self._state.root / 'guest'}",
            f"vec0:transport=tap,ifname={TAP},depth=64,gro=0,vec=0",
            "con=null",
            "con0=null,fd:1",
            "ssl=null",
            f"init={init}",
        ]
        return [Program("guest", argv, environment(), priority=100, stop_seconds=5)]

    def boot(self) -> None:
        state = self._state
        self._write_init()
        fabric.ensure_namespace(state.namespace)
        inside = ["ip", "netns", "exec", state.namespace]
        if (
            subprocess.run([*inside, "ip", "link", "show", TAP], capture_output=True, check=False).returncode
            != 0
        ):
            subprocess.run([*inside, "ip", "tuntap", "add", "dev", TAP, "mode", "tap"], check=True)
            for offload in OFFLOADS:
                # An offload that a kernel does not let be changed is off already.
                subprocess.run(
                    [*inside, "ethtool", "-K", TAP, offload, "off"], capture_output=True, check=False
                )
            for step in fabric.control(state, TAP):
                step.run()

    def _write_init(self) -> None:
        guest = self._state.root / "guest"
        guest.mkdir(parents=True, exist_ok=True)
        config = {
            "hostname": "galactic-lab",
            "env": environment() | {"TMPDIR": "/tmp"},  # noqa: S108
            "host": [[str(path), writable] for path, writable in self._shared()],
            "setup": [[step.argv, step.stdin] for step in fabric.router(self._state, "vec0")],
            "address": str(GATEWAY),
            "port": AGENT_PORT,
            "namespace": f"/run/netns/{self._state.fabric}",
        }
        (guest / "config.json").write_text(json.dumps(config, indent=2))
        variables = " ".join(f"'{key}={value}'" for key, value in environment().items())
        python = " ".join(f"'{word}'" for word in interpreter())
        init = guest / "init"
        init.write_text(
            f"#!/bin/sh\nexec env {variables} {python} -m galactic_lab.kernel.agent '{guest}/config.json'\n"
        )
        init.chmod(0o755)

    def _shared(self) -> list[tuple[Path, bool]]:
        """Host folders below the guest's tmpfs mounts, each mounted by itself; and whether they are writable."""
        wanted = [Path(sys.prefix), Path(sys.base_prefix), checkout(), cache.root()]
        wanted += [Path(self._state.multus)] if self._state.multus else []
        hidden = [
            path for path in wanted if any(path.is_relative_to(top) for top in WRITABLE) and path.is_dir()
        ]
        return [(path, False) for path in dict.fromkeys(hidden)] + [(self._state.root, True)]

    def ready(self) -> bool:
        done = subprocess.run(
            self.command(["true"]), capture_output=True, stdin=subprocess.DEVNULL, check=False
        )
        return done.returncode == 0

    def command(
        self,
        argv: Sequence[str],
        *,
        enter: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        terminal: bool = False,
    ) -> list[str]:
        if any(
            path.endswith("/pid") for path in enter
        ):  # a thread cannot enter a process namespace for its children
            argv, enter = entering(enter, argv), ()
        header = json.dumps({"enter": list(enter), "env": dict(environment or {}), "tty": terminal})
        return [sys.executable, "-ISE", str(REMOTE), str(self._state.agent_socket), header, "--", *argv]
