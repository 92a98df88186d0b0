"""Links between nodes that are smaller than the underlay's interface: routers report them, senders are answered.

The kernel does neither (``galactic.linux.too_big``). A report counts if it quotes a packet that this node has sent:
from its SRv6 loopback to a SID, with an inner source that is attached here and an inner destination that the VPC
reaches by that SID. Senders remember the answer for ten minutes (RFC 8201 §5.3, ``net.ipv6.route.mtu_expires``,
``net.ipv4.route.mtu_expires``) and then try the full size again.
"""

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Final, Protocol

import structlog

from galactic import names, srv6
from galactic.backoff import Backoff
from galactic.errors import GalacticError
from galactic.linux.objects import LENGTHS, Address
from galactic.linux.too_big import TooBig, answer
from galactic.node.dataplane.plan import Host
from galactic.node.state.attachment import SMALLEST_MTU
from galactic.node.state.condition import ConditionState
from galactic.node.state.store import Store

log = structlog.get_logger(__name__)
FORGET_SECONDS: Final = 900.0
"""After a path's last report: longer than senders remember, so that one that still sends is known without a gap."""
ANSWERS_PER_SECOND: Final = 200
VPC_ANSWERS_PER_SECOND: Final = 100
"""Of one VPC: another's pods still learn their MTU while a tenant's provoke reports without end."""
PAIR_SECONDS: Final = 0.05
"""Between two answers about the same source and destination: a burst has a report for each of its packets."""
PAIRS: Final = 4096
BURST: Final = 50
PAUSE_SECONDS: Final = 0.05
"""After BURST messages: a thousand a second are read at most."""
CHECK_SECONDS: Final = 10.0
"""Between looks at the node's prefix while no message arrives."""
NAMED: Final = 3
BACKOFF_SECONDS: Final = (0.5, 60.0)
ANSWERED, FORGED, LIMITED, FAILED = "answered", "forged", "limited", "failed"
RESULTS: Final = (ANSWERED, FORGED, LIMITED, FAILED)


class Messages(Protocol):
    """``galactic.linux.too_big.TooBigSocket``, or a test's."""

    async def receive(self) -> TooBig | None: ...

    def send(self, vrf: str, packet: bytes, destination: Address) -> bool: ...


@dataclass(slots=True)
class Path:
    """The way to one node. ``mtu``: bytes of the outer packet; ``router``: which reported it; ``seen``: when last."""

    mtu: int
    router: IPv6Address
    seen: float


@dataclass(slots=True)
class _Bucket:
    """Tokens for a second at most, ``rate`` of them a second."""

    rate: int
    tokens: float = math.inf
    at: float = 0.0

    def filled(self, now: float) -> bool:
        """Whether it has a token now."""
        self.tokens = min(self.tokens + (now - self.at) * self.rate, float(self.rate))
        self.at = now
        return self.tokens >= 1


class PathMTU:
    """The paths that routers have reported. ``host``: None until the node is prepared. ``messages`` opens the socket
    for reports to the node's SRv6 loopback.

    ``count`` is called with the result of each report, one of ``RESULTS``; ``lost`` with the VPC and the sender of a
    packet that was too big.
    """

    def __init__(
        self,
        messages: Callable[[IPv6Address], AbstractContextManager[Messages]],
        store: Store,
        host: Callable[[], Host | None],
        count: Callable[[str], object] = lambda _: None,
        lost: Callable[[int, Address], object] = lambda _vpc, _sender: None,
    ) -> None:
        self._open, self._store, self._host, self._count, self._lost = messages, store, host, count, lost
        self._paths: dict[int, Path] = {}  # by locator
        self._pairs: dict[tuple[int, Address, Address], float] = {}
        self._all, self._by_vpc = _Bucket(ANSWERS_PER_SECOND), dict[int, _Bucket]()
        self._problem: str | None = None

    async def run(self) -> None:
        """For ever. Without the socket it is tried again, and the condition reports it."""
        backoff = Backoff(*BACKOFF_SECONDS)
        while True:
            if (host := self._host()) is None:
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            try:
                with self._open(srv6.loopback(host.prefix)) as messages:
                    self._problem = None
                    await self._receive(messages, host.prefix)
                    backoff.succeeded()
                    continue
            except GalacticError as error:
                if str(error) != self._problem:
                    log.warning("packet-too-big messages not received", error=str(error))
                self._problem = str(error)
            await asyncio.sleep(backoff.pause())

    async def _receive(self, messages: Messages, prefix: IPv6Network) -> None:
        """Answers reports until the node has another prefix.

        A flood costs a bounded share of the processor: the socket is read BURST times, then again after a pause, and
        the kernel drops what does not fit into its buffer.
        """
        count = 0
        while (host := self._host()) is None or host.prefix == prefix:
            try:
                async with asyncio.timeout(CHECK_SECONDS):
                    report = await messages.receive()
            except TimeoutError:
                continue
            if report:
                self.observe(report, time.monotonic(), messages)
            count += 1
            # A socket with messages returns at once, without giving other tasks their turn.
            await asyncio.sleep(0 if count % BURST else PAUSE_SECONDS)

    def observe(self, report: TooBig, now: float, messages: Messages) -> str:
        """Records a report and answers the sender. The result. ``now``: seconds, monotonic."""
        result = self._observe(report, now, messages)
        self._count(result)
        if result != FORGED:
            self._lost(_vpc(report.segment), report.sender)
        return result

    def paths(self, now: float) -> dict[IPv6Network, Path]:
        """The paths with a smaller link than the underlay's interface, by the other node's locator."""
        host = self._host()
        self._paths = {
            locator: path
            for locator, path in self._paths.items()
            if now - path.seen < FORGET_SECONDS and host is not None and path.mtu < host.mtu
        }
        return {IPv6Network((locator << 64, 64)): path for locator, path in sorted(self._paths.items())}

    def condition(self, now: float) -> ConditionState:
        if self._problem:
            message = f"{self._problem}: give the container CAP_NET_RAW, or give all links the underlay's MTU"
            return ConditionState("PathMTU", False, "NotReceived", message)
        host, paths = self._host(), self.paths(now)
        if host is None or not paths:
            return ConditionState("PathMTU", True, "NoSmallerLink", "no router has reported a smaller link")
        named = ", ".join(
            f"{path.mtu} bytes to {locator} (reported by {path.router})"
            for locator, path in list(paths.items())[:NAMED]
        )
        more = f" and to {len(paths) - NAMED} more nodes" if len(paths) > NAMED else ""
        message = (
            f"smaller links on the way: {named}{more}; {host.underlay} has MTU {host.mtu}; each sender loses its "
            f"first full packets every ten minutes: give these links MTU {host.mtu}, or set the operator's mtu"
        )
        return ConditionState("PathMTU", False, "SmallerLink", message)

    def _observe(self, report: TooBig, now: float, messages: Messages) -> str:
        host = self._host()
        if host is None or not self._is_ours(report, host):
            return FORGED
        path = self._path(report, now)
        if not self._allow(report, now):
            return LIMITED
        mtu = path.mtu - report.overhead
        if report.sender.version == 6:
            mtu = max(mtu, SMALLEST_MTU)  # RFC 8201 §4: a smaller one is ignored
        vrf = names.vrf(_vpc(report.segment))
        return ANSWERED if messages.send(vrf, answer(report, mtu), report.sender) else FAILED

    def _is_ours(self, report: TooBig, host: Host) -> bool:
        """Whether the report quotes a packet of this node, and an MTU that is possible: the underlay's own at most,
        which its interface may have for a moment before those of the pods.
        """
        if not SMALLEST_MTU <= report.mtu <= host.mtu or report.source != srv6.loopback(host.prefix).packed:
            return False
        vpc, sender, destination = _vpc(report.segment), report.sender, report.destination
        remotes = self._store.tables.get(vpc)
        attachments = self._store.attachments.of_vpc(vpc)
        return (
            remotes is not None
            and any(sender in network for one in attachments for network in one.announces)
            and any(remotes.segment(network) == report.segment for network in _covering(destination))
        )

    def _path(self, report: TooBig, now: float) -> Path:
        """The path to the node that has the SID, after this report."""
        locator = int.from_bytes(report.segment[:8], "big")
        known = self._paths.get(locator)
        if known is None or now - known.seen >= FORGET_SECONDS or report.mtu <= known.mtu:
            if known is None or known.mtu != report.mtu:
                about = {"locator": str(IPv6Network((locator << 64, 64))), "router": str(report.router)}
                log.warning("a smaller link on the way to a node", mtu=report.mtu, **about)
            known = self._paths[locator] = Path(report.mtu, report.router, now)
        return known

    def _allow(self, report: TooBig, now: float) -> bool:
        """Within the limits per second, and PAIR_SECONDS after the last answer about these two."""
        pair = _vpc(report.segment), report.sender, report.destination
        if now - self._pairs.get(pair, -PAIR_SECONDS) < PAIR_SECONDS:
            return False
        vpc = self._by_vpc.setdefault(pair[0], _Bucket(VPC_ANSWERS_PER_SECOND))
        if not (vpc.filled(now) and self._all.filled(now)):
            return False
        vpc.tokens -= 1
        self._all.tokens -= 1
        if len(self._pairs) >= PAIRS:
            self._pairs = {known: at for known, at in self._pairs.items() if now - at < PAIR_SECONDS}
        self._pairs[pair] = now
        return True


def _vpc(segment: bytes) -> int:
    return int.from_bytes(segment[8:14], "big")


def _covering(address: Address) -> list[bytes]:
    """All networks that have the address, packed, the longest first."""
    bits, number = address.max_prefixlen, int(address)
    return [
        LENGTHS[length] + (number >> bits - length << bits - length).to_bytes(bits // 8, "big")
        for length in range(bits, -1, -1)
    ]
