"""Recorded states: a small cluster in order, as the API server has it; each test breaks it in one way."""

from copy import deepcopy
from typing import Any

from galactic.cli.snapshot import Component, Snapshot, name_of
from galactic.crds.model import parse
from galactic.crds.nodesegment import NodeSegment
from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import VpcAttachment
from galactic.crds.vpcgateway import VpcGateway
from galactic.crds.vpcpolicy import VpcPolicy
from galactic.validation.services import parse_service

NOW = 1_800_000_000.0
STAMP = "2027-01-15T07:59:30Z"  # half a minute before NOW
VPC_ID = "0000000004d2"
KINDS = [
    "IPv6",
    "VRF",
    "EndDT46",
    "Encapsulation",
    "ReducedEncapsulation",
    "Synced",
    "BrokerConnected",
    "Underlay",
    "PacketFilter",
    "Neighbours",
    "PathMTU",
    "PasswordEncrypted",
]


def condition(kind: str, status: str, reason: str = "", message: str = "") -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason or kind, "message": message or "fine"}


def segment(number: int, *endpoints: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "NodeSegment",
        "metadata": {"name": f"node-{number}"},
        "spec": {"prefix": f"2001:db8:ff0{number}:100::/56"},
        "status": {
            "conditions": [condition("Ready", "True"), *(condition(kind, "True") for kind in KINDS)],
            "endpoints": list(endpoints),
            "node": {"kernel": "6.1.0", "version": "0.1.0", "encap": "encap.red"},
        },
    }


def endpoint(name: str, node: int, function: int, host: int) -> dict[str, Any]:
    return {
        "vpc": VPC_ID,
        "function": f"{function:04x}",
        "attachment": f"blue/{name}",
        "sid": f"2001:db8:ff0{node}:100::4d2:{function:x}",
        "networks": [f"10.1.1.{host}/32"],
        "netns": f"/run/netns/{name}",
        "ifname": "galactic0",
        "epoch": 1_799_999_000_000_000_000 + function,
    }


def vpc() -> dict[str, Any]:
    return {
        "kind": "VPC",
        "metadata": {"name": "blue", "namespace": "blue", "generation": 1, "creationTimestamp": STAMP},
        "spec": {"networks": ["10.1.1.0/24"]},
        "status": {
            "ready": True,
            "identifier": VPC_ID,
            "observedGeneration": 1,
            "conditions": [condition("Ready", "True")],
        },
    }


def attachment(name: str, node: int, function: int, host: int) -> dict[str, Any]:
    place = endpoint(name, node, function, host)
    return {
        "kind": "VPCAttachment",
        "metadata": {"name": name, "namespace": "blue", "generation": 1, "creationTimestamp": STAMP},
        "spec": {"vpc": {"name": "blue"}, "interface": {"addresses": [f"10.1.1.{host}/24"]}},
        "status": {
            "ready": True,
            "vpc": "blue/blue",
            "identifier": f"{function:04x}",
            "addresses": [f"10.1.1.{host}/24"],
            "observedGeneration": 1,
            "conditions": [condition("Ready", "True"), condition("Accepted", "True", "Valid")],
            "endpoint": {
                "cluster": "default",
                "node": f"node-{node}",
                "sid": place["sid"],
                "networks": place["networks"],
                "epoch": place["epoch"],
            },
        },
    }


def pod(name: str, node: int) -> dict[str, Any]:
    annotations = {
        "k8s.v1alpha.galactic.datumapis.com/vpc-attachment": name,
        "k8s.v1.cni.cncf.io/networks": f"{name}@galactic0",
    }
    return {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "blue", "annotations": annotations},
        "spec": {"nodeName": f"node-{node}", "containers": []},
        "status": {"phase": "Running"},
    }


def node(number: int) -> dict[str, Any]:
    return {"kind": "Node", "metadata": {"name": f"node-{number}"}, "spec": {}}


def lease(
    name: str, holder: str = "somebody", renewed: str = "2027-01-15T07:59:59.500000Z"
) -> dict[str, Any]:
    spec = {"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": renewed}
    return {"kind": "Lease", "metadata": {"name": name, "namespace": "net"}, "spec": spec}


def event(kind: str, name: str, reason: str, message: str, last: str = STAMP) -> dict[str, Any]:
    of = {"kind": kind, "name": name.rpartition("/")[2]}
    if "/" in name:
        of["namespace"] = name.partition("/")[0]
    return {
        "metadata": {"name": "e"},
        "involvedObject": of,
        "type": "Warning",
        "reason": reason,
        "message": message,
        "lastTimestamp": last,
    }


Objects = dict[str, dict[str, Any]]


def fine() -> Objects:
    """Web on node-1 and api on node-2, in VPC blue."""
    objects = [
        vpc(),
        attachment("web", 1, 1, 1),
        attachment("api", 2, 2, 2),
        segment(1, endpoint("web", 1, 1, 1)),
        segment(2, endpoint("api", 2, 2, 2)),
        node(1),
        node(2),
        pod("web", 1),
        pod("api", 2),
        lease("galactic-operator"),
        lease("galactic-router"),
    ]
    return {f"{manifest['kind']} {manifest['metadata']['name']}": deepcopy(manifest) for manifest in objects}


def program(name: str, ready: int = 1, *, problem: str = "", node: str = "") -> Component:
    """One replica, of a chart installed into the namespace ``net``."""
    log = f"kubectl logs -n net {f'galactic-node-of-{node}' if node else f'deploy/galactic-{name}'}"
    return Component(name, ready, 1, "0.1.0", problem, node, log)


def snapshot(
    objects: Objects, *events: dict[str, Any], components: tuple[Component, ...] | None = None
) -> Snapshot:
    """The state as a snapshot."""
    of = lambda kind: [manifest for manifest in objects.values() if manifest["kind"] == kind]  # noqa: E731
    standing = tuple(program(name) for name in ("operator", "router", "webhook"))
    nodes = tuple(program("node", node=name_of(manifest)) for manifest in of("Node"))
    return Snapshot(
        vpcs={name_of(manifest): parse(Vpc, manifest) for manifest in of("VPC")},
        attachments={name_of(manifest): parse(VpcAttachment, manifest) for manifest in of("VPCAttachment")},
        segments={name_of(manifest): parse(NodeSegment, manifest) for manifest in of("NodeSegment")},
        nodes={name_of(manifest): manifest for manifest in of("Node")},
        pods={name_of(manifest): manifest for manifest in of("Pod")},
        services={name_of(manifest): parse_service(manifest) for manifest in of("Service")},
        policies={name_of(manifest): parse(VpcPolicy, manifest) for manifest in of("VPCPolicy")},
        gateways={name_of(manifest): parse(VpcGateway, manifest) for manifest in of("VPCGateway")},
        slices=of("PolicySlice"),
        events=list(events),
        leases={manifest["metadata"]["name"]: manifest for manifest in of("Lease")},
        components=components if components is not None else (*standing, *nodes),
        at=NOW,
    )
