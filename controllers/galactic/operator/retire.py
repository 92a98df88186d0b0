"""galactic-retire: prepares the removal of Galactic, so that no deletion waits for ever afterwards.

The chart runs it as a Job before `helm uninstall`; it may as well be run by hand, and any number of times.

1. Operator, webhooks and routers are stopped.
2. The webhook configurations are deleted, those of earlier versions as well: without a webhook the API server would
   refuse pods. They are deleted at once, as programs may take long to end.
3. Our finalizer is removed from every VPCAttachment and VPC: without an operator their namespaces could not be deleted.
   The objects themselves stay.
4. Secrets and Leases that the programs made are deleted.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final, Literal

import structlog
from pydantic import Field

from galactic.backoff import Backoff
from galactic.errors import GalacticError, Unreachable
from galactic.kube.api import Api, Conflict, NotFound
from galactic.kube.client import connect
from galactic.kube.resources import (
    CONFIG_MAPS,
    LEASES,
    MUTATING_WEBHOOKS,
    PODS,
    SECRETS,
    VALIDATING_WEBHOOKS,
    VPC_ATTACHMENTS,
    VPCS,
    Resource,
)
from galactic.launch import configure_logs
from galactic.operator.context import FINALIZER
from galactic.settings import Settings, load
from galactic.validation.joining import RECORDS

log = structlog.get_logger(__name__)
PROGRAM: Final = "galactic-retire"
DEPLOYMENTS: Final = Resource("apps", "v1", "deployments", "Deployment")
STATEFUL_SETS: Final = Resource("apps", "v1", "statefulsets", "StatefulSet")
WEBHOOK: Final = "galactic-webhook"
CONFIGURATIONS: Final = ("galactic-admission", WEBHOOK)
"""The second is of earlier versions."""
MADE: Final = (
    (SECRETS, WEBHOOK),
    (CONFIG_MAPS, RECORDS),
    (SECRETS, "galactic-broker"),
    (SECRETS, "galactic-broker-node"),
    (SECRETS, "galactic-broker-router"),
    (LEASES, "galactic-operator"),
    (LEASES, "galactic-router"),
)
POLL_SECONDS: Final = (0.5, 4.0)


class RetireSettings(Settings):
    """Prepares the removal of Galactic."""

    namespace: str = Field(default="galactic-system", description="namespace of Galactic")
    instance: str = Field(default="galactic", description="name of the Helm release")
    router_kind: Literal["Deployment", "StatefulSet"] = Field(
        default="Deployment", description="kind of the routers' workload"
    )
    patience: float = Field(default=300.0, gt=0, description="seconds to wait for the programs to end")


async def retire(api: Api, settings: RetireSettings) -> Mapping[str, int]:
    """The number of finalizers removed, by kind. Raises Unreachable where a program does not end in time."""
    namespace = settings.namespace
    routers = DEPLOYMENTS if settings.router_kind == "Deployment" else STATEFUL_SETS
    for resource, name in (
        (DEPLOYMENTS, "galactic-operator"),
        (DEPLOYMENTS, WEBHOOK),
        (routers, "galactic-router"),
    ):
        try:
            await api.patch(resource, name, {"spec": {"replicas": 0}}, namespace, subresource="scale")
        except NotFound:
            log.info("workload does not exist", kind=resource.kind, name=name)
    for resource in (MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS):
        for name in CONFIGURATIONS:
            await api.delete(resource, name)
    await _ended(api, settings)
    released = {resource.kind: await _release(api, resource) for resource in (VPC_ATTACHMENTS, VPCS)}
    for resource, name in MADE:
        await api.delete(resource, name, namespace)
    return released


async def _ended(api: Api, settings: RetireSettings) -> None:
    components = "app.kubernetes.io/component in (operator,webhook,router)"
    selector = f"app.kubernetes.io/instance={settings.instance},{components}"
    until, backoff = time.monotonic() + settings.patience, Backoff(*POLL_SECONDS)
    while True:
        pods, _ = await api.list(PODS, settings.namespace, labels=selector)
        if not pods:
            return
        names = ", ".join(sorted(pod["metadata"]["name"] for pod in pods))
        if time.monotonic() > until:
            raise Unreachable(
                "pods", f"{names} did not end within {settings.patience:g} s; delete them and try again"
            )
        log.info("waiting for pods to end", pods=names)
        await asyncio.sleep(backoff.pause())


async def _release(api: Api, resource: Resource) -> int:
    """Removes our finalizer from every object of the kind. The number of objects that had it."""
    count = 0
    while True:
        try:
            objects, _ = await api.list(resource)
        except NotFound:  # no such kind (any more)
            return count
        finalized = [item for item in objects if FINALIZER in (item["metadata"].get("finalizers") or ())]
        if not finalized:
            return count
        for item in finalized:
            meta: dict[str, Any] = item["metadata"]
            rest = [name for name in meta["finalizers"] if name != FINALIZER]
            patch = {"metadata": {"finalizers": rest, "resourceVersion": meta["resourceVersion"]}}
            try:
                await api.patch(resource, meta["name"], patch, meta.get("namespace"))
                count += 1
            except (NotFound, Conflict):
                continue  # changed in between: the next round reads it again


async def _run(settings: RetireSettings) -> None:
    async with await connect() as kube:
        released = await retire(kube, settings)
    for kind, count in released.items():
        print(f"{kind}: finalizer removed from {count} objects")  # noqa: T201


def main() -> None:
    """The console script."""
    settings = load(RetireSettings, program=PROGRAM)
    configure_logs(settings.log_level, settings.log_format)
    try:
        asyncio.run(_run(settings))
    except GalacticError as error:
        raise SystemExit(f"{PROGRAM}: {error}") from error


if __name__ == "__main__":
    main()
