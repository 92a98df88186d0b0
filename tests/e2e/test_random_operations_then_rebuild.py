"""After random ADDs, DELs, vanished namespaces and killed controllers the kernel is as planned: when Galactic's objects
are removed from it and the controller is restarted, it has exactly the same objects again.
"""

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from story import API, DESTROY, Tenant, eventually

from galactic_lab.cluster import Lab

NODE = "node-3"
PROGRAM = Path(__file__).with_name("operations.py")
COUNT = 25
VPCS, ATTACHMENTS = 3, 7


@pytest.fixture
def seed() -> int:
    """The same at each run; GALACTIC_SEED=N another, GALACTIC_SEED=new a random one."""
    given = os.environ.get("GALACTIC_SEED", "1")
    chosen = random.randrange(1 << 32) if given == "new" else int(given)
    sys.stdout.write(f"GALACTIC_SEED={chosen}\n")  # pytest shows it where the story fails
    return chosen


def test_rebuild(tenants: Callable[..., Tenant], lab: Lab, seed: int) -> None:
    # Something real beside it, so that there are routes to other nodes.
    blue = tenants("blue")
    blue.settle({"here": (NODE, "10.1.1.1/24", "2001:10:1:1::1/64"), "there": ("node-1", "10.1.1.2/24")})
    blue.all_reach((("here", "10.1.1.2"),))
    state = lab.state
    plugin = str(state.tools / "cni" / "galactic")
    init = state.pid(NODE, "init").read_text().strip()
    argv = [sys.executable, "-P", str(PROGRAM), plugin, str(seed), str(COUNT)]
    slots = json.dumps(carried(blue))
    attached: dict[str, list[str]] = {}
    try:
        result = json.loads(lab.run(NODE, argv, stdin=slots, timeout=1200).stdout)
        attached, done = result["attached"], result["done"]
        assert len(done) >= 4, f"too few kinds of operations: {done}"
        pods = {f"/proc/{init}/root/run/netns/{name}": devices for name, devices in attached.items()}
        pods[blue.netns("here")] = ["galactic0"]
        wanted = sum(map(len, pods.values()))
        eventually("what vanished is forgotten", lambda: forgotten(lab, wanted))
        before = kernel(lab, pods)

        lab.hold(NODE)
        lab.exec(NODE, ["sh", "-c", DESTROY])
        assert host_ends(lab) == 0
        assert kernel(lab, pods) != before
        lab.release(NODE)
        eventually("the controller is there", lambda: lab.controller_pid(NODE))
        left: dict[str, Any] = {}

        def same() -> bool:
            left.clear()
            left.update(difference(before, kernel(lab, pods)))
            return not left

        try:
            eventually("everything of before is there again", same)
        finally:
            assert left == {}, left
        blue.all_reach((("here", "10.1.1.2"),))
    finally:
        lab.release(NODE)
        script = "".join(f"ip netns delete {name}; " for name in names(lab))
        lab.exec(NODE, ["sh", "-c", f"{script}true"])
    eventually("the node is empty but for the real pod", lambda: forgotten(lab, 1))


def carried(tenant: Tenant) -> list[tuple[str, str, str, str]]:
    """Attachments, each carried by a pod of the node that never gets a sandbox: (VPC, attachment, pod, UID).

    An address of each family, a termination with every third.
    """
    things: list[dict[str, Any]] = []
    for vpc in range(VPCS):
        networks = [f"10.9.{vpc}.0/24", f"2001:10:9:{vpc}::/64"]
        things.append(
            {
                "apiVersion": API,
                "kind": "VPC",
                "metadata": {"name": f"wild-{vpc}"},
                "spec": {"networks": networks},
            }
        )
        for last in range(1, ATTACHMENTS + 1):
            own = f"10.9.{vpc}.{last}"
            routes = [{"destination": f"192.168.{last}.0/24", "via": own}] if last % 3 == 0 else []
            spec = {
                "vpc": {"apiVersion": API, "kind": "VPC", "name": f"wild-{vpc}"},
                "interface": {"addresses": [f"{own}/24", f"2001:10:9:{vpc}::{last:x}/64"]},
                "routes": routes,
            }
            name = f"wild-{vpc}-{last}"
            things += [
                {"apiVersion": API, "kind": "VPCAttachment", "metadata": {"name": name}, "spec": spec},
                waiting(name),
            ]
    tenant.apply(*things)
    wild: dict[str, dict[str, Any]] = {}

    def all_carried() -> bool:
        found = tenant.lab.get("vpca", "-n", tenant.namespace)["items"]
        wild.update(
            {one["metadata"]["name"]: one for one in found if one["metadata"]["name"].startswith("wild-")}
        )
        return len(wild) == VPCS * ATTACHMENTS and all(
            (one.get("status") or {}).get("carriers") for one in wild.values()
        )

    eventually("every attachment is carried", all_carried)
    return [
        (one["spec"]["vpc"]["name"], f"{tenant.namespace}/{name}", name, one["status"]["carriers"][0]["uid"])
        for name, one in sorted(wild.items())
    ]


def waiting(name: str) -> dict[str, Any]:
    """A pod of the node that waits for a Secret, before its sandbox is made."""
    annotations = {"k8s.v1alpha.galactic.datumapis.com/vpc-attachment": name}
    spec = {
        "nodeSelector": {"kubernetes.io/hostname": NODE},
        "terminationGracePeriodSeconds": 1,
        "containers": [
            {"name": "main", "image": "none", "volumeMounts": [{"name": "never", "mountPath": "/never"}]}
        ],
        "volumes": [{"name": "never", "secret": {"secretName": "never"}}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": annotations},
        "spec": spec,
    }


def names(lab: Lab) -> list[str]:
    """The namespaces that the operations made."""
    return [
        netns["name"]
        for netns in json.loads(lab.exec(NODE, ["ip", "-j", "netns"]) or "[]")
        if netns["name"].startswith("wild-")
    ]


def forgotten(lab: Lab, wanted: int) -> bool:
    """Whether the node has that many attachments and nothing of others. A host end goes with its namespace at once; its
    SID and an empty VRF go when the controller has noticed.
    """
    links = [link for link in shown(lab, NODE, "link") if link["ifname"][0] == "G"]
    ends = [link for link in links if link["ifname"].endswith("H")]
    vrfs = {link["ifname"] for link in links if link["ifname"].endswith("V")}
    sids = lab.exec(NODE, ["ip", "-6", "route", "show", "proto", "154"]).count("End.DT46")
    return len(ends) == sids == wanted and vrfs == {end.get("master") for end in ends}


def host_ends(lab: Lab) -> int:
    return sum(link["ifname"].endswith("H") for link in shown(lab, NODE, "link") if link["ifname"][0] == "G")


def shown(lab: Lab, target: str, *what: str) -> list[dict[str, Any]]:
    """Objects that ip prints, of one family or both."""
    return list(json.loads(lab.exec(target, ["ip", "-j", *what]) or "[]"))


def kernel(lab: Lab, pods: dict[str, list[str]]) -> dict[str, set[str]]:
    """Everything of ours on the node and in the pods, as sets of lines; tables go by their VRF's name.

    ``pods``: the interfaces by the file of the network namespace, in the lab's kernel.
    """
    script = (
        "ip -j -d link; echo; ip -j address; echo; ip -4 -j rule; echo; ip -6 -j rule; echo;"
        "ip -4 -j route show table all; echo; ip -6 -j route show table all; echo;"
    )
    commands = [f"ip netns exec {lab.state.node(NODE).namespace} sh -c '{script}'"]
    commands += [
        f"nsenter --net={pod} sh -c 'ip -j address; echo; ip -4 -j route; echo; ip -6 -j route; echo'"
        for pod in pods
    ]
    output = lab.run("kernel", ["sh", "-c", "; ".join(commands)]).stdout
    parts = [json.loads(line) for line in output.splitlines() if line.strip()]
    links, addresses, rules_4, rules_6, routes_4, routes_6, *inside = parts
    tables = {
        str(link["linkinfo"]["info_data"]["table"]): link["ifname"]
        for link in links
        if link.get("linkinfo", {}).get("info_kind") == "vrf"
    }
    ours = [link for link in links if link["ifname"][0] == "G" or link["ifname"] == "lo-galactic"]
    found = {
        "links": {
            words(link, "ifname", "mtu", "master", "operstate", "group", info=link["linkinfo"]["info_kind"])
            for link in ours
        },
        "addresses": {
            words(address, "family", "local", "prefixlen", "scope", device=device["ifname"])
            for device in addresses
            for address in device.get("addr_info", ())
            if device["ifname"] in {link["ifname"] for link in ours} and given(address)
        },
        "rules": {words(rule) for rule in (*rules_4, *rules_6)},
        "routes": {
            words(
                route,
                **{
                    key: tables.get(str(route[key]), route[key])
                    for key in ("table", "vrftable")
                    if key in route
                },
            )
            for route in (*routes_4, *routes_6)
            if route.get("protocol") != "kernel" and "cache" not in route.get("flags", ())
        },
    }
    for number, pod in enumerate(pods):
        devices, four, six = inside[number * 3 : number * 3 + 3]
        found[pod] = {words(route) for route in (*four, *six) if route.get("protocol") != "kernel"} | {
            words(address, "family", "local", "prefixlen", device=device["ifname"], mtu=device["mtu"])
            for device in devices
            for address in device.get("addr_info", ())
            if device["ifname"] in pods[pod] and given(address)
        }
    return found


def given(address: dict[str, Any]) -> bool:
    """Not of the kernel's own making."""
    return address.get("protocol") != "kernel_ll" and not (
        address["local"].startswith("fe80:") and address["local"] != "fe80::1"
    )


def words(thing: dict[str, Any], *keys: str, **more: Any) -> str:
    """One line of all its fields or some."""
    return json.dumps({key: thing.get(key) for key in keys or thing} | more, sort_keys=True)


def difference(before: dict[str, set[str]], now: dict[str, set[str]]) -> dict[str, Any]:
    """Missing and new lines, by part."""
    return {
        part: {"missing": before[part] - now[part], "new": now[part] - before[part]}
        for part in before
        if before[part] != now[part]
    }
