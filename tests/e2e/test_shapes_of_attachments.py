"""Attachments of every shape, all at once: IPv4 alone, IPv6 alone, both; several VPCs in one pod; several pods of a VPC
on one node; through the node itself and across nodes.
"""

from collections.abc import Callable
from typing import Any

from story import API, Tenant, eventually

NETWORKS = {
    "blue": ["10.1.1.0/24", "2001:10:1:1::/64"],
    "red": ["10.2.2.0/24", "2001:10:2:2::/64"],
    "old": ["10.3.3.0/24"],
    "new": ["2001:10:4:4::/64"],
}
PODS = {  # name: node, then VPC and addresses of each interface
    "four-1": ("node-1", ("blue", "10.1.1.41/24")),
    "four-2": ("node-2", ("blue", "10.1.1.42/24")),
    "six-1": ("node-1", ("blue", "2001:10:1:1::61/64")),
    "six-2": ("node-2", ("blue", "2001:10:1:1::62/64")),
    "both-1": ("node-1", ("blue", "10.1.1.1/24", "2001:10:1:1::1/64")),
    "both-2": ("node-2", ("blue", "10.1.1.2/24", "2001:10:1:1::2/64")),
    "many": (
        "node-1",
        ("blue", "10.1.1.9/24", "2001:10:1:1::9/64"),
        ("red", "10.2.2.9/24", "2001:10:2:2::9/64"),
        ("old", "10.3.3.9/24"),
        ("new", "2001:10:4:4::9/64"),
    ),
    "far": (
        "node-2",
        ("red", "10.2.2.2/24", "2001:10:2:2::2/64"),
        ("old", "10.3.3.2/24"),
        ("new", "2001:10:4:4::2/64"),
    ),
    "third": ("node-1", ("blue", "10.1.1.11/24", "2001:10:1:1::11/64")),
}
REACHED = (
    *(("four-1", address) for address in ("10.1.1.42", "10.1.1.1", "10.1.1.2", "10.1.1.9", "10.1.1.11")),
    *(("six-1", f"2001:10:1:1::{host}") for host in ("62", "1", "2", "9", "11")),
    *(("both-2", address) for address in ("10.1.1.41", "10.1.1.42", "10.1.1.11", "10.1.1.9")),
    *(("both-2", f"2001:10:1:1::{host}") for host in ("61", "62", "1", "9", "11")),
    *(("both-1", address) for address in ("10.1.1.11", "2001:10:1:1::11", "2001:10:1:1::2")),
    *(("many", address) for address in ("10.1.1.1", "10.1.1.2", "2001:10:1:1::2", "2001:10:1:1::61")),
    *(("many", address) for address in ("10.2.2.2", "2001:10:2:2::2", "10.3.3.2", "2001:10:4:4::2")),
    *(("far", address) for address in ("10.2.2.9", "2001:10:2:2::9", "10.3.3.9", "2001:10:4:4::9")),
    *(("third", address) for address in ("10.1.1.1", "10.1.1.2", "2001:10:1:1::1", "2001:10:1:1::2")),
)
APART = (
    ("four-1", "10.2.2.2"),
    ("far", "10.1.1.1"),
    ("far", "2001:10:1:1::1"),
    ("both-1", "10.3.3.9"),
    ("both-1", "2001:10:4:4::9"),
)


def test_shapes(tenants: Callable[..., Tenant]) -> None:
    blue = tenants("blue")
    kinds = [
        {"apiVersion": API, "kind": "VPC", "metadata": {"name": name}, "spec": {"networks": networks}}
        for name, networks in NETWORKS.items()
    ]
    blue.apply(*kinds, *(attachment for name in PODS for attachment in attachments(name)))
    wanted = {attachment["metadata"]["name"] for name in PODS for attachment in attachments(name)}
    eventually("every attachment is ready", lambda: wanted == ready(blue))
    blue.apply(*map(pod, PODS))
    blue.wait_for_pods(*PODS)
    blue.all_reach(REACHED)
    assert set(blue.unanswered(APART)) == set(APART)
    for name, (_, *interfaces) in PODS.items():
        shown = blue.run(name, ["ip", "-br", "address"])
        for number, (_, *addresses) in enumerate(interfaces):
            (line,) = (line for line in shown.splitlines() if line.startswith(f"galactic{number}@"))
            assert {word for word in line.split() if not word.startswith("fe80:")} >= set(addresses)


def attachments(name: str) -> list[dict[str, Any]]:
    """One for each interface of a pod: NAME.0, which a comma list of Multus' cannot have, NAME-1, NAME-2, …"""
    return [
        {
            "apiVersion": API,
            "kind": "VPCAttachment",
            "metadata": {"name": f"{name}-{number}" if number else f"{name}.0"},
            "spec": {
                "vpc": {"apiVersion": API, "kind": "VPC", "name": vpc},
                "interface": {"name": f"galactic{number}", "addresses": addresses},
            },
        }
        for number, (vpc, *addresses) in enumerate(PODS[name][1:])
    ]


def ready(tenant: Tenant) -> set[str]:
    """The attachments that are ready, and so have what Multus needs."""
    return {
        attachment["metadata"]["name"]
        for attachment in tenant.lab.get("vpca", "-n", tenant.namespace)["items"]
        if attachment.get("status", {}).get("ready")
    }


def pod(name: str) -> dict[str, Any]:
    """A Pod with its first attachment in Galactic's annotation and further ones in Multus' own list."""
    further = ",".join(f"{name}-{number}@galactic{number}" for number in range(1, len(PODS[name]) - 1))
    annotations = {"k8s.v1alpha.galactic.datumapis.com/vpc-attachment": f"{name}.0"}
    if further:
        annotations["k8s.v1.cni.cncf.io/networks"] = further
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": PODS[name][0]},
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": "nicolaka/netshoot:v0.13"}],
        },
    }
