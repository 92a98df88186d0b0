"""Chains of other programs that drop packets of VPCs are found in this kernel, whatever wrote them; and the commands
that are given as the remedy accept those packets: the chain is not found any more.
"""

from ipaddress import IPv6Address, IPv6Network

import pytest

from galactic.linux.foreign_chains import Dropping, dropping, packets

pytestmark = pytest.mark.every_kernel

SPACE = IPv6Network("2001:db8:ff00::/40")
WANTED = tuple(packets(SPACE, IPv6Address("2001:db8:ff01:100:ffff:ffff:ffff:ffff"), ("eth0", "eth1")))
FOUR, SIX, SRV6 = "IPv4 packets between pods", "IPv6 packets between pods", "SRv6 packets"
GATEWAY = "ICMP of pods to their gateway (IPv4)"
FIREWALLD = """nft -f - <<'END'
table inet firewalld {
  chain filter_public {
    meta mark 7 accept
  }
  chain filter_zones {
    iifname "eth0" goto filter_public
    goto filter_public
  }
  chain filter_FORWARD {
    type filter hook forward priority filter + 10; policy accept;
    ct state { established, related } accept
    ct status dnat accept
    iifname "lo" accept
    ct state invalid drop
    jump filter_zones
    reject with icmpx admin-prohibited
  }
}
END
"""
POSTROUTING = (
    "nft add table ip6 t; nft 'add chain ip6 t c { type filter hook postrouting priority 0; policy drop; }'"
)


def found(host) -> list[Dropping]:
    return host.run(lambda: dropping(WANTED, SPACE))


DROPS = [
    ("policy", "iptables-{0} -P FORWARD DROP", {FOUR}),
    ("policy-IPv6", "ip6tables-{0} -P FORWARD DROP", {SIX, SRV6}),
    ("INVALID", "ip6tables-{0} -A FORWARD -m conntrack --ctstate INVALID -j DROP", {SRV6}),
    ("goto", "iptables-{0} -N X; iptables-{0} -A X -j REJECT; iptables-{0} -A FORWARD -g X", {FOUR}),
    (
        "goto-IPv6",
        "ip6tables-{0} -N X; ip6tables-{0} -A X -j DROP; ip6tables-{0} -A FORWARD -g X",
        {SIX, SRV6},
    ),
    ("INPUT", "iptables-{0} -P INPUT DROP", {GATEWAY}),
    ("an-uplink", "ip6tables-{0} -t raw -A PREROUTING -i eth1 -j DROP", {SRV6}),
]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        *(
            pytest.param(command.format(backend), expected, id=f"{backend}-{name}")
            for name, command, expected in DROPS
            for backend in ("legacy", "nft")
        ),
        pytest.param(POSTROUTING, {SIX, SRV6}, id="nft-postrouting"),
        pytest.param(FIREWALLD, {FOUR, SIX, SRV6}, id="firewalld"),
    ],
)
def test_a_chain_that_drops_is_found_until_its_remedy_is_carried_out(host, sh, command, expected):
    assert found(host) == []
    sh(host, command)
    chains = found(host)
    assert {what for chain in chains for what in chain.packets.split(", ")} == expected
    for chain in chains:
        sh(host, chain.remedy)
    assert found(host) == []


PASSES = {
    "accepted-before": "iptables-{0} -P FORWARD DROP; iptables-{0} -I FORWARD -i G+ -j ACCEPT",
    "another-interface": "iptables-{0} -A FORWARD -i docker0 -j DROP",
    "all-but-ours": "iptables-{0} -A FORWARD ! -i G+ -j DROP",
    "accepted-by-address": "iptables-{0} -A FORWARD -s 10.0.0.0/8 -j ACCEPT; iptables-{0} -P FORWARD DROP",
    "by-what-is-unknown": "iptables-{0} -A FORWARD -m mark --mark 7 -j DROP",
    "untracked-accepted": (
        "iptables-{0} -A FORWARD -m conntrack --ctstate UNTRACKED -j ACCEPT; iptables-{0} -P FORWARD DROP"
    ),
    "untracked-is-not-INVALID": "iptables-{0} -A FORWARD -m conntrack --ctstate INVALID -j DROP",
    "dropped-by-Galactic": (
        "iptables-{0} -N GALACTIC-INPUT; iptables-{0} -A GALACTIC-INPUT -i G+ -j DROP; "
        "iptables-{0} -A INPUT -j GALACTIC-INPUT"
    ),
    "returned-before": (
        "iptables-{0} -N X; iptables-{0} -A X -j RETURN; iptables-{0} -A X -j DROP; iptables-{0} -A FORWARD -j X"
    ),
}


@pytest.mark.parametrize("backend", ["legacy", "nft"])
@pytest.mark.parametrize("command", PASSES.values(), ids=PASSES)
def test_a_chain_that_does_not_is_not(host, sh, backend, command):
    sh(host, command.format(backend))
    assert found(host) == []


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_what_the_policy_has_dropped_is_counted(pair, pod, sh, until, backend):
    sh(pair, f"sysctl -qw net.ipv4.ip_forward=1; iptables-{backend} -P FORWARD DROP")
    assert [chain.counted for chain in found(pair)] == [0]
    sh(pod, "ip route add default via 169.254.1.1")

    def counted() -> bool:
        sh(pod, "ping -c1 -W1 10.0.0.2", check=False)
        return found(pair)[0].counted > 0

    until(counted)
