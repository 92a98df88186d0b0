"""Attachments whose records are lost while the kernel still has them: read again from the node's own NodeSegment.

The kernel has a host end, but not the pod behind it. The NodeSegment has container, interface, namespace and epoch, the
VPCAttachment's status the rest. Until both were read, nothing of the VPCs of unaccounted attachments is deleted, and
this node publishes no registration. Then each is attached again, or released where no VPCAttachment exists.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog

from galactic.backoff import Backoff
from galactic.crds.nodesegment import SegmentEndpoint
from galactic.errors import GalacticError, NotYet, Rejected
from galactic.kube.api import Api
from galactic.kube.resources import VPC_ATTACHMENTS
from galactic.names import function_hex, vpc_hex
from galactic.node.kubernetes.entitlement import entitlement
from galactic.node.state.attachment import Attachment, Key, attachment_of
from galactic.node.state.store import Store

log = structlog.get_logger(__name__)
BACKOFF_SECONDS: Final = (0.5, 30.0)
OWN_NAMESPACE: Final = "/proc/self/ns/net"


class UnaccountedAttachments:
    """Accounts for them. ``endpoints``: those in the NodeSegment, None while it was not read."""

    def __init__(
        self, api: Api, store: Store, endpoints: Callable[[], tuple[SegmentEndpoint, ...] | None]
    ) -> None:
        self._api, self._store, self._endpoints = api, store, endpoints
        self._changed = store.watch()
        self.problem: str | None = None

    async def run(self) -> None:
        """Until all are accounted for."""
        backoff = Backoff(*BACKOFF_SECONDS)
        while self._store.attachments.unaccounted is None:
            await self._changed.wait()
            self._changed.clear()
        while keys := set(self._store.attachments.unaccounted):
            try:
                await self._account_for(keys)
            except GalacticError as error:
                pause = backoff.pause()
                self.problem = f"{len(keys)} attachments in the kernel have no record: {error}"
                log.warning("attachments unaccounted for, trying again", error=str(error), seconds=pause)
                await asyncio.sleep(pause)
        self.problem = None

    async def _account_for(self, keys: set[Key]) -> None:
        endpoints = self._endpoints()
        if endpoints is None:
            raise NotYet("the node's NodeSegment was not read yet")
        by_key = {
            (endpoint.vpc, endpoint.function): endpoint for endpoint in endpoints if endpoint.container_id
        }
        for key in sorted(keys):
            endpoint = by_key.get((vpc_hex(key[0]), function_hex(key[1])))
            try:
                recovered = await self._attachment(key, endpoint) if endpoint else None
            except Rejected as error:
                log.warning(
                    "unaccounted attachment not usable",
                    attachment=endpoint and endpoint.attachment,
                    error=str(error),
                )
                recovered = None
            if recovered is None:
                log.warning(
                    "unaccounted attachment released", vpc=vpc_hex(key[0]), function=function_hex(key[1])
                )
                self._store.release_unaccounted((key,))
            elif key in (self._store.attachments.unaccounted or ()):  # and not detached meanwhile
                log.info(
                    "attachment recovered from the NodeSegment",
                    attachment=recovered.name,
                    container=recovered.container,
                )
                self._store.amend(recovered)

    async def _attachment(self, key: Key, endpoint: SegmentEndpoint) -> Attachment | None:
        """The attachment of an endpoint; None where its VPCAttachment is gone."""
        namespace, _, name = endpoint.attachment.partition("/")
        attachment = await self._api.find(VPC_ATTACHMENTS, name, namespace)
        if attachment is None:
            return None  # nor does the router have it
        if not endpoint.netns or _is_own(endpoint.netns):
            raise Rejected(
                f"{endpoint.netns!r} is not a pod's network namespace", field="status.endpoints.netns"
            )
        config = entitlement(attachment).config
        if config is None:
            raise NotYet(
                f"VPCAttachment {endpoint.attachment} has no status.configuration: galactic-operator is away"
            )
        if config.key != key:
            raise Rejected(f"{endpoint.attachment} has other identifiers now", field="status.identifier")
        recovered = attachment_of(config, endpoint.container_id, endpoint.netns, endpoint.ifname)
        return replace(recovered, epoch=endpoint.epoch)


def _is_own(netns: str) -> bool:
    try:
        return Path(netns).samefile(OWN_NAMESPACE)
    except OSError:
        return False
