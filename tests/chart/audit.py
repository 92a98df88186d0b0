"""The rights of ServiceAccounts by the chart's roles, compared with their requests in the API server's audit log."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Right(NamedTuple):
    """A verb on a resource of a group, of objects with these names only, in this namespace only, if there are any."""

    verb: str
    group: str
    resource: str
    names: frozenset[str] = frozenset()
    namespace: str = ""


class Request(NamedTuple):
    """A request that was made, and whether its account had no right to make it."""

    account: str
    verb: str
    group: str
    resource: str
    name: str
    namespace: str
    forbidden: bool
    uri: str


def lines(log: Path) -> list[str]:
    """The audit log's complete lines."""
    return log.read_text(errors="replace").split("\n")[:-1]


def requests(log: Path, since: int = 0) -> list[Request]:
    """All requests of ServiceAccounts that the audit log has from the line ``since`` on, discovery aside."""
    found = []
    for line in lines(log)[since:]:
        event = json.loads(line)
        thing = event.get("objectRef")
        if thing is None:
            continue
        resource = thing["resource"] + (f"/{thing['subresource']}" if "subresource" in thing else "")
        found.append(
            Request(
                event["user"]["username"].rpartition(":")[2],
                event["verb"],
                thing.get("apiGroup", ""),
                resource,
                thing.get("name", ""),
                thing.get("namespace", ""),
                event.get("annotations", {}).get("authorization.k8s.io/decision") == "forbid",
                event["requestURI"],
            )
        )
    return found


def granted(objects: Iterable[dict[str, Any]], account: str) -> set[Right]:
    """The rights that the rendered roles give a ServiceAccount."""
    things = list(objects)
    roles = {
        (
            manifest["kind"],
            manifest["metadata"].get("namespace", ""),
            manifest["metadata"]["name"],
        ): manifest.get("rules") or ()
        for manifest in things
        if manifest["kind"] in ("ClusterRole", "Role")
    }
    rights: set[Right] = set()
    for manifest in things:
        if not manifest["kind"].endswith("RoleBinding") or manifest["subjects"][0]["name"] != account:
            continue
        reference, where = manifest["roleRef"], manifest["metadata"].get("namespace", "")
        place = where if reference["kind"] == "Role" else ""
        for rule in roles[reference["kind"], place, reference["name"]]:
            rights |= {
                Right(verb, group, resource, frozenset(rule.get("resourceNames", ())), where)
                for verb in rule["verbs"]
                for group in rule["apiGroups"]
                for resource in rule["resources"]
            }
    return rights


def asked(log: Path, user: str, verb: str, resource: str) -> bool:
    """Whether the user, of whatever kind, made such a request and was allowed."""
    return any(
        (request.account, request.verb, request.resource, request.forbidden) == (user, verb, resource, False)
        for request in requests(log)
    )


def refused(made: Sequence[Request], account: str) -> list[Request]:
    """Requests of the account that were forbidden, and not allowed later.

    A slow API server refuses permitted requests until it has read a new role.
    """
    return [
        request
        for number, request in enumerate(made)
        if request.account == account
        and request.forbidden
        and request._replace(forbidden=False, uri="")
        not in {later._replace(uri="") for later in made[number + 1 :]}
    ]


def covers(right: Right, request: Request) -> bool:
    """Whether the right is enough for the request."""
    return (
        (right.verb, right.group, right.resource) == (request.verb, request.group, request.resource)
        and (not right.names or request.name in right.names)
        and right.namespace in ("", request.namespace)
    )


def unused(rights: set[Right], made: Iterable[Request], account: str) -> set[Right]:
    """Rights that no request of the account needed."""
    own = {request for request in made if request.account == account}
    return {right for right in rights if not any(covers(right, request) for request in own)}


def lacking(rights: set[Right], made: Iterable[Request], account: str) -> set[Request]:
    """Requests of the account that none of the rights is enough for."""
    own = {request for request in made if request.account == account}
    return {request for request in own if not any(covers(right, request) for right in rights)}
