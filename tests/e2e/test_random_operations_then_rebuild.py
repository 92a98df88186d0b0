"""After any number of ADDs, DELs, vanished namespaces and killed controllers the kernel holds what it should: when all
of ours is taken out of it and the controller starts anew, the very same is there again.
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
    """The same at each run; GALACTIC_SEED=N another, GALACTIC_SEED=new one that nobody tried yet."""
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
    held: dict[str, list[str]] = {}
    try:
        told = json.loads(lab.run(NODE, argv, stdin=slots, timeout=1200).stdout)
        held, done = told["held"], told["done"]
        assert len(done) >= 4, f"too few kinds of operations: {done}"
        pods = {f"/proc/{init}/root/run/netns/{name}": devices for name, devices in held.items()}
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
        each["name"]
        for each in json.loads(lab.exec(NODE, ["ip", "-j", "netns"]) or "[]")
        if each["name"].startswith("wild-")
    ]


def forgotten(lab: Lab, wanted: int) -> bool:
    """Whether the node has that many attachments and nothing of others: a host end goes with its namespace at once, but
    its SID, and a VRF that nobody is in, when the controller has seen that.
    """
    links = [each for each in shown(lab, NODE, "link") if each["ifname"][0] == "G"]
    ends = [each for each in links if each["ifname"].endswith("H")]
    vrfs = {each["ifname"] for each in links if each["ifname"].endswith("V")}
    sids = lab.exec(NODE, ["ip", "-6", "route", "show", "proto", "154"]).count("End.DT46")
    return len(ends) == sids == wanted and vrfs == {each.get("master") for each in ends}


def host_ends(lab: Lab) -> int:
    return sum(each["ifname"].endswith("H") for each in shown(lab, NODE, "link") if each["ifname"][0] == "G")


def shown(lab: Lab, target: str, *what: str) -> list[dict[str, Any]]:
    """What ip says, of one family or both."""
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
    said = lab.run("kernel", ["sh", "-c", "; ".join(commands)]).stdout
    parts = [json.loads(line) for line in said.splitlines() if line.strip()]
    links, addresses, rules_4, rules_6, routes_4, routes_6, *inside = parts
    tables = {
        str(each["linkinfo"]["info_data"]["table"]): each["ifname"]
        for each in links
        if each.get("linkinfo", {}).get("info_kind") == "vrf"
    }
    ours = [each for each in links if each["ifname"][0] == "G" or each["ifname"] == "lo-galactic"]
    found = {
        "links": {
            words(each, "ifname", "mtu", "master", "operstate", "group", info=each["linkinfo"]["info_kind"])
            for each in ours
        },
        "addresses": {
            words(one, "family", "local", "prefixlen", "scope", device=each["ifname"])
            for each in addresses
            for one in each.get("addr_info", ())
            if each["ifname"] in {link["ifname"] for link in ours} and given(one)
        },
        "rules": {words(each) for each in (*rules_4, *rules_6)},
        "routes": {
            words(
                each,
                **{
                    key: tables.get(str(each[key]), each[key]) for key in ("table", "vrftable") if key in each
                },
            )
            for each in (*routes_4, *routes_6)
            if each.get("protocol") != "kernel" and "cache" not in each.get("flags", ())
        },
    }
    for number, pod in enumerate(pods):
        devices, four, six = inside[number * 3 : number * 3 + 3]
        found[pod] = {words(route) for route in (*four, *six) if route.get("protocol") != "kernel"} | {
            words(one, "family", "local", "prefixlen", device=each["ifname"], mtu=each["mtu"])
            for each in devices
            for one in each.get("addr_info", ())
            if each["ifname"] in pods[pod] and given(one)
        }
    return found


def given(address: dict[str, Any]) -> bool:
    """Not of the kernel's own making."""
    return address.get("protocol") != "kernel_ll" and not (
        address["local"].startswith("fe80:") and address["local"] != "fe80::1"
    )


def words(thing: dict[str, Any], *keys: str, **more: Any) -> str:
    """One line that says it, of all its fields or some."""
    return json.dumps({key: thing.get(key) for key in keys or thing} | more, sort_keys=True)


def difference(before: dict[str, set[str]], now: dict[str, set[str]]) -> dict[str, Any]:
    """What is missing and what is new, by part."""
    return {
        part: {"missing": before[part] - now[part], "new": now[part] - before[part]}
        for part in before
        if before[part] != now[part]
    }
