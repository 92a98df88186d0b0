"""Copies of objects that the system made: the same text with another object's names, numbers and addresses.

Nothing of an object's form is written here. A template is an object's JSON as etcd or a node's folder has it; a copy
replaces each word of it that distinguishes one object from another. Moments and revisions are the template's.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network, ip_network
from typing import Any, Final

from galactic.kube.api import Object
from galactic.names import base62, function_hex, vpc_hex
from galactic.srv6 import sid

MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
REVISION: Final = re.compile(r'"revision": ?\d+')
LETTER: Final = "[0-9A-Za-z]"


@dataclass(frozen=True, slots=True)
class Vpc:
    """The names and numbers of one VPC."""

    name: str
    uid: str
    identifier: int

    @property
    def words(self) -> tuple[str, ...]:
        return self.name, self.uid, vpc_hex(self.identifier)


@dataclass(frozen=True, slots=True)
class Member:
    """The names, numbers and addresses of one attachment, its pod and its NetworkAttachmentDefinition.

    ``addresses``: without length, one of each family. ``prefix``: its node's.
    """

    pod: str
    pod_uid: str
    name: str
    uid: str
    definition_uid: str
    vpc: str
    identifier: int
    function: int
    addresses: tuple[str, ...]
    node: str
    prefix: IPv6Network
    epoch: int

    @property
    def container(self) -> str:
        """As the kubelets of ``nodes.py`` name it."""
        return self.pod_uid.replace("-", "") * 2

    @property
    def key(self) -> tuple[int, int]:
        """VPC and function: nodes have their endpoints in this order."""
        return self.identifier, self.function

    @property
    def words(self) -> tuple[str, ...]:
        return (
            *(self.pod, self.pod_uid, self.container, self.name, self.uid, self.definition_uid, self.vpc),
            *(vpc_hex(self.identifier), base62(self.identifier)),
            *(function_hex(self.function), base62(self.function)),
            *(str(sid(self.prefix, self.identifier, self.function)), *self.addresses),
            *(self.node, str(self.epoch)),
        )


def member_of(attachment: Object, definition: Object, prefix: IPv6Network) -> Member:
    """That of objects which the system made."""
    meta, status = attachment["metadata"], attachment["status"]
    (carrier,), endpoint = status["carriers"], status["endpoint"]
    return Member(
        pod=carrier["pod"],
        pod_uid=carrier["uid"],
        name=meta["name"],
        uid=meta["uid"],
        definition_uid=definition["metadata"]["uid"],
        vpc=attachment["spec"]["vpc"]["name"],
        identifier=int(status["configuration"]["vpc"], 16),
        function=int(status["identifier"], 16),
        addresses=tuple(str(ip_network(network).network_address) for network in endpoint["networks"]),
        node=carrier["node"],
        prefix=prefix,
        epoch=endpoint["epoch"],
    )


class Stamp:
    """Replaces the words of one object by those of another."""

    def __init__(self, words: Sequence[str]) -> None:
        self._places = {word: place for place, word in enumerate(words)}
        longest = sorted(map(re.escape, words), key=len, reverse=True)
        self._pattern = re.compile(f"(?<!{LETTER})(?:{'|'.join(longest)})(?!{LETTER})")

    def __call__(self, text: str, words: Sequence[str]) -> str:
        return self._pattern.sub(lambda found: words[self._places[found[0]]], text)


@dataclass(frozen=True, slots=True)
class Template:
    """The JSON texts of one attachment: ``endpoint`` is its entry in the NodeSegment, ``record`` the node's file."""

    member: Member
    attachment: str
    definition: str
    pod: str
    endpoint: str
    record: str

    @property
    def texts(self) -> dict[str, str]:
        return {
            name: getattr(self, name) for name in ("attachment", "definition", "pod", "endpoint", "record")
        }

    def copy(self, stamp: Stamp, member: Member) -> "Template":
        """Those of another attachment. ``stamp``: that of this one's words."""
        words = member.words
        return Template(member, **{name: stamp(text, words) for name, text in self.texts.items()})

    def differences(self, other: "Template") -> list[str]:
        """The kinds of objects in which they differ, moments and revisions aside."""
        return [name for name, text in self.texts.items() if _form(text) != _form(other.texts[name])]


def with_status(text: str, status: Mapping[str, Any]) -> str:
    """The object with these fields of its status."""
    body = json.loads(text)
    body["status"] |= status
    return json.dumps(body, separators=(",", ":"))


def _form(text: str) -> object:
    """An object without moments and revisions. Fields and list entries have no order."""
    return _sorted(json.loads(REVISION.sub('"revision":0', MOMENT.sub("", text))))


def _sorted(value: Any) -> Any:
    match value:
        case dict():
            return {name: _sorted(entry) for name, entry in value.items()}
        case list():
            return sorted(map(_sorted, value), key=lambda entry: json.dumps(entry, sort_keys=True))
        case _:
            return value
