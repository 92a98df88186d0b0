"""PromQL expressions and value words that several dashboards share."""

from typing import Final

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
