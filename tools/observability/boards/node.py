"""The dashboard of one node."""

from typing import Final

from observability.boards.queries import RATE, YES, behind, quantile
from observability.panel import Board, Panel, Query, Variable, bad_above, bad_below

NODE: Final = Board(
    "galactic-node",
    "Galactic / Node",
    "State of one node: attachments, routes, kernel, process.",
    (
        Panel(
            "Ready",
            "Can pods be attached here?",
            (Query('galactic_node_condition{node="$node", type="Ready"}', "Ready"),),
            kind="stat",
            width=4,
            levels=bad_below(1),
            words=YES,
        ),
        Panel(
            "Broker",
            "Is there a session? Without one, routes come from the API server, seconds later.",
            (Query('galactic_node_connected{node="$node", peer="broker"}', "broker"),),
            kind="stat",
            width=4,
            levels=bad_below(1),
            words=YES,
        ),
        Panel(
            "API server",
            "Does the API server answer? Without it, the NodeSegment's status is not written.",
            (Query('galactic_node_connected{node="$node", peer="kube-apiserver"}', "API server"),),
            kind="stat",
            width=4,
            levels=bad_below(1),
            words=YES,
        ),
        Panel(
            "Attachments",
            "How many pod interfaces does this node have?",
            (Query('galactic_node_endpoints{node="$node"}', "attachments"),),
            kind="stat",
            width=4,
        ),
        Panel(
            "VPCs",
            "How many VPCs have an attachment on this node?",
            (Query('galactic_node_vpcs{node="$node"}', "VPCs"),),
            kind="stat",
            width=4,
        ),
        Panel(
            "Routes to other nodes",
            "How many SRv6 routes are in the kernel?",
            (Query('galactic_node_remote_routes{node="$node"}', "routes"),),
            kind="stat",
            width=4,
        ),
        Panel(
            "Conditions",
            "Which conditions of the NodeSegment are True, and since when?",
            (Query('galactic_node_condition{node="$node"}', "{{type}}"),),
            kind="states",
            width=12,
            levels=bad_below(1),
            words={"0": "False", "1": "True"},
        ),
        Panel(
            "Seconds behind the router, by VPC",
            "How far is the node's table behind the published one? A spike is a change between two scrapes.",
            (Query(behind('{node="$node"}'), "{{vpc_name}}"),),
            unit="s",
            width=12,
            levels=bad_above(60),
        ),
        Panel(
            "CNI calls",
            "Which CNI calls does the kubelet make per minute, and how many fail?",
            (
                Query(
                    f'60 * sum by (verb) (rate(galactic_node_cni_requests_total{{node="$node", code="0"}}{RATE}))',
                    "{{verb}}",
                ),
                Query(
                    f'60 * sum(rate(galactic_node_cni_requests_total{{node="$node", code!="0"}}{RATE}))',
                    "failed",
                ),
            ),
        ),
        Panel(
            "CNI ADD",
            "How long do pods wait for their network? Median and 99th percentile.",
            (
                Query(
                    quantile(0.5, "galactic_node_cni_request_seconds", selector='{node="$node", verb="add"}'),
                    "50 %",
                ),
                Query(
                    quantile(
                        0.99, "galactic_node_cni_request_seconds", selector='{node="$node", verb="add"}'
                    ),
                    "99 %",
                ),
            ),
            unit="s",
        ),
        Panel(
            "Kernel sync duration",
            "How long does a sync take, by kind? 99th percentile.",
            (
                Query(
                    quantile(0.99, "galactic_node_sync_seconds", "kind", '{node="$node"}'),
                    "{{kind}}",
                ),
            ),
            unit="s",
        ),
        Panel(
            "Failures in five minutes",
            "How many syncs failed, kernel objects and firewall chains were changed by others, and tables "
            "were read again?",
            (
                Query('increase(galactic_node_sync_failures_total{node="$node"}[5m])', "rounds"),
                Query('increase(galactic_node_drift_objects_total{node="$node"}[5m])', "objects"),
                Query('increase(galactic_node_filter_drift_chains_total{node="$node"}[5m])', "chains"),
                Query('increase(galactic_node_table_rereads_total{node="$node"}[5m])', "tables"),
            ),
            levels=bad_above(1),
        ),
        Panel(
            "Pods refused in five minutes",
            "How many attempts did the node refuse, because the pod does not carry the attachment? NotCarried alone "
            "is a pod that starts before the operator has written it.",
            (Query('increase(galactic_node_refused_total{node="$node"}[5m])', "{{reason}}"),),
            levels=bad_above(1),
        ),
        Panel(
            "Dropped packets",
            "How many packets does the node drop per second, by reason? `no_route` is IPv4, of all namespaces.",
            (
                Query(
                    f'sum by (reason) (rate(galactic_node_dropped_packets_total{{node="$node"}}{RATE}))',
                    "{{reason}}",
                ),
            ),
            levels=bad_above(1),
            unit="ops",
        ),
        Panel(
            "Traffic by VPC",
            "How many bytes do pods of each VPC send and receive here per second?",
            (
                Query(
                    f'sum by (vpc_name) (rate(galactic_node_vpc_bytes_total{{node="$node"}}{RATE}))',
                    "{{vpc_name}}",
                ),
            ),
            unit="Bps",
        ),
        Panel(
            "Ways out",
            "How many VPCs does this node lead out of the cluster, and how many gateways' nodes does it see answer?",
            (
                Query('galactic_node_ways_out{node="$node"}', "VPCs led out"),
                Query('galactic_node_gateway_nodes{node="$node"}', "other nodes: {{state}}"),
                Query(
                    'increase(galactic_node_gateway_failovers_total{node="$node"}[5m])', "ceased to answer"
                ),
            ),
        ),
        Panel(
            "Traffic out of the cluster",
            "How many bytes leave by each gateway on this node per second, and come in?",
            (
                Query(
                    "sum by (gateway_namespace, gateway, direction) "
                    f'(rate(galactic_node_gateway_bytes_total{{node="$node"}}{RATE}))',
                    "{{gateway_namespace}}/{{gateway}} {{direction}}",
                ),
            ),
            unit="Bps",
        ),
        Panel(
            "Attachments without series",
            "How many attachments have no metrics of their own, because there are more than attachment_metrics?",
            (Query('galactic_node_attachments_without_series{node="$node"}', "{{reason}}"),),
        ),
        Panel(
            "VPCs read from the API server",
            "For how many VPCs does the node read routes from the API server, because the broker sends none?",
            (Query('galactic_node_fallback_vpcs{node="$node"}', "VPCs"),),
            levels=bad_above(1),
        ),
        Panel(
            "Time since the last full resync",
            "How long ago was the whole plan last compared with the kernel?",
            (
                Query(
                    'time() - (galactic_node_last_full_sync_timestamp_seconds{node="$node"} > 0)',
                    "seconds",
                ),
            ),
            unit="s",
        ),
        Panel(
            "Process: CPU",
            "How much CPU does the node controller use?",
            (Query(f'rate(process_cpu_seconds_total{{job="galactic-node", node="$node"}}{RATE})', "in use"),),
            width=12,
        ),
        Panel(
            "Process: memory",
            "How much memory does the node controller use?",
            (Query('process_resident_memory_bytes{job="galactic-node", node="$node"}', "resident"),),
            unit="bytes",
            width=12,
        ),
    ),
    (Variable("node", "Node", "node", "galactic_node_endpoints"),),
)
