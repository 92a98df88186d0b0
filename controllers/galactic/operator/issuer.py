"""Issues each node's client certificate at the broker (docs/design/broker-credentials.md).

A node controller makes a CertificateSigningRequest with the token of its pod. The API server writes the client into the
request: the ServiceAccount, and by the token the pod and the Node. Clients cannot choose or change that. So the user
in the certificate is the Node's, whatever the request asks for.
"""

import asyncio
import base64
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from galactic.backoff import Backoff
from galactic.errors import GalacticError, NotYet, Rejected
from galactic.kube.api import Api, Conflict, Key, NotFound, Object
from galactic.kube.client_certificates import AUTHORITY, SIGNER, authority, issued, user
from galactic.kube.informer import Informer
from galactic.kube.reflector import Selection
from galactic.kube.resources import CERTIFICATE_REQUESTS, PODS, SECRETS

log = structlog.get_logger(__name__)
ACCOUNT: Final = "galactic-node"
NODE_NAME: Final = "authentication.kubernetes.io/node-name"
"""In the token of a pod, from Kubernetes 1.30 on."""
POD_NAME: Final = "authentication.kubernetes.io/pod-name"
POD_UID: Final = "authentication.kubernetes.io/pod-uid"
BACKOFF_SECONDS: Final = (1.0, 30.0)
LEADS_SECONDS: Final = 1.0
"""Between two looks at whether this replica leads by now."""


@dataclass(frozen=True, slots=True)
class Place:
    """The cluster's name in users at the broker, and Galactic's namespace."""

    cluster: str
    namespace: str


class Issuer:
    """Decides the requests while ``leads``. The key of the CA is in a Secret that no other program reads."""

    def __init__(
        self,
        api: Api,
        place: Place,
        leads: Callable[[], bool],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api, self._place, self._leads, self._now = api, place, leads, now
        self._pending: dict[Key, Object] = {}
        self._changed = asyncio.Event()
        selection = Selection(CERTIFICATE_REQUESTS, fields=f"spec.signerName={SIGNER}")
        self._informer = Informer(api, selection, self._set)

    async def run(self) -> None:
        """Never returns by itself."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._informer.run(), name="certificate requests")
            tasks.create_task(self._ensure(), name="broker CA")
            tasks.create_task(self._work(), name="issuer")

    def _set(self, key: Key, old: Object | None, new: Object | None) -> None:
        del old
        if new is not None and _undecided(new):
            self._pending[key] = new
            self._changed.set()
        else:
            self._pending.pop(key, None)

    async def _ensure(self) -> None:
        """Makes the CA before the first request: brokers have to trust it."""
        backoff = Backoff(*BACKOFF_SECONDS)
        while True:
            if self._leads():
                try:
                    await self._authority()
                except GalacticError as error:
                    log.warning("no CA of broker certificates, trying again", error=str(error))
                else:
                    return
            await asyncio.sleep(backoff.pause())

    async def _work(self) -> None:
        backoff = Backoff(*BACKOFF_SECONDS)
        while True:
            if not self._pending or not self._leads():
                self._changed.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(LEADS_SECONDS):
                        await self._changed.wait()
                continue
            key, request = next(iter(self._pending.items()))
            del self._pending[key]
            try:
                await self.decide(request)
            except (Conflict, NotFound):
                continue  # the watch brings what it is now
            except GalacticError as error:
                pause = backoff.pause()
                log.warning(
                    "certificate not issued, trying again", request=key[1], error=str(error), seconds=pause
                )
                self._pending.setdefault(key, request)
                await asyncio.sleep(pause)
            else:
                backoff.succeeded()

    async def decide(self, request: Object) -> None:
        """Issues a certificate, or denies it with a reason. Raises GalacticError where neither is possible now."""
        spec, name = request["spec"], request["metadata"]["name"]
        pod, data = await self._pod(spec), await self._authority()
        try:
            node = node_of(spec, pod, self._place.namespace)
            certificate = issued(
                data, base64.b64decode(spec["request"]), user(self._place.cluster, node), self._now()
            )
        except Rejected as refusal:
            if refusal.reason == "InvalidAuthority":
                raise
            await self._refuse(request, refusal)
            return
        if not _has(request, "Approved"):
            condition = _condition("Approved", "NodeRecognised", f"the request of node {node}'s pod")
            request = await self._write(request, "approval", condition)
        await self._write(request, "status", None, certificate)
        log.info("broker certificate issued", node=node, request=name)

    async def _refuse(self, request: Object, refusal: Rejected) -> None:
        """Denied; Failed where a person approved it, for that cannot be taken back."""
        spec, name = request["spec"], request["metadata"]["name"]
        kind, subresource = ("Failed", "status") if _has(request, "Approved") else ("Denied", "approval")
        await self._write(request, subresource, _condition(kind, refusal.reason, str(refusal)))
        log.warning(
            "broker certificate refused",
            request=name,
            user=spec.get("username", ""),
            reason=refusal.reason,
            error=str(refusal),
        )

    async def _write(
        self, request: Object, subresource: str, condition: Object | None, certificate: bytes = b""
    ) -> Object:
        status = dict(request.get("status") or {})
        if condition:
            status["conditions"] = [*(status.get("conditions") or ()), condition]
        if certificate:
            status["certificate"] = base64.b64encode(certificate).decode()
        return await self._api.replace(
            CERTIFICATE_REQUESTS, {**request, "status": status}, subresource=subresource
        )

    async def _pod(self, spec: Mapping[str, Any]) -> Object | None:
        """The pod of a token that does not name the Node; None where that is not needed, or there is none."""
        pod, node = _extra(spec, POD_NAME), _extra(spec, NODE_NAME)
        if spec.get("username") != self._account or node or not pod:
            return None
        return await self._api.find(PODS, pod, self._place.namespace)

    @property
    def _account(self) -> str:
        return _account(self._place.namespace)

    async def _authority(self) -> dict[str, bytes]:
        """The data of the CA's Secret, made where there is none. One that cannot be used is not replaced: brokers
        trust it.
        """
        secret = await self._api.find(SECRETS, AUTHORITY, self._place.namespace)
        if secret is not None:
            return {name: base64.b64decode(value) for name, value in (secret.get("data") or {}).items()}
        data = authority(self._now())
        meta = {"name": AUTHORITY, "namespace": self._place.namespace}
        meta_labels = {"app.kubernetes.io/part-of": "galactic"}
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {**meta, "labels": meta_labels},
            "type": "kubernetes.io/tls",
            "data": {name: base64.b64encode(value).decode() for name, value in data.items()},
        }
        try:
            await self._api.create(SECRETS, body, self._place.namespace)
        except Conflict:
            raise NotYet("another client made the Secret of the CA first") from None
        log.info("CA of broker certificates made", secret=f"{self._place.namespace}/{AUTHORITY}")
        return data


def node_of(spec: Mapping[str, Any], pod: Object | None, namespace: str) -> str:
    """The Node whose node controller made the request. Raises Rejected for every other client.

    ``pod``: that of the token's name, where the token does not name the Node.
    """
    if spec.get("username") != _account(namespace):
        raise Rejected(
            f"{spec.get('username', '')!r} is not the node controllers' account", reason="NotANode"
        )
    if node := _extra(spec, NODE_NAME):
        return node
    uid = _extra(spec, POD_UID)
    if pod is not None and uid and pod["metadata"].get("uid") == uid and pod["spec"].get("nodeName"):
        return str(pod["spec"]["nodeName"])
    raise Rejected(
        "the token names no pod on a Node; use the one that the chart's DaemonSet mounts", reason="NotANode"
    )


def _account(namespace: str) -> str:
    return f"system:serviceaccount:{namespace}:{ACCOUNT}"


def _extra(spec: Mapping[str, Any], name: str) -> str:
    """The value of an extra attribute of the request's user that has exactly one; else empty."""
    values: list[str] = (spec.get("extra") or {}).get(name) or []
    return str(values[0]) if len(values) == 1 else ""


def _undecided(request: Object) -> bool:
    status = request.get("status") or {}
    return not status.get("certificate") and not _has(request, "Denied") and not _has(request, "Failed")


def _has(request: Object, kind: str) -> bool:
    conditions = (request.get("status") or {}).get("conditions") or ()
    return any(condition["type"] == kind for condition in conditions)


def _condition(kind: str, reason: str, message: str) -> Object:
    return {"type": kind, "status": "True", "reason": reason, "message": message}
