"""NodeSegments from Nodes, and their prefixes against each other."""

import asyncio
from ipaddress import IPv6Network

import pytest
from waits import until

from galactic.kube.resources import EVENTS, NODE_SEGMENTS, NODES
from galactic.names import NOT_READY_TAINT, PREFIX_ANNOTATION
from galactic.operator.context import Rules

POOL = Rules(pool=IPv6Network("2001:db8:ffff::/48"))


def node(cluster, name, prefix):
    cluster.api.put(NODES, {"metadata": {"name": name, "annotations": {PREFIX_ANNOTATION: prefix}}})


def prefix_of(cluster, name):
    segment = cluster.api.stored(NODE_SEGMENTS, name)
    return segment["spec"]["prefix"] if segment else None


def reasons(cluster, kind):
    return [
        stored["reason"]
        for (plural, _, _), stored in cluster.api.objects.items()
        if plural == EVENTS.plural and stored["involvedObject"]["kind"] == kind
    ]


async def test_annotated_node_gets_a_segment_that_it_owns(cluster):
    node(cluster, "n1", "2001:db8:ff01:100::/56")
    await cluster.settled()
    segment = cluster.api.stored(NODE_SEGMENTS, "n1")
    assert segment["spec"]["prefix"] == "2001:db8:ff01:100::/56"
    assert (
        segment["metadata"]["ownerReferences"][0]["uid"] == cluster.api.stored(NODES, "n1")["metadata"]["uid"]
    )
    cluster.api.change(
        NODES, "n1", {"metadata": {"annotations": {PREFIX_ANNOTATION: "2001:db8:ff01:200::/56"}}}
    )
    await cluster.settled()
    assert prefix_of(cluster, "n1") == "2001:db8:ff01:200::/56"
    cluster.api.change(NODES, "n1", {"metadata": {"annotations": None}})
    await cluster.settled()
    assert prefix_of(cluster, "n1") == "2001:db8:ff01:200::/56"


@pytest.mark.parametrize(
    ("prefix", "reason"),
    [
        pytest.param("10.0.0.0/8", "InvalidPrefix", id="ipv4"),
        pytest.param("2001:db8:ff01:1::/56", "InvalidPrefix", id="host-bits"),
        pytest.param("2001:db8:ff01:100::/65", "InvalidPrefix", id="too-long"),
        pytest.param("2001:db8:ff00::/40", "InvalidPrefix", id="too-short"),
        pytest.param("2001:db8:1:100::/56", "PrefixOutsideSpace", id="outside-the-space"),
    ],
)
async def test_an_unusable_prefix_is_reported_by_an_event(clusters, prefix, reason):
    cluster = clusters(Rules(srv6_block=IPv6Network("2001:db8:ff00::/40")))
    await cluster.start()
    node(cluster, "n1", prefix)
    await cluster.settled()
    for _ in range(10):
        await cluster.settled()
    assert prefix_of(cluster, "n1") is None
    assert reasons(cluster, "Node") == [reason]
    await cluster.stop()


async def test_of_two_nodes_with_one_prefix_one_gets_a_segment_and_the_other_follows(cluster):
    node(cluster, "n1", "2001:db8:ff01:100::/56")
    node(cluster, "n2", "2001:db8:ff01:180::/57")
    await cluster.settled()
    assert prefix_of(cluster, "n1")
    assert prefix_of(cluster, "n2") is None
    assert "PrefixOverlap" in reasons(cluster, "Node")
    cluster.api.remove(NODE_SEGMENTS, "n1")
    cluster.api.remove(NODES, "n1")
    await cluster.settled()
    assert prefix_of(cluster, "n2") == "2001:db8:ff01:180::/57"


async def test_a_younger_overlapping_segment_by_hand_is_marked_until_it_is_mended(cluster):
    node(cluster, "n1", "2001:db8:ff01:100::/56")
    await cluster.settled()
    cluster.api.put(
        NODE_SEGMENTS, {"metadata": {"name": "hand"}, "spec": {"prefix": "2001:db8:ff01:100::/64"}}
    )
    await cluster.settled()
    marked = cluster.condition("Accepted", "hand", "", NODE_SEGMENTS)
    assert (marked["status"], marked["reason"]) == ("False", "PrefixOverlap")
    assert cluster.condition("Accepted", "n1", "", NODE_SEGMENTS) is None
    cluster.api.change(NODE_SEGMENTS, "hand", {"spec": {"prefix": "2001:db8:ff01:300::/64"}})
    await cluster.settled()
    assert cluster.condition("Accepted", "hand", "", NODE_SEGMENTS) is None


async def test_a_segment_made_by_hand_wins_over_the_annotation(cluster):
    cluster.api.put(NODE_SEGMENTS, {"metadata": {"name": "n1"}, "spec": {"prefix": "2001:db8:ff01:300::/56"}})
    node(cluster, "n1", "2001:db8:ff01:100::/56")
    await cluster.settled()
    assert prefix_of(cluster, "n1") == "2001:db8:ff01:300::/56"
    assert reasons(cluster, "Node") == ["PrefixIgnored"]


SPACE = IPv6Network("2001:db8:ff00::/40")


async def started(clusters, **rules):
    cluster = clusters(Rules(srv6_block=SPACE, **rules))
    await cluster.start()
    return cluster


async def test_a_prefix_comes_from_the_settings_else_the_pool(clusters):
    cluster = await started(
        clusters,
        segments={"n1": "2001:db8:ff01:100::/56", "n2": "2001:db8:ff01:200::/56"},
        pool=IPv6Network("2001:db8:ff01::/48"),
    )
    node(cluster, "n1", "2001:db8:ff07:100::/56")
    for name in ("n2", "n3", "n4", "n5"):
        cluster.api.put(NODES, {"metadata": {"name": name}})
    await cluster.settled()
    assert prefix_of(cluster, "n1") == "2001:db8:ff01:100::/56"
    assert prefix_of(cluster, "n2") == "2001:db8:ff01:200::/56"
    pooled = {prefix_of(cluster, name) for name in ("n3", "n4", "n5")}
    assert len(pooled) == 3
    assert not pooled & {None, "2001:db8:ff01:200::/56"}
    assert all(IPv6Network(prefix).subnet_of(IPv6Network("2001:db8:ff01::/48")) for prefix in pooled)
    await cluster.stop()


async def test_what_came_from_the_pool_stays_and_is_not_given_twice(clusters):
    cluster = await started(clusters, pool=IPv6Network("2001:db8:ff01::/48"), pool_length=50)
    for number in range(5):
        cluster.api.put(NODES, {"metadata": {"name": f"n{number}"}})
    await cluster.settled()
    given = {f"n{number}": prefix_of(cluster, f"n{number}") for number in range(5)}
    assert len({prefix for prefix in given.values() if prefix}) == 4
    assert reasons(cluster, "Node").count("PoolExhausted") == 1
    await cluster.stop()
    await cluster.start()  # another replica, which knows only what there is
    await cluster.settled()
    assert given == {name: prefix_of(cluster, name) for name in given}
    await cluster.stop()


async def test_a_prefix_of_the_pool_rests_before_another_node_gets_it(clusters):
    pool = IPv6Network("2001:db8:ff01::/48")
    cluster = await started(clusters, pool=pool, pool_length=49, pool_rest=60.0)
    for name in ("n1", "n2"):
        cluster.api.put(NODES, {"metadata": {"name": name}})
    await cluster.settled()
    freed = prefix_of(cluster, "n1")
    cluster.api.remove(NODES, "n1")
    await cluster.settled()
    began = asyncio.get_running_loop().time()
    cluster.api.put(NODES, {"metadata": {"name": "n3"}})
    await until(lambda: "PoolResting" in reasons(cluster, "Node"))
    assert prefix_of(cluster, "n3") is None
    await until(lambda: prefix_of(cluster, "n3") == freed)
    assert asyncio.get_running_loop().time() - began > 50.0
    await cluster.stop()


async def test_a_new_operator_knows_which_prefixes_were_never_given(clusters):
    """The last one was given back while no operator ran: without the record it would be given again at once."""
    pool = IPv6Network("2001:db8:ff01::/48")
    cluster = await started(clusters, pool=pool, pool_length=50, pool_rest=60.0)
    for name in ("n1", "n2"):
        cluster.api.put(NODES, {"metadata": {"name": name}})
    await cluster.settled()
    given, recorded = prefix_of(cluster, "n2"), cluster.reconciler.segments.highest
    assert recorded == given
    await cluster.stop()
    cluster.api.remove(NODES, "n2")
    await cluster.start()
    cluster.reconciler.segments.load(recorded)
    for name in ("n3", "n4", "n5"):
        cluster.api.put(NODES, {"metadata": {"name": name}})
    await until(lambda: "PoolResting" in reasons(cluster, "Node"))
    fresh = {prefix_of(cluster, name) for name in ("n3", "n4", "n5")} - {None}
    assert fresh == {"2001:db8:ff01:8000::/50", "2001:db8:ff01:c000::/50"}
    await until(lambda: given in {prefix_of(cluster, name) for name in ("n3", "n4", "n5")})
    await cluster.stop()


@pytest.mark.parametrize("record", ["", "nonsense", "2001:db8:aaaa::/50"])
async def test_a_record_of_another_pool_or_none_is_not_needed(clusters, record):
    cluster = await started(clusters, pool=IPv6Network("2001:db8:ff01::/48"))
    cluster.reconciler.segments.load(record)
    cluster.api.put(NODES, {"metadata": {"name": "n1"}})
    await cluster.settled()
    assert prefix_of(cluster, "n1") == "2001:db8:ff01::/56"
    await cluster.stop()


async def test_refused_prefixes_are_counted_for_as_long_as_they_are_refused(cluster):
    refused = cluster.reconciler.segments.refused
    node(cluster, "n1", "2001:db8:ff01:100::/56")
    await cluster.settled()
    node(cluster, "n2", "2001:db8:ff01:180::/57")
    cluster.api.put(
        NODE_SEGMENTS, {"metadata": {"name": "hand"}, "spec": {"prefix": "2001:db8:ff01:100::/64"}}
    )
    await cluster.settled()
    assert refused() == {"PrefixOverlap": 2}
    cluster.api.remove(NODE_SEGMENTS, "hand")
    node(cluster, "n3", "2001:db8:ff01:100::/65")
    await cluster.settled()
    assert refused() == {"PrefixOverlap": 1, "InvalidPrefix": 1}
    cluster.api.remove(NODES, "n3")
    patch = {"metadata": {"annotations": {PREFIX_ANNOTATION: "2001:db8:ff01:300::/56"}}}
    cluster.api.change(NODES, "n2", patch)
    await cluster.settled()
    assert refused() == {}


async def test_a_node_with_the_taint_loses_it_when_its_segment_is_ready(clusters):
    cluster = await started(clusters, segments={"n1": "2001:db8:ff01:100::/56"})
    ours, other = {"key": NOT_READY_TAINT, "effect": "NoSchedule"}, {"key": "other", "effect": "NoExecute"}
    cluster.api.put(NODES, {"metadata": {"name": "n1"}, "spec": {"taints": [ours, other]}})
    taints = lambda: cluster.api.stored(NODES, "n1")["spec"]["taints"]  # noqa: E731

    def ready(status):
        patch = {"status": {"conditions": [{"type": "Ready", "status": status}]}}
        cluster.api.change(NODE_SEGMENTS, "n1", patch, subresource="status")

    await cluster.settled()
    ready("False")
    await cluster.settled()
    assert taints() == [ours, other]
    ready("True")
    await cluster.settled()
    assert taints() == [other]
    assert "NodeReady" in reasons(cluster, "Node")
    cluster.api.requests.clear()
    ready("True")
    await cluster.settled()
    assert ("patch", "nodes", "n1") not in cluster.api.requests
    await cluster.stop()


async def test_a_namesakes_segment_does_not_open_a_new_node(clusters):
    cluster = await started(clusters)
    owner = {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "of-the-one-before"}
    segment = {
        "metadata": {"name": "n1", "ownerReferences": [owner]},
        "spec": {"prefix": "2001:db8:ff01:100::/56"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }
    cluster.api.put(NODE_SEGMENTS, segment)
    taint = {"key": NOT_READY_TAINT, "effect": "NoSchedule"}
    cluster.api.put(NODES, {"metadata": {"name": "n1"}, "spec": {"taints": [taint]}})
    await cluster.settled()
    assert cluster.api.stored(NODES, "n1")["spec"]["taints"] == [taint]
    await cluster.stop()


GIVEN, OWN, OTHER = (f"2001:db8:ff01:{part}00::/56" for part in (1, 2, 3))


@pytest.mark.parametrize(
    ("rules", "present", "annotation", "prefix"),
    [
        pytest.param(Rules(segments={"n1": GIVEN}), None, OWN, GIVEN, id="values"),
        pytest.param(Rules(segments={"n1": GIVEN}), GIVEN, OWN, GIVEN, id="values-later"),
        pytest.param(Rules(segments={"n1": GIVEN}), OWN, OWN, OWN, id="values-of-before"),
        pytest.param(Rules(segments={"n1": GIVEN}), OWN, None, GIVEN, id="values-without-it"),
        pytest.param(POOL, None, OWN, "2001:db8:ffff::/56", id="pool"),
        pytest.param(POOL, OTHER, OWN, OTHER, id="pool-later"),
        pytest.param(POOL, OWN, OWN, OWN, id="pool-of-before"),
        pytest.param(Rules(), OTHER, OWN, OWN, id="annotation-alone"),
    ],
)
async def test_a_nodes_annotation_does_not_outdo_the_settings(clusters, rules, present, annotation, prefix):
    """A kubelet may annotate its own Node."""
    cluster = clusters(rules)
    annotations = {"annotations": {PREFIX_ANNOTATION: annotation}} if annotation else {}
    cluster.api.put(NODES, {"metadata": {"name": "n1", **annotations}})
    if present:
        managed = {"name": "n1", "labels": {"app.kubernetes.io/managed-by": "galactic-operator"}}
        cluster.api.put(NODE_SEGMENTS, {"metadata": managed, "spec": {"prefix": present}})
    await cluster.start()
    await cluster.settled()
    assert prefix_of(cluster, "n1") == prefix
    ignored = annotation is not None and annotation != prefix
    assert ("PrefixIgnored" in reasons(cluster, "Node")) == ignored
    await cluster.stop()
