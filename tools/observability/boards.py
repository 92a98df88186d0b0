"""The four dashboards: the fleet, one node, one VPC, the routers.

Every panel answers a question. Counters of failures start at 0, so that their panels have data without any failure.
"""

from typing import Final

from observability.panel import Board, Level, Panel, Query, Variable, bad_above, bad_below

RATE: Final = "[$__rate_interval]"
YES: Final = {"0": "no", "1": "yes"}


def quantile(share: float, metric: str, by: str = "", selector: str = "") -> str:
    """The ``share`` quantile of a histogram."""
    labels = ", ".join(filter(None, ("le", by)))
    return f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{selector}{RATE})))"


def behind(node: str = "", vpc: str = "") -> str:
    """Seconds from the table revision that a node has to the newest published revision, by VPC."""
    return (
        f"clamp_min(max by (vpc) (galactic_router_revision{vpc}) - on (vpc) group_right () "
        f"(galactic_node_vpc_revision{node or vpc} > 0), 0) / 1000"
    )


def full(vpc: str = "") -> str:
    """The share of a VPC's addresses that is allocated."""
    return f"galactic_operator_vpc_addresses_held{vpc} / (galactic_operator_vpc_addresses{vpc} > 0)"


BEHIND_FOR_A_MINUTE: Final = (
    "galactic_node_vpc_revision < bool on (vpc) group_left () "
    "max by (vpc) (galactic_router_revision offset 1m)"
)
CHOSEN: Final = '{vpc_name="$vpc_name"}'

FLEET: Final = Board(
    "galactic-fleet",
    "Galactic / Fleet",
    "State of all nodes, routers and objects, and where a fault is.",
    (
        Panel(
            "Firing alerts",
            "Which alerts fire? Each has a runbook.",
            # Without a series of ALERTS no rule is pending or firing: the value is 0.
            (
                Query(
                    'count(ALERTS{alertname=~"Galactic.+", alertstate="firing"}) or vector(0)',
                    "firing",
                ),
            ),
            kind="stat",
            width=4,
            levels=bad_above(1),
        ),
        Panel(
            "Nodes",
            "How many node controllers does Prometheus scrape?",
            (Query('count(up{job="galactic-node"})', "nodes"),),
            kind="stat",
            width=4,
        ),
        Panel(
            "Nodes not ready",
            "Nodes that cannot attach pods, or do not answer Prometheus. Attached pods keep their traffic.",
            (
                Query(
                    'count(up{job="galactic-node"}) - sum(galactic_node_condition{type="Ready"})',
                    "not ready",
                ),
            ),
            kind="stat",
            width=4,
            levels=bad_above(1),
        ),
        Panel(
            "Leading routers",
            "How many routers publish routes? Exactly 1 is right.",
            (Query("sum(galactic_router_leader)", "leaders"),),
            kind="stat",
            width=4,
            levels=(Level(float("-inf"), "red"), Level(1, "green"), Level(2, "red")),
        ),
        Panel(
            "Oldest unpublished change",
            "For how long has the oldest route change been waiting for the broker?",
            (Query("max(galactic_router_oldest_change_seconds)", "waiting"),),
            kind="stat",
            unit="s",
            width=4,
            levels=bad_above(5, 30),
        ),
        Panel(
            "Webhook certificate",
            "For how long is it still valid? The webhook renews its own; a certificate from elsewhere it does not.",
            (Query("min(galactic_webhook_certificate_expiry_timestamp_seconds) - time()", "valid"),),
            kind="stat",
            unit="s",
            width=4,
            levels=(Level(float("-inf"), "red"), Level(7 * 86400, "green")),
        ),
        Panel(
            "Attachments and routes",
            "How many are there, and did the number jump?",
            (
                Query("max(galactic_router_endpoints)", "attached"),
                Query("max(galactic_router_routes)", "routes"),
                Query('max(galactic_operator_objects{kind="VPC"})', "VPCs"),
            ),
        ),
        Panel(
            "Objects not Ready",
            "How many objects have no Ready condition that is True? `galactic status` gives the reason.",
            (
                Query(
                    "max by (kind) (sum by (kind, instance) (galactic_operator_unready_objects))",
                    "{{kind}}",
                ),
            ),
            levels=bad_above(1),
        ),
        Panel(
            "Convergence, registration to broker",
            "How long does a change take from the node's registration to the broker's confirmation? "
            "Median and 99th percentile.",
            (
                Query(quantile(0.5, "galactic_router_convergence_seconds"), "50 %"),
                Query(quantile(0.99, "galactic_router_convergence_seconds"), "99 %"),
            ),
            unit="s",
        ),
        Panel(
            "Nodes with a stale table",
            "How many VPC tables on a node are older than those published a minute ago?",
            (Query(f"sum by (node) ({BEHIND_FOR_A_MINUTE})", "{{node}}"),),
            levels=bad_above(1),
            leads_to="galactic-node",
        ),
        Panel(
            "Failed CNI calls",
            "How many CNI calls failed in five minutes? The kubelet repeats each.",
            (
                Query(
                    'sum by (node) (increase(galactic_node_cni_requests_total{code!="0"}[5m]))',
                    "{{node}}",
                ),
            ),
            levels=bad_above(1),
            leads_to="galactic-node",
        ),
        Panel(
            "CNI ADD, 99th percentile",
            "How long do pods wait for their network?",
            (
                Query(
                    quantile(0.99, "galactic_node_cni_request_seconds", "node", '{verb="add"}'),
                    "{{node}}",
                ),
            ),
            unit="s",
            leads_to="galactic-node",
        ),
        Panel(
            "Kernel drift",
            "How many of Galactic's kernel objects and firewall chains did another program change in five minutes?",
            (
                Query(
                    "sum by (node) (increase(galactic_node_drift_objects_total[5m]) "
                    "+ increase(galactic_node_filter_drift_chains_total[5m]))",
                    "{{node}}",
                ),
            ),
            levels=bad_above(1),
            leads_to="galactic-node",
        ),
        Panel(
            "Fullest VPCs",
            "Which VPCs run out of addresses?",
            (Query(f"topk(5, max by (vpc_name, family) ({full()}))", "{{vpc_name}} IPv{{family}}"),),
            unit="percentunit",
            levels=bad_above(0.8, 0.9),
        ),
        Panel(
            "Prefix pool",
            "How many node prefixes are free and used? Both 0: no pool is configured.",
            (Query("max by (state) (galactic_operator_pool_prefixes)", "{{state}}"),),
        ),
        Panel(
            "Rejected paths",
            "Endpoints that the router rejects, per second and reason: a misconfiguration or an attempt "
            "to hijack routes.",
            (
                Query(
                    f"topk(5, sum by (reason) (rate(galactic_router_rejections_total{RATE})))",
                    "{{reason}}",
                ),
            ),
            unit="ops",
        ),
    ),
)

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
            (Query(behind(node='{node="$node"}'), "{{vpc}}"),),
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

VPC: Final = Board(
    "galactic-vpc",
    "Galactic / VPC",
    "One VPC: its attachments, their nodes, and whether all nodes have its current table.",
    (
        Panel(
            "Attachments ready",
            "How many attachments can be used by a pod?",
            (
                Query(
                    'max(galactic_operator_vpc_attachments{vpc_name="$vpc_name", ready="true"})',
                    "ready",
                ),
            ),
            kind="stat",
            width=6,
        ),
        Panel(
            "Attachments not ready",
            "How many cannot be used yet? `kubectl describe vpca` gives the reason.",
            (
                Query(
                    'max(galactic_operator_vpc_attachments{vpc_name="$vpc_name", ready="false"})',
                    "not ready",
                ),
            ),
            kind="stat",
            width=6,
            levels=bad_above(1),
        ),
        Panel(
            "Attached",
            "How many are attached to a pod on a node?",
            (Query('sum(galactic_node_vpc_endpoints{vpc="$vpc"})', "attached"),),
            kind="stat",
            width=6,
        ),
        Panel(
            "Addresses in use",
            "Which share of the addresses is allocated? At 100 % the next attachment waits.",
            (
                Query(
                    f"max by (family) ({full(CHOSEN)})",
                    "IPv{{family}}",
                ),
            ),
            kind="stat",
            unit="percentunit",
            width=6,
            levels=bad_above(0.8, 0.9),
        ),
        Panel(
            "Attachments by node",
            "How many attachments of the VPC does each node have?",
            (Query('sum by (node) (galactic_node_vpc_endpoints{vpc="$vpc"})', "{{node}}"),),
            width=12,
            leads_to="galactic-node",
            stacked=True,
        ),
        Panel(
            "Allocated addresses",
            "How many addresses are allocated, by family?",
            (
                Query(
                    'max by (family) (galactic_operator_vpc_addresses_held{vpc_name="$vpc_name"})',
                    "IPv{{family}}",
                ),
            ),
            width=12,
        ),
        Panel(
            "Seconds behind the router, by node",
            "How far is each node's table behind the published one? A spike is a change between two scrapes.",
            (Query(behind(vpc='{vpc="$vpc"}'), "{{node}}"),),
            unit="s",
            width=12,
            levels=bad_above(60),
            leads_to="galactic-node",
        ),
        Panel(
            "Route changes in five minutes",
            "How often does the VPC's table change? Pods that start, end and move change it.",
            (Query('max(changes(galactic_router_revision{vpc="$vpc"}[5m]))', "changes"),),
            width=12,
        ),
    ),
    (
        Variable("vpc_name", "VPC", "vpc_name", "galactic_operator_vpc_info"),
        Variable("vpc", "Identifier", "vpc", 'galactic_operator_vpc_info{vpc_name="$vpc_name"}', hidden=True),
    ),
)

ROUTER: Final = Board(
    "galactic-router",
    "Galactic / Routers",
    "Leadership, and whether route changes reach the broker.",
    (
        Panel(
            "Time since the last election",
            "How long ago did the current leader take over? At each election all nodes register again.",
            # A term is the wall clock, in ms, at which its leader claimed it.
            (Query("time() - max(galactic_router_term) / 1000", "leading"),),
            kind="stat",
            unit="s",
            width=4,
        ),
        Panel(
            "Registered nodes",
            "How many nodes have registered?",
            (Query("max(galactic_router_nodes)", "nodes"),),
            kind="stat",
            width=4,
        ),
        Panel(
            "Contested networks",
            "How many networks does more than one attachment announce?",
            (Query("max(galactic_router_conflicts)", "contested"),),
            kind="stat",
            width=4,
            levels=bad_above(1),
        ),
        Panel(
            "Damped topics",
            "How many topics does the router read only once a second, because their nodes flooded it?",
            (Query("sum(galactic_router_topics_aside)", "topics"),),
            kind="stat",
            width=4,
            levels=bad_above(1),
        ),
        Panel(
            "Pending status writes",
            "How many VPCAttachments lack their current endpoint in status?",
            (Query("sum(galactic_router_recording_lag_attachments)", "waiting"),),
            kind="stat",
            width=4,
            levels=bad_above(100, 1000),
        ),
        Panel(
            "Import policy",
            "Is the admissions file valid? Yes also without a file.",
            (Query("min(galactic_router_admissions_valid)", "valid"),),
            kind="stat",
            width=4,
            levels=bad_below(1),
            words=YES,
        ),
        Panel(
            "Leader",
            "Which router leads? Exactly one does at any time.",
            (Query("galactic_router_leader", "{{instance}}"),),
            kind="states",
            width=12,
            levels=(Level(float("-inf"), "blue"), Level(1, "green")),
            words={"0": "standby", "1": "leader"},
        ),
        Panel(
            "Connected to the broker",
            "Which routers have a session with the broker?",
            (Query('galactic_mqtt_connected{job="galactic-router"}', "{{instance}}"),),
            kind="states",
            width=12,
            levels=bad_below(1),
            words=YES,
        ),
        Panel(
            "Oldest unpublished change",
            "For how long has the oldest route change been waiting for the broker, by router?",
            (Query("galactic_router_oldest_change_seconds", "{{instance}}"),),
            unit="s",
            levels=bad_above(5, 30),
        ),
        Panel(
            "Convergence, registration to broker",
            "How long does a change take from the node's registration to the broker's confirmation? "
            "Median and 99th percentile.",
            (
                Query(quantile(0.5, "galactic_router_convergence_seconds"), "50 %"),
                Query(quantile(0.99, "galactic_router_convergence_seconds"), "99 %"),
            ),
            unit="s",
        ),
        Panel(
            "PUBACK latency",
            "How long does the broker take to confirm a publish? 99th percentile.",
            (
                Query(
                    quantile(0.99, "galactic_router_puback_seconds", "instance"),
                    "{{instance}}",
                ),
            ),
            unit="s",
        ),
        Panel(
            "Registrations per second",
            "How many registrations does the router accept, by source: MQTT or the API server?",
            (
                Query(
                    f"sum by (source) (rate(galactic_router_registrations_total{RATE}))",
                    "{{source}}",
                ),
            ),
            unit="ops",
        ),
        Panel(
            "Rejected paths per second",
            "How many endpoints does the router reject, by reason? `StaleEpoch` is normal when a pod moves.",
            (
                Query(
                    f"topk(5, sum by (reason) (rate(galactic_router_rejections_total{RATE})))",
                    "{{reason}}",
                ),
            ),
            unit="ops",
        ),
        Panel(
            "Queues",
            "How many node messages wait to be read, and how many VPCs to be published?",
            (
                Query("sum(galactic_router_inbox_waiting)", "messages of nodes"),
                Query("sum(galactic_router_queue_vpcs)", "VPCs to publish"),
            ),
        ),
        Panel(
            "Publishes per second",
            "How many messages does the router publish, repeat, and restore after foreign writes?",
            (
                Query(f"sum(rate(galactic_router_publishes_total{RATE}))", "confirmed"),
                Query(f"sum(rate(galactic_router_publish_failures_total{RATE}))", "retried"),
                Query(f"sum(rate(galactic_router_foreign_messages_total{RATE}))", "foreign, restored"),
            ),
            unit="ops",
        ),
        Panel(
            "History lag",
            "How old is the oldest change that is not in the database? No data without a database.",
            (Query("max(galactic_router_database_lag_seconds)", "behind"),),
            unit="s",
            levels=bad_above(60),
        ),
        Panel(
            "CPU in use",
            "How much CPU does each router use?",
            (Query(f'rate(process_cpu_seconds_total{{job="galactic-router"}}{RATE})', "{{instance}}"),),
        ),
    ),
)

BOARDS: Final = (FLEET, NODE, VPC, ROUTER)
