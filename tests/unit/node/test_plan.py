"""The kernel plan against what the design's reference script makes by hand."""

from dataclasses import replace
from ipaddress import IPv6Network, ip_address, ip_interface, ip_network

import pytest

from galactic.linux.objects import MAIN_TABLE, Direct, EndDT46, Link, LookupOrder, Unreachable, Via, route_of
from galactic.node.dataplane import plan
from galactic.node.dataplane.plan import Host
from galactic.node.state.attachment import Attachment, Termination

HOST = Host(IPv6Network("2001:db8:ff01:100::/56"), IPv6Network("2001:db8:ff00::/40"), "eth0")
POD = Attachment(
    vpc=1234,
    function=42,
    name="default/a",
    container="c1",
    netns="/ns/1",
    ifname="galactic0",
    addresses=(ip_interface("10.1.1.1/24"), ip_interface("2001:10:1:1::1/64")),
    networks=(ip_network("10.1.1.0/24"), ip_network("2001:10:1:1::/64")),
    terminations=(Termination(ip_network("192.168.3.0/24"), ip_address("10.1.1.1")),),
    routes=(ip_network("172.16.0.0/12"),),
    epoch=5,
)


def readable(routes):
    return {
        f"{network} table {table}": to
        for (table, network, _), to in ((route_of(k), v) for k, v in routes.items())
    }


def test_host():
    objects = plan.host(HOST)
    assert objects.links == {"lo-galactic": Link("dummy", mac=plan.mac("lo-galactic"))}
    assert list(objects.addresses) == [
        ("lo-galactic", ip_interface("2001:db8:ff01:100:ffff:ffff:ffff:ffff/128"))
    ]
    assert readable(objects.routes) == {"2001:db8:ff01:100::/64 table 254": Unreachable()}
    assert [tuple(rule) for rule in objects.rules] == [(999, HOST.block, MAIN_TABLE)]
    assert objects.lookups == {4: LookupOrder(), 6: LookupOrder(block=HOST.block)}
    assert objects.sysctls["net/vrf/strict_mode"] == "1"
    for device in ("all", "default", "eth0", "lo-galactic"):
        # VRFs and host ends inherit `default`: none of them obeys a pod's routing header, nor the underlay one's from
        # outside.
        expected = "1" if device == "all" else "0"
        assert objects.sysctls[f"net/ipv6/conf/{device}/seg6_enabled"] == expected
        assert objects.sysctls[f"net/ipv4/conf/{device}/rp_filter"] == "0"


VRF, END = "G0000000jU000V", "G0000000jU00GH"


def sysctls(device):
    """Those of a VRF or a host end, whatever `default` or another program gave it."""
    ipv4 = {"forwarding": "1"} | dict.fromkeys(
        ("rp_filter", "proxy_arp", "arp_ignore", "route_localnet"), "0"
    )
    ipv6 = {"forwarding": "1"} | dict.fromkeys(
        ("disable_ipv6", "accept_ra", "seg6_enabled", "rpl_seg_enabled"), "0"
    )
    return {f"net/ipv4/conf/{device}/{name}": value for name, value in ipv4.items()} | {
        f"net/ipv6/conf/{device}/{name}": value for name, value in ipv6.items()
    }


def test_macs_are_local_and_differ():
    """Locally administered, of one station (IEEE 802)."""
    drawn = {plan.mac(device) for device in (VRF, END, "lo-galactic")}
    assert len(drawn) == 3
    assert all(int(mac[:2], 16) & 3 == 2 for mac in drawn)


def test_vpc():
    objects = plan.vpc(1234, 100_007)
    assert objects.links == {VRF: Link("vrf", table=100_007, mac=plan.mac(VRF))}
    assert objects.sysctls == sysctls(VRF)
    assert readable(objects.routes) == {
        "0.0.0.0/0 table 100007": Unreachable(),
        "::/0 table 100007": Unreachable(),
    }


def test_attached():
    objects = plan.attached(HOST, 100_007, POD, lambda _: True)
    peer = "/ns/1", "galactic0"
    assert objects.links == {END: Link("veth", master=VRF, mtu=1460, peer=peer, mac=plan.mac(END))}
    assert objects.sysctls == sysctls(END)
    assert readable(objects.routes) == {
        "10.1.1.1/32 table 100007": Direct(END),
        "2001:10:1:1::1/128 table 100007": Direct(END),
        "192.168.3.0/24 table 100007": Via(END, bytes([10, 1, 1, 1])),
        "2001:db8:ff01:100::4d2:2a/128 table 254": EndDT46(VRF, 100_007),
    }


def test_what_another_holds_is_not_routed_to_it():
    objects = plan.attached(HOST, 100_007, POD, lambda network: network.version == 6)
    assert readable(objects.routes) == {
        "2001:10:1:1::1/128 table 100007": Direct(END),
        "2001:db8:ff01:100::4d2:2a/128 table 254": EndDT46(VRF, 100_007),
    }


def test_pod():
    objects = plan.pod(POD)
    assert objects.addresses == {("galactic0", address): True for address in POD.addresses}
    gateway4, gateway6 = (
        Via("galactic0", bytes([169, 254, 1, 1])),
        Via("galactic0", ip_address("fe80::1").packed),
    )
    assert readable(objects.routes) == {
        "169.254.1.1/32 table 254": Direct("galactic0"),
        "10.1.1.0/24 table 254": gateway4,
        "172.16.0.0/12 table 254": gateway4,
        "2001:10:1:1::/64 table 254": gateway6,
    }
    hops = ("169.254.1.1", "fe80::1", str(plan.link_local(plan.mac(END))))
    assert {str(address) for _, address in objects.neighbours if not address.is_multicast} == set(hops)
    assert ("galactic0", ip_address("ff02::1:ff00:1")) in objects.neighbours, "by which fe80::1 is solicited"


def test_neighbours_of_a_host_end_are_the_addresses_of_its_pod_whoever_holds_them():
    objects = plan.attached(HOST, 100_007, POD, lambda _: False)
    group = ip_address("ff02::1:ff00:1")
    assert objects.neighbours == {
        (END, one): None for one in (*(address.ip for address in POD.addresses), group)
    }


def test_a_link_local_address_is_made_of_the_mac():
    """As the example of RFC 4291, appendix A."""
    assert plan.link_local("34:56:78:9a:bc:de") == ip_address("fe80::3656:78ff:fe9a:bcde")


@pytest.mark.parametrize(
    ("change", "absent"),
    [
        pytest.param({"addresses": (ip_interface("10.1.1.1/24"),), "terminations": ()}, 6, id="ipv4-only"),
        pytest.param({"addresses": (ip_interface("2001:10::1/64"),), "terminations": ()}, 4, id="ipv6-only"),
    ],
)
def test_a_pod_of_one_family_gets_routes_of_that_family(change, absent):
    objects = plan.pod(replace(POD, **change))
    assert not [network for _, network, _ in map(route_of, objects.routes) if network.version == absent]


@pytest.mark.parametrize(
    ("encap", "underlay", "asked", "expected"),
    [
        pytest.param("encap.red", 1500, 0, 1460, id="reduced"),
        pytest.param("encap", 1500, 0, 1436, id="with-srh"),
        pytest.param("encap.red", 9000, 1400, 1400, id="asked-for-less"),
        pytest.param("encap.red", 1500, 9000, 1460, id="asked-for-more"),
        pytest.param("encap.red", 1300, 0, 1280, id="never-below-ipv6"),
    ],
)
def test_mtu(encap, underlay, asked, expected):
    assert plan.mtu(replace(HOST, encap=encap, mtu=underlay), replace(POD, mtu=asked)) == expected


@pytest.mark.parametrize(
    ("hosted", "known", "expected"),
    [
        pytest.param({5, 3}, {}, {3: 1_000_000_003, 5: 1_000_000_005}, id="made-of-the-identifier"),
        pytest.param({5, 3}, {5: 100_000}, {5: 100_000, 3: 1_000_000_003}, id="keeps-what-the-kernel-has"),
        pytest.param({5}, {7: 1_000_000_005}, {5: 1_000_000_006}, id="not-one-in-use"),
        pytest.param(
            {1_999_999_999, 999_999_999},
            {},
            {999_999_999: 1_999_999_999, 1_999_999_999: 1_000_000_000},
            id="two-with-the-same-digits",
        ),
    ],
)
def test_tables(hosted, known, expected):
    assert plan.tables(hosted, known) == expected


def test_the_second_interface_of_a_pod_has_routes_of_its_own():
    first, second = plan.pod(POD), plan.pod(replace(POD, ifname="galactic1"), 1)
    assert not first.routes.keys() & second.routes.keys()
    assert {metric for _, _, metric in map(route_of, first.routes)} == {2154}
    assert {metric for _, _, metric in map(route_of, second.routes)} == {2155}


def test_a_vpc_has_no_default_route_to_give():
    everything = (ip_network("0.0.0.0/0"), ip_network("::/0"))
    assert plan.pod(replace(POD, networks=(*POD.networks, *everything))) == plan.pod(POD)


def test_a_default_route_of_the_attachment_is_two_halves():
    """Ahead of the default network's, which stays: a route of ours replaces none."""
    routes = readable(plan.pod(replace(POD, routes=(ip_network("0.0.0.0/0"), ip_network("::/0")))).routes)
    assert routes.keys() >= {f"{half} table 254" for half in ("0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1")}
    assert not {"0.0.0.0/0 table 254", "::/0 table 254"} & routes.keys()
