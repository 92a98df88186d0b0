"""A stand-in for kubelet and Multus on one node: it registers the Node, keeps its Lease, and runs the Pods bound to it.

What it promises of a real one: a Pod gets a network namespace; every network of its annotation is attached by calling
real CNI plugins with libcni's conventions; failures become Events and are retried; deletion calls DEL until that
succeeds and only then lets the Pod go. What it does not do: images, volumes, probes, resources, a cluster network.
See ``galactic.lab.containers`` for what a container is here.
"""

import asyncio
import logging
import os
import platform
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from galactic.errors import GalacticError
from galactic.kube.client import Conflict, Kube, NotFound, Object, connect
from galactic.kube.informer import Informer, Key
from galactic.kube.resources import LEASES, NODES, PODS
from galactic.lab.containers import stamp
from galactic.lab.pod import Pod
from galactic.lab.runtime.libcni import Runtime
from galactic.lab.sandbox import Record, Sandboxes

LEASE_SECONDS: Final = 40
RENEW_SECONDS: Final = 10
STATUS_SECONDS: Final = 60
LEASE_NAMESPACE: Final = "kube-node-lease"

log = logging.getLogger("galactic.lab.kubelet")


@dataclass(frozen=True, slots=True)
class Settings:
    """One node's."""

    node: str
    address: str
    plugins: Sequence[Path]
    folder: Path
    logs: Path
    annotations: Mapping[str, str]


def node_status(settings: Settings) -> Object:
    """The Node's status, always ready: whoever asks gets an answer only while this process lives."""
    now = stamp(time.time())
    ready = ("Ready", "True", "KubeletReady")
    fine = [(kind, "False", "KubeletFine") for kind in ("MemoryPressure", "DiskPressure", "PIDPressure")]
    size = {"cpu": str(os.cpu_count() or 1), "memory": "2Gi", "pods": "110", "ephemeral-storage": "10Gi"}
    return {
        "addresses": [
            {"type": "InternalIP", "address": settings.address},
            {"type": "Hostname", "address": settings.node},
        ],
        "capacity": size,
        "allocatable": size,
        "conditions": [
            {"type": kind, "status": value, "reason": reason, "message": "", "lastHeartbeatTime": now}
            | {"lastTransitionTime": now}
            for kind, value, reason in (*fine, ready)
        ],
        "nodeInfo": {
            "machineID": "",
            "systemUUID": "",
            "bootID": "",
            "kernelVersion": platform.release(),
            "osImage": "galactic lab",
            "containerRuntimeVersion": "none://0",
            "kubeletVersion": "v0.0.0-lab",
            "kubeProxyVersion": "v0.0.0-lab",
            "operatingSystem": "linux",
            "architecture": "amd64" if platform.machine() == "x86_64" else "arm64",
        },
    }


class Kubelet:
    """Everything of one node."""

    def __init__(self, settings: Settings, kube: Kube) -> None:
        self._settings, self._kube = settings, kube
        self._sandboxes = Sandboxes(settings.folder, Runtime(settings.plugins))
        self._pods: dict[str, Pod] = {}
        self._informer = Informer(kube, PODS, self._changed, fields=f"spec.nodeName={settings.node}")

    async def run(self) -> None:
        """Until cancelled. Then the Pods' processes have ended; their namespaces stay."""
        await self._persist(self._register)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._informer.run())
                tasks.create_task(self._orphans())
                tasks.create_task(self._renew())
                tasks.create_task(self._report())
        finally:
            await asyncio.gather(*(pod.close() for pod in self._pods.values()), return_exceptions=True)

    def _changed(
        self,
        key: Key,  # noqa: ARG002  (the Protocol has it)
        old: Object | None,
        new: Object | None,
    ) -> None:
        thing = new or old
        assert thing is not None
        uid = thing["metadata"]["uid"]
        if old and new and old["metadata"]["uid"] != uid:  # replaced under the same name between two lists
            self._tell(old["metadata"]["uid"], None)
        self._tell(uid, new)

    def _tell(self, uid: str, wanted: Object | None) -> None:
        pod = self._pods.get(uid)
        if pod is None:
            if wanted is None:
                return
            pod = self._pods[uid] = self._make(self._sandboxes.load().get(uid))
        pod.set(wanted)

    def _make(self, record: Record | None) -> Pod:
        settings = self._settings
        pod = Pod(
            self._kube,
            self._sandboxes,
            record,
            node=settings.node,
            address=settings.address,
            logs=settings.logs,
        )
        pod.start()
        return pod

    async def _orphans(self) -> None:
        """What is on disk but no longer in the API is taken down."""
        await self._informer.synced.wait()
        for uid, record in self._sandboxes.load().items():
            if uid not in self._pods:
                log.info("%s/%s is gone, removing its sandbox", record.namespace, record.name)
                self._pods[uid] = self._make(record)
                self._pods[uid].set(None)
        while True:
            await asyncio.sleep(1)
            for uid in [uid for uid, pod in self._pods.items() if pod.done]:
                del self._pods[uid]

    async def _register(self) -> None:
        settings = self._settings
        meta: Object = {
            "labels": {
                "kubernetes.io/hostname": settings.node,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": node_status(settings)["nodeInfo"]["architecture"],
            },
            "annotations": dict(settings.annotations),
        }
        try:
            body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": settings.node, **meta}}
            await self._kube.create(NODES, body)
            log.info("registered")
        except Conflict:
            await self._kube.patch(NODES, settings.node, {"metadata": meta})
        await self._patch_status()

    async def _patch_status(self) -> None:
        status = node_status(self._settings)
        current = await self._kube.get(NODES, self._settings.node)
        before = {one["type"]: one for one in current.get("status", {}).get("conditions") or ()}
        for condition in status["conditions"]:
            known = before.get(condition["type"])
            if known and known["status"] == condition["status"]:
                condition["lastTransitionTime"] = known["lastTransitionTime"]
        others = [
            one for kind, one in before.items() if kind not in {c["type"] for c in status["conditions"]}
        ]
        status["conditions"] += others
        await self._kube.patch(NODES, self._settings.node, {"status": status}, subresource="status")

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(STATUS_SECONDS)
            await self._once(self._patch_status)

    async def _renew(self) -> None:
        while True:
            await self._once(self._lease)
            await asyncio.sleep(RENEW_SECONDS)

    async def _lease(self) -> None:
        name = self._settings.node
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
        spec = {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now}
        try:
            await self._kube.patch(LEASES, name, {"spec": spec}, LEASE_NAMESPACE)
        except NotFound:
            body = {
                "apiVersion": LEASES.api_version,
                "kind": "Lease",
                "metadata": {"name": name},
                "spec": spec,
            }
            await self._kube.create(LEASES, body, LEASE_NAMESPACE)

    async def _once(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except GalacticError as error:
            log.warning("%s", error)

    async def _persist(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except GalacticError as error:
                log.warning("not registered yet: %s", error)
                await asyncio.sleep(1)
            else:
                return


async def _main(settings: Settings) -> None:
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    async with await connect() as kube:
        try:
            await Kubelet(settings, kube).run()
        except asyncio.CancelledError:
            log.info("asked to end")


def run(settings: Settings) -> None:
    """Until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True)
    asyncio.run(_main(settings))
