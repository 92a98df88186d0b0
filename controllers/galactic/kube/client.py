"""The typed client of the Kubernetes API, on the asyncio half of the official one.

Objects are the API's own JSON mappings; callers parse them into models at once. Every request has a time-out, and
every failure is one of our errors: 4xx that the caller must change → Rejected, everything else → Unreachable.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

import aiohttp
import msgspec

from galactic.errors import GalacticError, NotYet, Rejected, Unreachable
from galactic.kube.api import (
    WATCH_SECONDS,
    Conflict,
    Event,
    Expired,
    NotFound,
    Object,
    Objects,
    Patch,
    Terminating,
)
from galactic.kube.official import client as official
from galactic.kube.official import config as official_config
from galactic.kube.resources import PODS, Resource

CONNECT_SECONDS: Final = 5.0
READ_SECONDS: Final = 60.0

ACCEPTED: Final = "application/json, text/plain;q=0.1"
METADATA: Final = "application/json;as={kind};g=meta.k8s.io;v=v1, application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
JSON_PATCH: Final = "application/json-patch+json"


class Kube:
    """Requests to one API server. Made by ``connect``, ended by ``close`` or as an async context manager.

    ``commands``: those that run in containers at present (``galactic.kube.execution``), each with its pod.
    """

    def __init__(self, api: official.ApiClient) -> None:
        self._api = api
        self.requests = 0
        self.commands: list[str] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._api.close()  # type: ignore[no-untyped-call]

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        """The object. Raises NotFound."""
        return await self._json("GET", resource.path(namespace, name))

    async def find(self, resource: Resource, name: str, namespace: str | None = None) -> Object | None:
        """The object, or None where there is none."""
        try:
            return await self.get(resource, name, namespace)
        except NotFound:
            return None

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        fields: str = "",
        labels: str = "",
        least: str = "",
    ) -> tuple[Objects, str]:
        """All objects, read in pages, and the resource version to watch from. ``least``: see ``pages``."""
        items: Objects = []
        version = ""
        pages = self.pages(resource, namespace, fields=fields, labels=labels, least=least)
        async for page, of_page in pages:
            items += page
            version = of_page
        return items, version

    async def pages(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        fields: str = "",
        labels: str = "",
        least: str = "",
    ) -> AsyncIterator[tuple[Objects, str]]:
        """All objects in parts, each with the resource version to watch from.

        With ``least`` the API server answers from its own memory, in one piece, with a state that is not older than
        that version (``0``: any). Without, etcd reads all objects for each request.
        """
        query = ({"resourceVersion": least} if least else {"limit": str(resource.page)}) | _selectors(
            fields, labels
        )
        while True:
            page = await self._json(
                "GET",
                resource.path(namespace),
                query,
                accept=_accepted(resource, "PartialObjectMetadataList"),
            )
            items: Objects = page.get("items") or []
            for item in items:
                item.setdefault("apiVersion", resource.api_version)
                item.setdefault("kind", resource.kind)
            yield items, page["metadata"].get("resourceVersion", "")
            if not page["metadata"].get("continue"):
                return
            query["continue"] = page["metadata"]["continue"]

    async def create(
        self, resource: Resource, body: Mapping[str, Any], namespace: str | None = None
    ) -> Object:
        """The object as made. Raises Conflict if it exists."""
        return await self._json("POST", resource.path(namespace), body=body)

    async def replace(self, resource: Resource, body: Object, *, subresource: str | None = None) -> Object:
        """The object as written. Raises Conflict unless ``metadata.resourceVersion`` is still the current one."""
        meta = body["metadata"]
        return await self._json(
            "PUT", resource.path(meta.get("namespace"), meta["name"], subresource), body=body
        )

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Patch,
        namespace: str | None = None,
        *,
        subresource: str | None = None,
    ) -> Object:
        """The object after a merge patch (a mapping) or a JSON patch (a list)."""
        kind = JSON_PATCH if isinstance(patch, list) else MERGE_PATCH
        return await self._json(
            "PATCH", resource.path(namespace, name, subresource), body=patch, content=kind
        )

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        grace: int | None = None,
        uid: str = "",
    ) -> None:
        """Deletes the object if it exists. Raises Conflict where it has another UID than the given one."""
        query = {} if grace is None else {"gracePeriodSeconds": str(grace)}
        try:
            body = {"preconditions": {"uid": uid}} if uid else None
            await self._json("DELETE", resource.path(namespace, name), query, body=body)
        except NotFound:
            return

    async def evict(self, name: str, namespace: str, uid: str) -> None:
        """Evicts the Pod (policy/v1), as long as it is the one with that UID.

        Raises NotYet where a PodDisruptionBudget forbids it now, NotFound or Conflict where that Pod is gone.
        """
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
            "deleteOptions": {"preconditions": {"uid": uid}},
        }
        await self._json("POST", PODS.path(namespace, name, "eviction"), body=body)

    async def text(self, path: str, query: Mapping[str, str] | None = None) -> str:
        """The answer at one of the API server's own paths, such as ``/readyz`` or ``/metrics``."""
        with _Translated():
            response = await self._send("GET", path, query or {})
            async with _closing(response):
                return await response.text()

    async def watch(
        self,
        resource: Resource,
        version: str,
        namespace: str | None = None,
        *,
        fields: str = "",
        labels: str = "",
    ) -> AsyncIterator[Event]:
        """Events after ``version`` until the server ends the stream. Raises Expired when ``version`` is too old."""
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        } | _selectors(fields, labels)
        with _Translated():
            response = await self._send(
                "GET",
                resource.path(namespace),
                query,
                accept=_accepted(resource, "PartialObjectMetadata"),
                read=WATCH_SECONDS + 30,
            )
            async with _closing(response) as stream:
                while line := await stream.readline():
                    raw = msgspec.json.decode(line)
                    if raw["type"] == "ERROR":
                        status = raw["object"]
                        if status.get("code") == 410:
                            raise Expired(status.get("message", ""))
                        raise Unreachable("kube-apiserver", status.get("message", "the watch failed"))
                    yield Event(raw["type"], raw["object"])

    async def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Patch | None = None,
        content: str = "application/json",
        *,
        accept: str = ACCEPTED,
    ) -> Object:
        with _Translated():
            response = await self._send(method, path, query or {}, body, content, accept=accept)
            async with _closing(response):
                value = msgspec.json.decode(await response.read() or b"{}")
        assert isinstance(value, dict)
        return value

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Patch | None = None,
        content: str = "application/json",
        *,
        accept: str = ACCEPTED,
        read: float = READ_SECONDS,
    ) -> aiohttp.ClientResponse:
        headers: dict[str, Any] = {"Accept": accept, "Content-Type": content}
        parameters: list[tuple[str, str]] = []
        await self._api.update_params_for_auth(headers, parameters, ["BearerToken"], path, method, body)
        url = self._api.configuration.host + quote(path) + (f"?{urlencode(query)}" if query else "")
        self.requests += 1
        reply = await self._api.call_api(
            method,
            url,
            headers,
            body,
            _request_timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=read),
        )
        response: aiohttp.ClientResponse = reply.response
        if response.status >= 400:
            async with _closing(response):
                raise _refusal(response.status, await response.text())
        return response


@asynccontextmanager
async def _closing(response: aiohttp.ClientResponse) -> AsyncIterator[aiohttp.StreamReader]:
    try:
        yield response.content
    finally:
        response.close() if not response.content.at_eof() else response.release()


class _Translated:
    """Translates errors of the client and its transport into ours."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, (aiohttp.ClientError, asyncio.TimeoutError, OSError, msgspec.DecodeError)):
            raise Unreachable("kube-apiserver", str(error) or type(error).__name__) from error


def _accepted(resource: Resource, kind: str) -> str:
    """The Accept header; a server that cannot send metadata alone sends whole objects."""
    return METADATA.format(kind=kind) if resource.partial else ACCEPTED


def _selectors(fields: str, labels: str) -> dict[str, str]:
    return {key: value for key, value in (("fieldSelector", fields), ("labelSelector", labels)) if value}


def _refusal(status: int, text: str) -> GalacticError:  # noqa: PLR0911 - a case a status
    try:
        reply = msgspec.json.decode(text)
        message, reason = reply.get("message") or text, reply.get("reason") or f"HTTP{status}"
        causes = [cause.get("reason") for cause in (reply.get("details") or {}).get("causes") or ()]
    except (msgspec.DecodeError, AttributeError):
        message, reason, causes = text.strip() or f"HTTP {status}", f"HTTP{status}", []
    match status:
        case 404:
            return NotFound(message, reason="NotFound")
        case 409:
            return Conflict(message, reason=reason)
        case 410:
            return Expired(message)
        case 429 if "DisruptionBudget" in causes:
            return NotYet(message, reason="DisruptionBudget")
        case 403 if "NamespaceTerminating" in causes:
            return Terminating(message, reason="NamespaceTerminating")
        case 400 | 403 | 405 | 413 | 415 | 422:
            return Rejected(message, reason=reason)
        case _:
            return Unreachable("kube-apiserver", f"{status} {message}")


async def connect(context: str | None = None) -> Kube:
    """A client for ``$KUBECONFIG`` or the pod's service account. Raises Unreachable when neither works.

    ``context``: one of the kubeconfig's, instead of its current one.
    """
    configuration = official.Configuration()
    # Clusters' CAs often lack the extensions that RFC 5280 asks for, and Python requires from 3.13 on.
    configuration.disable_strict_ssl_verification = True
    try:
        if context or os.environ.get("KUBECONFIG") or not os.environ.get("KUBERNETES_SERVICE_HOST"):
            await official_config.load_kube_config(  # type: ignore[no-untyped-call]
                context=context,
                # Explicit: the library's default is the variable as it was at import.
                config_file=os.environ.get("KUBECONFIG") or None,
                client_configuration=configuration,
            )
        else:
            official_config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except (official_config.ConfigException, OSError) as error:
        raise Unreachable("kube-apiserver", f"no usable credentials: {error}; set KUBECONFIG") from error
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        # Otherwise aiohttp reads the environment and ~/.netrc for each request, in a thread each.
        configuration.client_session_kwargs = {"trust_env": False}
    return Kube(official.ApiClient(configuration))
