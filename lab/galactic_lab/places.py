"""Commands in a lab: on its nodes, in its pods, in the control plane's namespace; and kubectl."""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from galactic.errors import Rejected, Unreachable
from galactic_lab import assets
from galactic_lab.api_reader import ApiReader, HeldUp, Query
from galactic_lab.assets import Assets
from galactic_lab.kernel.kernels import choose
from galactic_lab.node import sandboxes
from galactic_lab.state import State

HELD_UP: Final = re.compile(
    r"TLS handshake timeout|i/o timeout|context deadline exceeded|Client\.Timeout|client connection lost|"
    r"etcdserver: (request timed out|leader changed)|rpc error: code = (Unavailable|DeadlineExceeded)|"
    r"evaluation timed out|in the time allotted|did not complete within|"
    r"retry after the token is automatically created|a bare pod has to be applied again"
)
"""Errors of kubectl and Helm when a program on the way to the answer was held up: the API server (for ten seconds),
etcd (seven), a webhook (five), the controller of service accounts' tokens, or the operator, whose objects a webhook
awaits.
"""
HELD_UP_SECONDS: Final = 180.0
PAUSE_SECONDS: Final = 1.0
T = TypeVar("T")
DONE_AFTER_ALL: Final = {"create": "AlreadyExists", "delete": "NotFound"}
"""By command: the error of a second try when the first was carried out, and only its answer was lost."""


class Places:
    """The places of one lab where commands run."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._assets: Assets | None = None
        self._reader: ApiReader | None = None

    @property
    def state(self) -> State:
        """The lab's settings and paths."""
        return self._state

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, usable from anywhere on this machine."""
        return self._state.kubeconfig

    @property
    def assets(self) -> Assets:
        """The control plane's programs. Raises Rejected while one is missing."""
        if self._assets is None:
            self._assets = assets.find(self._state.kubernetes)
        return self._assets

    def command(self, target: str, argv: Sequence[str], *, terminal: bool = False) -> list[str]:
        """An argv for the machine that runs ``argv`` at ``target`` and does not outlive its caller.

        ``target``: a node's name, ``fabric``, ``control`` (the control plane's namespace), ``kernel`` (no namespace
        of its own), or ``pod/NAMESPACE/NAME``.
        """
        state = self._state
        if target == "control":
            return ["nsenter", f"--net=/run/netns/{state.namespace}", "--", *argv]
        return choose(state).command(argv, enter=self._enter(target), terminal=terminal)

    def _enter(self, target: str) -> list[str]:
        state = self._state
        if target == "kernel":
            return []
        if target == "fabric":
            return [f"/run/netns/{state.fabric}"]
        if target.startswith("pod/"):
            return [self.pod_namespace(target.removeprefix("pod/"))]
        member = state.node(target)
        files = [f"/run/netns/{member.namespace}"]
        try:
            pid = int(state.pid(target, "init").read_text())
        except (OSError, ValueError):
            return files
        return [*files, f"/proc/{pid}/ns/pid", f"/proc/{pid}/ns/mnt"]

    def pod_namespace(self, pod: str) -> str:
        """The file, in the lab's kernel, of the network namespace of ``NAMESPACE/NAME`` (or NAME, in ``default``).

        Raises Rejected for an unknown Pod, and for one that does not run.
        """
        namespace, _, name = pod.rpartition("/")
        try:
            found = self.get("pod", "-n", namespace or "default", name)["metadata"]["uid"]
        except Rejected as error:
            text = f"there is no pod {name!r} in namespace {namespace or 'default'!r}: {error}"
            raise Rejected(text, field="pod") from error
        files = self.pod_namespaces([found])
        if found not in files:
            raise Rejected(f"pod {name!r} in namespace {namespace or 'default'!r} does not run", field="pod")
        return files[found]

    def pod_namespaces(self, uids: Iterable[str]) -> dict[str, str]:
        """The files, in the lab's kernel, of the network namespaces of those pods that run, by UID."""
        return sandboxes.parsed(self.run("kernel", sandboxes.query(uids)).stdout)

    def run(
        self,
        target: str,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout: float | None = None,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs ``argv`` at ``target`` (see ``command``) and returns what it printed.

        With ``check``, a status other than 0 raises Unreachable with that output. TimeoutExpired is subprocess's own.
        """
        source: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
        done = subprocess.run(
            self.command(target, argv), capture_output=True, text=True, timeout=timeout, **source, check=False
        )
        if check and done.returncode != 0:
            output = (done.stderr.strip() or done.stdout.strip())[-2000:]
            raise Unreachable(target, f"`{' '.join(argv)}` ended with {done.returncode}: {output}")
        return done

    def exec(self, node: str, argv: Sequence[str], **options: Any) -> str:
        """The output of ``argv`` on a node."""
        return self.run(node, argv, **options).stdout

    def pod(self, name: str, argv: Sequence[str], **options: Any) -> str:
        """The output of ``argv`` in the network namespace of a Pod."""
        return self.run(f"pod/{name}", argv, **options).stdout

    def popen(self, target: str, argv: Sequence[str], **options: Any) -> "subprocess.Popen[str]":
        """Starts ``argv`` at ``target``. Ending the returned process ends the command."""
        return subprocess.Popen(self.command(target, argv), text=True, **options)

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """The output of kubectl, as the administrator. With ``check``, raises Rejected with kubectl's error.

        A request that was held up is sent again, for HELD_UP_SECONDS.
        """

        def run(again: bool) -> str:
            done = subprocess.run(
                [str(self.assets.kubectl), *arguments],
                env=os.environ | {"KUBECONFIG": str(self.kubeconfig)},
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                text=True,
                check=False,
            )
            if not check or done.returncode == 0:
                return done.stdout
            if again and f"({DONE_AFTER_ALL.get(arguments[0])})" in done.stderr:
                return done.stdout
            raise Rejected(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}", field="kubectl")

        return _answered(run)

    def get(self, *arguments: str) -> Any:
        """``kubectl get … -o json``, parsed. Raises Rejected; a request that was held up is sent again."""
        query = Query.parse(arguments)
        if query is None:
            return json.loads(self.kubectl("get", *arguments, "-o", "json"))

        def read(_again: bool) -> Any:
            if self._reader is None or not self._reader.current:
                self._reader = ApiReader(self.kubeconfig)
            return self._reader.get(query)

        return _answered(read)


def _answered(attempt: Callable[[bool], T]) -> T:
    """The result of the first attempt that is not held up, within HELD_UP_SECONDS. Each is given whether one went
    before. Raises Rejected.
    """
    deadline, again = time.monotonic() + HELD_UP_SECONDS, False
    while True:
        try:
            return attempt(again)
        except Rejected as error:
            held_up = isinstance(error, HeldUp) or HELD_UP.search(str(error))
            if not held_up or time.monotonic() > deadline:
                raise
        again = True
        time.sleep(PAUSE_SECONDS)
