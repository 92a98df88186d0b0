"""A client of an API server for hundreds of requests, for which kubectl would take minutes."""

import http.client
import json
import ssl
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from audit import Request

from galactic_lab.kubeconfig import Access

PATIENCE_SECONDS = 180.0
LATER = (429, 500, 502, 503, 504)
"""Status codes of a server that, or whose webhook, is slow: the request is sent again. All requests here are
idempotent.
"""


class Server:
    """Requests to an API server as its administrator, over one connection. ``patience``: seconds for which a request
    is repeated.
    """

    def __init__(self, kubeconfig: Path, patience: float = PATIENCE_SECONDS) -> None:
        access = Access.read(kubeconfig)
        url = urlsplit(access.server)
        context = ssl.create_default_context(cafile=access.authority)
        assert url.hostname
        self._connection = http.client.HTTPSConnection(url.hostname, url.port, context=context, timeout=60)
        self._headers = {
            "Authorization": f"Bearer {access.token}",
            "Content-Type": "application/json",
        }
        self._plurals: dict[tuple[str, str], tuple[str, bool]] = {}
        self._seen: dict[str, str] = {}
        self._patience = patience

    def get(self, path: str) -> Any:
        return self._request("GET", path)[1]

    def allowed(self, user: str, asked: Request) -> bool:
        """Whether the user may make that request."""
        resource, _, below = asked.resource.partition("/")
        wish = {"verb": asked.verb, "group": asked.group, "resource": resource, "subresource": below}
        wish |= {"name": asked.name, "namespace": asked.namespace}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "resourceAttributes": wish},
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return bool(self._request("POST", path, json.dumps(review))[1]["status"]["allowed"])

    def problem(self, thing: dict[str, Any]) -> str:
        """As ``dry_run``, with one request for equal objects."""
        text = json.dumps(thing, sort_keys=True)
        if text not in self._seen:
            self._seen[text] = self.dry_run(thing)
        return self._seen[text]

    def dry_run(self, thing: dict[str, Any]) -> str:
        """The server's reason not to create the object, in a dry run; empty where it would."""
        status, answer = self._request("POST", self._path(thing), json.dumps(thing))
        there = status == 409 and answer.get("reason") == "AlreadyExists"
        return "" if status < 300 or there else str(answer["message"])

    def _path(self, thing: dict[str, Any]) -> str:
        version, kind = thing["apiVersion"], thing["kind"]
        base = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if (version, kind) not in self._plurals:
            for resource in self.get(base)["resources"]:
                if "/" not in resource["name"]:
                    self._plurals[version, resource["kind"]] = resource["name"], resource["namespaced"]
        plural, namespaced = self._plurals[version, kind]
        place = f"/namespaces/{thing['metadata']['namespace']}" if namespaced else ""
        return f"{base}{place}/{plural}?dryRun=All"

    def _request(self, method: str, path: str, body: str | None = None) -> tuple[int, Any]:
        deadline = time.monotonic() + self._patience
        while True:
            try:
                self._connection.request(method, path, body, self._headers)
                response = self._connection.getresponse()
                answer = response.read()
                if response.status not in LATER or time.monotonic() >= deadline:
                    return response.status, json.loads(answer)
            except (http.client.HTTPException, OSError):  # it closes idle connections
                self._connection.close()
                if time.monotonic() >= deadline:
                    raise
            time.sleep(0.5)
