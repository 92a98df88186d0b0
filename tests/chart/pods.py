"""Runs pods of the chart as a kubelet would: their containers as processes, with their volumes, variables and the token
of their ServiceAccount. They run in the lab's control plane namespace.

Differences from a cluster: images are this checkout's commands, mount paths are folders below a temporary one (and are
replaced in arguments, variables and mounted files), and everything runs as root.
"""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from galactic.errors import Rejected
from galactic_lab import cleanup
from galactic_lab.cluster import Lab
from galactic_lab.state import environment

COMMANDS = Path(sys.executable).parent
SECONDS = 600.0
"""For a container that ends by itself."""
GRACE_SECONDS = 90.0


class Process:
    """A container that runs."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self._process, self._log = process, log

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def wait(self) -> int:
        return self._process.wait(SECONDS)

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


class Machine:
    """Runs pods of one namespace of a lab."""

    def __init__(self, lab: Lab, folder: Path, namespace: str) -> None:
        self._lab, self._folder, self._namespace = lab, folder, namespace
        self._running: list[Process] = []
        hosts = folder / "hosts"
        hosts.write_text(f"127.0.0.1 localhost\n::1 localhost galactic-broker.{namespace}.svc\n")

    def pods(self, selector: str) -> list[dict[str, Any]]:
        found = self._lab.get("pods", "-n", self._namespace, "-l", selector)["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def replica(self, component: str, node: str = "") -> dict[str, Any] | None:
        """A pod of the component, on that node if one is named; None until there is one by its workload's present
        template: the workload's controller may not have seen a change yet.
        """
        selector = f"app.kubernetes.io/component={component}"
        kinds = ("deployments,daemonsets", "-n", self._namespace, "-l", selector)
        (workload,) = self._lab.get(*kinds)["items"]
        template = workload["spec"]["template"]["spec"]
        for pod in self.pods(selector):
            on_it = not node or pod["spec"].get("nodeName") == node
            if on_it and _described(pod["spec"]) == _described(template):
                return pod
        return None

    def run(self, pod: dict[str, Any], *, init: bool = True) -> Process:
        """The pod's init containers, one after the other, and then its container, going on."""
        name = pod["metadata"]["name"]
        root = self._folder / name
        shutil.rmtree(root, ignore_errors=True)
        places = {volume["name"]: self._volume(root, volume) for volume in pod["spec"].get("volumes", ())}
        for container in pod["spec"].get("initContainers", ()) if init else ():
            first = self._start(pod, container, root, places)
            assert first.wait() == 0, first.output()
        (container,) = pod["spec"]["containers"]
        process = self._start(pod, container, root, places)
        self._running.append(process)
        return process

    def stop(self) -> None:
        """Nothing runs any more."""
        for process in self._running:
            process.stop()
        self._running.clear()

    def kubeconfig(self, account: str, pod: str) -> Path:
        """A kubeconfig with a token of the ServiceAccount, as the API server gives it to a kubelet for a pod."""
        bound = ("--bound-object-kind=Pod", f"--bound-object-name={pod}")
        token = self._lab.kubectl("create", "token", account, "-n", self._namespace, *bound).strip()
        config = json.loads(self._lab.state.identity("galactic-operator").read_text())
        config["users"][0]["user"] = {"token": token}
        path = self._folder / f"{pod}.kubeconfig"
        path.write_text(json.dumps(config))
        return path

    def _volume(self, root: Path, volume: dict[str, Any]) -> Path:
        """The folder that the volume is; kubelet's own volumes stay out of it."""
        path = root / "volumes" / volume["name"]
        path.mkdir(parents=True)
        if "configMap" in volume:
            data = self._lab.get("configmap", volume["configMap"]["name"], "-n", self._namespace)["data"]
            for name, text in data.items():
                (path / name).write_text(text)
        elif "secret" in volume:
            found = self._lab.get("secret", volume["secret"]["secretName"], "-n", self._namespace)["data"]
            for name, text in found.items():
                (path / name).write_bytes(base64.b64decode(text))
        return path

    def _start(
        self, pod: dict[str, Any], container: dict[str, Any], root: Path, places: dict[str, Path]
    ) -> Process:
        mounts = {
            mount["mountPath"]: places[mount["name"]]
            for mount in container.get("volumeMounts", ())
            if mount["name"] in places
            and mount["mountPath"] != "/var/run/secrets/kubernetes.io/serviceaccount"
        }
        for path in mounts.values():
            _replace_paths(path, mounts)
        variables = environment() | {
            "PATH": f"{COMMANDS}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "KUBECONFIG": str(self.kubeconfig(pod["spec"]["serviceAccountName"], pod["metadata"]["name"])),
            cleanup.MARK: self._lab.state.name,
        }
        for variable in container.get("env", ()):
            text = self._value(pod, variable)
            text = re.sub(r"\$\((\w+)\)", lambda found: variables.get(found[1], found[0]), text)
            variables[variable["name"]] = _replaced(text, mounts)
        argv = [_replaced(word, mounts) for word in (*container["command"], *container.get("args", ()))]
        hosts = f'mount --bind {self._folder / "hosts"} /etc/hosts && exec "$@"'
        entered = ["nsenter", f"--net=/run/netns/{self._lab.state.namespace}", "unshare", "--mount"]
        log = root / f"{container['name']}.log"
        with log.open("wb") as output:
            process = _popen([*entered, "sh", "-c", hosts, "sh", *argv], variables, output)
        return Process(process, log)

    def _value(self, pod: dict[str, Any], variable: dict[str, Any]) -> str:
        if "valueFrom" not in variable:
            return str(variable.get("value", ""))
        source = variable["valueFrom"]
        if "fieldRef" in source:
            value: Any = pod
            for name in source["fieldRef"]["fieldPath"].split("."):
                value = value.get(name, "")
            return str(value)
        reference = source["secretKeyRef"]
        data = self._lab.get("secret", reference["name"], "-n", self._namespace)["data"]
        return base64.b64decode(data[reference["key"]]).decode()

    @contextmanager
    def kubelet(self, selector: str = "job-name") -> Iterator[list[Process]]:
        """Runs pods that end, and reports their outcomes to the API server. The processes that ended so far."""
        done, ended = threading.Event(), list[Process]()
        thread = threading.Thread(target=lambda: ended.extend(self._jobs(done, selector)))
        thread.start()
        try:
            yield ended
        finally:
            done.set()
            thread.join()

    def _jobs(self, done: threading.Event, selector: str) -> Iterator[Process]:
        seen: set[str] = set()
        while not done.is_set():
            for pod in self.pods(selector):
                if pod["metadata"]["uid"] in seen:
                    continue
                seen.add(pod["metadata"]["uid"])
                with suppress(Rejected):  # it went meanwhile
                    process = self.run(pod)
                    self._report(pod["metadata"]["name"], "Failed" if process.wait() else "Succeeded")
                    yield process
            done.wait(0.3)

    def _report(self, name: str, phase: str) -> None:
        """Patches the phase alone: others write its status at the same time, such as the scheduler."""
        patch = json.dumps({"status": {"phase": phase}})
        where = ("-n", self._namespace, "--subresource=status", "--type=merge")
        self._lab.kubectl("patch", "pod", name, *where, "-p", patch)


def _described(spec: dict[str, Any]) -> list[Any]:
    """The fields that a pod and its template share: the containers, without the API server's own mounts."""
    keys = ("name", "image", "command", "args", "env", "ports")
    return [
        {key: container.get(key) for key in keys}
        for kind in ("initContainers", "containers")
        for container in spec.get(kind, ())
    ] + [spec.get("automountServiceAccountToken")]


def _popen(argv: list[str], variables: dict[str, str], output: IO[bytes]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        argv, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
    )


def _replaced(text: str, mounts: dict[str, Path]) -> str:
    for mount in sorted(mounts, key=len, reverse=True):
        text = re.sub(rf"{re.escape(mount)}(?=/|$|\s)", str(mounts[mount]), text)
    return text


def _replace_paths(folder: Path, mounts: dict[str, Path]) -> None:
    for path in folder.iterdir():
        if path.is_file() and path.suffix in (".conf", ".yaml"):
            path.write_text(_replaced(path.read_text(), mounts))
        if path.name == "mosquitto.conf":  # started as root it would change its user
            path.write_text("user root\n" + path.read_text())
