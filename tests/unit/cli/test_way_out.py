"""A walk to an address outside goes on past the VPC's default route, by each of the gateway's nodes that is used, to
the address with which packets leave; or it stops where packets would, with the reason.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from states import VPC_ID, Objects, condition, fine, snapshot
from test_walk import VPC, Kernels, kernel

from galactic.cli.desired import desired, routes
from galactic.cli.observed import Echo
from galactic.cli.walk import Hop, places, walk
from galactic.cli.way_out import outside
from galactic.linux.objects import WAY_OUT_METRIC
from galactic.names import exit_end, gateway_vrf, inner_end, join_end, main_end, vrf

FUNCTION = 9
SID = {number: f"2001:db8:ff0{number}:100::4d2:9" for number in (1, 2, 3)}
LOOPBACK = {number: f"2001:db8:ff0{number}:100:ffff:ffff:ffff:ffff" for number in (1, 2, 3)}
HELD = {2: "203.0.113.2", 3: "203.0.113.3"}
OUTSIDE = "198.51.100.7"
OUT, MAIN = exit_end(VPC, FUNCTION), main_end(VPC, FUNCTION)
BY = {"type": "unicast", "gateway": "10.0.0.1", "device": "eth0", "sid": ""}


def gateway() -> dict[str, Any]:
    return {
        "kind": "VPCGateway",
        "metadata": {"name": "way", "namespace": "blue"},
        "spec": {"vpc": {"name": "blue"}, "snat": {"addresses": [*HELD.values()]}},
        "status": {
            "ready": True,
            "identifier": VPC_ID,
            "function": "0009",
            "families": ["IPv4"],
            "snat": True,
            "networks": ["10.1.1.0/24"],
            "forbidden": ["10.96.0.0/12"],
            "nodes": [
                {"node": f"node-{number}", "sid": SID[number], "addresses": [HELD[number]], "ready": True}
                for number in (2, 3)
            ],
            "conditions": [condition("Accepted", "True"), condition("Ready", "True")],
        },
    }


def cluster() -> Objects:
    objects = fine()
    third = deepcopy(objects["NodeSegment node-2"])
    third["metadata"]["name"], third["spec"]["prefix"] = "node-3", "2001:db8:ff03:100::/56"
    third["status"]["endpoints"] = []
    objects["NodeSegment node-3"] = third
    objects["VPCGateway way"] = gateway()
    return objects


def exit_kernel(number: int, address: str = OUTSIDE) -> dict[str, Any]:
    far = kernel(2) | {"pods": {}}
    for device in (OUT, MAIN):
        far["links"][device] = {"kind": "veth", "up": True, "master": "", "mtu": 1460, "table": 0}
    far["sids"] = [{"network": f"{SID[number]}/128", "metric": 0, "kind": "end", "device": vrf(VPC)}]
    far["ways"] = {
        f"{VPC_ID}@{address}": BY | {"device": OUT, "gateway": "169.254.1.2"},
        address: dict(BY),
    }
    return far


def kernels(address: str = OUTSIDE) -> Kernels:
    near = kernel(1)
    near["pods"]["/run/netns/web@galactic0"]["routes"].append(
        {"network": "128.0.0.0/1", "metric": 0, "kind": "via", "gateway": "169.254.1.1"}
    )
    if address.startswith("10."):
        near["pods"]["/run/netns/web@galactic0"]["routes"][-1]["network"] = "0.0.0.0/1"
    sids = [{"sid": SID[number], "weight": 128} for number in (2, 3)]
    default = {"network": "0.0.0.0/0", "metric": WAY_OUT_METRIC, "kind": "balanced", "sids": sids}
    near["vpcs"][VPC_ID]["routes"].append(default)
    near["ways"][f"{VPC_ID}@{address}"] = BY | {"device": "lo-galactic", "gateway": "", "sid": SID[2]}
    for number in (2, 3):
        near["ways"][SID[number]] = BY | {"gateway": "fd00::1"}
    near["answers"] = {LOOPBACK[number]: True for number in (2, 3)}
    return {"node-1": near, "node-2": exit_kernel(2, address), "node-3": exit_kernel(3, address)}


def walked(given: Kernels, objects: Objects, address: str = OUTSIDE, echo: Echo | None = None) -> list[Hop]:
    seen = snapshot(objects)
    return [*walk(places(seen)["blue/web"], address, given, seen, desired(seen, VPC, {}), echo=echo)]


def test_the_way_goes_on_by_each_node_that_is_used() -> None:
    hops = walked(kernels(), cluster())
    assert {hop.state for hop in hops} == {"passes"}
    texts = [hop.what for hop in hops]
    assert f"{OUTSIDE} is outside: by VPCGateway blue/way, node-2 and node-3" in texts
    assert [what for what in texts if "answers" in what] == ["node-2 answers", "node-3 answers"]
    assert [what for what in texts if "leaves by" in what] == [
        "leaves by eth0 via 10.0.0.1 with 203.0.113.2",
        "leaves by eth0 via 10.0.0.1 with 203.0.113.3",
    ]


def test_a_gateway_that_publishes_has_a_vrf_of_its_own_on_the_way() -> None:
    objects, given = cluster(), kernels()
    objects["VPCGateway way"]["status"]["published"] = [
        {
            "name": "web",
            "address": HELD[2],
            "port": 80,
            "node": "node-2",
            "inside": "10.1.1.130",
            "targetPort": 80,
        }
    ]
    join, others = join_end(VPC, FUNCTION), (inner_end(VPC, FUNCTION), gateway_vrf(VPC, FUNCTION))
    (stopped, *_) = [hop for hop in walked(deepcopy(given), objects) if hop.state == "stops"]
    assert join in stopped.what
    for number in (2, 3):
        for device in (join, *others):
            given[f"node-{number}"]["links"][device] = given[f"node-{number}"]["links"][OUT]
        given[f"node-{number}"]["ways"][f"{VPC_ID}@{OUTSIDE}"] |= {"device": join, "gateway": "169.254.1.3"}
    hops = walked(given, objects)
    assert {hop.state for hop in hops} == {"passes"}
    assert f"{OUTSIDE} leaves the VRF by {join}" in [hop.what for hop in hops]


def test_a_node_that_leads_out_uses_its_own_way() -> None:
    objects, given = cluster(), kernels()
    objects["VPCGateway way"]["status"]["nodes"][0] |= {"node": "node-1", "sid": SID[1]}
    near, far = given["node-1"], exit_kernel(1)
    near["links"] |= far["links"]
    near["ways"] |= far["ways"]
    hops = walked(given, objects)
    assert {hop.state for hop in hops} == {"passes"}
    assert hops[-1].what == "leaves by eth0 via 10.0.0.1 with 203.0.113.2"
    assert not [hop for hop in hops if hop.where.startswith(("underlay", "SID"))]
    assert "node-3 answers, and is not used now" in [hop.what for hop in hops]


def test_a_silent_node_that_is_led_round_is_no_fault() -> None:
    given = kernels()
    given["node-1"]["answers"][LOOPBACK[3]] = False
    given["node-1"]["vpcs"][VPC_ID]["routes"][-1] |= {"kind": "sid", "sid": SID[2], "sids": None}
    given["node-3"] = "no pod of galactic-node runs there"
    hops = walked(given, cluster())
    assert {hop.state for hop in hops} == {"passes"}
    assert f"node-3 does not answer echo requests to {LOOPBACK[3]}: packets are led round it" in [
        hop.what for hop in hops
    ]


def test_a_silent_node_that_is_used_is_shown() -> None:
    given = kernels()
    given["node-1"]["answers"][LOOPBACK[3]] = False
    (doubt,) = [hop for hop in walked(given, cluster()) if hop.state != "passes"]
    assert doubt.what.endswith("and is used all the same")
    assert "is node-3 up" in doubt.remedy


def test_a_node_of_an_earlier_version_shows_one_of_several() -> None:
    given = kernels()
    given["node-1"]["vpcs"][VPC_ID]["routes"][-1] |= {"kind": "other", "sids": None}
    del given["node-1"]["answers"]
    hops = walked(given, cluster())
    assert {hop.state for hop in hops} == {"passes"}
    assert f"{OUTSIDE} is outside: by VPCGateway blue/way, node-2" in [hop.what for hop in hops]


def unready(objects: Objects) -> None:
    status = objects["VPCGateway way"]["status"]
    status["nodes"] = [one | {"ready": False} for one in status["nodes"]]
    status["conditions"][1] = condition("Ready", "False", "NotReported", "they have not reported the way out")
    message = "nft is not installed: no VPC is led out by this node"
    objects["NodeSegment node-2"]["status"]["conditions"].append(
        condition("Gateways", "False", "FilterFailed", message)
    )


def refused(objects: Objects) -> None:
    status = objects["VPCGateway way"]["status"]
    status["nodes"] = []
    message = "203.0.113.2 is in 203.0.113.0/24, an address of Node node-9"
    status["conditions"] = [
        condition(kind, "False", "AddressInUse", message) for kind in ("Accepted", "Ready")
    ]


Change = Callable[[Kernels, Objects], Any]


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        pytest.param(
            lambda _, objects: objects.pop("VPCGateway way"),
            *(f"VRF {vrf(VPC)} on node-1", "nothing leads blue/blue out"),
            id="no-gateway",
        ),
        pytest.param(
            lambda _, objects: refused(objects),
            *("VPCGateway blue/way", "is not accepted (AddressInUse): 203.0.113.2 is in"),
            id="not-accepted",
        ),
        pytest.param(
            lambda _, objects: unready(objects),
            *("VPCGateway blue/way", "node-2: nft is not installed"),
            id="no-nft",
        ),
        pytest.param(
            lambda _, objects: objects["VPCGateway way"]["status"].update(conditions=[]),
            *("VPCGateway blue/way", "has not decided"),
            id="not-seen",
        ),
        pytest.param(
            lambda _, objects: objects["VPCGateway way"]["status"].update(families=["IPv6"]),
            *("VPCGateway blue/way", "leads out IPv6 alone"),
            id="other-family",
        ),
        pytest.param(
            lambda given, _: given["node-1"].update(
                vpcs={}, ways={f"{VPC_ID}@{OUTSIDE}": BY | {"type": "unreachable"}}
            ),
            *(f"VRF {vrf(VPC)} on node-1", "no default route to its nodes"),
            id="not-in-this-kernel",
        ),
        pytest.param(
            lambda given, _: given["node-2"].update(sids=[]),
            *(f"SID {SID[2]} on node-2", "has no such SID"),
            id="no-sid",
        ),
        pytest.param(
            lambda given, _: given["node-3"]["links"].pop(MAIN),
            *(f"VRF {vrf(VPC)} on node-3", f"{MAIN} are not there"),
            id="no-devices",
        ),
        pytest.param(
            lambda given, _: given["node-2"]["ways"].update({f"{VPC_ID}@{OUTSIDE}": BY | {"sid": SID[3]}}),
            *(f"VRF {vrf(VPC)} on node-2", f"not to {OUT}"),
            id="led-elsewhere",
        ),
        pytest.param(
            lambda _, objects: objects["VPCGateway way"]["status"].update(forbidden=["198.51.100.0/24"]),
            *("gateway's rules on node-2", "198.51.100.0/24 is the cluster's own"),
            id="forbidden",
        ),
        pytest.param(
            lambda given, _: given["node-3"]["ways"].update({OUTSIDE: BY | {"type": "local"}}),
            *("gateway's rules on node-3", "an address of node-3 itself"),
            id="the-nodes-own",
        ),
        pytest.param(
            lambda given, _: given["node-2"]["ways"].update({OUTSIDE: BY | {"type": "unreachable"}}),
            *("table main of node-2", "no route to 198.51.100.7"),
            id="no-route-outside",
        ),
    ],
)
def test_where_it_stops(change: Change, where: str, what: str) -> None:
    given, objects = kernels(), cluster()
    change(given, objects)
    *before, last = walked(given, objects)
    assert before
    assert all(hop.state == "passes" for hop in before)
    assert (last.state, last.where) == ("stops", where)
    assert what in last.what
    assert last.remedy


def test_the_metadata_service_is_never_reached() -> None:
    address = "169.254.169.254"
    *_, last = walked(kernels(address), cluster(), address)
    assert last.state == "stops"
    assert "no gateway leads to 169.254.0.0/16" in last.what


def echo(answered: int, **more: Any) -> Echo:
    plain = {"sent": 3, "answered": answered, "size": 431, "milliseconds": 1.5, "refused": "", "errors": []}
    counted = {"drops": [], "links": {}}
    return Echo.of(plain | {"gateways": {}} | counted, more.get("remote"))


def test_the_answer_is_the_last_hop() -> None:
    assert walked(kernels(), cluster(), echo=echo(3))[-1].what == "answers: 3 of 3 echo requests, 1.5 ms"


def test_without_an_answer_the_counters_show_how_far_packets_came() -> None:
    remote = {"drops": [], "links": {MAIN: {"rx_packets": 3, "tx_packets": 0}}}
    last = walked(kernels(), cluster(), echo=echo(0, remote=remote))[-1]
    assert last.state == "unknown"
    assert last.what == "0 of 3 echo requests were answered; 3 packets left by node-2, 0 came back"
    assert last.remedy.startswith(
        "does the network outside route 203.0.113.2 to node-2, 203.0.113.3 to node-3?"
    )


def test_addresses_of_the_vpc_and_of_peers_are_not_outside() -> None:
    objects = cluster()
    objects["VPC blue"]["status"]["peers"] = [
        {"namespace": "red", "name": "red", "inForce": True, "networks": ["10.2.0.0/16"]}
    ]
    seen = snapshot(objects)
    assert [outside(seen, VPC_ID, text) for text in (OUTSIDE, "10.1.1.99", "10.2.3.4", "10.3.0.1")] == [
        True,
        False,
        False,
        True,
    ]


def test_the_way_out_is_no_difference_to_the_routers_table() -> None:
    table = kernels()["node-1"]["vpcs"][VPC_ID]
    inside = {"network": "10.1.1.130/32", "metric": WAY_OUT_METRIC, "kind": "sid", "sid": SID[2]}
    table["routes"].append(inside)
    assert not {"0.0.0.0/0", "10.1.1.130/32"} & routes(table).keys()
