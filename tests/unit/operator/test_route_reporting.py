"""An attachment that its node has and no router has published gets ``Routed=False``, after a while and not before."""

from types import SimpleNamespace
from typing import Any

import pytest
from clockwork import SetClock

from galactic.crds.model import parse
from galactic.crds.nodesegment import NodeSegment
from galactic.crds.vpcattachment import VpcAttachment
from galactic.kube.resources import NODE_SEGMENTS, PODS
from galactic.names import ATTACHMENT_ANNOTATION, ATTACHMENT_LABEL
from galactic.operator.context import Rules
from galactic.operator.route_reporting import PATIENCE_SECONDS, Unpublished, arrived

AT = 1_800_000_000.0
KEY = ("blue", "web")
LONG_AGO, NOW = int((AT - 60) * 1e9), int((AT - 1) * 1e9)
AHEAD = int((AT + 3600) * 1e9)


def segment(*epochs: int) -> NodeSegment:
    places = [
        {"vpc": "0" * 11 + "1", "function": "0001", "attachment": "blue/web", "sid": "::1", "epoch": epoch}
        for epoch in epochs
    ]
    return parse(
        NodeSegment,
        {"metadata": {"name": "node-1"}, "spec": {"prefix": "::/56"}, "status": {"endpoints": places}},
    )


def attachment(node: str = "", epoch: int = 0) -> VpcAttachment:
    endpoint = {"endpoint": {"node": node, "sid": "::1", "epoch": epoch}} if node else {}
    return parse(
        VpcAttachment,
        {
            "metadata": {"name": "web", "namespace": "blue"},
            "spec": {"vpc": {"name": "blue"}},
            "status": endpoint,
        },
    )


def caches(segment: NodeSegment | None, *, node: str = "node-1", live: bool = True) -> Any:
    pod = SimpleNamespace(live=live, node=node)
    return SimpleNamespace(
        carriers=lambda _: [("blue", "web")],
        pods=SimpleNamespace(get=lambda _: pod),
        segments=SimpleNamespace(get=lambda key: segment if key == ("", "node-1") else None),
    )


@pytest.mark.parametrize(
    ("seen", "known", "expected"),
    [
        pytest.param(caches(segment(LONG_AGO)), attachment(), True, id="the-router-is-away"),
        pytest.param(caches(segment(AHEAD)), attachment(), True, id="of-a-node-whose-clock-is-ahead"),
        pytest.param(caches(segment(LONG_AGO)), attachment("node-1", LONG_AGO), False, id="published"),
        pytest.param(
            caches(segment(LONG_AGO)), attachment("node-2", LONG_AGO - 9), True, id="a-move-not-published"
        ),
        pytest.param(
            caches(segment(LONG_AGO)), attachment("node-2", NOW), False, id="the-newest-is-elsewhere"
        ),
        pytest.param(caches(segment()), attachment(), False, id="the-node-does-not-have-it"),
        pytest.param(caches(None), attachment(), False, id="the-node-has-no-prefix"),
        pytest.param(caches(segment(LONG_AGO), node=""), attachment(), False, id="not-scheduled"),
        pytest.param(caches(segment(LONG_AGO), live=False), attachment(), False, id="run-to-its-end"),
    ],
)
def test_the_condition(seen: Any, known: VpcAttachment, expected: bool) -> None:
    clock = SetClock()
    unpublished = Unpublished(clock)
    assert unpublished.state(seen, KEY, known) == (None, expected), "patience at first, whatever the epoch"
    clock.now += PATIENCE_SECONDS
    state, later = unpublished.state(seen, KEY, known)
    assert (state is not None, later) == (expected, expected)
    if state:
        assert (state.status, state.reason) == ("False", "NotRouted")
        assert "node-1" in state.message
        assert "galactic-router" in state.message


def test_patience_begins_again() -> None:
    clock = SetClock()
    unpublished = Unpublished(clock)
    steps = [
        (segment(1), attachment(), False),
        (segment(1), attachment(), True),
        (segment(2), attachment(), False),  # attached again
        (segment(2), attachment(), True),
        (segment(2), attachment("node-1", 2), False),
        (segment(2), attachment(), False),  # the endpoint was withdrawn
        (segment(2), None, False),
        (segment(2), attachment(), False),  # a namesake
    ]
    for number, (place, known, expected) in enumerate(steps):
        state, _ = unpublished.state(caches(place), KEY, known)
        assert (state is not None) is expected, number
        clock.now += PATIENCE_SECONDS


@pytest.mark.parametrize("outside", [False, True])
async def test_a_router_outside_of_the_cluster_is_not_missed(
    clusters: Any, monkeypatch: pytest.MonkeyPatch, outside: bool
) -> None:
    monkeypatch.setattr("galactic.operator.route_reporting.PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr("galactic.operator.attachments.PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr("galactic.operator.triggers.PATIENCE_SECONDS", 0.01)
    cluster = clusters(Rules(router_outside=outside))
    await cluster.start()
    cluster.vpc("v")
    cluster.attachment("web")
    labels = {ATTACHMENT_LABEL: "given"}
    meta = {"name": "web", "labels": labels, "annotations": {ATTACHMENT_ANNOTATION: "web"}}
    cluster.api.put(PODS, {"metadata": meta, "spec": {"nodeName": "node-1"}, "status": {}}, "default")
    place = {"vpc": "0" * 11 + "1", "function": "0001", "attachment": "default/web", "sid": "::1", "epoch": 1}
    segment = {"metadata": {"name": "node-1"}, "spec": {"prefix": "2001:db8:ff01:100::/56"}}
    cluster.api.put(NODE_SEGMENTS, segment | {"status": {"endpoints": [place]}})
    if outside:
        await cluster.settled()
    else:
        await cluster.until(lambda: cluster.condition("Routed", "web"))
    routed = cluster.condition("Routed", "web")
    assert (routed and routed["reason"]) == (None if outside else "NotRouted")
    await cluster.stop()


def test_an_endpoint_that_a_node_has_again() -> None:
    assert arrived(None, segment(1)) == {KEY}
    assert arrived(segment(1), segment(2)) == {KEY}
    assert arrived(segment(1), segment(1)) == set()
    assert arrived(segment(1), None) == set()
