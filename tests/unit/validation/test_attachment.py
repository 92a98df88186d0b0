import json
from ipaddress import ip_network

import pytest

from galactic.crds.model import parse
from galactic.crds.vpcattachment import VpcAttachment
from galactic.errors import Rejected
from galactic.operator.nad import configuration
from galactic.validation.attachment import outside, parse_attachment


def attachment(**spec):
    body = {"metadata": {"name": "a", "namespace": "ns", "uid": "u"}, "spec": {"vpc": {"name": "v"}, **spec}}
    return parse(VpcAttachment, body)


def interface(*addresses, **more):
    return {"interface": {"addresses": list(addresses), **more}}


def test_defaults():
    wanted = parse_attachment(attachment(), None)
    assert (wanted.vpc, wanted.interface, wanted.addresses, wanted.routes) == (
        ("ns", "v"),
        "galactic0",
        (),
        (),
    )


def test_via_of_ones_own_is_a_termination_and_any_other_a_route():
    routes = [
        {"destination": "192.168.3.0/24", "via": "10.1.1.1"},
        {"destination": "192.168.4.0/24", "via": "10.1.1.9"},
        {"destination": "192.168.5.0/24"},
    ]
    parsed = attachment(**interface("10.1.1.1/24", "2001:10:1:1::1/64"), routes=routes)
    wanted = parse_attachment(parsed, None)
    config = configuration(
        parsed.metadata,
        wanted,
        vpc=1234,
        function=42,
        addresses=wanted.addresses,
        networks=(ip_network("10.1.1.0/24"),),
        mtu=1400,
    )
    assert json.loads(config) == {
        "cniVersion": "1.0.0",
        "name": "a",
        "plugins": [
            {
                "type": "galactic",
                "vpc": "jU",
                "vpcattachment": "G",
                "attachment": "ns/a",
                "mtu": 1400,
                "interface": "galactic0",
                "addresses": ["10.1.1.1/24", "2001:10:1:1::1/64"],
                "networks": ["10.1.1.0/24"],
                "terminations": [{"network": "192.168.3.0/24", "via": "10.1.1.1"}],
                "routes": [
                    {"destination": "192.168.4.0/24", "via": "10.1.1.9"},
                    {"destination": "192.168.5.0/24"},
                ],
            }
        ],
    }
    assert set(map(str, wanted.holds(wanted.addresses))) == {
        "10.1.1.1/32",
        "2001:10:1:1::1/128",
        "192.168.3.0/24",
    }


def test_what_lies_outside_is_named():
    wanted = parse_attachment(attachment(**interface("172.16.0.1/24", "10.1.1.1/24")), None)
    refusal = outside(wanted, wanted.addresses, (ip_network("10.1.1.0/24"),))
    assert refusal == "172.16.0.1 lies outside the VPC's networks (10.1.1.0/24)"


@pytest.mark.parametrize(
    ("spec", "reason", "field"),
    [
        pytest.param(
            {"vpc": {"name": "v", "kind": "Pod", "apiVersion": "v1"}},
            "UnknownKind",
            "spec.vpc.kind",
            id="unknown-kind",
        ),
        pytest.param(interface(name="."), "InvalidInterfaceName", "spec.interface.name", id="dot"),
        pytest.param(interface(name=".."), "InvalidInterfaceName", "spec.interface.name", id="dots"),
        pytest.param(interface(name="lo"), "InvalidInterfaceName", "spec.interface.name", id="lo"),
        pytest.param(interface(name="eth0"), "InvalidInterfaceName", "spec.interface.name", id="eth0"),
        pytest.param(
            interface(name="ünderlay"), "InvalidInterfaceName", "spec.interface.name", id="not-ascii"
        ),
        *(
            pytest.param(
                interface(name=name), "InvalidInterfaceName", "spec.interface.name", id=f"name-{name}"
            )
            for name in (
                "g%d",
                "@x",
                "a@b",
                "a,b",
                "-a",
                ".a",
                "a[0",
                'a"',
                "a{}",
                "a\\",
                "a\x00",
                "a+b",
                "*",
            )
        ),
        pytest.param(
            interface("2001:db8::1%eth0/64"), "InvalidAddress", "spec.interface.addresses[0]", id="zone"
        ),
        pytest.param(
            interface("10.1.1.1/255.255.255.0"), "InvalidAddress", "spec.interface.addresses[0]", id="mask"
        ),
        pytest.param(
            interface("::ffff:10.1.1.1/120"), "ReservedNetwork", "spec.interface.addresses[0]", id="mapped"
        ),
        pytest.param(
            interface("64:ff9b::1/96"), "ReservedNetwork", "spec.interface.addresses[0]", id="translated"
        ),
        pytest.param(
            {"routes": [{"destination": "2001:db8:9::/64", "via": "fe80::1%eth0"}]},
            "InvalidAddress",
            "spec.routes[0].via",
            id="via-with-a-zone",
        ),
        pytest.param(
            interface("10.1.1.0/24"), "InvalidAddress", "spec.interface.addresses[0]", id="network-address"
        ),
        pytest.param(
            interface("10.1.1.255/24"), "InvalidAddress", "spec.interface.addresses[0]", id="broadcast"
        ),
        pytest.param(
            interface("10.1.1.256/24"), "InvalidAddress", "spec.interface.addresses[0]", id="no-address"
        ),
        pytest.param(
            interface("10.1.1.1/24", "224.0.0.1/24"),
            "ReservedNetwork",
            "spec.interface.addresses[1]",
            id="multicast",
        ),
        pytest.param(
            interface("10.1.1.1/24", "10.1.1.1/16"),
            "Duplicate",
            "spec.interface.addresses[1]",
            id="address-twice",
        ),
        pytest.param(
            {"routes": [{"destination": "192.168.3.1/24"}]},
            "InvalidNetwork",
            "spec.routes[0].destination",
            id="host-bits",
        ),
        pytest.param(
            {"routes": [{"destination": "192.168.3.0/24", "via": "2001:db8::1"}]},
            "WrongFamily",
            "spec.routes[0].via",
            id="family",
        ),
        pytest.param(
            {"routes": [{"destination": "192.168.3.0/24", "via": "10.1.1"}]},
            "InvalidAddress",
            "spec.routes[0].via",
            id="via-malformed",
        ),
        pytest.param(
            {"routes": [{"destination": "192.168.3.0/24"}] * 2},
            "Duplicate",
            "spec.routes[1]",
            id="destination-twice",
        ),
    ],
)
def test_refused(spec, reason, field):
    with pytest.raises(Rejected) as refusal:
        parse_attachment(attachment(**spec), None)
    assert (refusal.value.reason, refusal.value.field) == (reason, field)


def test_a_translator_terminates_what_it_translates():
    spec = {"routes": [{"destination": "64:ff9b::/96", "via": "2001:db8:1::1"}]}
    parsed = parse_attachment(attachment(**interface("2001:db8:1::1/64"), **spec), None)
    assert [str(termination.network) for termination in parsed.terminations(parsed.addresses)] == [
        "64:ff9b::/96"
    ]


@pytest.mark.parametrize("name", ["galactic0/", "a:b", "a b", "a\tb", "", "sixteen-letters0"], ids=repr)
def test_interface_names_that_the_schema_refuses_already(name):
    with pytest.raises(Rejected, match=r"spec\.interface\.name"):
        attachment(**interface(name=name))


@pytest.mark.parametrize(
    "address", ["10.1.1.0/31", "10.1.1.1/31", "10.1.1.1/32", "2001:db8::/127", "2001:db8::ffff/112"], ids=str
)
def test_point_to_point_and_last_ipv6_addresses_are_addresses(address):
    assert str(parse_attachment(attachment(**interface(address)), None).addresses[0]) == address
