"""Lists come in parts that are decoded in one turn each: smaller ones where objects are large."""

import pytest

from galactic.kube.client import Kube
from galactic.kube.resources import NODE_SEGMENTS, PODS


class Asked(Kube):
    """An API server that has ``count`` objects, and the limits that it was asked for."""

    def __init__(self, count):
        self._left = list(range(count))
        self.limits = []

    async def _json(self, method, path, query=None, body=None, **_others):
        limit = int(query["limit"])
        self.limits.append(limit)
        part, self._left = self._left[:limit], self._left[limit:]
        rest = {"continue": "here"} if self._left else {}
        return {"items": [{"metadata": {"name": f"o{number}"}} for number in part], "metadata": rest}


@pytest.mark.parametrize(
    ("resource", "limits"),
    [pytest.param(PODS, [200], id="pods"), pytest.param(NODE_SEGMENTS, [10, 10, 10], id="large-objects")],
)
async def test_a_page_has_as_many_objects_as_one_turn_decodes(resource, limits):
    asked = Asked(25)
    listed = [item async for items, _ in asked.pages(resource) for item in items]
    assert [item["metadata"]["name"] for item in listed] == [f"o{number}" for number in range(25)]
    assert asked.limits == limits
