"""The pieces of work that workers are given, and their order."""

GUEST = "test_in_guest.py"
IMAGE = "tests/image/"
"""One image store."""
INSTALLED = tuple(
    f"tests/chart/test_{name}.py"
    for name in ("lifecycle", "node_certificates", "platforms", "policies", "random_values")
)
"""One cluster that the chart is installed in. Other files of tests/chart need Helm alone."""
CHARTED = tuple(
    f"tests/e2e/test_{name}.py"
    for name in (
        *("names_lead_into_the_vpc", "network_policies_are_about_eth0", "the_chart_on_real_nodes"),
        *("the_cli_tests_connectivity", "rights_of_each_program", "upgrades_of_the_chart"),
    )
)
"""Stories that share a lab with the chart."""
SLOW = ("tests/e2e/", *INSTALLED, IMAGE, "tests/kernel/")
"""Folders and files whose tests begin before those of all others."""
APART = ("the_chart_on_real_nodes", *INSTALLED, "isolation_on_the_oldest", GUEST, IMAGE)
"""Long files that need no stories' lab. They come before all stories: a lab takes a sixth of a processor while nothing
happens in it.
"""
LONG = (
    *APART,
    *(
        "rules_inside",
        "numbers_are",
        "a_gateway_leads",
        "two_vpcs",
        "the_cli_says_what_is_wrong",
        "real_nodes",
        "gets_only_its_own",
        "demo",
        "every_panel_shows_data",
    ),
    *("unattached", "tutorials", "a_node_restarts", "two_clusters", "history_tells", "killed_at_any_step"),
    *("operator_comes", "connections_survive", "random_operations", "a_router_dies", "nodes_fall_back"),
    *("preflight", "webhooks_come", "mtu", "shapes", "a_node_reboots"),
    "tests/e2e/",
)
"""Files of half a minute or more, the longest first: short ones at the end leave no worker without work."""


def rank(scope: str) -> int:
    """The place of a piece of work, or of one of its tests, in the order in which pieces are begun."""
    named = (place for place, name in enumerate(LONG) if name in scope)
    return next(named, len(LONG)) if scope.startswith(SLOW) else len(LONG)


def piece(test: str) -> str:
    """The piece of work of a test: its file, or files that share an expensive set-up."""
    if test.startswith(CHARTED):
        return "+".join(CHARTED)
    if test.startswith(INSTALLED):
        return "+".join(INSTALLED)
    return IMAGE if test.startswith(IMAGE) else test.partition("::")[0]
