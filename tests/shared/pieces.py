"""The pieces of work that workers are given, and their order."""

GUEST = "test_in_guest.py"
WHOLE = ("tests/image/", "tests/chart/")
"""One image store, and one cluster that a chart is installed in. Of others, those of one file."""
CHARTED = (
    *("network_policies", "the_chart_on_real_nodes", "the_cli_tests_connectivity"),
    "upgrades_of_the_chart",
)
"""Stories that share a lab with the chart."""
SLOW = ("tests/e2e/", "tests/chart/", "tests/image/", "tests/kernel/")
"""Folders whose tests are begun before those of all others."""
APART = ("the_chart_on_real_nodes", "tests/chart/", "isolation_on_the_oldest", GUEST, "tests/image/")
"""What takes long and needs no stories' lab. It comes before all stories: a lab that is up takes a sixth of a processor
while nothing happens in it.
"""
LONG = (
    *APART,
    *("the_cli_says_what_is_wrong", "real_nodes", "gets_only_its_own", "demo", "every_panel_shows_data"),
    *("unattached", "tutorials", "a_node_restarts", "two_clusters", "history_tells", "killed_at_any_step"),
    *("operator_comes", "connections_survive", "random_operations", "a_router_dies", "nodes_fall_back"),
    *("preflight", "webhooks_come", "mtu", "shapes", "a_node_reboots"),
    "tests/e2e/",
)
"""What takes half a minute or more, the longest first: short ones at the end leave no worker without work."""


def rank(scope: str) -> int:
    """The place of a piece of work, or of one of its tests, in the order in which pieces are begun."""
    named = (place for place, name in enumerate(LONG) if name in scope)
    return next(named, len(LONG)) if scope.startswith(SLOW) else len(LONG)
