"""The API server's etcd, read and written beside it, at its JSON gateway."""

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Self

import aiohttp

from galactic.kube.resources import Resource

OPERATIONS: Final = 120
"""In one transaction: etcd's limit is 128."""
BYTES: Final = 500_000
"""In one transaction, if it has more than one value: etcd takes requests of 1.5 MiB."""


def key(resource: Resource, name: str, namespace: str = "") -> str:
    """Where the API server keeps an object."""
    return "/".join(filter(None, ("/registry", resource.group, resource.plural, namespace, name)))


def batches(values: Iterable[tuple[str, str]]) -> Iterator[dict[str, str]]:
    """Keys and values in parts that are a transaction each."""
    batch: dict[str, str] = {}
    size = 0
    for name, value in values:
        if batch and (len(batch) == OPERATIONS or size + len(value) > BYTES):
            yield batch
            batch, size = {}, 0
        batch[name] = value
        size += len(value)
    if batch:
        yield batch


class Etcd:
    """As an async context manager. ``url``: that of its clients."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(raise_for_status=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, name: str) -> str:
        """The value of a key. Raises KeyError."""
        answer = await self._post("range", {"key": _encoded(name)})
        for pair in answer.get("kvs") or ():
            return b64decode(pair["value"]).decode()
        raise KeyError(name)

    async def put(self, values: Mapping[str, str]) -> None:
        """All of them, in one transaction."""
        puts = [
            {"requestPut": {"key": _encoded(name), "value": _encoded(value)}}
            for name, value in values.items()
        ]
        await self._post("txn", {"success": puts})

    async def _post(self, method: str, body: Mapping[str, Any]) -> dict[str, Any]:
        async with self._session.post(f"{self._url}/v3/kv/{method}", data=json.dumps(body)) as answer:
            found: dict[str, Any] = await answer.json()
            return found


def _encoded(text: str) -> str:
    return b64encode(text.encode()).decode()
