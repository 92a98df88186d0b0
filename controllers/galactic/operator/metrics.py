"""The operator's metrics."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from galactic.operator.gauges import GatewayCondition, Pool, VpcUsage


class Metrics:
    """``galactic_operator_…``, registered once a process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.reconciled = Counter(
            "galactic_operator_reconciles",
            "Runs of the reconciler by kind and result (ok, retry, error).",
            ("kind", "result"),
            registry=registry,
        )
        self.seconds = Histogram(
            "galactic_operator_reconcile_duration_seconds",
            "Time that one run of the reconciler took.",
            ("kind",),
            buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2.5, 10),
            registry=registry,
        )
        self.waiting = Gauge(
            "galactic_operator_queue_length",
            "Objects that are dirty, worked on, or delayed.",
            registry=registry,
        )
        self.objects = Gauge(
            "galactic_operator_objects", "Objects in memory by kind.", ("kind",), registry=registry
        )
        self.missed = Counter(
            "galactic_operator_missed_deletions",
            "Deleted objects that the watch missed and a resync found.",
            ("kind",),
            registry=registry,
        )

        self.unattached = Gauge(
            "galactic_operator_pods_unattached",
            "Pods that run without their VPC interface: VPCAttachments whose condition Attached is False.",
            registry=registry,
        )
        self.evictions = Counter(
            "galactic_operator_evictions",
            "Evictions of pods without their VPC interface by result (evicted, blocked, failed).",
            ("result",),
            registry=registry,
        )
        self.leading = Gauge(
            "galactic_operator_leading", "1 while this replica holds the lease and acts.", registry=registry
        )
        # A counter that exists from the start shows its first increase.
        for kind in ("vpc", "attachment", "segment", "node", "pod", "policy", "policyslice", "gateway"):
            for result in ("ok", "retry", "error"):
                self.reconciled.labels(kind, result)
        for result in ("evicted", "blocked", "failed"):
            self.evictions.labels(result)
        self._totals = _Totals()
        self._holder = _Holder()
        self._objects = _Objects()
        registry.register(self._totals)
        registry.register(self._holder)
        registry.register(self._objects)

    def read(
        self,
        *,
        waiting: Callable[[], float],
        requests: Callable[[], float],
        dropped: Callable[[], float],
        counts: dict[str, Callable[[], float]],
        leads: Callable[[], bool],
        holder: Callable[[], str],
        unready: Callable[[], Mapping[tuple[str, str], int]],
        unattached: Callable[[], float],
        vpcs: Callable[[], Iterable[VpcUsage]],
        pool: Callable[[], Pool],
        refused_prefixes: Callable[[], Mapping[str, int]],
        gateways: Callable[[], Iterable[GatewayCondition]] = tuple,
    ) -> None:
        """Where gauges and totals read their values when they are scraped."""
        self.waiting.set_function(waiting)
        self._totals.requests = requests
        self._totals.dropped = dropped
        self.leading.set_function(leads)
        self.unattached.set_function(unattached)
        self._holder.holder = holder
        self._objects.unready = unready
        self._objects.vpcs = lambda: vpcs() if leads() else ()
        self._objects.pool = pool
        self._objects.refused_prefixes = lambda: refused_prefixes() if leads() else {}
        self._objects.gateways = lambda: gateways() if leads() else ()
        for kind, count in counts.items():
            self.objects.labels(kind).set_function(count)
            self.missed.labels(kind)


class _Totals(Collector):
    """Counters that other parts of the operator keep from its start."""

    def __init__(self) -> None:
        self.requests: Callable[[], float] = float
        self.dropped: Callable[[], float] = float

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(
            "galactic_operator_api_requests",
            "Requests that the reconciler made to the API server.",
            value=self.requests(),
        )
        yield CounterMetricFamily(
            "galactic_operator_events_dropped",
            "Events that were not written: too many were waiting, or the API server refused them.",
            value=self.dropped(),
        )


class _Holder(Collector):
    """The leader, as a label."""

    def __init__(self) -> None:
        self.holder: Callable[[], str] = str

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "galactic_operator_lease_holder",
            "Always 1; the label is the holder of the lease as this replica last read it, empty for none.",
            labels=["identity"],
        )
        family.add_metric([self.holder()], 1)
        yield family


class _Objects(Collector):
    """The numbers of objects that ``galactic.operator.gauges`` computes."""

    def __init__(self) -> None:
        self.unready: Callable[[], Mapping[tuple[str, str], int]] = dict
        self.vpcs: Callable[[], Iterable[VpcUsage]] = tuple
        self.pool: Callable[[], Pool] = lambda: Pool(0, 0)
        self.refused_prefixes: Callable[[], Mapping[str, int]] = dict
        self.gateways: Callable[[], Iterable[GatewayCondition]] = tuple

    def collect(self) -> Iterator[GaugeMetricFamily]:
        unready = GaugeMetricFamily(
            "galactic_operator_unready_objects",
            "Objects that are not Ready, by kind and reason.",
            labels=["kind", "reason"],
        )
        for (kind, reason), count in self.unready().items():
            unready.add_metric([kind, reason], count)
        yield unready
        pool = GaugeMetricFamily(
            "galactic_operator_pool_prefixes",
            "Prefixes of the pool for Nodes, used or free; 0 of both without a pool.",
            labels=["state"],
        )
        prefixes = self.pool()
        pool.add_metric(["used"], prefixes.used)
        pool.add_metric(["free"], prefixes.free)
        yield pool
        refused = GaugeMetricFamily(
            "galactic_operator_refused_prefixes",
            "Nodes whose SRv6 prefix is refused, by reason. Exposed by the leader.",
            labels=["reason"],
        )
        for reason, count in self.refused_prefixes().items():
            refused.add_metric([reason], count)
        yield refused
        gateways = GaugeMetricFamily(
            "galactic_operator_gateway_condition",
            "1: this condition of the VPCGateway (Accepted, Ready, Redundant, Published) is True, 0: it is not. "
            "Exposed by the leader.",
            labels=["gateway_namespace", "gateway", "type"],
        )
        for condition in self.gateways():
            gateways.add_metric([condition.namespace, condition.name, condition.type], condition.holds)
        yield gateways
        info = GaugeMetricFamily(
            "galactic_operator_vpc_info",
            "Always 1; the labels are a VPC's identifier and its namespace/name. Exposed by the leader.",
            labels=["vpc", "vpc_name"],
        )
        attachments = GaugeMetricFamily(
            "galactic_operator_vpc_attachments",
            "VPCAttachments of a VPC. Exposed by the leader.",
            labels=["vpc_name", "ready"],
        )
        capacity = GaugeMetricFamily(
            "galactic_operator_vpc_addresses",
            "Addresses of a VPC that can be allocated, by IP version. Exposed by the leader.",
            labels=["vpc_name", "family"],
        )
        allocated = GaugeMetricFamily(
            "galactic_operator_vpc_addresses_held",
            "Single addresses that attachments of a VPC hold, by IP version. Exposed by the leader.",
            labels=["vpc_name", "family"],
        )
        namespaces = GaugeMetricFamily(
            "galactic_operator_vpc_namespace_networks",
            "Addresses and terminated networks that the attachments of another namespace hold in a VPC. Exposed by the "
            "leader.",
            labels=["vpc_name", "namespace"],
        )
        for vpc in self.vpcs():
            for namespace, count in vpc.namespaces:
                namespaces.add_metric([vpc.name, namespace], count)
            info.add_metric([vpc.vpc, vpc.name], 1)
            attachments.add_metric([vpc.name, "true"], vpc.ready)
            attachments.add_metric([vpc.name, "false"], vpc.unready)
            for family in vpc.families:
                capacity.add_metric([vpc.name, str(family.version)], family.capacity)
                allocated.add_metric([vpc.name, str(family.version)], family.allocated)
        yield from (info, attachments, capacity, allocated, namespaces)
