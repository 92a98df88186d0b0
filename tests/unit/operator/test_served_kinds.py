"""kopf is started only when the API server names all kinds that it watches: kopf asks for them once."""

import asyncio
import json
from typing import Any

import pytest

from galactic.errors import Unreachable
from galactic.names import GROUP, VERSION
from galactic.operator import handlers

OURS = f"{GROUP}/{VERSION}"
NAMED = {"groups": [{"versions": [{"groupVersion": "apps/v1"}, {"groupVersion": OURS}]}]}
KINDS = {"resources": [{"name": "vpcs"}, {"name": "vpcs/status"}, {"name": "nodesegments"}]}
FULL = {"/apis": NAMED, f"/apis/{OURS}": KINDS}


class Answers:
    """An API server whose answers change with each look. ``looks``: documents by path, or an error."""

    def __init__(self, *looks: dict[str, Any] | Exception) -> None:
        self.looks, self.paths = list(looks), list[str]()

    async def text(self, path: str) -> str:
        self.paths.append(path)
        if path == "/apis" and len(self.paths) > 1:
            self.looks.pop(0)
        look = self.looks[0]
        if isinstance(look, Exception):
            raise look
        return json.dumps(look[path])


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "SERVED_SECONDS", (0.0, 0.0))


@pytest.mark.parametrize(
    ("lacking", "looks"),
    [
        ({"/apis": {"groups": []}}, 2),
        ({"/apis": {"groups": None}}, 2),
        ({"/apis": {"items": []}}, 2),
        (FULL | {f"/apis/{OURS}": {"resources": None}}, 2),
        ({"/apis": {"groups": [{"versions": [{"groupVersion": f"{GROUP}/v9"}]}]}}, 2),
        (FULL | {f"/apis/{OURS}": {"resources": []}}, 2),
        (FULL | {f"/apis/{OURS}": {"resources": [{"name": "vpcs/status"}, {"name": "nodesegments"}]}}, 2),
        (Unreachable("kube-apiserver", "away"), 2),
        (FULL, 1),
    ],
    ids=[
        "no-group",
        "null",
        "no-list",
        "null-of-kinds",
        "another-version",
        "no-kind",
        "a-subresource-alone",
        "an-error",
        "all",
    ],
)
async def test_waited_for(lacking: dict[str, Any] | Exception, looks: int) -> None:
    api = Answers(lacking, FULL)
    async with asyncio.timeout(30):
        await handlers.served(api)
    assert api.paths.count("/apis") == looks


async def test_kopf_starts_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    api, looks = Answers({"/apis": {"groups": []}}, FULL), list[int]()

    async def spawn_tasks(**_: object) -> None:
        looks.append(api.paths.count("/apis"))
        raise asyncio.CancelledError

    monkeypatch.setattr("kopf.spawn_tasks", spawn_tasks)
    with pytest.raises(asyncio.CancelledError):
        await handlers.watch(object(), api, lambda: asyncio.sleep(0))  # type: ignore[arg-type]
    assert looks == [2]
