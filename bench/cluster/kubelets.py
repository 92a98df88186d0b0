"""Stand-ins for the kubelets of a process' nodes: they attach pods that are bound, and detach those that are gone."""

import asyncio
import sys
from collections.abc import Mapping
from typing import Final, Protocol

from galactic.errors import GalacticError
from galactic.kube.api import Key, Object
from galactic.kube.client import Kube
from galactic.kube.informer import Follower
from galactic.kube.reflector import Selection
from galactic.kube.resources import PODS

AGAIN_SECONDS: Final = 10.0
"""Until a kubelet tries a sandbox again, as a real one does at the least."""


class Node(Protocol):
    """``nodes.Node``."""

    @property
    def name(self) -> str: ...

    async def attach(self, key: Key, pod: Object) -> None: ...

    def adopt(self, key: Key, uid: str) -> bool: ...

    def detach(self, key: Key) -> None: ...


class Kubelets:
    """Those of all nodes here."""

    def __init__(self, kube: Kube, nodes: Mapping[str, Node]) -> None:
        self._kube, self._nodes = kube, nodes
        self._pods: dict[Key, asyncio.Task[None] | None] = {}
        self._on: dict[Key, Node] = {}
        self.attached: set[Key] = set()
        self.failures = 0
        self._follower = Follower(kube, Selection(PODS), self._changed)

    async def run(self) -> None:
        await self._follower.run()

    def _changed(self, key: Key, new: Object | None) -> None:
        if new is None:
            if key in self._pods:
                if task := self._pods.pop(key):
                    task.cancel()
                self._on.pop(key).detach(key)
                self.attached.discard(key)
        elif key not in self._pods and (node := self._nodes.get(new["spec"].get("nodeName", ""))):
            self._on[key] = node
            if node.adopt(key, new["metadata"]["uid"]):
                self._pods[key] = None
                self.attached.add(key)
                return
            self._pods[key] = asyncio.create_task(self._start(node, key, new))

    async def _start(self, node: Node, key: Key, pod: Object) -> None:
        while True:
            try:
                await node.attach(key, pod)
            except GalacticError as error:
                self.failures += 1
                print(f"{node.name} {key}: {error}", file=sys.stderr)
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            break
        self.attached.add(key)
        conditions = [{"type": "Ready", "status": "True"}]
        status = {"phase": "Running", "conditions": conditions}
        await self._kube.patch(PODS, key[1], {"status": status}, key[0], subresource="status")
