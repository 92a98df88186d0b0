"""Joining a VPC of another cluster: asks the API server whether the user may, and records it for the operator."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from galactic.kube.api import Api, Conflict, Key, NotFound, Object
from galactic.kube.resources import ACCESS_REVIEWS, CONFIG_MAPS
from galactic.names import GROUP
from galactic.validation.joining import RECORDS, RESOURCE, VERB, forbidden, record
from galactic.webhook.review import Request, User

MOST_UNKNOWN: Final = 1000
"""Records of VPCs that do not exist, because something else refused them or because they were deleted."""


class Joins:
    """``identifiers``: the UIDs of all VPCs, each with the identifier in its status.

    ``namespace``: Galactic's own.
    """

    def __init__(self, api: Api, namespace: str, identifiers: Callable[[], Mapping[str, str | None]]) -> None:
        self._api, self._namespace, self._identifiers = api, namespace, identifiers

    async def admit(self, request: Request, identifier: str) -> None:
        """Raises Rejected unless the user may join the VPC of that identifier."""
        answer = await self._api.create(ACCESS_REVIEWS, access_review(request, identifier))
        if not (answer.get("status") or {}).get("allowed"):
            raise forbidden(identifier, request.user.name)
        if not request.dry_run:
            await self._record(request.new["metadata"].get("uid", ""), record(_key(request), identifier))

    async def _record(self, uid: str, value: str) -> None:
        body = {"data": {uid: value}}
        try:
            stored = await self._patch(body)
        except NotFound:
            meta = {"name": RECORDS, "labels": {"app.kubernetes.io/part-of": "galactic"}}
            new = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, **body}
            try:
                await self._api.create(CONFIG_MAPS, new, self._namespace)
            except Conflict:  # another replica made it
                await self._patch(body)
            return
        if needless := self._needless(stored.get("data") or {}, uid):
            await self._patch({"data": dict.fromkeys(needless)})

    async def _patch(self, body: Mapping[str, Any]) -> Object:
        return await self._api.patch(CONFIG_MAPS, RECORDS, body, self._namespace)

    def _needless(self, records: Mapping[str, str], new: str) -> list[str]:
        """Records of VPCs that have their identifier, and of unknown ones when there are many."""
        identifiers = self._identifiers()
        unknown = [uid for uid in records if uid not in identifiers and uid != new]
        settled = [uid for uid in records if identifiers.get(uid)]
        return settled + (unknown if len(unknown) > MOST_UNKNOWN else [])


def access_review(request: Request, identifier: str) -> dict[str, Any]:
    """A SubjectAccessReview of the user who makes the request, in its namespace."""
    user: User = request.user
    attributes = {
        "group": GROUP,
        "resource": RESOURCE,
        "verb": VERB,
        "name": identifier,
        "namespace": request.namespace,
    }
    return {
        "apiVersion": ACCESS_REVIEWS.api_version,
        "kind": ACCESS_REVIEWS.kind,
        "metadata": {"name": ""},
        "spec": {
            "user": user.name,
            "uid": user.uid,
            "groups": list(user.groups),
            "extra": {name: list(values) for name, values in user.extra.items()},
            "resourceAttributes": attributes,
        },
    }


def _key(request: Request) -> Key:
    """With the name that the API server has generated, which the request itself lacks."""
    return request.namespace, request.new["metadata"]["name"]
