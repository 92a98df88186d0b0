"""A registration that no single message can have: cut, published, lost in part, and put together by a router."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galactic.errors import Rejected
from galactic.messages import (
    ENDPOINT_SHARDS,
    MAX_PAYLOAD,
    MIN_PAYLOAD,
    SHARD_PAYLOAD,
    Endpoint,
    EndpointsHead,
    EndpointsShard,
    NodeEndpoints,
    decode,
)
from galactic.node.mqtt.registration import HEAD, SINGLE, Part, Registration
from galactic.router.rib.endpoint_shards import EndpointShards
from galactic.router.rib.path import NodeRef

NODE = NodeRef("default", "n")


def endpoint(number: int, networks: int = 1, epoch: int = 1) -> Endpoint:
    return Endpoint(
        "0000000004d2",
        f"{number:04x}",
        f"team/pod-{number}",
        f"2001:db8:ff01:100:0:4d2:0:{number:x}",
        tuple(f"2001:db8:{number:x}:{termination:x}::/64" for termination in range(networks)),
        epoch,
    )


def registration(sequence: int, *endpoints: Endpoint) -> NodeEndpoints:
    return NodeEndpoints(sequence, endpoints)


def published(registered: Registration, value: NodeEndpoints, largest: int = SHARD_PAYLOAD) -> list[str]:
    """All parts are confirmed. Their levels."""
    parts = registered.parts(value, largest)
    for part in parts:
        registered.confirmed(part)
    return [part.level if part.payload else f"-{part.level}" for part in parts]


def test_one_message_as_long_as_it_fits():
    registered = Registration()
    assert published(registered, registration(1, *map(endpoint, range(1, 400))), MAX_PAYLOAD) == [SINGLE]
    assert published(registered, registration(2, *map(endpoint, range(1, 300)))) == [SINGLE]


def test_a_change_publishes_one_shard_and_the_head_and_what_fits_again_is_one_message():
    registered, pods = Registration(), [endpoint(number) for number in range(1, 2401)]
    everything = published(registered, registration(1, *pods), MAX_PAYLOAD)
    shards = everything[:-1]
    assert everything == [*map(str, range(len(shards))), HEAD]
    assert len(shards) > 4
    for sequence, number in enumerate((0, 1200, 2300), 2):
        pods[number] = endpoint(number + 1, epoch=2)
        changed, head = published(registered, registration(sequence, *pods))
        assert (changed in shards, head) == (True, HEAD)
    pods[5:6] = []
    assert published(registered, registration(5, *pods)) == ["0", HEAD]
    assert published(registered, registration(6, *pods, endpoint(3000))) == ["0", HEAD], "where there is room"
    registered.forget()
    assert published(registered, registration(6, *pods, endpoint(3000))) == everything
    fewer = published(registered, registration(7, *pods[:1300]))
    assert fewer[-1] == f"-{shards[-1]}"
    assert HEAD in fewer
    assert published(registered, registration(8, *pods[:10]))[:2] == [SINGLE, "-head"]
    assert published(registered, registration(9, *pods[:10])) == [SINGLE]


def test_no_part_is_larger_than_any_broker_takes():
    parts = Registration().parts(
        registration(1, *(endpoint(number, 256) for number in range(1, 250))), MAX_PAYLOAD
    )
    assert max(len(part.payload) for part in parts) <= SHARD_PAYLOAD
    assert len(parts) <= ENDPOINT_SHARDS + 1


def test_shards_follow_the_broker():
    """One that takes little gets smaller ones, and the next one larger ones."""
    registered, pods = Registration(), registration(1, *(endpoint(number, 256) for number in range(1, 40)))
    for largest in (MIN_PAYLOAD, SHARD_PAYLOAD, MIN_PAYLOAD):
        parts = registered.parts(pods, largest)
        shards = [decode(EndpointsShard, part.payload) for part in parts if part.level != HEAD]
        assert max(len(part.payload) for part in parts) <= largest
        assert {one for shard in shards for one in shard.endpoints} == {*pods.endpoints}
        registered.forget()


def test_too_many_are_refused_with_a_sentence():
    many = registration(1, *(endpoint(number, 256) for number in range(1, 900)))
    with pytest.raises(Rejected, match="move pods"):
        Registration().parts(many, MAX_PAYLOAD)


def receive(router: EndpointShards, part: Part) -> NodeEndpoints | None:
    if part.level == HEAD:
        return router.set_head(NODE, decode(EndpointsHead, part.payload) if part.payload else None)
    shard = decode(EndpointsShard, part.payload) if part.payload else None
    return router.set_shard(NODE, int(part.level), shard)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 40), max_size=12), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)
def test_whatever_is_lost_repeated_or_reordered_a_router_has_a_list_that_was_registered(steps, random):
    """And the last one, once it has requested what it misses."""
    node, router = Registration(), EndpointShards()
    pods = {number: endpoint(number, 256) for number in range(1, 20)}
    retained: dict[str, Part] = {}
    lists, under_way, newest = {}, [], None
    for sequence, step in enumerate(steps, 1):
        for number in step:
            pods.pop(number, None) if random.random() < 0.4 else pods.update(
                {number: endpoint(number, 256, sequence)}
            )
        pods |= {number: endpoint(number, 256) for number in range(100, 110)}  # too large for one, always
        value = registration(sequence, *pods.values())
        lists[sequence] = {*value.endpoints}
        for part in node.parts(value, random.choice([MIN_PAYLOAD, SHARD_PAYLOAD])):
            if random.random() < 0.1:
                break  # the session ends: the rest is published with the next list
            node.confirmed(part)
            retained[part.level] = part
            under_way.append(part)
        random.shuffle(under_way)
        while under_way and random.random() < 0.8:
            part = under_way.pop() if random.random() < 0.8 else under_way[-1]
            whole = receive(router, part) if random.random() < 0.8 else None
            if whole is not None:
                assert {*whole.endpoints} == lists[whole.sequence]
    for part in node.parts(value, SHARD_PAYLOAD):
        node.confirmed(part)
        retained[part.level] = part
    head = retained[HEAD]
    newest = receive(router, head)
    for number in router.missing(NODE):
        newest = receive(router, retained[str(number)])
    assert newest is not None
    assert newest.sequence == len(steps)
    assert {*newest.endpoints} == lists[len(steps)]
