"""Routes as galactic-node-inspect prints them, and what it refuses."""

from ipaddress import IPv4Address, IPv6Address

import pytest

from galactic.errors import Rejected
from galactic.linux.objects import Balanced, Direct, Encap, Unreachable, Via
from galactic.node.inspection import _answers, target

SIDS = ("2001:db8:ff02:100::4d2:9", "2001:db8:ff03:100::4d2:9")


@pytest.mark.parametrize(
    ("route", "printed"),
    [
        pytest.param(Direct("G0H"), {"kind": "device", "device": "G0H"}, id="device"),
        pytest.param(
            Via("G0E", IPv4Address("169.254.1.2").packed),
            {"kind": "via", "device": "G0E", "gateway": "169.254.1.2"},
            id="via",
        ),
        pytest.param(
            Encap("lo-galactic", IPv6Address(SIDS[0]).packed, "encap"),
            {"kind": "sid", "device": "lo-galactic", "sid": SIDS[0], "mode": "encap"},
            id="one-segment",
        ),
        pytest.param(
            Balanced("lo-galactic", tuple((IPv6Address(sid).packed, 2) for sid in SIDS), "encap.red"),
            {
                "kind": "balanced",
                "device": "lo-galactic",
                "sids": [{"sid": sid, "weight": 2} for sid in SIDS],
                "mode": "encap.red",
            },
            id="several-exits",
        ),
        pytest.param(Unreachable(), {"kind": "unreachable"}, id="unreachable"),
    ],
)
def test_where_a_route_leads(route, printed) -> None:
    assert target(route) == printed


async def test_a_node_is_asked_by_its_loopback() -> None:
    with pytest.raises(Rejected, match="give SRv6 loopbacks"):
        await _answers(["node-2"])
