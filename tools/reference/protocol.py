"""The MQTT topics with their payloads, and the CNI error codes."""

import ast
import re
from typing import Any, Final, get_args, get_origin, get_type_hints

import msgspec

from galactic import messages
from galactic.node.cni import protocol
from reference.page import SOURCES, code, page, table, text

TOPICS: Final = (
    (messages.NodeStatus, ("status", "<cluster>", "<node>"), "node, and its Last Will", True),
    (messages.NodeEndpoints, ("endpoints", "<cluster>", "<node>"), "node", True),
    (messages.EndpointsShard, ("endpoints_shard", "<cluster>", "<node>", "<shard>"), "node", True),
    (messages.EndpointsHead, ("endpoints_shard", "<cluster>", "<node>", "head"), "node", True),
    (messages.NodeUsage, ("usage", "<cluster>", "<node>", "<shard>"), "node", False),
    (messages.Entitlements, ("entitlements", "<cluster>", "<shard>"), "operator", True),
    (messages.Leader, ("leader",), "router", True),
    (messages.Changes, ("changes", "<vpc>"), "router", False),
    (messages.Shard, ("table", "<vpc>", "<shard>"), "router", True),
    (messages.Head, ("head", "<vpc>"), "router", True),
)
FIELDS: Final = {
    "schema": "form of the payload; missing: 1",
    "state": "whether the node controller has a session with the broker",
    "prefix": "the node's SRv6 prefix",
    "version": "the node controller's version",
    "sequence": "orders the node's registrations: the highest is the newest, over MQTT and from the API server",
    "endpoints": "endpoints of the node: all of them, or those of the shard",
    "generation": "orders the lists of a cluster: the highest is the newest",
    "attachments": "the VPCAttachments of this part",
    "nodes": "nodes of the attachment's carriers",
    "ready": "whether a pod can be attached",
    "vpc_name": "namespace/name of the attachment's VPC; empty: none yet, or an earlier operator",
    "id": "the leading router",
    "term": "orders the leaders; at a new term every node publishes its endpoints again",
    "revision": "revision of the VPC's table",
    "previous": "the revision to which the change applies",
    "set": "new and changed routes",
    "delete": "networks without a route from now on",
    "owner": "UID of the cluster's namespace kube-system; empty: of a version before the field",
    "of": "number of shards of the table or list",
    "routes": "at most 256",
    "count": "routes in the table",
    "digest": "the sum of the routes' weights, 16 hex digits",
    "shards": "number of shards of the table; of endpoints the sequence of each shard",
    "vpc": "VPC identifier, 12 hex digits",
    "function": "attachment identifier, 4 hex digits",
    "attachment": "namespace/name",
    "sid": "the attachment's SID",
    "networks": "networks: of an attachment addresses as host routes, and terminations; of a VPC its networks",
    "name": "namespace/name of the VPC",
    "peers": "identifiers of the VPCs that it names as peers",
    "vpcs": "the VPCs of this part that name peers",
    "epoch": "time of the ADD, in ns, of a hybrid logical clock",
    "network": "the destination",
    "segments": "SIDs that lead to the network",
    "cluster": "cluster of the attachment's node",
    "node": "node of the attachment",
    "ledger": "identifier of the node's ledger: sums of another one begin again",
    "entries": "attachments of the node, and those that ended within a day",
    "seconds": "seconds for which it was attached",
    "sent_bytes": "bytes that the pod sent, Ethernet headers included",
    "sent_packets": "packets that it sent",
    "received_bytes": "bytes that it received",
    "received_packets": "packets that it received",
}
CODES: Final = {
    "INCOMPATIBLE": "a `cniVersion` that is not supported, or that lacks the command",
    "UNSUPPORTED": "a field that is not supported, with its value",
    "INVALID_ENVIRONMENT": "missing or invalid environment variables, by name",
    "UNREADABLE": "the configuration could not be read",
    "UNDECODABLE": "the configuration is not JSON",
    "INVALID_CONFIG": "the configuration is invalid: field, value and reason",
    "TRY_AGAIN": "try again: the node controller is down or not ready, or another container still holds the attachment",
    "NOT_AVAILABLE": "STATUS: pods cannot be attached",
    "NOT_AVAILABLE_AND_LIMITED": "STATUS: pods cannot be attached, and attached pods may lose connectivity",
    "NOT_AS_IT_SHOULD_BE": "CHECK: `details` names what is missing",
    "FAILED": "the plugin itself failed",
}


def pages() -> dict[str, str]:
    return {"topics.md": _topics(), "cni-errors.md": _codes()}


def _topics() -> str:
    who = (
        "For those who write access lists for a broker, or read its traffic: every topic below `mqtt_base` "
        "(`galactic/v1`), and every field. All are QoS 1 and JSON; unknown fields are ignored. Their purpose is in "
        "[Architecture](../architecture.md#messages), the rights of each client in [The "
        "broker](../broker.md#what-each-may-do)."
    )
    topics = messages.Topics("")
    rows, parts = [], []
    for message, (method, *levels), publisher, retained in TOPICS:
        topic = getattr(topics, method)
        path = (topic(*levels) if callable(topic) else topic).removeprefix("/")
        rows.append(
            (
                code(path),
                publisher,
                "retained" if retained else "",
                f"[{message.__name__}](#{message.__name__.lower()})",
            )
        )
    structs: list[type[msgspec.Struct]] = [
        *(topic[0] for topic in TOPICS),
        messages.Endpoint,
        messages.Entitlement,
        messages.PeeringVpc,
        messages.UsageEntry,
        messages.Route,
    ]
    for kind in structs:
        hints = get_type_hints(kind)
        fields = (
            (code(field.name), _type(hints[field.name]), text(FIELDS[field.name]))
            for field in msgspec.structs.fields(kind)
        )
        meaning = re.sub(r"``", "`", " ".join((kind.__doc__ or "").split()))
        parts.append(f"## {kind.__name__}\n\n{meaning}\n\n" + table(("field", "type", "meaning"), fields))
    first = table(("topic", "publisher", "", "payload"), rows)
    own = (
        "`router/sync/<replica>`: a router publishes to itself; the message comes back after all retained "
        "messages (end-of-RIB)."
    )
    return page("MQTT topics", who, first, own, *parts, source="controllers/galactic/messages.py")


def _type(hint: Any) -> str:
    if get_origin(hint) is tuple:
        inner = get_args(hint)[0]
        name = inner.__name__
        return (
            f"\\[[{name}](#{name.lower()})\\]"
            if issubclass(inner, msgspec.Struct)
            else f"\\[{_type(inner)}\\]"
        )
    if get_args(hint):
        return ", ".join(code(f'"{value}"') for value in get_args(hint))
    return {"str": "text", "int": "integer", "bool": "true or false"}[hint.__name__]


def _codes() -> str:
    who = (
        "For those who read kubelet's Events or a runtime's log: the codes of the plugin's CNI errors. "
        "`msg` and `details` give the reason. The plugin's behaviour is in [The CNI plugin](../cni.md)."
    )
    tree = ast.parse((SOURCES / "node" / "cni" / "protocol.py").read_text())
    names = [
        node.target.id
        for node in tree.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and node.target.id[0].isupper()
    ]
    found = {name: getattr(protocol, name) for name in names if isinstance(getattr(protocol, name), int)}
    found |= _hook()
    rows = [(str(number), text_of(name)) for name, number in sorted(found.items(), key=lambda pair: pair[1])]
    return page(
        "CNI error codes",
        who,
        table(("code", "means"), rows),
        source="controllers/galactic/node/cni/protocol.py",
    )


def text_of(name: str) -> str:
    if name not in CODES:
        raise SystemExit(f"tools/reference/protocol.py: CNI code {name} has no meaning there")
    return CODES[name]


def _hook() -> dict[str, int]:
    """Codes of the plugin itself, which the node controller has no constants for."""
    return {"UNREADABLE": 5, "FAILED": 101}
