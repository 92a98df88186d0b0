"""The comparison of rights with requests itself: a missing verb is named, and so is a superfluous one."""

import json
from pathlib import Path
from typing import Any

import audit
import pytest
from audit import Request, Right

ACCOUNT = "galactic-operator"


def role(kind: str, *rules: dict[str, Any], namespace: str = "") -> list[dict[str, Any]]:
    meta = {"name": "r", **({"namespace": namespace} if namespace else {})}
    subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": "galactic-system"}
    return [
        {"kind": kind, "metadata": meta, "rules": [*rules]},
        {
            "kind": f"{kind}Binding",
            "metadata": meta,
            "roleRef": {"kind": kind, "name": "r"},
            "subjects": [subject],
        },
    ]


def rule(resource: str, *verbs: str, names: tuple[str, ...] = ()) -> dict[str, Any]:
    named = {"resourceNames": [*names]} if names else {}
    return {"apiGroups": [""], "resources": [resource], "verbs": [*verbs]} | named


def request(verb: str, resource: str, name: str = "", namespace: str = "") -> Request:
    return Request(ACCOUNT, verb, "", resource, name, namespace, False, "/")


ROLES = [
    *role("ClusterRole", rule("pods", "list", "watch"), rule("pods/status", "patch")),
    *role("Role", rule("secrets", "get", "update", names=("mine",)), namespace="galactic-system"),
]
MADE = [
    request("list", "pods"),
    request("watch", "pods", namespace="tenant"),
    request("patch", "pods/status", "p", "tenant"),
    request("get", "secrets", "mine", "galactic-system"),
    request("update", "secrets", "mine", "galactic-system"),
    Request("another", "delete", "", "pods", "p", "tenant", False, "/"),
]


def test_what_is_granted_and_asked_for_leaves_nothing() -> None:
    rights = audit.granted(ROLES, ACCOUNT)
    assert len(rights) == 5
    assert not audit.unused(rights, MADE, ACCOUNT)
    assert not audit.lacking(rights, MADE, ACCOUNT)
    assert not audit.granted(ROLES, "galactic-router")


@pytest.mark.parametrize("right", sorted(audit.granted(ROLES, ACCOUNT)), ids=lambda it: f"{it[0]}-{it[2]}")
def test_each_verb_that_is_taken_away_is_named(right: Right) -> None:
    (lacking,) = audit.lacking(audit.granted(ROLES, ACCOUNT) - {right}, MADE, ACCOUNT)
    assert (lacking.verb, lacking.resource) == (right.verb, right.resource)


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(rule("pods", "delete"), id="a-verb"),
        pytest.param(rule("nodes", "list"), id="a-resource"),
        pytest.param(rule("secrets", "get", names=("theirs",)), id="another-name"),
    ],
)
def test_each_verb_too_many_is_named(more: dict[str, Any]) -> None:
    rights = audit.granted(ROLES, ACCOUNT) | audit.granted(role("ClusterRole", more), ACCOUNT)
    (unused,) = audit.unused(rights, MADE, ACCOUNT)
    assert (unused.verb, unused.resource) == (more["verbs"][0], more["resources"][0])


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(request("get", "secrets", "theirs", "galactic-system"), id="another-name"),
        pytest.param(request("get", "secrets", "mine", "tenant"), id="another-namespace"),
        pytest.param(request("list", "pods/status"), id="another-subresource"),
    ],
)
def test_a_right_is_no_wider_than_it_says(made: Request) -> None:
    assert audit.lacking(audit.granted(ROLES, ACCOUNT), [made], ACCOUNT) == {made}


def test_the_log_is_read_as_the_api_server_writes_it(tmp_path: Path) -> None:
    event = {
        "verb": "patch",
        "requestURI": "/apis/x",
        "user": {"username": f"system:serviceaccount:galactic-system:{ACCOUNT}"},
        "objectRef": {"resource": "pods", "subresource": "status", "namespace": "tenant", "name": "p"},
        "annotations": {"authorization.k8s.io/decision": "forbid"},
    }
    discovery = {"verb": "get", "requestURI": "/api", "user": {"username": "u"}}
    log = tmp_path / "log"
    begun = json.dumps(event)[:20]
    log.write_text("".join(f"{json.dumps(line)}\n" for line in (discovery, event, event)) + begun)
    assert len(audit.lines(log)) == 3
    (one,) = audit.requests(log, 2)
    assert one == Request(ACCOUNT, "patch", "", "pods/status", "p", "tenant", True, "/apis/x")


def test_who_was_refused_and_let_do_it_later_was_only_early() -> None:
    early = request("get", "secrets", "mine", "galactic-system")._replace(forbidden=True, uri="/first")
    never = request("delete", "secrets", "mine", "galactic-system")._replace(forbidden=True)
    assert audit.refused([early, never, *MADE], ACCOUNT) == [never]
    assert audit.refused([*MADE, early], ACCOUNT) == [early], "it was let do it before, and is not any more"
    assert not audit.refused([never], "galactic-router")
