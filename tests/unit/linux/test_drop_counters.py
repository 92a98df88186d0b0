"""A rule that drops is named by what the kernel applies."""

import pytest

from galactic.linux.drop_counters import words
from galactic.linux.firewall import FirewallRule
from galactic.linux.readback import Applied

INPUT = FirewallRule(6, "INPUT", "DROP", in_interface="G+")
SPACE = "2001:db8:ff00::/40"


@pytest.mark.parametrize(
    ("rule", "beyond", "expected"),
    [
        pytest.param(
            FirewallRule(6, "INPUT", "DROP", in_interface="G+", not_icmp=True),
            (),
            "packets from pods to the node itself, except ICMP",
            id="to-the-node",
        ),
        pytest.param(
            INPUT,
            ("protocol 58 is not compared: IP6T_F_PROTO is not set",),
            "packets from pods to the node itself (protocol 58 is not compared: IP6T_F_PROTO is not set)",
            id="whose-protocol-is-not-compared",
        ),
        pytest.param(
            FirewallRule(4, "PREROUTING", "DROP", forged=True),
            (),
            "packets from pods whose source is not an address of that pod",
            id="forged",
        ),
        pytest.param(
            FirewallRule(6, "PREROUTING", "DROP", in_interface="G+", destination=SPACE),
            (),
            f"packets from pods to {SPACE}",
            id="pod-to-a-sid",
        ),
        pytest.param(
            FirewallRule(
                6, "PREROUTING", "DROP", source=SPACE, outside=True, destination="2001:db8:ff01::/64"
            ),
            (),
            f"packets from outside {SPACE} to 2001:db8:ff01::/64",
            id="outside-to-a-sid",
        ),
        pytest.param(
            FirewallRule(6, "FORWARD", "DROP", in_interface="eth0", out_interface="G+", icmpv6=135),
            (),
            "packets from eth0 to pods, ICMPv6 of type 135",
            id="somebody-s",
        ),
    ],
)
def test_words(rule: FirewallRule, beyond: tuple[str, ...], expected: str) -> None:
    assert words(Applied(rule, beyond)) == expected
