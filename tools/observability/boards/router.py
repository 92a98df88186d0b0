"""The dashboard of the routers."""

from typing import Final

from observability.boards.queries import RATE, YES, quantile
from observability.panel import Board, Level, Panel, Query, bad_above, bad_below

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
            "Paths without a carrier",
            "How many attachments does a node announce although no pod on it carries them? More than 0 for minutes is "
            "a node that was taken over.",
            (Query("max(galactic_router_uncarried_paths)", "paths"),),
            levels=bad_above(1),
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
            "Usage",
            "How many attachments' sums of traffic are written per second, or refused? No data without a database.",
            (
                Query(f"sum(rate(galactic_router_usage_samples_total{RATE}))", "written"),
                Query(f"sum by (reason) (rate(galactic_router_usage_rejected_total{RATE}))", "{{reason}}"),
            ),
            unit="ops",
        ),
        Panel(
            "CPU in use",
            "How much CPU does each router use?",
            (Query(f'rate(process_cpu_seconds_total{{job="galactic-router"}}{RATE})', "{{instance}}"),),
        ),
    ),
)
