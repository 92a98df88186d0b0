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
    (messages.Leader, ("leader",), "router", True),
    (messages.Changes, ("changes", "<vpc>"), "router", False),
    (messages.Shard, ("table", "<vpc>", "<shard>"), "router", True),
    (messages.Head, ("head", "<vpc>"), "router", True),
)
FIELDS: Final = {
    "state": "whether the node controller has a session",
    "prefix": "the node's SRv6 prefix",
    "version": "the node controller's version",
    "sequence": "the highest is the newest, whichever way it came",
    "endpoints": "all of the node's endpoints",
    "id": "the router that leads",
    "term": "a new one asks every node to publish its endpoints again",
    "revision": "of the VPC's table",
    "previous": "the revision that this is applied to",
    "set": "routes that are new or changed",
    "delete": "networks that have no route any more",
    "of": "how many shards the table has",
    "routes": "at most 256",
    "count": "routes in the table",
    "digest": "the sum of the routes' weights, 16 hex digits",
    "shards": "how many shards the table has",
    "vpc": "VPC identifier, 12 hex digits",
    "function": "attachment identifier, 4 hex digits",
    "attachment": "namespace/name",
    "sid": "the attachment's SID",
    "networks": "what it announces: its addresses as host routes, and its terminations",
    "epoch": "when it was attached, in ns: a hybrid logical clock",
    "network": "the destination",
    "segments": "the SIDs that lead to it",
    "cluster": "where it is attached",
    "node": "where it is attached",
}
CODES: Final = {
    "INCOMPATIBLE": "a `cniVersion` that is not spoken, or that does not have the command",
    "UNSUPPORTED": "a field that is not supported, with its value",
    "INVALID_ENVIRONMENT": "environment variables that are missing or impossible, by their names",
    "UNREADABLE": "the configuration could not be read",
    "UNDECODABLE": "the configuration is not JSON",
    "INVALID_CONFIG": "the configuration is not valid: the field, its value and why",
    "TRY_AGAIN": "try again: the node controller is away, not ready, or another container still holds the attachment",
    "NOT_AVAILABLE": "STATUS: pods cannot be attached",
    "NOT_AVAILABLE_AND_LIMITED": "STATUS: pods cannot be attached, and those that are may suffer as well",
    "NOT_AS_IT_SHOULD_BE": "CHECK: what is missing is in `details`",
    "FAILED": "the plugin itself failed",
}


def pages() -> dict[str, str]:
    return {"topics.md": _topics(), "cni-errors.md": _codes()}


def _topics() -> str:
    who = (
        "For those who write access lists for a broker, or look at what goes over it: every topic below `mqtt_base` "
        "(`galactic/v1`), and every field. All are QoS 1 and JSON; unknown fields are ignored. What they are for is in "
        "[Architecture](../architecture.md#messages), who may do what in [The broker](../broker.md#what-each-may-do)."
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
    structs: list[type[msgspec.Struct]] = [*(topic[0] for topic in TOPICS), messages.Endpoint, messages.Route]
    for kind in structs:
        hints = get_type_hints(kind)
        fields = (
            (code(it.name), _type(hints[it.name]), text(FIELDS[it.name]))
            for it in msgspec.structs.fields(kind)
        )
        said = re.sub(r"``", "`", " ".join((kind.__doc__ or "").split()))
        parts.append(f"## {kind.__name__}\n\n{said}\n\n" + table(("field", "type", "meaning"), fields))
    first = table(("topic", "publisher", "", "payload"), rows)
    own = (
        "`router/sync/<replica>`: a router sends to itself, to learn that all retained messages have arrived."
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
    return {"str": "text", "int": "integer"}[hint.__name__]


def _codes() -> str:
    who = (
        "For those who read kubelet's Events or a runtime's log: the codes of the CNI errors that the plugin answers "
        "with. The words in `msg` and `details` say more. What the plugin does is in [The CNI plugin](../cni.md)."
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
    rows = [(str(number), text_of(name)) for name, number in sorted(found.items(), key=lambda it: it[1])]
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
    """Those that the plugin answers by itself, which are in no constant of the node controller's."""
    return {"UNREADABLE": 5, "FAILED": 101}
