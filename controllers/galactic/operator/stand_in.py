"""Writes ``VPCAttachment.status.endpoint`` in the routers' place while none of them leads (docs/design/fallback.md).

Nodes then read their routes from the attachments' status, which has to follow what nodes report in their NodeSegments.
The checks are the router's: node, SID, identifiers and networks are those that the attachment entitles to. Whether a
router leads is read from the routers' Lease, and only while some endpoint is not as reported.
"""

import time
from collections.abc import Callable
from typing import Final

import structlog

from galactic.crds.nodesegment import NodeSegment, SegmentEndpoint
from galactic.crds.vpcattachment import AttachedEndpoint, VpcAttachment
from galactic.errors import Rejected
from galactic.kube.api import Api, Key
from galactic.kube.conditions import now
from galactic.kube.resources import LEASES, VPC_ATTACHMENTS
from galactic.names import function_hex, vpc_hex
from galactic.operator.context import ReconcileContext
from galactic.operator.entitlement_list import entitlement
from galactic.operator.state import Caches
from galactic.srv6 import owns, parse_prefix, parse_sid

log = structlog.get_logger(__name__)
LEASE: Final = "galactic-router"
WAIT_SECONDS: Final = 5.0
"""A router that leads writes an endpoint within a second."""
CHECK_SECONDS: Final = 2.0
"""Between two reads of the routers' Lease."""
LEAST_SECONDS: Final = 5.0
"""A Lease that did not change for this time, and for its own duration, is vacant."""


class RouterLease:
    """The routers' Lease in Galactic's own namespace."""

    def __init__(self, api: Api, namespace: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._api, self._namespace, self._clock = api, namespace, clock
        self._read_at = -CHECK_SECONDS
        self._record: tuple[object, ...] = ()
        self._unchanged_since = 0.0
        self._vacant: bool | None = None

    async def vacant(self) -> bool | None:
        """Whether no router leads; None: not known yet. False without a Lease: the routers may be elsewhere.

        No clocks are compared: a Lease is vacant that was given back, or that did not change for its duration.
        """
        moment = self._clock()
        if moment - self._read_at < CHECK_SECONDS:
            return self._vacant
        try:
            lease = await self._api.find(LEASES, LEASE, self._namespace)
        except Rejected as error:  # a role of an earlier version
            log.warning("the routers' Lease cannot be read", error=str(error))
            lease = None
        spec = (lease or {}).get("spec") or {}
        record = (spec.get("holderIdentity"), spec.get("renewTime"), spec.get("leaseTransitions"))
        if lease is None:
            self._vacant = False
        elif not record[0]:
            self._vacant = True
        elif record != self._record:
            renewed = record[:1] == self._record[:1] and moment - self._read_at <= 3 * CHECK_SECONDS
            self._vacant, self._unchanged_since = False if renewed else None, moment
        elif moment - self._unchanged_since >= max(
            LEAST_SECONDS, float(spec.get("leaseDurationSeconds") or 0)
        ):
            self._vacant = True
        self._read_at, self._record = moment, record
        return self._vacant


class StandIn:
    """``revision`` is the wall clock in ms, which tables' revisions follow."""

    def __init__(
        self,
        context: ReconcileContext,
        clock: Callable[[], float] = time.monotonic,
        revision: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._context, self._clock, self._revision = context, clock, revision
        self._lease = RouterLease(context.api, context.caches.namespace, clock)
        self._since: dict[Key, tuple[object, float]] = {}  # what differs, and since when

    def forget(self, key: Key) -> None:
        """The attachment was deleted."""
        self._since.pop(key, None)

    async def record(self, key: Key, attachment: VpcAttachment) -> VpcAttachment:
        """Writes the endpoint if that is this operator's task now, and looks again later if it may become so.

        Returns the attachment as it is then. Raises GalacticError.
        """
        context = self._context
        if context.rules.router_outside:
            return attachment
        desired = endpoint(context.caches, key, attachment, context.rules.cluster)
        if _place(desired) == _place(attachment.status.endpoint):
            self.forget(key)
            return attachment
        moment = self._clock()
        before, since = self._since.get(key, (None, moment))
        if before != _place(desired):
            since = moment
        self._since[key] = _place(desired), since
        if (wait := WAIT_SECONDS - (moment - since)) > 0:
            context.dirty(("attachment", key), wait)
            return attachment
        vacant = await self._lease.vacant()
        if not vacant:
            context.dirty(("attachment", key), CHECK_SECONDS if vacant is None else 2 * WAIT_SECONDS)
            return attachment
        log.info(
            "no router leads, recording the endpoint", attachment="/".join(key), endpoint=_place(desired)
        )
        if desired:
            desired = desired.model_copy(update={"revision": self._revision(), "since": now()})
        after = {"endpoint": desired and desired.model_dump(mode="json", by_alias=True)}
        await context.status(VPC_ATTACHMENTS, attachment.metadata, attachment.status, after)
        self.forget(key)
        written = context.caches.attachments.get(key)
        return written if isinstance(written, VpcAttachment) else attachment


def endpoint(caches: Caches, key: Key, attachment: VpcAttachment, cluster: str) -> AttachedEndpoint | None:
    """The newest endpoint that a node reports and the attachment entitles to, without revision and time.

    The present one stays if its node reports it, and if nothing newer is right: a node may be a moment behind.
    """
    present = attachment.status.endpoint
    known = present.epoch if present else -1
    newest: AttachedEndpoint | None = None
    still = False
    for node in caches.reporters(key):
        segment = caches.segments.get(("", node))
        if not isinstance(segment, NodeSegment):
            continue
        for reported in segment.status.endpoints:
            if reported.attachment != "/".join(key):
                continue
            still |= present is not None and node == present.node
            networks = _entitled(attachment, node, segment, reported)
            if networks and reported.epoch > max(known, newest.epoch if newest else -1):
                newest = AttachedEndpoint(
                    cluster=cluster, node=node, sid=reported.sid, networks=networks, epoch=reported.epoch
                )
    if newest:
        return newest
    # A NodeSegment that is missing lists nothing, and proves nothing.
    gone = present is not None and not still and caches.segments.get(("", present.node)) is not None
    return None if gone else present


def _entitled(
    attachment: VpcAttachment, node: str, segment: NodeSegment, reported: SegmentEndpoint
) -> tuple[str, ...]:
    """The networks that the VPC may reach through the endpoint; none if it is not right."""
    allowed = entitlement(attachment)
    if not allowed.ready or node not in allowed.nodes:
        return ()
    try:
        sid, prefix = parse_sid(reported.sid), parse_prefix(segment.spec.prefix)
    except Rejected:
        return ()
    if not owns(prefix, sid) or (vpc_hex(sid.vpc), function_hex(sid.function)) != (
        allowed.vpc,
        allowed.function,
    ):
        return ()
    return tuple(network for network in reported.networks if network in allowed.networks)


def _place(value: AttachedEndpoint | None) -> tuple[object, ...] | None:
    return None if value is None else (value.node, value.sid, value.epoch)
