"""A walk over recorded kernels stops where packets would, with a remedy."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from states import VPC_ID, Objects, condition, fine, snapshot

from galactic.cli.desired import advertised_routes, desired, rows
from galactic.cli.walk import Hop, covering, places, sid_of, walk
from galactic.messages import Route
from galactic.names import host_end, vrf
from galactic.router.rib.networks import Network

VPC = int(VPC_ID, 16)
SID = {1: "2001:db8:ff01:100::4d2:1", 2: "2001:db8:ff02:100::4d2:2"}
NAMES = {1: "web", 2: "api"}
Kernels = dict[str, Any]


def kernel(number: int) -> dict[str, Any]:
    """The kernel of node NUMBER, which has 10.1.1.NUMBER."""
    other = 3 - number
    device = host_end(VPC, number)
    route = {"type": "unicast", "gateway": ""}
    return {
        "links": {
            device: {"kind": "veth", "up": True, "master": vrf(VPC), "mtu": 1460, "table": 0},
            vrf(VPC): {"kind": "vrf", "up": True, "master": "", "mtu": 65575, "table": 1000001234},
        },
        "addresses": [f"2001:db8:ff0{number}:100:ffff:ffff:ffff:ffff/128 lo-galactic"],
        "rules": [{"priority": 999, "to": "2001:db8:ff00::/40", "table": 254}],
        "sysctls": {"net/vrf/strict_mode": "1"},
        "sids": [{"network": f"{SID[number]}/128", "metric": 0, "kind": "end", "device": vrf(VPC)}],
        "vpcs": {
            VPC_ID: {
                "routes": [
                    {"network": "0.0.0.0/0", "metric": 4278198272, "kind": "unreachable"},
                    {"network": f"10.1.1.{number}/32", "metric": 0, "kind": "device", "device": device},
                    {"network": f"10.1.1.{other}/32", "metric": 9, "kind": "sid", "sid": SID[other]},
                ]
            }
        },
        "ways": {
            f"{VPC_ID}@10.1.1.{number}": route | {"device": device, "sid": ""},
            f"{VPC_ID}@10.1.1.{other}": route | {"device": "lo-galactic", "sid": SID[other]},
            SID[other]: {"type": "unicast", "device": "eth0", "gateway": "fd00::1", "sid": ""},
        },
        "pods": {
            f"/run/netns/{NAMES[number]}@galactic0": {
                "addresses": [f"10.1.1.{number}/24"],
                "routes": [{"network": "10.1.1.0/24", "metric": 0, "kind": "via", "gateway": "169.254.1.1"}],
            }
        },
    }


def walked(kernels: Kernels, objects: Objects, address: str = "10.1.1.2") -> list[Hop]:
    seen = snapshot(objects)
    return [*walk(places(seen)["blue/web"], address, kernels, seen, desired(seen, VPC, {}))]


def test_the_whole_way() -> None:
    hops = walked({"node-1": kernel(1), "node-2": kernel(2)}, fine())
    assert [hop.state for hop in hops] == ["passes"] * 8
    assert hops[0].where == "pod blue/web"
    assert hops[-1].where == "pod blue/api"


def test_a_smaller_link_on_the_way() -> None:
    things = fine()
    message = (
        "smaller links on the way: 1400 bytes to 2001:db8:ff02:100::/64 (reported by fd09::1); eth0 has 1500"
    )
    things["NodeSegment node-1"]["status"]["conditions"].append(
        condition("PathMTU", "False", "SmallerLink", message)
    )
    hops = walked({"node-1": kernel(1), "node-2": kernel(2)}, things)
    assert [hop.state for hop in hops] == ["passes"] * 9
    assert [hop.what for hop in hops if hop.where == "underlay of node-1"][1:] == [
        "packets to node-2 may have 1400 bytes, as fd09::1 has reported; pods learn it"
    ]


def lost(node: int, *path: str) -> Callable[[Kernels], None]:
    def change(kernels: Kernels) -> None:
        place = kernels[f"node-{node}"]
        for part in path[:-1]:
            place = place[part]
        if isinstance(place[path[-1]], list):
            place[path[-1]] = []
        else:
            del place[path[-1]]

    return change


def put(value: Any, node: int, *path: str) -> Callable[[Kernels], None]:
    def change(kernels: Kernels) -> None:
        place = kernels[f"node-{node}"]
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = value

    return change


def both(*changes: Callable[[Kernels], None]) -> Callable[[Kernels], None]:
    def change(kernels: Kernels) -> None:
        for one in changes:
            one(kernels)

    return change


NOWHERE = {"type": "unreachable", "device": "", "gateway": "", "sid": ""}


@pytest.mark.parametrize(
    ("change", "where", "remedy"),
    [
        pytest.param(
            lost(1, "pods", "/run/netns/web@galactic0"),
            "pod blue/web",
            "recreate the pod",
            id="no-interface",
        ),
        pytest.param(
            put([], 1, "pods", "/run/netns/web@galactic0", "routes"),
            *("pod blue/web", "spec.networks"),
            id="outside-the-vpc-s-networks",
        ),
        pytest.param(
            put(["fd00::1/64"], 1, "pods", "/run/netns/web@galactic0", "addresses"),
            *("pod blue/web", "spec.interface.addresses"),
            id="other-family",
        ),
        pytest.param(
            lost(1, "links", host_end(VPC, 1)),
            f"{host_end(VPC, 1)} on node-1",
            "kubectl describe nseg node-1",
            id="no-veth",
        ),
        pytest.param(
            put(False, 1, "links", vrf(VPC), "up"),
            f"VRF {vrf(VPC)}",
            "galactic-node on node-1",
            id="vrf-down",
        ),
        pytest.param(
            put("", 1, "links", host_end(VPC, 1), "master"),
            f"{host_end(VPC, 1)} on node-1",
            "galactic-node",
            id="not-in-the-vrf",
        ),
        pytest.param(
            put(NOWHERE, 1, "ways", f"{VPC_ID}@10.1.1.2"),
            *(f"VRF {vrf(VPC)} on node-1", "missing in this kernel"),
            id="no-route-in-the-vrf",
        ),
        pytest.param(
            both(
                put(NOWHERE, 1, "ways", f"{VPC_ID}@10.1.1.2"),
                put({"IPv4": {"vrf_first": False, "block": "", "main": True}}, 1, "lookups"),
            ),
            *("policy rules of node-1", "deleted the rule l3mdev"),
            id="no-rule-leads-to-the-vrf",
        ),
        pytest.param(lost(1, "rules"), "underlay of node-1", "galactic-node on node-1", id="no-rule"),
        pytest.param(
            lost(1, "addresses"), "underlay of node-1", "galactic-node on node-1", id="no-source-address"
        ),
        pytest.param(
            put(NOWHERE, 1, "ways", SID[2]), "underlay of node-1", "ip -6 route get", id="no-underlay"
        ),
        pytest.param(lost(2, "sids"), f"SID {SID[2]} on node-2", "galactic routes", id="no-sid"),
        pytest.param(
            put("0", 2, "sysctls", "net/vrf/strict_mode"),
            f"SID {SID[2]} on node-2",
            "strict_mode=1",
            id="not-strict",
        ),
        pytest.param(
            put(NOWHERE, 2, "ways", f"{VPC_ID}@10.1.1.2"),
            f"VRF {vrf(VPC)} on node-2",
            "node-2",
            id="not-there-any-more",
        ),
        pytest.param(
            put(False, 2, "links", host_end(VPC, 2), "up"),
            f"{host_end(VPC, 2)} on node-2",
            "node-2",
            id="far-veth-down",
        ),
        pytest.param(
            lost(2, "pods", "/run/netns/api@galactic0"),
            "pod blue/api",
            "recreate the pod",
            id="far-interface",
        ),
    ],
)
def test_where_it_stops(change: Callable[[Kernels], None], where: str, remedy: str) -> None:
    kernels = {"node-1": deepcopy(kernel(1)), "node-2": deepcopy(kernel(2))}
    change(kernels)
    *before, last = walked(kernels, fine())
    assert all(hop.state == "passes" for hop in before)
    assert (last.state, last.where) == ("stops", where)
    assert remedy in last.remedy


def test_a_kernel_that_cannot_be_read_is_unknown() -> None:
    *before, last = walked({"node-1": kernel(1), "node-2": "no pod of galactic-node runs there"}, fine())
    assert before
    assert last.state == "unknown"
    assert "no pod of galactic-node" in last.what


def unattached(objects: Objects) -> None:
    del objects["VPCAttachment api"]["status"]["endpoint"]
    objects["NodeSegment node-2"]["status"]["endpoints"] = []


def unready(objects: Objects) -> None:
    unattached(objects)
    objects["VPCAttachment api"]["status"]["ready"] = False


def podless(objects: Objects) -> None:
    unattached(objects)
    del objects["Pod api"]


def unrouted(objects: Objects) -> None:
    del objects["VPCAttachment api"]["status"]["endpoint"]
    objects["VPCAttachment api"]["status"]["conditions"] = [condition("Routed", "False", "NotRouted", "…")]


@pytest.mark.parametrize(
    ("change", "address", "why"),
    [
        pytest.param(unattached, "10.1.1.2", "pod blue/api is not attached", id="pod-not-attached"),
        pytest.param(unready, "10.1.1.2", "is not Ready", id="attachment-not-ready"),
        pytest.param(podless, "10.1.1.2", "no pod uses it", id="no-pod"),
        pytest.param(lambda _: None, "10.1.1.2", "missing in this kernel", id="advertised"),
        pytest.param(lambda _: None, "10.1.1.2", f"galactic routes {VPC_ID}", id="advertised-remedy"),
        pytest.param(unrouted, "10.1.1.2", "no router has published its route", id="not-advertised"),
        pytest.param(lambda _: None, "10.1.1.99", "no attachment of this VPC has it", id="no-holder"),
    ],
)
def test_why_there_is_no_route(change: Callable[[Objects], None], address: str, why: str) -> None:
    objects, here = fine(), kernel(1)
    change(objects)
    here["ways"][f"{VPC_ID}@{address}"] = NOWHERE
    *_, last = walked({"node-1": here}, objects, address)
    assert last.state == "stops"
    assert why in last.remedy


def test_the_longest_prefix_wins() -> None:
    from ipaddress import ip_address

    matching = [
        {"network": "10.0.0.0/8", "metric": 0},
        {"network": "10.1.0.0/16", "metric": 5},
        {"network": "10.1.0.0/16", "metric": 1},
        {"network": "::/0", "metric": 0},
    ]
    assert covering(matching, ip_address("10.1.2.3")) == matching[2]
    assert covering(matching[:0], ip_address("10.1.2.3")) is None


ROUTE = {
    number: Route(f"10.1.1.{number}/32", (SID[number],), "default", f"node-{number}", f"{number:04x}", 7)
    for number in (1, 2)
}
WANTED = {Network(route.network): route for route in ROUTE.values()}


def compared(
    advertised: Any, change: Callable[[Kernels], None] = lambda _: None
) -> dict[str, tuple[str, ...]]:
    kernels = {"node-1": kernel(1), "node-2": kernel(2)}
    change(kernels)
    matching = rows(
        WANTED,
        advertised,
        {node: kernel["vpcs"][VPC_ID] for node, kernel in kernels.items()},
        {(VPC, "0001"): "blue/web"},
        vpc=VPC,
    )
    return {row.network: row.differences for row in matching if row.differences}


def test_differences_are_where_they_are() -> None:
    assert compared(WANTED) == {}
    assert compared(None) == {}, "what could not be asked is no difference"
    assert compared({}) == {"10.1.1.1/32": ("advertised",), "10.1.1.2/32": ("advertised",)}
    stale = {**WANTED, Network("10.1.1.9/32"): ROUTE[1]}
    assert compared(stale) == {"10.1.1.9/32": ("advertised",)}, "no kernel has it, and none ought to"
    missing = compared(WANTED, lambda kernels: kernels["node-1"]["vpcs"][VPC_ID]["routes"].pop())
    assert missing == {"10.1.1.2/32": ("node-1",)}
    strange = {"network": "10.9.9.9/32", "metric": 0, "kind": "sid", "sid": SID[2]}
    more = compared(WANTED, lambda kernels: kernels["node-2"]["vpcs"][VPC_ID]["routes"].append(strange))
    assert more == {"10.9.9.9/32": ("node-2",)}


def test_what_ought_to_be_follows_from_the_objects() -> None:
    seen = snapshot(fine())
    table = desired(seen, VPC, {})
    assert {route.segments[0] for route in table.routes.values()} == set(SID.values())
    assert sid_of(table, "10.1.1.2") == SID[2]
    assert sid_of(table, "10.1.1.77") == ""


def test_the_leader_s_word_counts() -> None:
    def answer(term: int, node: str) -> dict[str, Any]:
        route = {
            "network": "10.1.1.1/32",
            "sid": SID[1],
            "cluster": "default",
            "node": node,
            "function": "0001",
            "epoch": 1,
        }
        return {"replica": node, "term": term, "vpcs": {VPC_ID: {"revision": 1, "routes": [route]}}}

    (route,) = advertised_routes(
        [answer(0, "standby"), answer(4, "leader"), answer(0, "other")], VPC_ID
    ).values()
    assert route.node == "leader"
    assert advertised_routes([], VPC_ID) == {}
