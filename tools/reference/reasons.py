"""Every condition type, and every reason of a condition, an Event, a refusal or a metric's label, found in the code.

A reason is a CamelCase literal in a call of one of ``CALLS``, or after ``reason=``. Its message is the literal text
beside it, with `…` for placeholders.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

from reference.page import SOURCES, code, page, table, text

CALLS: Final = {
    "Rejected": (None, 0),
    "Held": (None, 0),
    "NotYet": (None, 0),
    "State": (1, 2),
    "ConditionState": (2, 3),
    "Rejection": (2, 3),
    "RouterEvent": (1, 2),
    "_no": (2, 3),
    "_rejection": (1, 2),
    "_finding": (3, 1),
    "record": (3, 4),
    "rejected": (0, 1),
}
"""Calls with a reason: the positions of the reason (None: the keyword ``reason``) and of the message."""
_WORD: Final = re.compile(r"[A-Z][A-Za-z0-9]+")
PLACES: Final = (
    (
        "Operator",
        "operator",
        (
            "As the reason of the condition `Ready` (and `Accepted`, `Granted`, `Conflict`, `Deleting`) of VPC, "
            "VPCAttachment or NodeSegment, and of the Event at its transition; for pods with a generated "
            "attachment also of an Event on the Pod."
        ),
    ),
    (
        "Operator and webhook",
        "validation",
        "In the error that `kubectl` prints; else as the operator's above.",
    ),
    (
        "Webhook",
        "webhook",
        "In the error that `kubectl` prints.",
    ),
    (
        "Node controller",
        "node",
        "As the reason of a condition of the NodeSegment, or in a CNI error or the log.",
    ),
    (
        "Kernel",
        "linux",
        "In the condition `Synced` or `Underlay` of the NodeSegment, and the node controller's log.",
    ),
    (
        "Router",
        "router",
        (
            "As `reason` of `galactic_router_rejections_total`, in the router's log, and of an Event on the "
            "VPCAttachment where there is one. `StaleEpoch` and `NotReady` are normal when pods move and "
            "start, and make no "
            "Event. Failures of the router itself (`BrokerUnreachable`, `DatabaseUnreachable`) are Events on its Pod, "
            "or on the Lease `galactic-router` if it has no Pod."
        ),
    ),
    (
        "Broker",
        "bus",
        "As `reason` of `galactic_mqtt_connection_failures_total` and in the log line `broker unreachable`.",
    ),
    (
        "All",
        "",
        (
            "Reasons of several programs. `Invalid` (change something) and `Pending` (wait) are used without a more "
            "specific reason, `Unreachable` for a dependency that does not answer and is retried."
        ),
    ),
)
CONDITIONS: Final = {
    "VPC, VPCAttachment": {
        "Ready": "the object can be used: a VPC by attachments, an attachment by a pod",
        "Accepted": "the specification is valid",
        "Granted": (
            "False: the VPC's `allowedNamespaces` no longer admits this namespace; attached pods stay attached, or are "
            "detached where its `whenRevoked` is `Detach`"
        ),
        "Attached": "the pod has the VPC interface; absent without a pod, and while it starts",
        "Routed": "False: a pod is attached, but its routes are not published; the message has the reason",
        "Conflict": "True: another object has the address or the prefix; the message names it",
        "KindsCurrent": (
            "False: the API server drops fields of the status, because the kind is of an earlier version; absent "
            "otherwise"
        ),
        "NetworksAccepted": (
            "False: the VPC, or a peer, got networks after the attachment of another namespace was ready, and the pod "
            "has no routes to them; absent otherwise"
        ),
        "Peered": (
            "every peering that the VPC names is in force; absent where it names none and none names it. "
            "`Requested`: another VPC names it"
        ),
        "Deleting": "True: the deletion waits for the objects that use it",
        "Retained": (
            "True: the StatefulSet has no pod any more that needs the attachment, which is released at the time in the "
            "message; absent otherwise"
        ),
    },
    "VPCPolicy": {
        "Accepted": "the specification is valid, and the namespace has a part in the VPC",
        "Enforced": "the nodes of its attachments enforce it, or it selects none",
    },
    "VPCGateway": {
        "Ready": "packets of each family are led out by one node at least",
        "Accepted": "the specification is valid, and the operator allows it",
        "Published": "each entry of `spec.publish` leads to a ready pod; absent without entries",
        "Redundant": "as many nodes lead out each family as `spec.replicas` asks for",
    },
    "NodeSegment": {
        "Ready": "pods can be attached to this node",
        "Accepted": "False: the operator rejects the prefix; absent otherwise",
        "Synced": "the kernel has the whole plan",
        "DefinitionsApplied": "every pod is attached as the status of its VPCAttachment has it now",
        "Entitled": "every attached pod is in `status.carriers` of its VPCAttachment; else it is detached after 60 s",
        "BrokerConnected": "the node controller has a session with the broker",
        "PasswordEncrypted": "no password is sent to the broker unencrypted, except on the same machine",
        "HostSettings": "no sysctl of the host, which other programs set, stops packets of VPCs",
        "Underlay": "the interface towards the other nodes, and its MTU",
        "MultusConfigured": "Multus' CNI configuration is the runtime's first; absent without `cni_conf_dir`",
        "Neighbours": "every pod that is attached answers ARP and neighbour discovery for its addresses",
        "Gateways": "the rules of the ways out of VPCs by this node are in the kernel",
        "PathMTU": "no router has reported a link to another node that is smaller than the underlay's interface",
        "PacketFilter": "Galactic's chains are installed; the message names the backend",
        "SourceValidation": "pods cannot use addresses that are not theirs",
        "Untracked": "packets of VPCs are excluded from connection tracking: no NAT applies to them",
        "Policies": "the node can enforce rules inside VPCs; else it refuses pods that a VPCPolicy selects",
        "Sysctls": "forwarding and the plan's other sysctls are set, or can be",
        "IPv6": "IPv6 is enabled",
        "NetworkNamespaces": "False: no temporary network namespace can be created; absent otherwise",
        "Dummy": "dummy devices",
        "Veth": "veth devices",
        "VRF": "VRF devices",
        "PolicyRules": "policy rules of both families, and those of VRFs (l3mdev)",
        "StrictMode": "`net.vrf.strict_mode=1`",
        "EndDT46": "the action End.DT46",
        "Encapsulation": "`encap seg6 mode encap`",
        "ReducedEncapsulation": "`encap.red`; without it 24 bytes more a packet",
    },
}
"""The meaning of True, unless it begins with False. Must list all types in the code."""


@dataclass(frozen=True, slots=True, order=True)
class Reason:
    word: str
    kind: str
    message: str
    module: str


def pages() -> dict[str, str]:
    who = "For those who look for the cause of a problem: every condition type, and every reason, one stable word each."
    parts = ["## Conditions\n\n" + "\n".join(_conditions())]
    by_place: dict[str, list[Reason]] = defaultdict(list)
    for reason in reasons():
        by_place[place(reason.module)].append(reason)
    for title, folder, shown in PLACES:
        if rows := by_place[folder]:
            parts.append(
                f"## Reasons: {title}\n\n{shown}\n\n" + table(("reason", "message", ""), _merged(rows))
            )
    note = (
        "`…` stands for names, addresses and other programs' errors. *Change something*: nothing is "
        "retried before a change. "
        "*Waits*: work continues once the dependency exists."
    )
    return {
        "reasons.md": page("Conditions, Events and reasons", who, note, *parts, source="controllers/galactic")
    }


def _merged(reasons: list[Reason]) -> Iterator[tuple[str, ...]]:
    """One row per reason, with all its messages."""
    for word in sorted({reason.word for reason in reasons}):
        same = [reason for reason in reasons if reason.word == word]
        messages = sorted({text(reason.message) for reason in same if reason.message.strip("… :")})
        kinds = sorted({reason.kind for reason in same if reason.kind})
        yield code(word), "<br>".join(messages) or "the error's own text", ", ".join(kinds)


def _conditions() -> Iterator[str]:
    known = {name for kind in CONDITIONS.values() for name in kind}
    if found := types() ^ known:
        raise SystemExit(
            f"tools/reference/reasons.py: conditions that differ from the code's: {', '.join(sorted(found))}"
        )
    for kind, meanings in CONDITIONS.items():
        rows = ((code(name), text(meaning)) for name, meaning in meanings.items())
        yield f"### {kind}\n\n" + table(("type", "meaning"), rows)


def place(module: str) -> str:
    """The longest folder of ``PLACES`` that contains the module."""
    return max((folder for _, folder, _ in PLACES if module.startswith(folder)), key=len)


@cache
def modules() -> tuple[tuple[str, ast.Module], ...]:
    """Modules that run in a cluster, by path."""
    paths = {path.relative_to(SOURCES).as_posix(): path for path in sorted(SOURCES.rglob("*.py"))}
    return tuple(
        (name, ast.parse(path.read_text()))
        for name, path in paths.items()
        if not name.startswith("cli/") and not name.endswith("/memory.py")
    )


def reasons() -> Iterator[Reason]:
    """All reasons with their messages."""
    for module, tree in modules():
        words, before = _constants(tree), _assigned(tree)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            position, message = CALLS.get(name, (None, 0))
            for word in _words(_reason(node, position), words):
                yield Reason(word, _kind(name), _message(node, message, before), module)
        if module.startswith("bus/"):
            yield from _pairs(tree, module)


def types() -> set[str]:
    """The condition types that the code writes."""
    found = set()
    for module, tree in modules():
        if module == "kube/conditions.py":
            found |= {word for word in _constants(tree).values() if _WORD.fullmatch(word)}
        if not module.startswith(("node/", "linux/preflight")):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
                "Finding",
                "ConditionState",
                "_finding",
                "_Trial",
            ):
                first = node.args[0]
                if isinstance(first, ast.Constant):
                    found.add(str(first.value))
    return found


def _constants(tree: ast.Module) -> dict[str, str]:
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name) and isinstance(node.value.value, str):
                    found[target.id] = node.value.value
    return found


def _reason(call: ast.Call, position: int | None) -> ast.expr | None:
    for keyword in call.keywords:
        if keyword.arg == "reason":
            return keyword.value
    return call.args[position] if position is not None and len(call.args) > position else None


def _words(value: ast.expr | None, constants: dict[str, str]) -> Iterator[str]:
    if isinstance(value, ast.IfExp):
        yield from _words(value.body, constants)
        yield from _words(value.orelse, constants)
    word = constants.get(value.id, "") if isinstance(value, ast.Name) else getattr(value, "value", "")
    if isinstance(word, str) and _WORD.fullmatch(word):
        yield word


def _message(call: ast.Call, position: int, before: dict[str, list[ast.Assign]]) -> str:
    if len(call.args) <= position:
        return ""
    value = call.args[position]
    if isinstance(value, ast.Name):
        assigned = [node for node in before.get(value.id, ()) if node.lineno < call.lineno]
        return _literal(max(assigned, key=lambda node: node.lineno).value) if assigned else ""
    return _literal(value)


def _assigned(tree: ast.Module) -> dict[str, list[ast.Assign]]:
    """Assignments of literal texts, by name."""
    found = defaultdict(list)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and _literal(node.value):
            found[node.targets[0].id].append(node)
    return found


def _literal(value: ast.expr) -> str:
    """The literal text of an expression, with `…` for placeholders; empty for none."""
    if isinstance(value, ast.Constant):
        return value.value if isinstance(value.value, str) else ""
    if isinstance(value, ast.JoinedStr):
        literal = "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in value.values)
        return re.sub("…+", "…", literal)
    return ""


def _kind(name: str) -> str:
    if name in ("Rejected", "Held"):
        return "change something"
    if name == "NotYet":
        return "waits"
    return ""


def _pairs(tree: ast.Module, module: str) -> Iterator[Reason]:
    """Tuples of a reason and a sentence: the form of connection failures."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Tuple) and len(node.elts) >= 2:
            reason, sentence = node.elts[-2:]
            if isinstance(reason, ast.Constant) and _literal(sentence):
                words = reason.value
                if isinstance(words, str) and _WORD.fullmatch(words):
                    yield Reason(words, "", _literal(sentence).replace("{}", "…"), module)
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                word, answer = getattr(value, "value", None), getattr(key, "value", None)
                if isinstance(word, str) and isinstance(answer, str) and _WORD.fullmatch(word):
                    yield Reason(word, "", f"the broker's answer: {answer}", module)
