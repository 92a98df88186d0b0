"""Traffic of attachments and VPCs as Prometheus metrics: by name, and bounded in number.

No label has an identifier of a VPC, which is for those who may read the VPC. An attachment of a VPC without a known
name has no series until the API server has named it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from galactic.linux.link_counters import LinkCounters
from galactic.node.state.attachment import Attachment, Key
from galactic.node.state.usage import Instance, UsageCounters

NO_ROUTE, TOO_BIG, DEVICE, POLICY = "no_route", "mtu", "device", "policy"
ATTACHMENT: Final = ("vpc_name", "attachment_namespace", "attachment")
VPC: Final = ("vpc_name",)
GATEWAY: Final = ("gateway_namespace", "gateway")


class Series(NamedTuple):
    """Names of an attachment or a VPC, and its counters."""

    labels: tuple[str, ...]
    counters: LinkCounters


@dataclass(frozen=True, slots=True)
class TrafficSeries:
    """Series at one moment. ``left_out``: attachments without series, by reason."""

    attachments: list[Series] = field(default_factory=list)
    vpcs: list[Series] = field(default_factory=list)
    gateways: list[Series] = field(default_factory=list)
    """Of the ways out on this node: *sent* left the cluster, *received* came in."""
    refused: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Packets of new connections that a gateway had no room for."""
    node_drops: Mapping[tuple[str, int], int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    lost: int = 0


def traffic_series(
    usage: UsageCounters,
    attachments: Mapping[Key, Attachment],
    vpc_names: Mapping[int, str],
    limit: int,
) -> TrafficSeries:
    """The series of at most ``limit`` attachments, those with the oldest epochs, and of all VPCs with a name."""
    named = [
        attachment for attachment in attachments.values() if attachment.vpc in vpc_names and attachment.name
    ]
    chosen = sorted(named, key=lambda attachment: (attachment.epoch, attachment.key))[:limit]
    of_attachments: dict[tuple[str, ...], Series] = {}
    of_vpcs: dict[tuple[str, ...], Series] = {}
    for attachment in chosen:
        record = usage.records.get(Instance(attachment.vpc, attachment.function, attachment.epoch))
        if record is not None:
            namespace, _, name = attachment.name.partition("/")
            labels = vpc_names[attachment.vpc], namespace, name
            of_attachments[labels] = Series(labels, record.counters)
    for vpc, counters in usage.vpcs.items():
        if vpc in vpc_names:
            of_vpcs[vpc_names[vpc],] = Series((vpc_names[vpc],), counters)
    left_out = {"limit": len(named) - len(chosen), "unnamed": len(attachments) - len(named)}
    return TrafficSeries([*of_attachments.values()], [*of_vpcs.values()], left_out=left_out, lost=usage.lost)


class TrafficCollector(Collector):
    """``current`` is called at every scrape."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.current: Callable[[], TrafficSeries] = TrafficSeries
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        current = self.current()
        yield from _traffic("attachment", "an attachment", ATTACHMENT, current.attachments)
        yield from _traffic("vpc", "a VPC's attachments on this node", VPC, current.vpcs)
        yield from _led_out(current.gateways)
        refused = CounterMetricFamily(
            "galactic_node_gateway_refused_packets",
            "Packets of new connections that were dropped, because the gateway's VPC has its share of this host's "
            "connection tracking.",
            labels=GATEWAY,
        )
        for names, packets in current.refused.items():
            refused.add_metric(names, packets)
        yield refused
        node = CounterMetricFamily(
            "galactic_node_dropped_packets",
            "Packets dropped on this node, by reason: forged_source, node_service and srv6_space are the packet "
            "filter's; no_route has IPv4 packets of all network namespaces of the host.",
            labels=("reason", "family"),
        )
        for (reason, version), packets in sorted(current.node_drops.items()):
            node.add_metric((reason, f"IPv{version}"), packets)
        yield node
        left_out = GaugeMetricFamily(
            "galactic_node_attachments_without_series",
            "Attachments that have no series of their own: beyond attachment_metrics (limit), or of a VPC that the API "
            "server has not named yet (unnamed).",
            labels=("reason",),
        )
        for reason, count in current.left_out.items():
            left_out.add_metric((reason,), count)
        yield left_out
        lost = CounterMetricFamily(
            "galactic_node_usage_lost_records",
            "Records of ended attachments given up because too many ended within a day; a router that was away lacks "
            "their last traffic.",
        )
        lost.add_metric((), current.lost)
        yield lost


def _traffic(of: str, words: str, labels: tuple[str, ...], series: list[Series]) -> Iterator[Metric]:
    size = CounterMetricFamily(
        f"galactic_node_{of}_bytes",
        f"Bytes of {words}, Ethernet headers included: sent by pods, or received by them.",
        labels=(*labels, "direction"),
    )
    packets = CounterMetricFamily(
        f"galactic_node_{of}_packets",
        f"Packets of {words}: sent by pods, or received by them. With segmentation offload one may have 64 KiB.",
        labels=(*labels, "direction"),
    )
    drops = CounterMetricFamily(
        f"galactic_node_{of}_dropped_packets",
        f"Dropped packets of {words}, by reason: no_route (IPv6), mtu, policy, device.",
        labels=(*labels, "reason"),
    )
    for names, counters in series:
        size.add_metric((*names, "sent"), counters.sent_bytes)
        size.add_metric((*names, "received"), counters.received_bytes)
        packets.add_metric((*names, "sent"), counters.sent_packets)
        packets.add_metric((*names, "received"), counters.received_packets)
        by_reason = {
            NO_ROUTE: counters.no_route,
            TOO_BIG: counters.too_big,
            POLICY: counters.policy,
            DEVICE: counters.device,
        }
        for reason, count in by_reason.items():
            drops.add_metric((*names, reason), count)
    yield from (size, packets, drops)


def _led_out(series: list[Series]) -> Iterator[Metric]:
    labels = (*GATEWAY, "direction")
    size = CounterMetricFamily(
        "galactic_node_gateway_bytes",
        "Bytes that left the cluster by a VPCGateway on this node (out), or came in by it (in), Ethernet headers "
        "included.",
        labels=labels,
    )
    packets = CounterMetricFamily(
        "galactic_node_gateway_packets",
        "Packets that left the cluster by a VPCGateway on this node (out), or came in by it (in).",
        labels=labels,
    )
    for names, counters in series:
        size.add_metric((*names, "out"), counters.sent_bytes)
        size.add_metric((*names, "in"), counters.received_bytes)
        packets.add_metric((*names, "out"), counters.sent_packets)
        packets.add_metric((*names, "in"), counters.received_packets)
    yield from (size, packets)
