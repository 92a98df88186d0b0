"""Objects as ``kubectl get -o json`` prints them, over a connection that is kept: each kubectl takes 0.05 s of a
processor, and stories ask thousands of times.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import urllib3

from galactic.errors import Rejected
from galactic_lab.kubeconfig import Access

DISCOVERY: Final = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
"""All kinds of the API server in two answers (KEP-3352)."""
CONNECT_SECONDS: Final = 10.0
READ_SECONDS: Final = 60.0
OK: Final = 200
TOO_MANY: Final = 429


class HeldUp(Rejected):
    """The API server did not answer in time, or has too many requests."""


@dataclass(frozen=True, slots=True)
class Query:
    """The arguments of one ``kubectl get``. ``namespace`` is empty for all of them."""

    kind: str
    name: str = ""
    namespace: str = "default"
    labels: str = ""
    fields: str = ""

    @classmethod
    def parse(cls, arguments: tuple[str, ...]) -> Self | None:
        """None for arguments that only kubectl knows."""
        given = {"-n": "default", "-l": "", "--field-selector": ""}
        positional, words = list[str](), iter(arguments)
        for word in words:
            option, separator, value = word.partition("=")
            if word == "-A":
                given["-n"] = ""
            elif option in given and (value := value if separator else next(words, "")):
                given[option] = value
            elif word.startswith("-"):
                return None
            else:
                positional.append(word)
        if len(positional) not in {1, 2} or any("/" in word or "," in word for word in positional):
            return None
        kind, name = (*positional, "")[:2]
        return cls(kind.lower(), name, given["-n"], given["-l"], given["--field-selector"])


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind that the API server has. ``path``: of its version."""

    path: str
    plural: str
    api_version: str
    name: str
    namespaced: bool

    def at(self, query: Query) -> str:
        """The path of the query's object or list."""
        place = f"/namespaces/{query.namespace}" if self.namespaced and query.namespace else ""
        return "/".join(filter(None, (f"{self.path}{place}/{self.plural}", query.name)))


class ApiReader:
    """Reads as the user of a kubeconfig, from any thread."""

    def __init__(self, kubeconfig: Path) -> None:
        self._path, self._access = kubeconfig, Access.read(kubeconfig)
        self._pool = urllib3.PoolManager(
            ca_certs=self._access.authority,
            headers={"Authorization": f"Bearer {self._access.token}"},
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
            retries=urllib3.Retry(1, connect=0, read=1, redirect=0, status=0, other=0),
            maxsize=4,
        )
        self._kinds: dict[str, Kind] = {}

    @property
    def current(self) -> bool:
        """Whether the kubeconfig is still as it was read: a lab that is made again has another."""
        return self._path.exists() and Access.read(self._path) == self._access

    def get(self, query: Query) -> Any:
        """The object, or the list. Raises Rejected with the API server's refusal, HeldUp."""
        kind = self._kinds.get(query.kind) or self._discovered(query.kind)
        selectors = {"labelSelector": query.labels, "fieldSelector": query.fields}
        answer = self._answer(kind.at(query), {key: text for key, text in selectors.items() if text})
        for item in answer.get("items") or ():
            item |= {"apiVersion": kind.api_version, "kind": kind.name}
        return answer

    def _discovered(self, name: str) -> Kind:
        """The kind of that name, in whatever form kubectl takes it. Of two groups the first has it."""
        for root in ("/api", "/apis"):
            for group in self._answer(root, {}, DISCOVERY)["items"]:
                self._enter(root, group)
        if name not in self._kinds:
            raise Rejected(f"the API server has no kind {name!r}", field="kind")
        return self._kinds[name]

    def _enter(self, root: str, group: dict[str, Any]) -> None:
        group_name = group["metadata"].get("name", "")
        for version in group["versions"]:
            api_version = "/".join(filter(None, (group_name, version["version"])))
            for one in version["resources"]:
                kind = Kind(
                    f"{root}/{api_version}",
                    one["resource"],
                    api_version,
                    one["responseKind"]["kind"],
                    one["scope"] == "Namespaced",
                )
                names = {one["resource"], one["singularResource"], kind.name.lower()}
                for name in names.union(one.get("shortNames") or (), {f"{kind.plural}.{group_name}"}):
                    self._kinds.setdefault(name, kind)

    def _answer(self, path: str, query: dict[str, str], accept: str = "application/json") -> Any:
        try:
            response = self._pool.request(
                "GET",
                self._access.server + path,
                fields=query,
                headers={**self._pool.headers, "Accept": accept},
            )
        except urllib3.exceptions.MaxRetryError as error:
            if isinstance(error.reason, urllib3.exceptions.TimeoutError):
                raise HeldUp(f"GET {path}: {error.reason}", field="kubectl") from error
            raise Rejected(f"GET {path}: {error.reason}", field="kubectl") from error
        answer = (
            json.loads(response.data) if response.data[:1] == b"{" else {"message": response.data.decode()}
        )
        if response.status == OK:
            return answer
        refusal = f"Error from server ({answer.get('reason', response.status)}): {answer.get('message')}"
        kind = HeldUp if response.status == TOO_MANY else Rejected
        raise kind(f"GET {path}: {refusal}", field="kubectl")
