"""Nodes and VPCGateways of an operator's tests."""

from ipaddress import ip_network

from galactic.kube.resources import NODE_SEGMENTS, NODES, VPC_GATEWAYS

POOL = (ip_network("203.0.113.0/24"), ip_network("2001:db8:cafe::/48"))


def node(cluster, number, *, labels=None):
    name = f"node-{number}"
    cluster.api.put(
        NODES,
        {
            "metadata": {"name": name, "labels": {"edge": "yes"} | (labels or {})},
            "spec": {"podCIDRs": [f"10.244.{number}.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": f"192.0.2.{number}"}]},
        },
    )
    cluster.api.put(
        NODE_SEGMENTS,
        {
            "metadata": {"name": name},
            "spec": {"prefix": f"2001:db8:ff0{number}:100::/56"},
            "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "x"}]},
        },
    )


def dies(cluster, number):
    """Kubernetes gives the node up."""
    taint = {"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"}
    cluster.api.change(NODES, f"node-{number}", {"spec": {"taints": [taint]}})


def gateway(
    cluster, name="g", *, vpc="v", addresses=("203.0.113.1", "203.0.113.2"), namespace="default", **spec
):
    snat = {"snat": {"addresses": list(addresses)}}
    named = {"name": vpc} if isinstance(vpc, str) else vpc
    body = {"vpc": named, "nodeSelector": {"edge": "yes"}} | snat | spec
    cluster.api.put(VPC_GATEWAYS, {"metadata": {"name": name}, "spec": body}, namespace)


def reported(cluster, *numbers):
    """These nodes report the ways out that the gateway's status asks of them."""
    published = status(cluster).get("published") or ()
    for one in status(cluster)["nodes"]:
        if int(one["node"][-1]) in numbers:
            addresses = [entry["address"] for entry in published if entry.get("node") == one["node"]]
            report = {"gateways": [one["sid"]], "published": addresses}
            cluster.api.change(NODE_SEGMENTS, one["node"], {"status": report}, subresource="status")


def status(cluster, name="g"):
    return cluster.status(name, resource=VPC_GATEWAYS)


def condition(cluster, type_, name="g"):
    return cluster.condition(type_, name, resource=VPC_GATEWAYS)
