"""PromQL expressions and value words that several dashboards share."""

from typing import Final

RATE: Final = "[$__rate_interval]"
YES: Final = {"0": "no", "1": "yes"}


def quantile(share: float, metric: str, by: str = "", selector: str = "") -> str:
    """The ``share`` quantile of a histogram."""
    labels = ", ".join(filter(None, ("le", by)))
    return f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{selector}{RATE})))"


def published(offset: str = "") -> str:
    """The newest published revision, by the VPC's name, which the operator knows for the router's identifier."""
    return (
        f"max by (vpc_name) (max by (vpc) (galactic_router_revision{offset}) * on (vpc) group_right () "
        "max by (vpc, vpc_name) (last_over_time(galactic_operator_vpc_info[1h])))"
    )


def behind(node: str) -> str:
    """Seconds from the table revision of nodes to the newest published one, by VPC. ``node``: a selector."""
    return (
        f"clamp_min({published()} - on (vpc_name) group_right () "
        f"(galactic_node_vpc_revision{node} > 0), 0) / 1000"
    )


def full(vpc: str = "") -> str:
    """The share of a VPC's addresses that is allocated."""
    return f"galactic_operator_vpc_addresses_held{vpc} / (galactic_operator_vpc_addresses{vpc} > 0)"
