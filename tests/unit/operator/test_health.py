"""The program's /healthz while the API server is away, comes and goes; and it stays up."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from waiting import health

from galactic_lab.controlplane import ports

PATIENCE_SECONDS = 120
LEASES = "/apis/coordination.k8s.io/v1/namespaces/galactic-system/leases"


class Answers(BaseHTTPRequestHandler):
    """An API server that has nothing but a Lease, and empty lists."""

    lease: dict[str, Any] | None = None
    version = 0

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == f"{LEASES}/galactic-operator":
            self._answer(200 if self.lease else 404, self.lease or {"reason": "NotFound"})
        elif "watch=" in self.path:
            self._answer(410, {"reason": "Expired"})
        else:
            self._answer(200, {"metadata": {"resourceVersion": "1"}, "items": [], "resources": []})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Answers.version += 1
        body["metadata"]["resourceVersion"] = str(Answers.version)
        Answers.lease = body
        self._answer(201, body)

    do_PUT = do_POST  # noqa: N815 - http.server calls it so

    def log_message(self, *_: Any) -> None: ...

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@contextmanager
def kept_port() -> Iterator[int]:
    """A port without a listener. It stays bound, so the kernel gives it to no other program."""
    with ports.kept() as keeper:
        yield ports.number(keeper)


@pytest.fixture
def api() -> Iterator[int]:
    with kept_port() as port:
        yield port


@pytest.fixture
def port() -> Iterator[int]:
    """Of the program's figures and health."""
    with kept_port() as port:
        yield port


@pytest.fixture
def server() -> Iterator[Callable[[int], ThreadingHTTPServer]]:
    made = []

    def make(port: int) -> ThreadingHTTPServer:
        one = ThreadingHTTPServer(("127.0.0.1", port), Answers)
        Thread(target=one.serve_forever, kwargs={"poll_interval": 0.05}).start()
        made.append(one)
        return one

    Answers.lease = None
    yield make
    for one in made:
        one.shutdown()
        one.server_close()


@pytest.mark.timeout(5 * PATIENCE_SECONDS)
def test_an_api_server_that_is_away_is_reported_and_waited_for(
    tmp_path: Path, api: int, port: int, server: Callable[[int], ThreadingHTTPServer]
) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "clusters": [{"name": "x", "cluster": {"server": f"http://127.0.0.1:{api}"}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "users": [{"name": "x", "user": {}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "galactic.operator", f"--metrics-port={port}"],
        env={"KUBECONFIG": str(tmp_path / "kubeconfig"), "POD_NAMESPACE": "galactic-system"},
        stdout=log,
        stderr=subprocess.STDOUT,
    )

    def answers(status: int, *words: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not ((answer := health(port))[0] == status and all(word in answer[1] for word in words)):
            assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
            assert time.monotonic() < deadline, (answer, (tmp_path / "log").read_text()[-3000:])
            time.sleep(0.1)

    try:
        answers(503, "lease galactic-operator not renewed", "kube-apiserver")
        one = server(api)
        answers(200, "ok")
        one.shutdown()
        one.server_close()
        answers(503, "lease galactic-operator not renewed", "kube-apiserver")
        server(api)
        answers(200, "ok")
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)
        log.close()
