"""A Pod's "containers": processes in the Pod's network namespace, from the machine's own file system.

There is no container runtime here: no images, no file-system or process isolation, no limits. A container without a
command is only its namespace, and counts as running. Output goes to one log file a container.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from galactic.lab import namespaces

BACKOFF_SECONDS: Final = (1.0, 60.0)
MESSAGE_BYTES: Final = 2048
MESSAGE_LINES: Final = 80
"""What of a container's output becomes its termination message (kubelet's limits)."""


def variables(spec: dict[str, Any], pod: dict[str, Any]) -> dict[str, str]:
    """A container's environment: plain values, and the Pod's name, namespace, uid and node by reference."""
    meta = pod["metadata"]
    fields = {
        "metadata.name": meta["name"],
        "metadata.namespace": meta["namespace"],
        "metadata.uid": meta["uid"],
        "spec.nodeName": pod["spec"].get("nodeName", ""),
    }
    # Galactic's own commands are on PATH, as they are in its image.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    result = {"PATH": path, "HOSTNAME": meta["name"], "HOME": "/root"}
    for entry in spec.get("env") or ():
        path = ((entry.get("valueFrom") or {}).get("fieldRef") or {}).get("fieldPath", "")
        result[entry["name"]] = entry.get("value") or fields.get(path, "")
    return result


@dataclass(slots=True)
class Container:
    """One container and its process, if it has a command."""

    spec: dict[str, Any]
    netns: str
    log: Path
    changed: Callable[[], None]
    process: asyncio.subprocess.Process | None = None
    started: float = 0.0
    exit: int | None = None
    finished: float = 0.0
    logged: int = 0  # bytes of the log that were there before this start
    restarts: int = 0
    pause: float = BACKOFF_SECONDS[0]
    _task: "asyncio.Task[None] | None" = field(default=None)

    @property
    def argv(self) -> list[str]:
        """Empty: nothing to run."""
        return [
            *(self.spec.get("command") or ()),
            *((self.spec.get("args") or ()) if self.spec.get("command") else ()),
        ]

    def start(self, pod: dict[str, Any]) -> None:
        """It runs, and is run again as the Pod's restart policy says."""
        self.started = time.time()
        if self.argv and self._task is None:
            self._task = asyncio.create_task(self._keep(pod))

    async def _keep(self, pod: dict[str, Any]) -> None:
        policy = pod["spec"].get("restartPolicy", "Always")
        while True:
            self.started, self.exit = time.time(), None
            with self.log.open("ab") as log:
                self.logged = log.tell()
                try:
                    self.process = await asyncio.create_subprocess_exec(
                        "nsenter",
                        f"--net={self.netns}",
                        *self.argv,
                        env=variables(self.spec, pod),
                        cwd=self.spec.get("workingDir") or "/",
                        stdin=asyncio.subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                        preexec_fn=namespaces.die_with_parent,
                    )
                    self.changed()
                    self.exit = await self.process.wait()
                except OSError as error:
                    log.write(f"{error}\n".encode())
                    self.exit = 127
            self.finished = time.time()
            self.changed()
            if policy == "Never" or (policy == "OnFailure" and self.exit == 0):
                return
            if self.finished - self.started > 10 * BACKOFF_SECONDS[0]:
                self.pause = BACKOFF_SECONDS[0]
            await asyncio.sleep(self.pause)
            self.pause = min(self.pause * 2, BACKOFF_SECONDS[1])
            self.restarts += 1

    async def stop(self, grace: float) -> None:
        """Its process group has ended: SIGTERM, then SIGKILL after ``grace`` seconds."""
        if self._task is None:
            return
        self._task.cancel()
        process = self.process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(grace):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    def _last_words(self) -> str:
        """The end of what it printed since it was last started."""
        with suppress(OSError), self.log.open("rb") as log:
            log.seek(self.logged)
            printed = log.read()[-MESSAGE_BYTES:].decode(errors="replace")
            return "".join(printed.splitlines(keepends=True)[-MESSAGE_LINES:])
        return ""

    def status(self) -> dict[str, Any]:
        """The API's ContainerStatus."""
        begun = stamp(self.started)
        if self.exit is None:
            state: dict[str, Any] = {"running": {"startedAt": begun}}
        else:
            reason = "Completed" if self.exit == 0 else "Error"
            code = self.exit if self.exit >= 0 else 128 - self.exit
            ended = {
                "exitCode": code,
                "reason": reason,
                "startedAt": begun,
                "finishedAt": stamp(self.finished),
            }
            if code and self.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
                ended["message"] = self._last_words()
            state = {"terminated": ended}
        return {
            "name": self.spec["name"],
            "image": self.spec.get("image", ""),
            "imageID": "",
            "containerID": "",
            "ready": self.exit is None,
            "started": self.exit is None,
            "restartCount": self.restarts,
            "state": state,
        }


def stamp(seconds: float) -> str:
    """The API's form of a time."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def phase(containers: list[Container], policy: str) -> str:
    """The Pod's phase, from containers that were all started."""
    if policy == "Always" or any(one.exit is None for one in containers):
        return "Running"
    if policy == "OnFailure" and any(one.exit for one in containers):
        return "Running"
    return "Failed" if any(one.exit for one in containers) else "Succeeded"
