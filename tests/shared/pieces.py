"""The pieces of work that workers are given, and their order."""

GUEST = "test_in_guest.py"
WHOLE = ("tests/image/", "tests/chart/")
"""One image store, and one cluster that a chart is installed in. Of others, those of one file."""
CHARTED = ("the_chart_on_real_nodes", "the_cli_tests_connectivity", "upgrades_of_the_chart")
"""Stories that share a lab with the chart."""
SLOW = ("tests/e2e/", "tests/chart/", "tests/image/", "tests/kernel/")
"""Folders whose tests are begun before those of all others."""
LONG = (
    *("the_chart_on_real_nodes", "the_cli_says_what_is_wrong", "real_nodes", "isolation_on_the_oldest"),
    *("test_packets.py", "tests/chart/", "every_panel_shows_data", "tests/image/", "a_node_restarts"),
    *("two_clusters", "random_operations", "preflight", "mtu", "operator_comes", "webhooks_come"),
    *(
        "nodes_fall_back",
        "connections_survive",
        "shapes",
        "tutorials",
        "demo",
        "a_node_reboots",
        "unattached",
    ),
    *(GUEST, "tests/e2e/"),
)
"""What takes half a minute or more, the longest first: short ones at the end leave no worker without work."""


def rank(scope: str) -> int:
    """The place of a piece of work, or of one of its tests, in the order in which pieces are begun."""
    named = (place for place, name in enumerate(LONG) if name in scope)
    return next(named, len(LONG)) if scope.startswith(SLOW) else len(LONG)
