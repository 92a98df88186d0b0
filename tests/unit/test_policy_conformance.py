"""Cases of NetworkPolicy's and network-policy-api's own conformance tests, translated: from a VPCPolicy as a user
writes it to the decision that the node's table makes. ``docs/policies.md`` has the numbers.

Three namespaces x, y and z with attachments a, b and c each, in one VPC of namespace x. A case names the pairs that may
talk; the kernel's part is in ``tests/kernel/test_policy_rules.py``.
"""

import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from galactic.crds.model import parse
from galactic.crds.vpc import FloorPolicy
from galactic.crds.vpcpolicy import VpcPolicy
from galactic.errors import Rejected
from galactic.node.policies.classes import classes
from galactic.node.policies.rules import PROTOCOLS, Addresses, part
from galactic.operator.policies.index import Member, PolicyIndex, Rules
from galactic.operator.policies.policyslices import group_specs, rules_spec
from galactic.validation.policies import policy

SPACES, NAMES = ("x", "y", "z"), ("a", "b", "c")
VPC = ("x", "vpc")
EVERYBODY = tuple((space, name) for space in SPACES for name in NAMES)
WORDLESS: dict[str, dict[str, Any]] = {
    "named-port": {"ports": [{"port": "http"}]},
    "named-port-and-namespace": {"from": [{"namespaceSelector": {}}], "ports": [{"port": "http"}]},
    "named-port-egress": {"ports": [{"protocol": "TCP", "port": "http"}]},
    "pods-of-a-node": {"from": [{"nodes": {}}]},
    "networks-of-nodes": {"from": [{"networks": ["10.0.0.0/8"]}]},
}
"""Cases that a VPC has no words for, which are refused: docs/policies.md gives the reasons."""


def address(one: tuple[str, str], family: int = 4) -> str:
    number = EVERYBODY.index(one) + 1
    return f"10.0.0.{number}" if family == 4 else f"fd00::{number}"


@dataclass
class World:
    """The objects of users, and the decisions of the nodes."""

    index: PolicyIndex = field(default_factory=PolicyIndex)

    def __post_init__(self):
        for space in SPACES:
            self.index.set_namespace(space, {"ns": space})
        for one in EVERYBODY:
            self.label(one, {"pod": one[1]})

    def label(self, one, labels):
        self.index.set_member(one, Member(VPC, labels, (address(one), address(one, 6))))

    def apply(self, space, name, **spec):
        document = {
            "metadata": {"name": name, "namespace": space},
            "spec": {"vpc": {"namespace": "x", "name": "vpc"}, **spec},
        }
        parsed = policy(parse(VpcPolicy, document).spec)
        self.index.set_rules((space, name), Rules(VPC, space, "Policy", f"{space}/{name}", parsed))

    def floor(self, number=0, **spec):
        parsed = policy(parse(FloorPolicy, spec), f"spec.policies[{number}]")
        self.index.set_rules((*VPC, number), Rules(VPC, VPC[0], "Floor", "x/vpc", parsed))

    def delete(self, space, name):
        self.index.set_rules((space, name), None)

    def _read(self):
        rules, groups = {}, {}
        for name in self.index.names():
            if (found := self.index.named(name)) is not None:
                rules[name] = part({"metadata": {"name": name}, "spec": rules_spec(found, "0" * 12)})
            else:
                for own, spec in group_specs(*self.index.group(name), "0" * 12, 0).items():
                    read = part({"metadata": {"name": own}, "spec": spec})
                    assert isinstance(read, Addresses)
                    groups[read.group] = groups.get(read.group, frozenset()) | read.addresses
        return rules, groups

    def reach(self, port=80, protocol="TCP", family=4):
        """The pairs, from and to, that may talk."""
        rules, groups = self._read()

        def may(one, direction, other):
            for floor in (True, False):
                own = [rules[name] for name in self.index.rules_of(one) if rules[name].floor == floor]
                lists = [allowed for rule_set in own if (allowed := rule_set.of(direction)) is not None]
                if not lists:
                    continue
                found = classes([rule for allowed in lists for rule in allowed], groups)
                access = found.access(ip_address(address(other, family)))
                if access is not None and not any(
                    kind == PROTOCOLS[protocol] and first <= port <= last for kind, first, last in access
                ):
                    return False
            return True

        return {
            (source, target)
            for source in EVERYBODY
            for target in EVERYBODY
            if source != target and may(source, "out", target) and may(target, "in", source)
        }


ALL = {(source, target) for source in EVERYBODY for target in EVERYBODY if source != target}


def without(*blocked):
    """All pairs but those that match one of (source, target), in each of which None is anybody."""
    return {
        (source, target)
        for source, target in ALL
        if not any(_is(source, one) and _is(target, other) for one, other in blocked)
    }


def _is(one, pattern):
    if callable(pattern):
        return pattern(one)
    return pattern is None or all(part is None or part == own for own, part in zip(one, pattern, strict=True))


def but(*exempt):
    return lambda one: one not in exempt


def pods(**labels: str) -> dict[str, Any]:
    return {"matchLabels": labels}


A, B = pods(pod="a"), pods(pod="b")
XA, XB, XC, YA, YB, ZC = ("x", "a"), ("x", "b"), ("x", "c"), ("y", "a"), ("y", "b"), ("z", "c")


def case(name, *steps, expected, **how):
    return pytest.param(steps, expected, how, id=name)


def ingress(space, name, selector=None, *, rules=(), **more):
    return ("apply", space, name, {"attachmentSelector": selector or {}, "ingress": list(rules), **more})


def egress(space, name, selector=None, *, rules=(), **more):
    spec = {"attachmentSelector": selector or {}, "policyTypes": ["Egress"], "egress": list(rules), **more}
    return ("apply", space, name, spec)


def peer(selector=None, namespaces=None):
    body = {}
    if selector is not None:
        body["attachmentSelector"] = selector
    if namespaces is not None:
        body["namespaceSelector"] = namespaces
    return body


TO_XA = (None, XA)
NETWORK_POLICY = [
    case("default-deny-ingress", ingress("x", "deny"), expected=without((None, ("x", None)))),
    case(
        "default-deny-all",
        ("apply", "x", "deny", {"policyTypes": ["Ingress", "Egress"]}),
        expected=without((None, ("x", None)), (("x", None), None)),
    ),
    case(
        "from-attachments-of-its-namespace",
        ingress("x", "one", A, rules=[{"from": [peer(B)]}]),
        expected=without((but(XB), XA)),
    ),
    case("to-a-target", ingress("x", "one", A, rules=[{}]), expected=ALL),
    case("from-all-namespaces", ingress("x", "one", A, rules=[{"from": [peer(None, {})]}]), expected=ALL),
    case(
        "from-another-namespace",
        ingress("x", "one", A, rules=[{"from": [peer(None, pods(ns="y"))]}]),
        expected=without((lambda one: one[0] != "y", XA)),
    ),
    case(
        "attachment-match-expressions",
        ingress(
            "x",
            "one",
            A,
            rules=[
                {"from": [peer({"matchExpressions": [{"key": "pod", "operator": "In", "values": ["b"]}]})]}
            ],
        ),
        expected=without((but(XB), XA)),
    ),
    case(
        "namespace-match-expressions",
        ingress(
            "x",
            "one",
            A,
            rules=[
                {
                    "from": [
                        peer(None, {"matchExpressions": [{"key": "ns", "operator": "In", "values": ["y"]}]})
                    ]
                }
            ],
        ),
        expected=without((lambda one: one[0] != "y", XA)),
    ),
    case(
        "attachments-or-namespaces",
        ingress("x", "one", A, rules=[{"from": [peer(B), peer(None, pods(ns="y"))]}]),
        expected=without((lambda one: one != XB and one[0] != "y", XA)),
    ),
    case(
        "attachments-and-namespaces",
        ingress("x", "one", A, rules=[{"from": [peer(B, pods(ns="y"))]}]),
        expected=without((but(YB), XA)),
    ),
    case(
        "several-attachments-and-namespaces",
        ingress(
            "x",
            "one",
            A,
            rules=[
                {
                    "from": [
                        peer(
                            {"matchExpressions": [{"key": "pod", "operator": "In", "values": ["b", "c"]}]},
                            {"matchExpressions": [{"key": "ns", "operator": "NotIn", "values": ["x"]}]},
                        )
                    ]
                }
            ],
        ),
        expected=without((lambda one: one[0] == "x" or one[1] == "a", XA)),
    ),
    case(
        "any-of-several-selectors",
        ingress("x", "one", A, rules=[{"from": [peer(B), peer(pods(pod="c"))]}]),
        expected=without((but(XB, XC), XA)),
    ),
    case(
        "one-attachment-of-another-namespace",
        ingress("x", "one", A, rules=[{"from": [peer(A, pods(ns="y"))]}]),
        expected=without((but(YA), XA)),
    ),
    case(
        "ports-this-one",
        ingress("x", "one", A, rules=[{"from": [peer(None, pods(ns="y"))], "ports": [{"port": 81}]}]),
        expected=without((lambda one: one[0] != "y", XA)),
        port=81,
    ),
    case(
        "ports-another",
        ingress("x", "one", A, rules=[{"from": [peer(None, pods(ns="y"))], "ports": [{"port": 81}]}]),
        expected=without(TO_XA),
    ),
    case(
        "stacked-policies",
        ingress("x", "one", A, rules=[{"from": [peer(None, pods(ns="y"))], "ports": [{"port": 81}]}]),
        ingress("x", "two", A, rules=[{"from": [peer(None, pods(ns="z"))], "ports": [{"port": 80}]}]),
        expected=without((lambda one: one[0] != "z", XA)),
    ),
    case("allow-all", ingress("x", "all", rules=[{}]), expected=ALL),
    case(
        "updated-policy",
        ingress("x", "one", rules=[{}]),
        ingress("x", "one", rules=[{"ports": [{"port": 81}]}]),
        expected=without((None, ("x", None))),
    ),
    case(
        "updated-namespace",
        ingress("x", "one", A, rules=[{"from": [peer(None, pods(ns="new"))]}]),
        ("namespace", "y", {"ns": "new"}),
        expected=without((lambda one: one[0] != "y", XA)),
    ),
    case(
        "updated-attachment-is-let-in",
        ingress("x", "one", A, rules=[{"from": [peer(pods(pod="new"))]}]),
        ("label", XB, {"pod": "new"}),
        expected=without((but(XB), XA)),
    ),
    case(
        "deny-from-other-namespaces",
        ingress("x", "one", rules=[{"from": [peer({})]}]),
        expected=without((lambda one: one[0] != "x", ("x", None))),
    ),
    case(
        "updated-attachment-is-denied",
        ingress("x", "one", pods(target="yes")),
        ("label", XA, {"pod": "a", "target": "yes"}),
        expected=without(TO_XA),
    ),
    case("deny-egress-by-label", egress("x", "one", A), expected=without((XA, None))),
    case("deny-egress-of-a-namespace", egress("x", "one"), expected=without((("x", None), None))),
    case(
        "ingress-and-egress-together",
        (
            "apply",
            "x",
            "both",
            {
                "attachmentSelector": A,
                "ingress": [{"from": [peer(B)]}],
                "egress": [{"ports": [{"port": 80}]}],
            },
        ),
        expected=without((but(XB), XA)),
    ),
    case(
        "ingress-and-egress-together-another-port",
        (
            "apply",
            "x",
            "both",
            {"attachmentSelector": A, "ingress": [{}], "egress": [{"ports": [{"port": 81}]}]},
        ),
        expected=without((XA, None)),
    ),
    case(
        "egress-denied-though-the-server-allows",
        egress("x", "client", A),
        ingress("y", "server", A, rules=[{}]),
        expected=without((XA, None)),
    ),
    case(
        "egress-to-one-of-another-namespace",
        egress("x", "one", A, rules=[{"to": [peer(A, pods(ns="y"))]}]),
        expected=without((XA, but(YA))),
    ),
    case(
        "any-port-of-a-protocol",
        ingress("x", "one", A, rules=[{"ports": [{"protocol": "UDP"}]}]),
        expected=ALL,
        protocol="UDP",
    ),
    case(
        "any-port-of-another-protocol",
        ingress("x", "one", A, rules=[{"ports": [{"protocol": "UDP"}]}]),
        expected=without(TO_XA),
    ),
    case(
        "ingress-allow-all-takes-precedence",
        ingress("x", "one", A, rules=[{"from": [peer(B)]}]),
        ingress("x", "all", A, rules=[{}]),
        expected=ALL,
    ),
    case(
        "egress-allow-all-takes-precedence",
        egress("x", "one", A, rules=[{"to": [peer(B)]}]),
        egress("x", "all", A, rules=[{}]),
        expected=ALL,
    ),
    case("deleted-policies", ingress("x", "one"), ("delete", "x", "one"), expected=ALL),
    case(
        "egress-to-a-block",
        egress("x", "one", A, rules=[{"to": [{"ipBlock": {"cidr": f"{address(YA)}/32"}}]}]),
        expected=without((XA, but(YA))),
    ),
    case(
        "egress-to-a-block-of-the-other-family",
        egress("x", "one", A, rules=[{"to": [{"ipBlock": {"cidr": f"{address(YA, 6)}/128"}}]}]),
        expected=without((XA, but(YA))),
        family=6,
    ),
    case(
        "except-of-a-block",
        egress(
            "x",
            "one",
            A,
            rules=[{"to": [{"ipBlock": {"cidr": "10.0.0.0/24", "except": [f"{address(YA)}/32"]}}]}],
        ),
        expected=without((XA, YA)),
    ),
    case(
        "in-a-block-and-in-an-except-is-allowed",
        egress(
            "x",
            "one",
            A,
            rules=[
                {
                    "to": [
                        {"ipBlock": {"cidr": "10.0.0.0/24", "except": [f"{address(YA)}/32"]}},
                        {"ipBlock": {"cidr": f"{address(YA)}/32"}},
                    ]
                }
            ],
        ),
        expected=ALL,
    ),
    case(
        "ingress-and-egress-by-different-selectors",
        ingress("x", "in", A, rules=[{"from": [peer(B)]}]),
        egress("x", "out", A, rules=[{"to": [peer(pods(pod="c"))]}]),
        expected=without((but(XB), XA), (XA, but(XC))),
    ),
    case(
        "sctp-isolates-tcp",
        ingress("x", "one", A, rules=[{"ports": [{"protocol": "SCTP", "port": 80}]}]),
        expected=without(TO_XA),
    ),
    case(
        "udp-is-not-tcp",
        ingress("x", "one", A, rules=[{"ports": [{"protocol": "UDP", "port": 81}]}]),
        expected=without(TO_XA),
        port=81,
    ),
    case(
        "sctp-is-not-tcp",
        ingress("x", "one", A, rules=[{"ports": [{"protocol": "SCTP", "port": 81}]}]),
        expected=without(TO_XA),
        port=81,
    ),
    case("udp-default-deny", ingress("x", "deny"), expected=without((None, ("x", None))), protocol="UDP"),
    case(
        "udp-by-port",
        ingress("x", "one", A, rules=[{"ports": [{"protocol": "UDP", "port": 81}]}]),
        expected=ALL,
        protocol="UDP",
        port=81,
    ),
    case(
        "udp-from-one-of-another-namespace",
        ingress("x", "one", A, rules=[{"from": [peer(A, pods(ns="y"))]}]),
        expected=without((but(YA), XA)),
        protocol="UDP",
    ),
    case("sctp-default-deny", ingress("x", "deny"), expected=without((None, ("x", None))), protocol="SCTP"),
    case(
        "sctp-by-port",
        ingress("x", "one", A, rules=[{"ports": [{"protocol": "SCTP", "port": 81}]}]),
        expected=ALL,
        protocol="SCTP",
        port=81,
    ),
    case(
        "sctp-from-one-of-another-namespace",
        ingress("x", "one", A, rules=[{"from": [peer(A, pods(ns="y"))]}]),
        expected=without((but(YA), XA)),
        protocol="SCTP",
    ),
    case(
        "end-port",
        ingress("x", "one", A, rules=[{"ports": [{"port": 80, "endPort": 90}]}]),
        expected=ALL,
        port=90,
    ),
    case(
        "beyond-an-end-port",
        ingress("x", "one", A, rules=[{"ports": [{"port": 80, "endPort": 90}]}]),
        expected=without(TO_XA),
        port=91,
    ),
    *(
        pytest.param((), None, {}, id=name)
        for name in ("named-port", "named-port-and-namespace", "named-port-egress")
    ),
]
"""Kubernetes' suites of NetworkPolicy: general, UDP, SCTP, end port."""
OTHERS = ("floor", {"attachmentSelector": A, "ingress": [{"from": [peer(B, {})]}]})
NETWORK_POLICY_API = [
    case(
        "admin-denies-ingress-though-a-policy-allows",
        ("floor", {"policyTypes": ["Ingress"]}),
        ingress("y", "all", rules=[{}]),
        expected=without((None, ("y", None)), (None, ("z", None))),
    ),
    case(
        "admin-allows-and-a-policy-restricts",
        ("floor", {"ingress": [{}]}),
        ingress("y", "deny"),
        expected=without((None, ("y", None))),
    ),
    case("admin-passes-and-no-policy-restricts", ("floor", {"ingress": [{}]}), expected=ALL),
    case(
        "admin-denies-egress-though-a-policy-allows",
        ("floor", {"attachmentSelector": A, "policyTypes": ["Egress"]}),
        egress("y", "all", rules=[{}]),
        expected=without((YA, None), (("z", "a"), None)),
    ),
    case(
        "admin-by-subject-and-peer",
        OTHERS,
        expected=without((lambda one: one[1] != "b", ("y", "a")), (lambda one: one[1] != "b", ("z", "a"))),
    ),
    case(
        "admin-by-namespaces",
        ("floor", {"ingress": [{"from": [peer(None, pods(ns="x"))]}]}),
        expected=without((lambda one: one[0] != "x", ("y", None)), (lambda one: one[0] != "x", ("z", None))),
    ),
    case(
        "admin-of-the-same-namespace-as-a-peer",
        ("floor", {"ingress": [{"from": [peer({})]}]}),
        expected=without((lambda one: one[0] != "x", ("y", None)), (lambda one: one[0] != "x", ("z", None))),
    ),
    case(
        "admin-by-port",
        ("floor", {"ingress": [{"ports": [{"protocol": "UDP", "port": 53}]}]}),
        expected=ALL,
        protocol="UDP",
        port=53,
    ),
    case(
        "admin-by-another-port",
        ("floor", {"ingress": [{"ports": [{"protocol": "UDP", "port": 53}]}]}),
        expected=without((None, ("y", None)), (None, ("z", None))),
        protocol="UDP",
        port=54,
    ),
    case(
        "admin-by-a-range-of-ports",
        ("floor", {"attachmentSelector": A, "ingress": [{"ports": [{"port": 79, "endPort": 81}]}]}),
        expected=ALL,
    ),
    case(
        "admin-egress-to-networks",
        ("floor", {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/30"}}]}], "policyTypes": ["Egress"]}),
        expected=without(
            (lambda one: one[0] != "x", lambda one: EVERYBODY.index(one) + 1 > 3),
        ),
    ),
    case(
        "admin-sctp",
        ("floor", {"ingress": [{"ports": [{"protocol": "SCTP"}]}]}),
        expected=ALL,
        protocol="SCTP",
    ),
    case(
        "admin-integrates-with-policies",
        ("floor", {"ingress": [{"from": [peer(B, {})]}]}),
        ingress("y", "one", A, rules=[{"from": [peer(B)]}]),
        expected=without(
            (but(YB), YA),
            (lambda one: one[1] != "b", ("y", None)),
            (lambda one: one[1] != "b", ("z", None)),
        ),
    ),
    case(
        "admin-rules-are-deleted",
        ("floor", {"policyTypes": ["Ingress"]}),
        ("floor", {"ingress": [{}]}),
        expected=ALL,
    ),
    *(pytest.param((), None, {}, id=name) for name in ("pods-of-a-node", "networks-of-nodes")),
]
"""Suites of network-policy-api, as far as a floor can mean them: priorities and actions it has none of."""


@pytest.mark.parametrize(("steps", "expected", "how"), [*NETWORK_POLICY, *NETWORK_POLICY_API])
def test_as_networkpolicy_means_it(steps, expected, how, request):
    if expected is None:
        with pytest.raises(Rejected):
            World().apply("x", "wordless", ingress=[WORDLESS[request.node.callspec.id]])
        return
    world = World()
    for kind, *values in steps:
        if kind == "apply":
            space, name, spec = values
            world.apply(space, name, **spec)
        elif kind == "floor":
            world.floor(**values[0])
        elif kind == "namespace":
            world.index.set_namespace(*values)
        elif kind == "label":
            world.label(*values)
        else:
            world.delete(*values)
    assert world.reach(**how) == expected


def test_the_page_has_the_numbers():
    page = (Path(__file__).parents[2] / "docs" / "policies.md").read_text()
    for name, cases in (("NetworkPolicy", NETWORK_POLICY), ("network-policy-api", NETWORK_POLICY_API)):
        whole, able = len(cases), len([one for one in cases if one.id not in WORDLESS])
        assert re.search(rf"{name}: {able} of {whole}\b", page), f"{name}: {able} of {whole}"
