from ipaddress import IPv6Network

import pytest

from galactic.errors import Rejected
from galactic.validation.networks import parse_networks

SPACE = IPv6Network("2001:db8:ff00::/40")


@pytest.mark.parametrize(
    "texts",
    [
        pytest.param(["10.1.1.0/24"], id="one"),
        pytest.param(["10.1.1.0/24", "10.1.2.0/24", "2001:10:1:1::/64"], id="neighbours-and-both-families"),
        pytest.param(["10.0.0.0/8"], id="short"),
        pytest.param(["10.1.1.1/32", "2001:db8::1/128"], id="single-addresses"),
        pytest.param(["fd00::/8"], id="unique-local"),
    ],
)
def test_accepted(texts):
    assert [str(network) for network in parse_networks(texts, SPACE)] == texts


@pytest.mark.parametrize(
    ("texts", "reason", "field", "reason_text"),
    [
        pytest.param(["10.1.1.0/33"], "InvalidNetwork", "spec.networks[0]", "10.1.1.0/33", id="bad-length"),
        pytest.param(["ten"], "InvalidNetwork", "spec.networks[0]", "such as", id="no-network"),
        pytest.param(
            ["10.1.1.7/24"], "InvalidNetwork", "spec.networks[0]", "write 10.1.1.0/24", id="host-bits"
        ),
        pytest.param(["10.1.0.0/16"] * 2, "DuplicateNetwork", "spec.networks[1]", "twice", id="duplicate"),
        pytest.param(
            ["10.1.0.0/16", "10.1.1.0/24"],
            "OverlappingNetworks",
            "spec.networks[1]",
            "10.1.0.0/16",
            id="overlap",
        ),
        pytest.param(["0.0.0.0/0"], "DefaultRoute", "spec.networks[0]", "every address", id="default-route"),
        pytest.param(
            ["10.1.0.0/16", "::/0"], "DefaultRoute", "spec.networks[1]", "every address", id="default-route-6"
        ),
        pytest.param(["224.0.0.0/8"], "ReservedNetwork", "spec.networks[0]", "multicast", id="multicast"),
        pytest.param(
            ["169.254.0.0/24"], "ReservedNetwork", "spec.networks[0]", "link-local", id="link-local"
        ),
        pytest.param(["127.0.0.0/8"], "ReservedNetwork", "spec.networks[0]", "loopback", id="loopback"),
        pytest.param(["fe80::/64"], "ReservedNetwork", "spec.networks[0]", "link-local", id="link-local-6"),
        pytest.param(["ff02::/64"], "ReservedNetwork", "spec.networks[0]", "multicast", id="multicast-6"),
        pytest.param(["::1/128"], "ReservedNetwork", "spec.networks[0]", "loopback", id="loopback-6"),
        pytest.param(["::ffff:10.1.1.0/120"], "ReservedNetwork", "spec.networks[0]", "mapped", id="mapped"),
        pytest.param(
            ["::10.1.1.0/120"], "ReservedNetwork", "spec.networks[0]", "compatible", id="compatible"
        ),
        pytest.param(["100::/64"], "ReservedNetwork", "spec.networks[0]", "discard-only", id="discard-only"),
        pytest.param(["fec0::/10"], "ReservedNetwork", "spec.networks[0]", "site-local", id="site-local"),
        pytest.param(["64:ff9b::/96"], "ReservedNetwork", "spec.networks[0]", "terminate", id="translated"),
        pytest.param(
            ["10.1.1.0/255.255.255.0"], "InvalidNetwork", "spec.networks[0]", "write 10.1.1.0/24", id="mask"
        ),
        pytest.param(
            ["10.1.1.0/0.0.0.255"], "InvalidNetwork", "spec.networks[0]", "write 10.1.1.0/24", id="wildcard"
        ),
        pytest.param(["2001:db8:1::%eth0/64"], "InvalidNetwork", "spec.networks[0]", "a zone", id="zone"),
        pytest.param(["2001:db8::/32"], "ReservedNetwork", "spec.networks[0]", "SRv6 block", id="srv6-space"),
    ],
)
def test_refused(texts, reason, field, reason_text):
    with pytest.raises(Rejected) as refusal:
        parse_networks(texts, SPACE)
    assert (refusal.value.reason, refusal.value.field) == (reason, field)
    assert field in str(refusal.value)
    assert reason_text in str(refusal.value)
