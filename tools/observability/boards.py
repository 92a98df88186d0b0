"""The four dashboards: the fleet, one node, one VPC, the routers.

Every panel answers a question. What only counts mishaps counts from 0, so that it has data on a good day, too.
"""

from typing import Final

from observability.panel import Board, Level, Panel, Query, Variable, bad_above, bad_below

RATE: Final = "[$__rate_interval]"
YES: Final = {"0": "no", "1": "yes"}


def quantile(share: float, metric: str, by: str = "", selector: str = "") -> str:
    """The share's quantile of a histogram."""
    labels = ", ".join(filter(None, ("le", by)))
    return f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{selector}{RATE})))"


def behind(node: str = "", vpc: str = "") -> str:
    """Seconds between the last change of a VPC's table that was told and the last one that a node has."""
    return (
        f"clamp_min(max by (vpc) (galactic_router_revision{vpc}) - on (vpc) group_right () "
        f"(galactic_node_vpc_revision{node or vpc} > 0), 0) / 1000"
    )


def full(vpc: str = "") -> str:
    """The share of a VPC's addresses that are held."""
    return f"galactic_operator_vpc_addresses_held{vpc} / (galactic_operator_vpc_addresses{vpc} > 0)"


BEHIND_FOR_A_MINUTE: Final = (
    "galactic_node_vpc_revision < bool on (vpc) group_left () "
    "max by (vpc) (galactic_router_revision offset 1m)"
)
CHOSEN: Final = '{vpc_name="$vpc_name"}'

FLEET: Final = Board(
    "galactic-fleet",
    "Galactic / Fleet",
    "Is everything all right, and if not, where to look.",
    (
        Panel(
            "Firing alerts",
            "Is there anything to do? Each alert has a runbook.",
            # No series of ALERTS means that no rule is pending or firing: 0 is the truth.
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
            "How many node controllers are there?",
            (Query('count(up{job="galactic-node"})', "nodes"),),
            kind="stat",
            width=4,
        ),
        Panel(
            "Nodes not ready",
            "They take no new pods, or do not answer. What runs there goes on running.",
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
            "Exactly one publishes routes.",
            (Query("sum(galactic_router_leader)", "leaders"),),
            kind="stat",
            width=4,
            levels=(Level(float("-inf"), "red"), Level(1, "green"), Level(2, "red")),
        ),
        Panel(
            "Oldest unpublished change",
            "For how long has a change of routes been waiting for the broker?",
            (Query("max(galactic_router_oldest_change_seconds)", "waiting"),),
            kind="stat",
            unit="s",
            width=4,
            levels=bad_above(5, 30),
        ),
        Panel(
            "Webhooks' certificate",
            "How long is it still valid? It is changed in time by itself unless it is brought from outside.",
            (Query("min(galactic_webhook_certificate_expiry_timestamp_seconds) - time()", "valid"),),
            kind="stat",
            unit="s",
            width=4,
            levels=(Level(float("-inf"), "red"), Level(7 * 86400, "green")),
        ),
        Panel(
            "Attachments and routes",
            "How much is there, and did it jump?",
            (
                Query("max(galactic_router_endpoints)", "attached"),
                Query("max(galactic_router_routes)", "routes"),
                Query('max(galactic_operator_objects{kind="VPC"})', "VPCs"),
            ),
        ),
        Panel(
            "Objects that are not Ready",
            "Whom does something not work for? `galactic status` says why.",
            (
                Query(
                    "max by (kind) (sum by (kind, instance) (galactic_operator_unready_objects))",
                    "{{kind}}",
                ),
            ),
            levels=bad_above(1),
        ),
        Panel(
            "Route change, registration to broker",
            "How fast does a change get out? Half of them, and 99 of 100.",
            (
                Query(quantile(0.5, "galactic_router_convergence_seconds"), "50 %"),
                Query(quantile(0.99, "galactic_router_convergence_seconds"), "99 %"),
            ),
            unit="s",
        ),
        Panel(
            "Nodes with a stale table",
            "How many tables of a VPC on a node lack what was told a minute ago?",
            (Query(f"sum by (node) ({BEHIND_FOR_A_MINUTE})", "{{node}}"),),
            levels=bad_above(1),
            leads_to="galactic-node",
        ),
        Panel(
            "CNI calls that failed",
            "Do pods start? Each failure is tried again by the kubelet.",
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
            "CNI ADD, 99 of 100",
            "For how long do pods wait for their network?",
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
            "Put back in the kernel",
            "Does somebody else change what is ours, in five minutes?",
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
            "Which VPC runs out of addresses?",
            (Query(f"topk(5, max by (vpc_name, family) ({full()}))", "{{vpc_name}} IPv{{family}}"),),
            unit="percentunit",
            levels=bad_above(0.8, 0.9),
        ),
        Panel(
            "Prefixes of the pool",
            "Does the next Node get one? 0 of both: there is no pool.",
            (Query("max by (state) (galactic_operator_pool_prefixes)", "{{state}}"),),
        ),
        Panel(
            "Rejected paths",
            "What nodes said and the router dropped, a second, by reason: a mistake, or somebody who tries something.",
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
    "What one node has, and what it lacks.",
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
            "Are route changes told at once? Otherwise they come from the API server, later.",
            (Query('galactic_node_connected{node="$node", peer="broker"}', "broker"),),
            kind="stat",
            width=4,
            levels=bad_below(1),
            words=YES,
        ),
        Panel(
            "API server",
            "Is what is attached here written down?",
            (Query('galactic_node_connected{node="$node", peer="kube-apiserver"}', "API server"),),
            kind="stat",
            width=4,
            levels=bad_below(1),
            words=YES,
        ),
        Panel(
            "Attachments",
            "How many interfaces of pods are here?",
            (Query('galactic_node_endpoints{node="$node"}', "attachments"),),
            kind="stat",
            width=4,
        ),
        Panel(
            "VPCs",
            "How many VPCs have an attachment here?",
            (Query('galactic_node_vpcs{node="$node"}', "VPCs"),),
            kind="stat",
            width=4,
        ),
        Panel(
            "Routes to other nodes",
            "How many are in the kernel?",
            (Query('galactic_node_remote_routes{node="$node"}', "routes"),),
            kind="stat",
            width=4,
        ),
        Panel(
            "Conditions",
            "Which conditions of the NodeSegment were True, and since when?",
            (Query('galactic_node_condition{node="$node"}', "{{type}}"),),
            kind="states",
            width=12,
            levels=bad_below(1),
            words={"0": "False", "1": "True"},
        ),
        Panel(
            "Seconds behind the router, by VPC",
            "Has it the routes that were told? A spike is a change between two scrapes.",
            (Query(behind(node='{node="$node"}'), "{{vpc}}"),),
            unit="s",
            width=12,
            levels=bad_above(60),
        ),
        Panel(
            "CNI calls",
            "What does the kubelet ask for, and how does it end, a minute?",
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
            "For how long do pods wait for their network? Half of them, and 99 of 100.",
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
            "Writing to the kernel",
            "How long does a round take: what changed (delta), all (full), only looking (look)? 99 of 100.",
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
            "Rounds of writing that failed; objects and firewall chains that others changed; tables read again.",
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
            "Is the broker silent about some, so that their routes come later?",
            (Query('galactic_node_fallback_vpcs{node="$node"}', "VPCs"),),
            levels=bad_above(1),
        ),
        Panel(
            "Since the last full comparison",
            "When was all of the kernel last held against what is wanted?",
            (
                Query(
                    'time() - (galactic_node_last_full_sync_timestamp_seconds{node="$node"} > 0)',
                    "seconds",
                ),
            ),
            unit="s",
        ),
        Panel(
            "Process: processors",
            "What does the controller cost?",
            (Query(f'rate(process_cpu_seconds_total{{job="galactic-node", node="$node"}}{RATE})', "in use"),),
            width=12,
        ),
        Panel(
            "Process: memory",
            "What does the controller cost?",
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
    "One VPC: who is in it, where, and whether all nodes agree about it.",
    (
        Panel(
            "Attachments ready",
            "How many may have a pod?",
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
            "`kubectl describe vpca` says what each waits for.",
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
            "Attached to pods",
            "How many have an endpoint on some node?",
            (Query('sum(galactic_node_vpc_endpoints{vpc="$vpc"})', "attached"),),
            kind="stat",
            width=6,
        ),
        Panel(
            "Addresses in use",
            "Which share of what can be allocated is held? At 100 % the next attachment waits.",
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
            "Where it is",
            "On which nodes are its pods?",
            (Query('sum by (node) (galactic_node_vpc_endpoints{vpc="$vpc"})', "{{node}}"),),
            width=12,
            leads_to="galactic-node",
            stacked=True,
        ),
        Panel(
            "Addresses held",
            "Does it grow, and how fast?",
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
            "Do all its nodes have the routes that were told? A spike is a change between two scrapes.",
            (Query(behind(vpc='{vpc="$vpc"}'), "{{node}}"),),
            unit="s",
            width=12,
            levels=bad_above(60),
            leads_to="galactic-node",
        ),
        Panel(
            "Changes of its routes in five minutes",
            "Is it busy? Pods that come, go and move change its table.",
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
    "Who leads, and whether route changes get out.",
    (
        Panel(
            "Leader for",
            "How long ago did the lead change hands? Every change of it makes all nodes speak again.",
            # A term is the wall clock in ms when its leader claimed it.
            (Query("time() - max(galactic_router_term) / 1000", "in the lead"),),
            kind="stat",
            unit="s",
            width=4,
        ),
        Panel(
            "Nodes seen",
            "Does it know all of them?",
            (Query("max(galactic_router_nodes)", "nodes"),),
            kind="stat",
            width=4,
        ),
        Panel(
            "Contested networks",
            "Does an attachment claim what another has?",
            (Query("max(galactic_router_conflicts)", "contested"),),
            kind="stat",
            width=4,
            levels=bad_above(1),
        ),
        Panel(
            "Damped nodes",
            "How many nodes' topics are only asked for every second, because they said too much?",
            (Query("sum(galactic_router_topics_aside)", "topics"),),
            kind="stat",
            width=4,
            levels=bad_above(1),
        ),
        Panel(
            "Pending status writes",
            "How many VPCAttachments do not say yet where they are?",
            (Query("sum(galactic_router_recording_lag_attachments)", "waiting"),),
            kind="stat",
            width=4,
            levels=bad_above(100, 1000),
        ),
        Panel(
            "Admissions",
            "Can the file of admissions be read? (1 where there is none.)",
            (Query("min(galactic_router_admissions_valid)", "valid"),),
            kind="stat",
            width=4,
            levels=bad_below(1),
            words=YES,
        ),
        Panel(
            "Who leads",
            "Exactly one at any time.",
            (Query("galactic_router_leader", "{{instance}}"),),
            kind="states",
            width=12,
            levels=(Level(float("-inf"), "blue"), Level(1, "green")),
            words={"0": "stands by", "1": "leads"},
        ),
        Panel(
            "Connected to the broker",
            "Which routers hear and can speak?",
            (Query('galactic_mqtt_connected{job="galactic-router"}', "{{instance}}"),),
            kind="states",
            width=12,
            levels=bad_below(1),
            words=YES,
        ),
        Panel(
            "Oldest unpublished change",
            "Do changes get stuck?",
            (Query("galactic_router_oldest_change_seconds", "{{instance}}"),),
            unit="s",
            levels=bad_above(5, 30),
        ),
        Panel(
            "Registration to broker",
            "How fast does a change get out? Half of them, and 99 of 100.",
            (
                Query(quantile(0.5, "galactic_router_convergence_seconds"), "50 %"),
                Query(quantile(0.99, "galactic_router_convergence_seconds"), "99 %"),
            ),
            unit="s",
        ),
        Panel(
            "Broker's confirmation",
            "Is it the broker that is slow? 99 of 100.",
            (
                Query(
                    quantile(0.99, "galactic_router_puback_seconds", "instance"),
                    "{{instance}}",
                ),
            ),
            unit="s",
        ),
        Panel(
            "Lists taken over a second",
            "What do nodes tell, over MQTT and through the API server?",
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
            "What is dropped, by reason? `StaleEpoch` belongs to every move.",
            (
                Query(
                    f"topk(5, sum by (reason) (rate(galactic_router_rejections_total{RATE})))",
                    "{{reason}}",
                ),
            ),
            unit="ops",
        ),
        Panel(
            "Waiting",
            "Is there more to do than gets done: messages of nodes, and VPCs with changes?",
            (
                Query("sum(galactic_router_inbox_waiting)", "messages of nodes"),
                Query("sum(galactic_router_queue_vpcs)", "VPCs to tell"),
            ),
        ),
        Panel(
            "Publishes a second",
            "How much does it say, and how often in vain?",
            (
                Query(f"sum(rate(galactic_router_publishes_total{RATE}))", "confirmed"),
                Query(f"sum(rate(galactic_router_publish_failures_total{RATE}))", "tried again"),
                Query(f"sum(rate(galactic_router_foreign_messages_total{RATE}))", "others' put right"),
            ),
            unit="ops",
        ),
        Panel(
            "History behind by",
            "How old is the oldest change that the database does not have? Empty without a database.",
            (Query("max(galactic_router_database_lag_seconds)", "behind"),),
            unit="s",
            levels=bad_above(60),
        ),
        Panel(
            "Processors in use",
            "What do they cost?",
            (Query(f'rate(process_cpu_seconds_total{{job="galactic-router"}}{RATE})', "{{instance}}"),),
        ),
    ),
)

BOARDS: Final = (FLEET, NODE, VPC, ROUTER)
