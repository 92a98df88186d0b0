"""One Pod on a node, from being bound to being gone: a task of its own, woken by every change, level-triggered."""

import asyncio
import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from galactic.errors import GalacticError
from galactic.kube.client import Kube, NotFound, Object
from galactic.kube.resources import EVENTS, NADS, PODS
from galactic.lab.containers import Container, phase, stamp
from galactic.lab.runtime.libcni import conflist
from galactic.lab.runtime.selections import NETWORKS, STATUS, selections, status
from galactic.lab.sandbox import NETNS, Network, Record, Sandboxes

BACKOFF_SECONDS: Final = (1.0, 30.0)

log = logging.getLogger("galactic.lab.kubelet")


class Pod:
    """``set`` says what the API has; None means that it has it no more. ``done`` once nothing is left to do."""

    def __init__(
        self, kube: Kube, sandboxes: Sandboxes, record: Record | None, *, node: str, address: str, logs: Path
    ) -> None:
        self._kube, self._sandboxes, self._record = kube, sandboxes, record
        self._node, self._address, self._logs = node, address, logs
        self._wanted: Object | None = None
        self._wake = asyncio.Event()
        self._containers: list[Container] = []
        self._reported: Any = None
        self._since = stamp(time.time())
        self._event: str | None = None
        self._failures = 0
        self._task: asyncio.Task[None] | None = None
        self.done = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def set(self, wanted: Object | None) -> None:
        self._wanted = wanted
        self._wake.set()

    async def close(self) -> None:
        """The task and the Pod's processes have ended; its sandbox stays as it is."""
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await asyncio.gather(*(one.stop(1.0) for one in self._containers))

    async def _run(self) -> None:
        pause = BACKOFF_SECONDS[0]
        while not self.done:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._step()
                pause = BACKOFF_SECONDS[0]
            except Exception as error:
                expected = isinstance(error, GalacticError)
                log.warning("%s: %s; again in %.0f s", self._title(), error, pause, exc_info=not expected)
                with suppress(GalacticError):
                    await self._complain(str(error))
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._changed_since()
                pause = min(pause * 2, BACKOFF_SECONDS[1])
                self._wake.set()

    async def _changed_since(self) -> None:
        """A Pod that is being deleted need not wait for the next attempt; other changes do not shorten it."""
        leaving = self._leaving()
        while leaving or not self._leaving():
            self._wake.clear()
            await self._wake.wait()

    def _leaving(self) -> bool:
        return self._wanted is None or "deletionTimestamp" in self._wanted["metadata"]

    async def _step(self) -> None:
        wanted = self._wanted
        if wanted is None or self._leaving():
            await self._end(wanted)
            return
        if wanted.get("status", {}).get("phase") in ("Succeeded", "Failed") and not self._containers:
            return
        await self._ensure_sandbox(wanted)
        await self._ensure_containers(wanted)
        await self._report(wanted)

    async def _ensure_sandbox(self, wanted: Object) -> None:
        if wanted["spec"].get("hostNetwork"):
            return
        if self._record and (not self._record.ready or not self._sandboxes.exists(self._record)):
            await self._sandboxes.remove(self._record)  # begun by somebody before us, or lost with the kernel
            self._record = await self._new(wanted, self._record.attempt + 1)
        elif self._record is None:
            self._record = await self._new(wanted, 0)
        if self._record.ready:
            return
        await self._sandboxes.make(self._record)
        log.info("%s: sandbox %s", self._title(), self._record.netns)

    async def _new(self, wanted: Object, attempt: int) -> Record:
        meta = wanted["metadata"]
        record = Record(meta["uid"], meta["namespace"], meta["name"], attempt)
        for one in selections((meta.get("annotations") or {}).get(NETWORKS, ""), meta["namespace"]):
            definition = await self._kube.get(NADS, one.name, one.namespace)
            config = conflist(definition.get("spec", {}).get("config", ""), one.name)
            record.networks.append(Network(one.namespace, one.name, one.interface, dict(one.runtime), config))
        return record

    async def _ensure_containers(self, wanted: Object) -> None:
        if self._containers:
            return
        netns = str(NETNS / self._record.netns) if self._record else "/proc/self/ns/net"
        meta = wanted["metadata"]
        for number, spec in enumerate(wanted["spec"].get("initContainers") or ()):
            one = self._container(meta, spec, netns, f"init{number}")
            if one.argv:
                once = {**wanted, "spec": {**wanted["spec"], "restartPolicy": "OnFailure"}}
                one.start(once)
                while one.exit != 0:
                    if self._leaving():
                        await one.stop(1.0)
                        return
                    await asyncio.sleep(0.1)
        self._containers = [
            self._container(meta, spec, netns, spec["name"]) for spec in wanted["spec"]["containers"]
        ]
        for one in self._containers:
            one.start(wanted)

    def _container(self, meta: Object, spec: Object, netns: str, label: str) -> Container:
        path = self._logs / f"pod-{meta['namespace']}-{meta['name']}-{label}.log"
        return Container(spec, netns, path, self._wake.set)

    async def _report(self, wanted: Object) -> None:
        """The API says what is: phase, conditions, containers, and the networks the Pod got."""
        policy = wanted["spec"].get("restartPolicy", "Always")
        statuses = [one.status() for one in self._containers]
        current = phase(self._containers, policy)
        ready = current == "Running" and all(one["ready"] for one in statuses)
        conditions = {"Initialized": True, "ContainersReady": ready, "Ready": ready, "PodScheduled": True}
        key = (current, ready, [(one["state"], one["restartCount"]) for one in statuses])
        if key == self._reported:
            return
        meta = wanted["metadata"]
        networks = (
            [(one.selection, one.result or {}) for one in self._record.networks] if self._record else []
        )
        annotation = status(networks) if networks else None
        if annotation != (meta.get("annotations") or {}).get(STATUS):
            patch = {"metadata": {"annotations": {STATUS: annotation}}}
            await self._kube.patch(PODS, meta["name"], patch, meta["namespace"])
        body = {
            "phase": current,
            "hostIP": self._address,
            "startTime": self._since,
            "containerStatuses": statuses,
            "reason": None,
            "message": None,
            "conditions": [
                {"type": kind, "status": str(value), "lastTransitionTime": stamp(time.time())}
                for kind, value in conditions.items()
            ],
        }
        if wanted["spec"].get("hostNetwork"):
            body["podIP"] = self._address
            body["podIPs"] = [{"ip": self._address}]
        await self._kube.patch(PODS, meta["name"], {"status": body}, meta["namespace"], subresource="status")
        self._reported = key

    async def _end(self, wanted: Object | None) -> None:
        grace = float(wanted["metadata"].get("deletionGracePeriodSeconds") or 0) if wanted else 0.0
        await asyncio.gather(*(one.stop(grace) for one in self._containers))
        self._containers = []
        if self._record:
            await self._sandboxes.remove(self._record)
            log.info("%s: sandbox removed", self._title())
            self._record = None
        if wanted is not None:
            meta = wanted["metadata"]
            with suppress(NotFound):
                current = await self._kube.get(PODS, meta["name"], meta["namespace"])
                if current["metadata"]["uid"] == meta["uid"]:
                    await self._kube.delete(PODS, meta["name"], meta["namespace"], grace=0)
        self.done = True

    async def _complain(self, message: str) -> None:
        """The Pod's status and an Event say what failed. One Event, counted, however often that is."""
        wanted = self._wanted
        if wanted is None:
            return
        meta, now = wanted["metadata"], stamp(time.time())
        self._failures += 1
        reason = "FailedKillPod" if self._leaving() else "FailedCreatePodSandBox"
        if self._event:
            patch = {
                "count": self._failures,
                "lastTimestamp": now,
                "message": message[:1000],
                "reason": reason,
            }
            await self._kube.patch(EVENTS, self._event, patch, meta["namespace"])
        else:
            name = f"{meta['name']}.{time.time_ns():x}"
            reference = {"apiVersion": "v1", "kind": "Pod"}
            reference |= {
                key: meta[key] for key in ("name", "namespace", "uid", "resourceVersion") if key in meta
            }
            body = {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": name, "namespace": meta["namespace"]},
                "involvedObject": reference,
                "reason": reason,
                "message": message[:1000],
                "type": "Warning",
                "count": self._failures,
                "firstTimestamp": now,
                "lastTimestamp": now,
                "source": {"component": "kubelet", "host": self._node},
            }
            await self._kube.create(EVENTS, body, meta["namespace"])
            self._event = name
        if not self._leaving():
            waiting = [
                {"name": spec["name"], "image": spec.get("image", ""), "imageID": "", "ready": False}
                | {
                    "restartCount": 0,
                    "state": {"waiting": {"reason": "ContainerCreating", "message": message[:500]}},
                }
                for spec in wanted["spec"]["containers"]
            ]
            body = {"phase": "Pending", "hostIP": self._address, "containerStatuses": waiting}
            await self._kube.patch(
                PODS, meta["name"], {"status": body}, meta["namespace"], subresource="status"
            )

    def _title(self) -> str:
        if self._wanted is not None:
            return f"{self._wanted['metadata']['namespace']}/{self._wanted['metadata']['name']}"
        return f"{self._record.namespace}/{self._record.name}" if self._record else "a pod"
