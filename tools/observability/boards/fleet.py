"""The dashboard of the whole installation."""

from typing import Final

from observability.boards.queries import RATE, full, published, quantile
from observability.panel import Board, Level, Panel, Query, bad_above

BEHIND_FOR_A_MINUTE: Final = (
    f"galactic_node_vpc_revision < bool on (vpc_name) group_left () {published(' offset 1m')}"
)

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
            "Gateways",
            "How many gateways lack a condition? Not Ready: nothing leaves the VPC. `galactic status` has names.",
            (
                Query(
                    "count by (type) (galactic_operator_gateway_condition) - "
                    "sum by (type) (galactic_operator_gateway_condition)",
                    "not {{type}}",
                ),
                Query(
                    "count(galactic_node_gateway_node_answers == 0) or vector(0)", "nodes that see one silent"
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
