"""The condition about sysctls of the host that stop packets of VPCs."""

import re
from ipaddress import IPv6Network

import pytest

from galactic.node.dataplane.host_settings import HostSettings
from galactic.node.dataplane.plan import Host

HOST = Host(IPv6Network("2001:db8:ff01:100::/56"), IPv6Network("2001:db8:ff00::/40"), "eth0")
GOOD = {
    "net/ipv4/conf/all/arp_ignore": "0",
    "net/ipv6/conf/eth0/disable_ipv6": "0",
}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        pytest.param({}, "", id="good"),
        pytest.param({"net/ipv4/conf/all/arp_ignore": "1"}, "", id="ipvs"),
        pytest.param(
            {"net/ipv4/conf/all/arp_ignore": "2"}, "arp_ignore is 2: .*; set it to 0 or 1", id="arp_ignore"
        ),
        pytest.param(
            {"net/ipv6/conf/eth0/disable_ipv6": "1"},
            "set net.ipv6.conf.eth0.disable_ipv6 to 0",
            id="disable_ipv6",
        ),
    ],
)
def test_what_stops_packets(changed, message):
    values = GOOD | changed
    settings = HostSettings(lambda: HOST, lambda paths: {path: values[path] for path in paths})
    condition = settings.condition()
    assert condition.status is (not message)
    assert re.search(message, condition.message)


def test_before_the_underlay_is_known():
    values = dict(list(GOOD.items())[:1])
    assert HostSettings(lambda: None, lambda paths: {path: values[path] for path in paths}).condition().status
