"""The objects inside pods' network namespaces: read where they are not known, written where they differ."""

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Final, NamedTuple

from galactic import names
from galactic.errors import GalacticError
from galactic.linux.objects import Change, Kernel, Objects, change
from galactic.node.dataplane import plan
from galactic.node.dataplane.drift import Drift
from galactic.node.dataplane.sandbox import alive
from galactic.node.state.attachment import Attachment, Key
from galactic.node.state.store import Store

PODS_A_ROUND: Final = 4
"""Namespaces that are read each time, in turn: no event reports changes inside them."""


class Pod(NamedTuple):
    """A pod's interface, and what was last written into its namespace."""

    netns: str
    ifname: str
    objects: Objects


class Pods:
    """The pods' ends. ``exists``: whether a network namespace is at a path."""

    def __init__(self, kernel: Kernel, store: Store, exists: Callable[[str], bool] = alive) -> None:
        self._kernel, self._store, self._exists = kernel, store, exists
        self._written: dict[Key, Pod] = {}
        self._gone: dict[Attachment, int] = {}
        self.objects = 0
        """Objects that were to be written, ever."""

    def __contains__(self, key: Key) -> bool:
        """Whether the objects of that attachment's pod are known."""
        return key in self._written

    def gone(self, attachment: Attachment) -> int:
        """The rounds that read the kernel since the pod's namespace was first found gone."""
        return self._gone.get(attachment, 0)

    @property
    def any_gone(self) -> bool:
        return bool(self._gone)

    def present(self, attachments: Mapping[Key, Attachment]) -> dict[Key, Attachment]:
        """Those whose namespace is not gone."""
        return {key: attachment for key, attachment in attachments.items() if attachment not in self._gone}

    def find_gone(self, attachments: Mapping[Key, Attachment], actual: Objects) -> None:
        """A namespace that is gone took its end of the veth pair, and so the pair, with it."""
        lost = [
            attachment for key, attachment in attachments.items() if names.host_end(*key) not in actual.links
        ]
        self._gone = {
            attachment: self.gone(attachment) + 1 for attachment in lost if not self._exists(attachment.netns)
        }

    def forget_all(self) -> None:
        """The pods' objects are not known any more."""
        self._written.clear()

    def forget_others(self, keys: Iterable[Key]) -> None:
        """Only these are attached."""
        for key in self._written.keys() - set(keys):
            del self._written[key]

    def forget_moved(self, key: Key, attachment: Attachment | None) -> bool:
        """Whether another pod had the attachment, or another interface of the pod: that one is forgotten."""
        pod = self._written.get(key)
        if pod is None or (attachment and (attachment.netns, attachment.ifname) == pod[:2]):
            return False
        del self._written[key]
        return True

    def turn(self) -> tuple[Key, ...]:
        """The pods that were not read for the longest time."""
        return tuple(islice(self._written, PODS_A_ROUND))

    async def read(
        self, attachments: Mapping[Key, Attachment], same_device: Callable[[Key], bool], drift: Drift
    ) -> dict[Key, Objects | None]:
        """The objects of pods that are not known, or not any more, and of the next PODS_A_ROUND. None: no interface.

        ``same_device``: whether the host end is the one that it was. ``drift`` gets the differences from what was last
        written.
        """
        inside: dict[Key, Objects | None] = {}
        turn = self.turn()
        for key, attachment in attachments.items():
            pod = self._written.get(key)
            same = bool(
                pod and (pod.netns, pod.ifname) == (attachment.netns, attachment.ifname) and same_device(key)
            )
            if same and key not in turn:
                continue
            self._written.pop(key, None)
            inside[key] = actual = await self._kernel.read_pod(attachment.netns, attachment.ifname)
            if same and pod and actual:
                drift.add(change(pod.objects, actual))
        return inside

    async def write(
        self, attachments: Mapping[Key, Attachment], inside: Mapping[Key, Objects | None]
    ) -> dict[Key, str]:
        """The failures, by attachment. ``inside``: the objects just read; else those last written count."""
        problems = {}
        for key, attachment in attachments.items():
            if key not in self._store.attachments:
                continue  # detached meanwhile
            desired, pod = plan.pod(attachment, self._store.attachments.rank(key)), self._written.get(key)
            if key in inside:
                actual = inside[key] or Objects()
            elif pod:
                actual = pod.objects
            else:
                actual = await self._kernel.read_pod(attachment.netns, attachment.ifname) or Objects()
            try:
                if difference := change(desired, actual):
                    await self._write(attachment, difference)
                    if difference.addresses and actual != Objects():
                        # The kernel may have deleted routes with an address.
                        left = await self._kernel.read_pod(attachment.netns, attachment.ifname)
                        if difference := change(desired, left or Objects()):
                            await self._write(attachment, difference)
            except GalacticError as error:
                self._written.pop(key, None)
                problems[key] = str(error)
            else:
                self._written[key] = Pod(attachment.netns, attachment.ifname, desired)
        return problems

    async def _write(self, attachment: Attachment, difference: Change) -> None:
        self.objects += len(difference)
        await self._kernel.write_pod(attachment.netns, difference)
