"""Rules inside a VPC as values, checked: ``VPCPolicy.spec`` and ``VPC.spec.policies``.

The meaning is NetworkPolicy's. A policy restricts a direction, or does not (None). In a direction that any policy
restricts, a packet passes if a rule of any of them allows it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from galactic.crds.policy_rules import EgressRule, IngressRule, PolicyPeer, PolicyPort, PolicyType, Ruleset
from galactic.crds.vpc import FloorPolicy
from galactic.crds.vpcpolicy import VpcPolicy
from galactic.errors import Rejected
from galactic.validation.grants import selects
from galactic.validation.networks import Network, parse_network
from galactic.validation.references import referenced

Selector = str
"""A label selector as canonical JSON: equal selectors are equal texts."""
_KEY: Final = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_VALUE: Final = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_OPERATORS: Final = ("In", "NotIn", "Exists", "DoesNotExist")
_LABEL_LENGTH: Final = 63
_LAST_PORT: Final = 65535


@dataclass(frozen=True, slots=True)
class Block:
    """``network`` without ``excepted``."""

    network: Network
    excepted: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Selected:
    """Attachments that match ``attachments`` in namespaces that match ``namespaces``; None: in the rules' own one."""

    attachments: Selector
    namespaces: Selector | None = None


@dataclass(frozen=True, slots=True)
class Ports:
    """First and last destination port of a protocol."""

    protocol: str
    first: int = 0
    last: int = _LAST_PORT


@dataclass(frozen=True, slots=True)
class AllowRule:
    """``peers`` None: any. ``ports`` None: any, of any protocol."""

    peers: tuple[Block | Selected, ...] | None = None
    ports: tuple[Ports, ...] | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """``ingress`` and ``egress`` None: the policy does not restrict that direction. Empty: it allows nothing."""

    selector: Selector
    ingress: tuple[AllowRule, ...] | None
    egress: tuple[AllowRule, ...] | None


def policy(rules: Ruleset, field: str = "spec") -> Policy:
    """The rules as values. Raises Rejected with the first field that cannot be understood."""
    selector = canonical(rules.attachment_selector, f"{field}.attachmentSelector")
    types = _types(rules)
    ingress = _rules([(one, one.from_) for one in rules.ingress or ()], f"{field}.ingress", "from")
    egress = _rules([(one, one.to) for one in rules.egress or ()], f"{field}.egress", "to")
    return Policy(selector, ingress if "Ingress" in types else None, egress if "Egress" in types else None)


def closed(rules: Ruleset, field: str = "spec") -> Policy:
    """The policy in place of rules that are not valid: nothing passes in the directions that they restrict.

    Raises Rejected where the selector is not valid either.
    """
    selector = canonical(rules.attachment_selector, f"{field}.attachmentSelector")
    types = _types(rules)
    return Policy(selector, () if "Ingress" in types else None, () if "Egress" in types else None)


def own_floor(floor: FloorPolicy, key: tuple[str, str], field: str) -> None:
    """Raises Rejected where a floor names another VPC than its own."""
    if floor.vpc is not None and (named := referenced(floor.vpc, key[0])) != key:
        raise Rejected(f"{'/'.join(named)} is not this VPC; leave it out", field=field)


def _types(rules: Ruleset) -> tuple[PolicyType, ...]:
    """The directions that are restricted. An empty list egress is none, as for a NetworkPolicy."""
    return rules.policy_types or (("Ingress", "Egress") if rules.egress else ("Ingress",))


def vpc_of(found: VpcPolicy) -> tuple[str, str]:
    """The VPC that a policy names."""
    return referenced(found.spec.vpc, found.metadata.namespace)


def canonical(selector: Mapping[str, Any], field: str) -> Selector:
    """The selector, checked. Raises Rejected."""
    labels = selector.get("matchLabels") or {}
    if not isinstance(labels, Mapping):
        raise Rejected(f"{labels!r} is not a map; write labels and values", field=f"{field}.matchLabels")
    for name, value in labels.items():
        _check_key(name, f"{field}.matchLabels")
        _check_value(value, f"{field}.matchLabels[{name}]")
    expressions = selector.get("matchExpressions") or ()
    if not isinstance(expressions, Sequence) or isinstance(expressions, str):
        raise Rejected(f"{expressions!r} is not a list", field=f"{field}.matchExpressions")
    for index, expression in enumerate(expressions):
        _check_expression(expression, f"{field}.matchExpressions[{index}]")
    selects(selector, {}, field)
    kept = {"matchLabels": dict(labels), "matchExpressions": list(expressions)}
    return json.dumps({name: value for name, value in kept.items() if value}, sort_keys=True)


def matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Whether a checked selector matches."""
    return selects(_parsed(selector), labels)


@lru_cache(maxsize=4096)
def _parsed(selector: Selector) -> Mapping[str, Any]:
    parsed: Mapping[str, Any] = json.loads(selector)
    return parsed


def _rules(
    rules: Sequence[tuple[IngressRule | EgressRule, tuple[PolicyPeer, ...]]], field: str, name: str
) -> tuple[AllowRule, ...]:
    return tuple(
        AllowRule(
            tuple(_peer(peer, f"{field}[{index}].{name}[{place}]") for place, peer in enumerate(peers))
            or None,
            tuple(_ports(port, f"{field}[{index}].ports[{place}]") for place, port in enumerate(rule.ports))
            or None,
        )
        for index, (rule, peers) in enumerate(rules)
    )


def _peer(peer: PolicyPeer, field: str) -> Block | Selected:
    attachments, namespaces = peer.attachment_selector, peer.namespace_selector
    if peer.ip_block is not None:
        if attachments is not None or namespaces is not None:
            raise Rejected("ipBlock and a selector exclude each other; make two peers of them", field=field)
        network = parse_network(peer.ip_block.cidr, f"{field}.ipBlock.cidr")
        excepted = []
        for index, text in enumerate(peer.ip_block.except_):
            inner = parse_network(text, f"{field}.ipBlock.except[{index}]")
            if inner.version != network.version or not inner.subnet_of(network):  # type: ignore[arg-type]
                raise Rejected(
                    f"{text} is not within {network}; give networks that cidr has",
                    field=f"{field}.ipBlock.except[{index}]",
                )
            excepted.append(inner)
        return Block(network, tuple(excepted))
    if attachments is None and namespaces is None:
        raise Rejected(
            "a peer without any field means nothing; give ipBlock, attachmentSelector or namespaceSelector, or remove "
            "it",
            field=field,
        )
    return Selected(
        canonical(attachments or {}, f"{field}.attachmentSelector"),
        None if namespaces is None else canonical(namespaces, f"{field}.namespaceSelector"),
    )


def _ports(port: PolicyPort, field: str) -> Ports:
    if port.port is None:
        if port.end_port is not None:
            raise Rejected(
                f"{port.end_port} ends a range without a beginning; give port as well",
                field=f"{field}.endPort",
            )
        return Ports(port.protocol)
    last = port.port if port.end_port is None else port.end_port
    if last < port.port:
        raise Rejected(f"{last} is less than port {port.port}; swap them", field=f"{field}.endPort")
    return Ports(port.protocol, port.port, last)


def _check_expression(expression: Any, field: str) -> None:
    if not isinstance(expression, Mapping):
        raise Rejected(f"{expression!r} is not an expression; give key, operator and values", field=field)
    _check_key(expression.get("key"), f"{field}.key")
    operator, values = expression.get("operator"), expression.get("values") or ()
    if operator not in _OPERATORS:
        raise Rejected(
            f"operator {operator!r} does not exist; write In, NotIn, Exists or DoesNotExist",
            field=f"{field}.operator",
        )
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise Rejected(f"{values!r} is not a list", field=f"{field}.values")
    if bool(values) != (operator in ("In", "NotIn")):
        remedy = "give values" if not values else "remove them"
        raise Rejected(f"operator {operator} with {len(values)} values; {remedy}", field=f"{field}.values")
    for value in values:
        _check_value(value, f"{field}.values")


def _check_key(key: Any, field: str) -> None:
    name = key.rpartition("/")[2] if isinstance(key, str) else ""
    if not isinstance(key, str) or len(name) > _LABEL_LENGTH or not _KEY.fullmatch(key):
        raise Rejected(f"{key!r} is not a label's name; write one such as app", field=field)


def _check_value(value: Any, field: str) -> None:
    if not isinstance(value, str) or len(value) > _LABEL_LENGTH or not _VALUE.fullmatch(value):
        raise Rejected(
            f"{value!r} is not a label's value; write at most 63 letters, digits, -, _ and .", field=field
        )
