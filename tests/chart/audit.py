"""What ServiceAccounts may do by the chart's roles, against what the API server says they asked for."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple


class Right(NamedTuple):
    """A verb on a resource of a group; with ``named``, on objects of certain names only."""

    verb: str
    group: str
    resource: str
    named: bool = False


class Request(NamedTuple):
    """A request that was made, and whether its account had no right to make it."""

    account: str
    verb: str
    group: str
    resource: str
    name: str
    forbidden: bool
    uri: str


def requests(log: Path, since: int = 0) -> list[Request]:
    """All requests of ServiceAccounts that the audit log has from the line ``since`` on, discovery aside."""
    found = []
    for line in log.read_text().splitlines()[since:]:
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
                event.get("annotations", {}).get("authorization.k8s.io/decision") == "forbid",
                event["requestURI"],
            )
        )
    return found


def granted(objects: Iterable[dict[str, Any]], account: str) -> set[Right]:
    """What the rendered roles give to a ServiceAccount."""
    things = list(objects)
    roles = {
        (thing["kind"], thing["metadata"].get("namespace", ""), thing["metadata"]["name"]): thing.get("rules")
        or ()
        for thing in things
        if thing["kind"] in ("ClusterRole", "Role")
    }
    rights: set[Right] = set()
    for thing in things:
        if not thing["kind"].endswith("RoleBinding") or thing["subjects"][0]["name"] != account:
            continue
        reference = thing["roleRef"]
        place = thing["metadata"].get("namespace", "") if reference["kind"] == "Role" else ""
        for rule in roles[reference["kind"], place, reference["name"]]:
            rights |= {
                Right(verb, group, resource, bool(rule.get("resourceNames")))
                for verb in rule["verbs"]
                for group in rule["apiGroups"]
                for resource in rule["resources"]
            }
    return rights


def unused(rights: set[Right], made: Iterable[Request], account: str) -> set[Right]:
    """Rights that no request of the account needed."""
    used = {(one.verb, one.group, one.resource) for one in made if one.account == account}
    return {right for right in rights if (right.verb, right.group, right.resource) not in used}
