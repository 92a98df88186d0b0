"""The dashboard of one VPC."""

from typing import Final

from observability.boards.queries import RATE, behind, full
from observability.panel import Board, Panel, Query, Variable, bad_above

CHOSEN: Final = '{vpc_name="$vpc_name"}'

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
            (Query('sum(galactic_node_vpc_endpoints{vpc_name="$vpc_name"})', "attached"),),
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
            (Query('sum by (node) (galactic_node_vpc_endpoints{vpc_name="$vpc_name"})', "{{node}}"),),
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
            (Query(behind(CHOSEN), "{{node}}"),),
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
        Panel(
            "Traffic",
            "How many bytes do the VPC's pods send and receive per second, Ethernet headers included?",
            (
                Query(
                    f'sum by (direction) (rate(galactic_node_vpc_bytes_total{{vpc_name="$vpc_name"}}{RATE}))',
                    "{{direction}}",
                ),
            ),
            unit="Bps",
            width=12,
        ),
        Panel(
            "Dropped packets",
            "How many packets of the VPC's pods are dropped per second, by reason? `galactic flows` shows whose.",
            (
                Query(
                    f'sum by (reason) (rate(galactic_node_vpc_dropped_packets_total{{vpc_name="$vpc_name"}}{RATE}))',
                    "{{reason}}",
                ),
            ),
            width=12,
            levels=bad_above(1),
            unit="ops",
        ),
        Panel(
            "Busiest attachments",
            "Which ten attachments send and receive most? `galactic top` shows all.",
            (
                Query(
                    "topk(10, sum by (attachment_namespace, attachment) "
                    f'(rate(galactic_node_attachment_bytes_total{{vpc_name="$vpc_name"}}{RATE})))',
                    "{{attachment_namespace}}/{{attachment}}",
                ),
            ),
            unit="Bps",
            width=12,
        ),
        Panel(
            "Packets",
            "How many packets do the VPC's pods send and receive per second?",
            (
                Query(
                    f'sum by (direction) (rate(galactic_node_vpc_packets_total{{vpc_name="$vpc_name"}}{RATE}))',
                    "{{direction}}",
                ),
            ),
            width=12,
            unit="ops",
        ),
    ),
    (
        Variable("vpc_name", "VPC", "vpc_name", "galactic_operator_vpc_info"),
        Variable("vpc", "Identifier", "vpc", 'galactic_operator_vpc_info{vpc_name="$vpc_name"}', hidden=True),
    ),
)
