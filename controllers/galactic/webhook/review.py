"""The API server's request and the answer to it: AdmissionReview of admission.k8s.io/v1."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from galactic.errors import GalacticError, NotYet, Rejected

API_VERSION: Final = "admission.k8s.io/v1"
Operation = Literal["CREATE", "UPDATE", "DELETE", "CONNECT"]
WARNING_CHARACTERS: Final = 250
"""The API server drops or cuts longer warnings (256 for one, 4096 for all)."""


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")


class _Resource(_Model):
    group: str = ""
    version: str
    resource: str


class _User(_Model):
    username: str = ""
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: dict[str, tuple[str, ...]] = Field(default_factory=dict)


class _Request(_Model):
    uid: str
    resource: _Resource
    sub_resource: str = ""
    name: str = ""
    namespace: str = ""
    operation: Operation
    user_info: _User = Field(default_factory=_User)
    object: dict[str, Any] | None = None
    old_object: dict[str, Any] | None = None
    dry_run: bool = False


class _Review(_Model):
    api_version: Literal["admission.k8s.io/v1"]
    kind: Literal["AdmissionReview"]
    request: _Request


@dataclass(frozen=True, slots=True)
class User:
    """The user. ``extra``: the pod, and on newer servers the node, of a service account's token."""

    name: str = ""
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """The write. ``new`` is the object after it, ``old`` the stored one (None on creation).

    ``dry_run``: nothing will be stored.
    """

    uid: str
    resource: str  # the plural
    subresource: str
    operation: Operation
    namespace: str
    name: str  # empty before generateName has made one
    user: User
    new: dict[str, Any]
    old: dict[str, Any] | None
    dry_run: bool = False

    @property
    def deleting(self) -> bool:
        """Whether the object is being deleted, which no check may prevent."""
        return bool((self.new.get("metadata") or {}).get("deletionTimestamp"))


@dataclass(frozen=True, slots=True)
class Answer:
    """Allowed, unless there is a ``refusal``. ``patch`` is a JSON patch (RFC 6902)."""

    refusal: GalacticError | None = None
    warnings: tuple[str, ...] = ()
    patch: tuple[dict[str, Any], ...] = ()


ALLOWED: Final = Answer()


def parse(body: bytes) -> Request:
    """The request in an AdmissionReview. Raises Rejected with the field that does not fit."""
    try:
        request = _Review.model_validate_json(body).request
    except ValidationError as error:
        (first, *_) = error.errors(include_url=False)
        place = ".".join(map(str, first["loc"]))
        raise Rejected(first["msg"], reason="Undecodable", field=place) from error
    return Request(
        uid=request.uid,
        resource=request.resource.resource,
        subresource=request.sub_resource,
        operation=request.operation,
        namespace=request.namespace,
        name=request.name,
        user=_user(request.user_info),
        new=request.object or {},
        old=request.old_object,
        dry_run=request.dry_run,
    )


def _user(info: _User) -> User:
    return User(info.username, info.extra, info.groups, info.uid)


def rendered(uid: str, answer: Answer) -> bytes:
    """The AdmissionReview of the answer."""
    response: dict[str, Any] = {"uid": uid, "allowed": answer.refusal is None}
    if answer.refusal is not None:
        code, reason = _status(answer.refusal)
        response["status"] = {
            "status": "Failure",
            "code": code,
            "reason": reason,
            "message": str(answer.refusal),
        }
    elif answer.patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(json.dumps(answer.patch).encode()).decode()
    if answer.warnings:
        response["warnings"] = [_short(warning) for warning in answer.warnings]
    return json.dumps({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}).encode()


def _status(refusal: GalacticError) -> tuple[int, str]:
    """HTTP status and reason (metav1.StatusReason) of a refusal."""
    if isinstance(refusal, Rejected):
        return (403, "Forbidden") if refusal.reason in FORBIDDEN else (422, "Invalid")
    return (403, "Forbidden") if isinstance(refusal, NotYet) else (503, "ServiceUnavailable")


FORBIDDEN: Final = frozenset({"JoinForbidden", "NotGranted", "NotYours"})
"""Reasons that concern the user, not the object."""


def _short(text: str) -> str:
    return text if len(text) <= WARNING_CHARACTERS else f"{text[: WARNING_CHARACTERS - 1]}…"
