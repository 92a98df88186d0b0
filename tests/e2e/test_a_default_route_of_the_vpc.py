"""A pod that terminates 0.0.0.0/0 and ::/0 is the default route of pods whose attachment has it, on every node, and of
no others. The pods' own default route stays through every change.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest
from story import Tenant, eventually

from galactic.errors import Rejected
from galactic_lab.cluster import Lab

GATE = {4: "10.1.1.3", 6: "2001:10:1:1::3"}
ELSEWHERE = {4: "198.51.100.7", 6: "2001:db8:7::7"}
BEHIND = f"""
ip link add inner type dummy
ip link set inner up
ip addr add {ELSEWHERE[4]}/32 dev inner
ip addr add {ELSEWHERE[6]}/128 dev inner
exec sleep infinity
"""
ROUTES = (
    {"destination": "0.0.0.0/0", "via": GATE[4]},
    {"destination": "::/0", "via": GATE[6]},
)
HALVES = {4: ["0.0.0.0/1", "128.0.0.0/1"], 6: ["::/1", "8000::/1"]}


def test_default(tenants: Callable[..., Tenant], lab: Lab) -> None:
    blue = tenants("blue")
    blue.settle(
        {
            "gate": ("node-2", f"{GATE[4]}/24", f"{GATE[6]}/64"),
            "near": ("node-2", "10.1.1.2/24", "2001:10:1:1::2/64"),
            "far": ("node-1", "10.1.1.1/24", "2001:10:1:1::1/64"),
            "plain": ("node-1", "10.1.1.4/24", "2001:10:1:1::4/64"),
        },
        routes=dict.fromkeys(("gate", "near", "far"), ROUTES),
        commands={"gate": BEHIND},
    )
    blue.all_reach((pod, address) for pod in ("near", "far") for address in ELSEWHERE.values())
    assert not [route for route in halves(blue, "plain") if route], "it has not asked"
    assert blue.unanswered(("plain", address) for address in ELSEWHERE.values())
    blue.all_reach(("plain", address) for address in GATE.values())
    before = {pod: own_default(blue, pod) for pod in ("near", "far", "plain")}
    assert all(before.values()), before
    claimed = set(blue.endpoint("gate")["networks"])
    assert {"0.0.0.0/0", "::/0"} <= claimed

    # Another one may not terminate them as well.
    second = attachment(blue, "second", ("10.1.1.9/24",), ({"destination": "0.0.0.0/0", "via": "10.1.1.9"},))
    with pytest.raises(Rejected, match="gate"):
        blue.apply(second)

    # Taken back and asked for again, by a pod that runs; asked for by one that has not.
    for routes, expected in (((), 0), (ROUTES, 2)):
        blue.apply(attachment(blue, "far", ("10.1.1.1/24", "2001:10:1:1::1/64"), routes))
        eventually(
            f"far has {expected} halves of either family",
            lambda expected=expected: [len(routes) for routes in halves(blue, "far")] == [expected] * 2,
        )
        assert own_default(blue, "far") == before["far"]
    blue.apply(attachment(blue, "plain", ("10.1.1.4/24", "2001:10:1:1::4/64"), ROUTES))
    blue.all_reach((pod, address) for pod in ("plain", "far") for address in ELSEWHERE.values())
    assert own_default(blue, "plain") == before["plain"]

    # The gate is deleted, which changes no pod's own default route, and comes back on another node.
    blue.delete_pod("gate")
    assert {pod: own_default(blue, pod) for pod in before} == before
    blue.pod("gate", "node-3", command=BEHIND)
    blue.all_reach((pod, address) for pod in before for address in ELSEWHERE.values())
    assert {pod: own_default(blue, pod) for pod in before} == before


def attachment(
    blue: Tenant, name: str, addresses: tuple[str, ...], routes: tuple[dict[str, str], ...]
) -> dict[str, Any]:
    manifest = blue.manifest(name, *addresses)
    manifest["spec"]["routes"] = list(routes)
    return manifest


def routes(blue: Tenant, pod: str, family: int) -> list[dict[str, Any]]:
    return list(json.loads(blue.run(pod, ["ip", f"-{family}", "-j", "route", "show"])))


def halves(blue: Tenant, pod: str) -> list[list[str]]:
    """Of either family, those that the pod sends into the VPC."""
    return [
        [
            route["dst"]
            for route in routes(blue, pod, family)
            if route["dst"] in HALVES[family] and route["dev"] == "galactic0"
        ]
        for family in (4, 6)
    ]


def own_default(blue: Tenant, pod: str) -> list[tuple[Any, ...]]:
    """The default routes of the pod's own network."""
    return [
        (family, route["dst"], route.get("gateway"), route["dev"], route.get("metric"))
        for family in (4, 6)
        for route in routes(blue, pod, family)
        if route["dst"] == "default" and route["dev"] != "galactic0"
    ]
