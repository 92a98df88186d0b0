"""The lab's stand-in for Multus: a daemon on each node, which calls the plugins of a pod's networks.

As with Multus' own daemon, containerd calls a small plugin that asks it (``multus_shim``). The configuration has
``delegate``, the default network's list; ``kubeconfig``; ``state``, a folder of what it attached; ``plugins``, the
folders of CNI plugins; ``networks`` writes it.
"""

import http.client
import json
import socketserver
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from galactic.errors import GalacticError, Unreachable
from galactic_lab.kubeconfig import Access
from galactic_lab.node.libcni import Attachment, Config, PluginFailed, Runtime, conflist
from galactic_lab.node.multus_shim import SOCKET
from galactic_lab.node.selections import NETWORKS, STATUS, Selection, addresses, selections, status

NAME: Final = "galactic-lab-multus"
FOREVER: Final = 1e6
TRIES: Final = 20
PAUSE_SECONDS: Final = 0.5
ANSWER_SECONDS: Final = 30.0


class Api:
    """Requests to the API server, over one connection."""

    def __init__(self, kubeconfig: Path) -> None:
        access = Access.read(kubeconfig)
        server = urlsplit(access.server)
        tls = ssl.create_default_context(cafile=access.authority)
        self._connection = http.client.HTTPSConnection(
            str(server.hostname), server.port, context=tls, timeout=ANSWER_SECONDS
        )
        self._token = access.token

    def __call__(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        """The answer. Raises Unreachable, also for a refusal, with what the API server answered."""
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": kind}
        try:
            self._connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = self._connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()  # the next request opens another connection
            raise Unreachable("API server", f"{method} {path}: {error}") from error
        if answer.status >= 400:
            raise Unreachable("API server", f"{method} {path}: {answer.status} {text[:300].decode()}")
        return json.loads(text)

    def close(self) -> None:
        self._connection.close()


class Multus:
    """One call. ``environment`` has the CNI_* variables."""

    def __init__(self, config: Config, environment: Mapping[str, str]) -> None:
        self._config, self._environment = config, environment
        pairs = (word.partition("=") for word in environment.get("CNI_ARGS", "").split(";"))
        self._arguments = {key: value for key, _, value in pairs}
        self._runtime = Runtime([Path(one) for one in config["plugins"]])
        self._default = Selection("", config["delegate"]["name"], environment["CNI_IFNAME"], {})
        self._record = Path(config["state"]) / f"{environment['CNI_CONTAINERID']}.json"

    def add(self) -> Config:
        """Attaches every network of the pod, or on failure none; the result of the default network."""
        with closing(Api(Path(self._config["kubeconfig"]))) as api:
            return self._add(api)

    def _add(self, api: Api) -> Config:
        pod = self._pod(api)
        meta = pod["metadata"]
        asked = selections((meta.get("annotations") or {}).get(NETWORKS, ""), meta["namespace"])
        networks = [(self._default, self._config["delegate"])]
        networks += [(one, self._network(api, one)) for one in asked]
        self._record.parent.mkdir(parents=True, exist_ok=True)
        done: list[tuple[Selection, Config, Config | None]] = []
        results: list[tuple[Selection, Config]] = []
        try:
            for one, config in networks:
                done.append((one, config, None))
                self._save(done)
                result = self._runtime.add(config, self._attachment(one))
                done[-1] = (one, config, result)
                self._save(done)
                results.append((one, result))
        except GalacticError:
            with suppress(GalacticError):
                self.delete()
            raise
        api.close()  # plugins may take longer than the API server keeps a connection, or lives
        self._publish(api, pod, results)
        return results[0][1]

    def delete(self) -> None:
        """Detaches the attached networks, in reverse order. Raises the first failure at the end."""
        failure: GalacticError | None = None
        for one, config, result in reversed(self._saved()):
            try:
                self._runtime.delete(config, self._attachment(one), result)
            except GalacticError as error:
                failure = failure or error
        if failure:
            raise failure
        self._record.unlink(missing_ok=True)

    def _pod(self, api: Api) -> Any:
        """The pod of this call, read with further tries: the API server's cache may lag behind kubelet."""
        namespace, name = self._arguments["K8S_POD_NAMESPACE"], self._arguments["K8S_POD_NAME"]
        uid = self._arguments.get("K8S_POD_UID", "")
        for attempt in range(TRIES):
            try:
                pod = api("GET", f"/api/v1/namespaces/{namespace}/pods/{name}")
            except Unreachable:
                if attempt == TRIES - 1:
                    raise
                time.sleep(PAUSE_SECONDS)
                continue
            if uid in ("", pod["metadata"]["uid"]):
                return pod
            raise PluginFailed(f"pod {namespace}/{name} has the UID {pod['metadata']['uid']}, not {uid}")
        raise AssertionError

    def _network(self, api: Api, one: Selection) -> Config:
        path = (
            f"/apis/k8s.cni.cncf.io/v1/namespaces/{one.namespace}/network-attachment-definitions/{one.name}"
        )
        return conflist(api("GET", path).get("spec", {}).get("config", ""), one.name)

    def _attachment(self, one: Selection) -> Attachment:
        return Attachment(
            container=self._environment["CNI_CONTAINERID"],
            netns=self._environment.get("CNI_NETNS", ""),
            interface=one.interface,
            arguments=self._environment.get("CNI_ARGS", ""),
            runtime=one.runtime,
        )

    def _save(self, done: list[tuple[Selection, Config, Config | None]]) -> None:
        text = json.dumps(
            [[[one.namespace, one.name, one.interface, dict(one.runtime)], *rest] for one, *rest in done]
        )
        partial = self._record.with_suffix(".partial")
        partial.write_text(text)
        partial.rename(self._record)

    def _saved(self) -> list[tuple[Selection, Config, Config | None]]:
        try:
            kept = json.loads(self._record.read_text())
        except FileNotFoundError:
            return [(self._default, self._config["delegate"], None)]
        return [(Selection(*one), config, result) for one, config, result in kept]

    def _publish(self, api: Api, pod: Any, results: list[tuple[Selection, Config]]) -> None:
        """Writes the annotation with the status, and an Event for each interface. Failures are ignored."""
        meta = pod["metadata"]
        where = f"/api/v1/namespaces/{meta['namespace']}"
        with suppress(Unreachable):
            body = {"metadata": {"annotations": {STATUS: status(results)}}}
            api("PATCH", f"{where}/pods/{meta['name']}/status", body, "application/merge-patch+json")
        for one, result in results[1:]:
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            source = f"{one.namespace}/{one.name}"
            event = {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"generateName": f"{meta['name']}.", "namespace": meta["namespace"]},
                "involvedObject": {"apiVersion": "v1", "kind": "Pod"}
                | {key: meta[key] for key in ("name", "namespace", "uid")},
                "reason": "AddedInterface",
                "message": f"Add {one.interface} [{' '.join(addresses(result))}] from {source}",
                "type": "Normal",
                "count": 1,
                "firstTimestamp": now,
                "lastTimestamp": now,
                "source": {"component": "multus"},
            }
            with suppress(Unreachable):
                api("POST", f"{where}/events", event)


def answer(environment: Mapping[str, str], given: bytes) -> tuple[int, str]:
    """The exit status and the output of one call of the plugin, as the CNI specification 1.1 has it."""
    commands: dict[str, Callable[[Multus], Config | None]] = {"ADD": Multus.add, "DEL": Multus.delete}
    command = commands.get(environment.get("CNI_COMMAND", ""))
    try:
        result = command(Multus(json.loads(given), environment)) if command else None
    except (GalacticError, OSError, KeyError, ValueError) as error:
        return 1, json.dumps({"cniVersion": "1.0.0", "code": 999, "msg": f"multus: {error}"})
    return 0, json.dumps(result) if result is not None else ""


class Call(socketserver.StreamRequestHandler):
    """One call: the plugin's environment and input, and the answer (``multus_shim`` has the format)."""

    def handle(self) -> None:
        head, _, given = self.rfile.read().partition(b"\0\0")
        pairs = (variable.partition("=") for variable in head.decode().split("\0"))
        status, text = answer({name: value for name, _, value in pairs}, given)
        with suppress(BrokenPipeError):  # containerd has given the plugin up
            self.wfile.write(f"{status}{text}".encode())


class Daemon(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 128


def serve() -> None:
    """Answers the node's calls, each in a thread, until it is ended."""
    path = Path(SOCKET)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with Daemon(str(path), Call) as daemon:
        daemon.serve_forever(poll_interval=FOREVER)
