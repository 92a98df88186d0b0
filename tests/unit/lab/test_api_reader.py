"""Arguments of ``kubectl get``, and an API server's answers that are no objects."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from galactic.errors import Rejected
from galactic_lab.api_reader import ApiReader, HeldUp, Query

PODS = {"resource": "pods", "singularResource": "pod", "shortNames": ["po"], "scope": "Namespaced"}
NODES = {"resource": "nodes", "singularResource": "node", "scope": "Cluster"}
CORE = {
    "metadata": {},
    "versions": [
        {
            "version": "v1",
            "resources": [
                PODS | {"responseKind": {"kind": "Pod"}},
                NODES | {"responseKind": {"kind": "Node"}},
            ],
        }
    ],
}
METRICS = {
    "metadata": {"name": "metrics.k8s.io"},
    "versions": [{"version": "v1beta1", "resources": [PODS | {"responseKind": {"kind": "PodMetrics"}}]}],
}


@pytest.mark.parametrize(
    ("arguments", "query"),
    [
        (("nodes",), Query("nodes")),
        (("Pod", "web", "-n", "blue"), Query("pod", "web", "blue")),
        (("pod", "-n", "blue", "web"), Query("pod", "web", "blue")),
        (("pods", "-n=blue", "-l", "app in (a,b)"), Query("pods", "", "blue", "app in (a,b)")),
        (("pods", "-A", "--field-selector=spec.nodeName=x"), Query("pods", "", "", "", "spec.nodeName=x")),
        (("pods,services",), None),
        (("pod/web",), None),
        (("pods", "--ignore-not-found"), None),
        (("pod", "a", "b"), None),
        (("pods", "-n"), None),
        ((), None),
    ],
)
def test_arguments(arguments: tuple[str, ...], query: Query | None) -> None:
    assert Query.parse(arguments) == query


class Server(BaseHTTPRequestHandler):
    """Answers by path: a status and a document."""

    protocol_version = "HTTP/1.1"
    answers: dict[str, tuple[int, str]] = {}  # noqa: RUF012

    def do_GET(self) -> None:
        status, text = self.answers.get(
            self.path, (404, '{"reason": "NotFound", "message": "it is not there"}')
        )
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[ApiReader]:
    Server.answers = {
        "/api": (200, json.dumps({"items": [CORE]})),
        "/apis": (200, json.dumps({"items": [METRICS]})),
        "/api/v1/namespaces/blue/pods": (200, json.dumps({"items": [{"metadata": {"name": "web"}}]})),
        "/api/v1/nodes/one": (200, json.dumps({"kind": "Node"})),
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    config = {
        "clusters": [
            {
                "cluster": {
                    "server": f"http://127.0.0.1:{server.server_port}",
                    "certificate-authority": str(tmp_path / "ca.crt"),
                }
            }
        ],
        "users": [{"user": {"token": "t"}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    yield ApiReader(tmp_path / "kubeconfig")
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("kind", ["pods", "pod", "po"])
def test_items_have_their_kind_and_the_core_group_comes_first(reader: ApiReader, kind: str) -> None:
    items = reader.get(Query(kind, namespace="blue"))["items"]
    assert items == [{"metadata": {"name": "web"}, "apiVersion": "v1", "kind": "Pod"}]


def test_an_object_of_the_cluster_has_no_namespace(reader: ApiReader) -> None:
    assert reader.get(Query("node", "one", "blue")) == {"kind": "Node"}


def test_a_kind_that_comes_later_is_found(reader: ApiReader) -> None:
    Server.answers["/apis"] = (200, '{"items": []}')
    with pytest.raises(Rejected, match="no kind 'podmetrics'"):
        reader.get(Query("podmetrics"))
    Server.answers["/apis"] = (200, json.dumps({"items": [METRICS]}))
    Server.answers["/apis/metrics.k8s.io/v1beta1/namespaces/default/pods"] = (200, '{"items": []}')
    assert reader.get(Query("podmetrics")) == {"items": []}


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        ((404, '{"reason": "NotFound", "message": "no such pod"}'), Rejected, r"\(NotFound\): no such pod"),
        ((429, '{"reason": "TooManyRequests", "message": "wait"}'), HeldUp, "wait"),
        ((500, "no JSON"), Rejected, r"\(500\): no JSON"),
    ],
    ids=["not-found", "too-many", "text"],
)
def test_refusals(reader: ApiReader, answer: tuple[int, str], error: type[Exception], text: str) -> None:
    Server.answers["/api/v1/namespaces/default/pods/web"] = answer
    with pytest.raises(error, match=text):
        reader.get(Query("pod", "web"))
