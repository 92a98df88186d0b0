"""The firewall rules of the plan, and their arguments to iptables."""

from ipaddress import IPv6Network

import pytest

from galactic import srv6
from galactic.linux import iptables
from galactic.linux.firewall import PLACES, TABLES, FirewallRule, arguments, firewall

SPACE = IPv6Network("2001:db8:ff00::/40")
PREFIX = IPv6Network("2001:db8:ff01:100::/56")
UPLINKS = ("eth0", "bond1")


def lines(**how):
    rules = firewall(SPACE, srv6.locator(PREFIX), srv6.loopback(PREFIX), UPLINKS, **how)
    return [f"{rule.family} {rule.chain} {arguments(rule)}" for rule in rules]


BASE = [
    "4 FORWARD -i G+ -j ACCEPT",
    "4 FORWARD -o G+ -j ACCEPT",
    "4 INPUT -i G+ ! -p icmp -j DROP",
    "4 INPUT -i G+ -j ACCEPT",
    "4 PREROUTING -m devgroup --src-group 0x9a -m rpfilter --invert -j DROP",
    "4 PREROUTING -i G+ -j CT --notrack",
    "4 OUTPUT -o G+ -j CT --notrack",
    "6 FORWARD -i G+ -j ACCEPT",
    "6 FORWARD -o G+ -j ACCEPT",
    "6 INPUT -i G+ ! -p ipv6-icmp -j DROP",
    "6 INPUT -i G+ -j ACCEPT",
    "6 PREROUTING -m devgroup --src-group 0x9a -m rpfilter --invert -j DROP",
    "6 PREROUTING -i G+ -j CT --notrack",
    "6 OUTPUT -o G+ -j CT --notrack",
    "4 PREROUTING -i G+ -j ACCEPT",
    "6 FORWARD -s 2001:db8:ff00::/40 -j ACCEPT",
    "6 FORWARD -d 2001:db8:ff00::/40 -j ACCEPT",
    "6 PREROUTING -d 2001:db8:ff00::/40 -i G+ -j DROP",
    "6 PREROUTING -i G+ -j ACCEPT",
    "6 PREROUTING -d 2001:db8:ff00::/40 -j CT --notrack",
]
LAST = [
    "6 PREROUTING -i lo -j RETURN",
    "6 PREROUTING -i eth0 -j RETURN",
    "6 PREROUTING -i bond1 -j RETURN",
    "6 PREROUTING -s 2001:db8:ff00::/40 -j DROP",
    "6 PREROUTING -d 2001:db8:ff00::/40 -j DROP",
    "6 OUTPUT -s 2001:db8:ff00::/40 -j CT --notrack",
    "6 OUTPUT -d 2001:db8:ff00::/40 -j CT --notrack",
]
LOOPBACK = "2001:db8:ff01:100:ffff:ffff:ffff:ffff/128"


@pytest.mark.parametrize(
    ("outside", "more"),
    [
        pytest.param(False, [], id="without-guard"),
        pytest.param(
            True,
            [
                f"6 PREROUTING -d {LOOPBACK} -i {device} -p ipv6-icmp -m icmp6 --icmpv6-type {kind} -j RETURN"
                for device in ("lo", *UPLINKS)
                for kind in (1, 2, 3, 4)
            ]
            + ["6 PREROUTING ! -s 2001:db8:ff00::/40 -d 2001:db8:ff01:100::/64 -j DROP"],
            id="with-guard",
        ),
    ],
)
def test_the_rules_in_order(outside, more):
    assert lines(guard=outside) == BASE + more + LAST


def test_errors_pass_before_the_guard_drops():
    rules = lines()
    assert max(i for i, line in enumerate(rules) if "icmp6" in line) < min(
        i for i, line in enumerate(rules) if "! -s" in line
    )


def test_every_rule_has_a_place_that_is_looked_at():
    for rule in firewall(SPACE, srv6.locator(PREFIX), srv6.loopback(PREFIX), UPLINKS):
        assert (rule.family, rule.chain) in PLACES
        assert rule.chain in TABLES


def test_rules_are_values():
    assert FirewallRule(4, "FORWARD", "ACCEPT") == FirewallRule(4, "FORWARD", "ACCEPT")


FORGED = FirewallRule(4, "PREROUTING", "DROP", forged=True)
UNTRACKED = FirewallRule(4, "PREROUTING", "NOTRACK", in_interface="G+")
PLAIN = FirewallRule(4, "FORWARD", "ACCEPT", in_interface="G+")


@pytest.mark.parametrize(
    ("refused", "remaining", "lacking"),
    [
        pytest.param({FORGED}, [UNTRACKED, PLAIN], {"forged"}, id="no-rpfilter"),
        pytest.param({UNTRACKED}, [FORGED, PLAIN], {"tracked"}, id="no-xt_CT"),
        pytest.param({FORGED, UNTRACKED}, [PLAIN], {"forged", "tracked"}, id="neither"),
    ],
)
def test_only_what_the_kernel_refuses_is_left_out(monkeypatch, refused, remaining, lacking):
    kept: dict[object, list[FirewallRule]] = {}

    def work(place, rules):
        if refused & set(rules):
            raise RuntimeError("IPv4 PREROUTING: no chain/target/match by that name")
        changed = kept.get(place) != list(rules)
        kept[place] = list(rules)
        return changed and bool(rules)

    monkeypatch.setitem(iptables.WORKS, "nft", work)
    monkeypatch.setattr(iptables, "_fingerprint", lambda _: "fingerprint")
    monkeypatch.setattr(iptables.readback, "differences", lambda _, rules, harmless: [])
    result = iptables.installed("nft", "as asked for", [FORGED, UNTRACKED, PLAIN])
    assert [rule for place in PLACES for rule in kept[place]] == sorted(remaining, key=lambda r: r.chain)
    assert {name for name in ("lacking", "tracked") if getattr(result, name)} == {
        {"forged": "lacking"}.get(name, name) for name in lacking
    }
    assert "lacks xt_CT" in result.tracked or "tracked" not in lacking


def test_a_rule_that_is_refused_for_another_reason_is_an_error(monkeypatch):
    def work(place, rules):
        raise RuntimeError("Permission denied")

    monkeypatch.setitem(iptables.WORKS, "nft", work)
    monkeypatch.setattr(iptables, "_fingerprint", lambda _: None)
    with pytest.raises(RuntimeError, match="Permission denied"):
        iptables.installed("nft", "as asked for", [FORGED, UNTRACKED, PLAIN])
