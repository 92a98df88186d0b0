"""Several routers: one publishes, the next continues from the published tables, and a deposed one's writes are
undone.
"""

import asyncio
import contextlib
from collections import deque

import pytest
from replicas import BASE, HERE, LEADER, VPC, Node, Vote, replica
from structlog.testing import capture_logs

from galactic.bus.memory import MemoryBroker
from galactic.errors import Rejected
from galactic.messages import Changes, Head, Leader, Route, Shard, decode, digest, encode, gone
from galactic.router.ingress.liveness import NodeLiveness
from galactic.router.leader.election import Alone
from galactic.router.rib.path import NodeRef

CHANGES, HEAD, SHARD = f"{HERE}/changes", f"{HERE}/head", f"{HERE}/table/0"


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def vote() -> Vote:
    return Vote()


def publish_retained(broker: MemoryBroker, *messages: tuple[str, bytes]) -> None:
    for topic, payload in messages:
        broker.publish(topic, payload, True)


def changes(broker: MemoryBroker, since: int = 0) -> list[Changes]:
    return [decode(Changes, payload) for topic, payload, _ in broker.published[since:] if topic == CHANGES]


def leader(broker: MemoryBroker) -> Leader | None:
    try:
        return decode(Leader, broker.retained.get(LEADER, b""))
    except Rejected:
        return None


def whole(broker: MemoryBroker, *networks: str) -> bool:
    if HEAD not in broker.retained:
        return not networks
    with contextlib.suppress(Rejected):
        return _adds_up(broker, *networks)
    return False


def _adds_up(broker: MemoryBroker, *networks: str) -> bool:
    head = decode(Head, broker.retained[HEAD])
    routes = [
        route
        for number in range(head.shards)
        if f"{HERE}/table/{number}" in broker.retained
        for route in decode(Shard, broker.retained[f"{HERE}/table/{number}"]).routes
    ]
    return (head.count, head.digest) == (len(networks), digest(routes)) and {
        route.network for route in routes
    } == set(networks)


def stray_route(network: str) -> Route:
    return Route(network, ("2001:db8:ff01:900::4d2:9",), "default", "n9", "0009", 1)


async def test_a_standby_publishes_nothing_and_has_all_tables(topology, broker, vote, until) -> None:
    async with replica(broker, vote, "a") as a, replica(broker, vote, "b") as b:
        vote.elect("a")
        publish_retained(
            broker,
            topology.status("n1"),
            topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32")),
        )
        await until(lambda: a.idle and whole(broker, "10.1.1.1/32"))
        await until(lambda: "10.1.1.1/32" in b.store.tables.routes(VPC))
        assert (leader(broker).id, b.term) == ("a", 0)
        assert a.term == leader(broker).term
        assert len(changes(broker)) == 1


async def test_routers_of_two_clusters_at_one_broker_do_not_depose_each_other(broker, until) -> None:
    """The second reports why it publishes nothing, and goes on when the first is no more."""
    east, west = Vote("uid-of-east"), Vote("uid-of-west")
    async with replica(broker, east, "a") as a:
        east.elect("a")
        await until(lambda: a.leadership.leads)
        claims = [payload for topic, payload, _ in broker.published if topic == LEADER]
        async with replica(broker, west, "b") as b:
            west.elect("b")
            await until(lambda: "cluster" in b.health.obstacles)
            problem = b.health.problems["cluster"]
            assert "a of another cluster (kube-system uid-of-east) leads at this broker" in problem
            assert f"clear the retained message {LEADER}" in problem
            assert a.leadership.leads
            assert [payload for topic, payload, _ in broker.published if topic == LEADER] == claims
            await a.kill()
            publish_retained(broker, (LEADER, encode(gone("a"))))  # as the broker does
            await until(lambda: "cluster" not in b.health.problems)
            west.elect("b")  # as a Lease is renewed
            await until(lambda: b.leadership.leads)


async def test_a_change_while_no_router_leads_is_published_by_the_next_leader(
    topology, broker, vote, until
) -> None:
    async with replica(broker, vote, "a") as a, replica(broker, vote, "b") as b:
        vote.elect("a")
        node = Node(broker)
        publish_retained(
            broker,
            topology.status("n1"),
            topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32")),
        )
        await until(lambda: a.idle and whole(broker, "10.1.1.1/32") and node.table.settled)
        since = len(broker.published)
        await a.kill()
        publish_retained(
            broker,
            topology.status("n2"),
            topology.endpoints("n2", 1, topology.endpoint("n2", 2, "10.1.1.2/32")),
        )
        await until(lambda: "10.1.1.2/32" in b.store.tables.routes(VPC))
        assert changes(broker, since) == []
        first = leader(broker).term
        vote.elect("b")
        await until(lambda: b.idle and whole(broker, "10.1.1.1/32", "10.1.1.2/32"))
        assert leader(broker).id == "b"
        assert leader(broker).term > first
        (message,) = changes(broker, since)
        assert ([route.network for route in message.set], message.delete) == (["10.1.1.2/32"], ())
        await until(lambda: node.count == 2 and node.table.settled)
        node.task.cancel()


async def test_changes_that_were_not_packed_are_continued(topology, broker, vote, until) -> None:
    """The leader dies between a change and its pack: subscribers are ahead of what is retained."""
    async with replica(broker, vote, "a") as a, replica(broker, vote, "b") as b:
        vote.elect("a")
        node = Node(broker)
        publish_retained(
            broker,
            topology.status("n1"),
            topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32")),
        )
        await until(lambda: a.idle and whole(broker, "10.1.1.1/32"))
        publish_retained(
            broker, topology.endpoints("n1", 2, topology.endpoint("n1", 1, "10.1.1.1/32", "10.1.1.7/32"))
        )
        await until(lambda: len(changes(broker)) == 2)
        await a.kill()
        assert whole(broker, "10.1.1.1/32"), "it was packed already, and the test proves nothing"
        publish_retained(
            broker, topology.endpoints("n1", 3, topology.endpoint("n1", 1, "10.1.1.1/32", "10.1.1.8/32"))
        )
        vote.elect("b")
        await until(lambda: b.idle and whole(broker, "10.1.1.1/32", "10.1.1.8/32"))
        _, before, after = changes(broker)
        assert after.previous == before.revision
        assert ([route.network for route in after.set], after.delete) == (["10.1.1.8/32"], ("10.1.1.7/32",))
        await until(lambda: node.count == 2 and node.table.settled)
        node.task.cancel()


async def test_the_holder_of_a_network_is_by_the_published_table_and_not_by_a_standbys(
    topology, broker, vote, until
) -> None:
    """The standby joins when both claim the network already, and its own order would give it to the other."""
    async with replica(broker, vote, "a") as a:
        vote.elect("a")
        publish_retained(broker, topology.status("n1"), topology.status("n2"))
        publish_retained(
            broker, topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.9/32", epoch=9))
        )
        await until(lambda: a.idle and whole(broker, "10.1.1.9/32"))
        async with replica(broker, vote, "b") as b:
            await until(lambda: b.store.tables.routes(VPC))
            # The holder lets go and takes it again while the rival waits: only the leader publishes what comes of it.
            publish_retained(
                broker, topology.endpoints("n2", 1, topology.endpoint("n2", 2, "10.1.1.9/32", epoch=3))
            )
            await until(lambda: a.idle and b.store.counts[3] == 1)
            deque(b.store.install({}), 0)  # as if it had not seen which came first
            b.store.commit(1 << 60)
            assert b.store.tables.routes(VPC)["10.1.1.9/32"].node == "n2"
            since = len(broker.published)
            await a.kill()
            vote.elect("b")
            await until(lambda: b.idle)
            assert changes(broker, since) == []
            assert b.store.tables.routes(VPC)["10.1.1.9/32"].node == "n1"


async def test_a_leader_goes_on_while_the_election_is_out_of_sight(topology, broker, vote, until) -> None:
    async with replica(broker, vote, "a") as a, replica(broker, vote, "b") as b:
        vote.elect("a")
        await until(lambda: a.idle)
        a.election.blind = b.election.blind = True  # as an API server that is away
        publish_retained(
            broker,
            topology.status("n1"),
            topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32")),
        )
        await until(lambda: a.idle and whole(broker, "10.1.1.1/32"))
        b.election.blind = False  # but the other one is elected: the broker has its claim
        vote.elect("b")
        await until(lambda: b.idle and not a.term)
        publish_retained(broker, topology.endpoints("n1", 2, topology.endpoint("n1", 1, "10.1.1.2/32")))
        await until(lambda: b.idle and whole(broker, "10.1.1.2/32"))
        assert len(changes(broker)) == 2, "both published it"


async def test_a_leader_that_reconnects_reads_first_who_leads(topology, broker, vote, until) -> None:
    async with replica(broker, vote, "a") as a, replica(broker, vote, "b") as b:
        vote.elect("a")
        publish_retained(
            broker,
            topology.status("n1"),
            topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32")),
        )
        await until(lambda: a.idle and whole(broker, "10.1.1.1/32"))
        a.election.blind = True
        a.line.cut()
        await until(lambda: not a.leadership._gate._publisher._open.is_set())
        # A pending change of its own, which no other router has received.
        a.store.nodes.set_endpoints(NodeRef("default", "n1"), 9, (topology.endpoint("n1", 1, "10.6.6.6/32"),))
        await until(lambda: "10.6.6.6/32" in a.store.tables.routes(VPC))
        vote.elect("b")
        await until(lambda: b.idle)
        since = len(broker.published)
        a.line.mend()
        await until(lambda: not a.leadership.state.claim)
        assert a.term == 0
        assert not [topic for topic, _, _ in broker.published[since:] if "/vpcs/" in topic or topic == LEADER]
        assert whole(broker, "10.1.1.1/32")


@contextlib.asynccontextmanager
async def reign(topology, broker, vote, until):
    """A leader that has published 10.1.1.1/32, a node that has received it, and the revision of that table."""
    async with replica(broker, vote, "b") as b:
        node = Node(broker)
        publish_retained(
            broker,
            topology.status("n1"),
            topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32")),
        )
        vote.elect("b")
        await until(lambda: b.idle and whole(broker, "10.1.1.1/32") and node.table.settled)
        yield b, node, decode(Head, broker.retained[HEAD]).revision
        node.task.cancel()


@pytest.mark.parametrize("ahead", [pytest.param(True, id="ahead"), pytest.param(False, id="between")])
async def test_messages_of_a_deposed_leader_under_way_are_undone(
    topology, broker, vote, until, *, ahead: bool
) -> None:
    async with reign(topology, broker, vote, until) as (b, node, previous):
        late = previous + (10**9 if ahead else 1)
        wrong = stray_route("10.6.6.6/32")
        broker.publish(CHANGES, encode(Changes(late, previous, (wrong,), ("10.1.1.1/32",))), False)
        await until(lambda: node.table.revision and node.table.revision > late and node.table.settled)
        assert node.count == 1
        broker.publish(SHARD, encode(Shard(late + 5, 1, (wrong,))), True)
        broker.publish(HEAD, encode(Head(late + 5, 1, digest([wrong]), 1)), True)
        await until(lambda: b.idle and whole(broker, "10.1.1.1/32"))
        await until(lambda: node.count == 1 and node.table.settled)
        assert node.table.revision == decode(Head, broker.retained[HEAD]).revision > late + 5


async def test_messages_while_the_tables_are_adopted_are_handled_afterwards(
    topology, broker, vote, until
) -> None:
    """A deposed leader's last message arrives between two turns of its successor, which has read the tables already."""
    async with reign(topology, broker, vote, until) as (b, node, previous):
        install, waiting = b.store.install, []

        def slowly(table):
            wrong = stray_route("10.6.6.6/32")
            broker.publish(CHANGES, encode(Changes(previous + 1, previous, (wrong,), ())), False)
            yield from install(table)
            for _ in range(50):
                waiting.append(len(b.leadership._deferred))
                yield

        b.store.install = slowly
        b.leadership._chosen(False)
        b.leadership._chosen(True)  # it claims again
        await until(lambda: len(waiting) == 50)
        await until(lambda: b.idle and node.table.settled and node.count == 1)
        assert waiting[-1] == 1, "it was handled later, and the test proves nothing"
        assert node.table.revision > previous + 1


async def test_a_foreign_pack_at_the_moment_of_the_snapshot_is_overwritten(
    topology, broker, vote, until
) -> None:
    """A deposed leader's pack comes between that and the next turn of its successor."""
    async with reign(topology, broker, vote, until) as (b, node, previous):
        viewed = b.leadership._broker_read

        def and_then(retained) -> None:
            b.leadership._broker_read = viewed
            viewed(retained)
            wrong = stray_route("10.6.6.6/32")
            broker.publish(
                CHANGES, encode(Changes(previous + 1, previous, (wrong,), ("10.1.1.1/32",))), False
            )
            broker.publish(SHARD, encode(Shard(previous + 1, 1, (wrong,))), True)
            broker.publish(HEAD, encode(Head(previous + 1, 1, digest([wrong]), 1)), True)

        b.leadership._broker_read = and_then
        b.leadership._chosen(False)
        b.leadership._chosen(True)  # it claims again
        await until(lambda: b.leadership._broker_read is viewed)
        await until(lambda: b.idle and whole(broker, "10.1.1.1/32") and node.table.settled)
        assert node.count == 1


@pytest.mark.parametrize(
    "stray",
    [
        pytest.param((HEAD, b""), id="head-cleared"),
        pytest.param((HEAD, encode(Head(1, 0, "0" * 16, 0))), id="head-old"),
        pytest.param((HEAD, b"nonsense"), id="head-nonsense"),
        pytest.param((SHARD, b""), id="shard-cleared"),
    ],
)
async def test_a_foreign_write_right_after_ours_is_overwritten(
    topology, broker, vote, until, stray: tuple[str, bytes]
) -> None:
    """It arrives before the broker's confirmation of ours. Twice: also when the first was overwritten."""
    topic, payload = stray
    async with replica(broker, vote, "a") as a:
        publish, times = broker.publish, [2]

        def and_then(at: str, what: bytes, retain: bool, publisher=None) -> None:
            publish(at, what, retain, publisher)
            if at == topic and publisher is a.line and times[0]:
                times[0] -= 1
                publish(topic, payload, True)

        broker.publish = and_then
        vote.elect("a")
        publish_retained(
            broker,
            topology.status("n1"),
            topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32")),
        )
        await until(lambda: a.idle and not times[0] and whole(broker, "10.1.1.1/32"))


async def test_a_stray_that_comes_again_while_it_is_wiped_is_wiped_again(
    topology, broker, vote, until
) -> None:
    stray = f"{HERE}/table/x"
    async with replica(broker, vote, "a") as a:
        publish, times = broker.publish, [2]

        def and_then(at: str, payload: bytes, retain: bool, publisher=None) -> None:
            publish(at, payload, retain, publisher)
            if at == stray and not payload and times[0]:
                times[0] -= 1
                publish(stray, b"again", True)

        broker.publish = and_then
        vote.elect("a")
        publish_retained(
            broker,
            topology.status("n1"),
            topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32")),
        )
        await until(lambda: a.idle and whole(broker, "10.1.1.1/32"))
        broker.publish(stray, b"x", True)
        await until(lambda: a.idle and not times[0] and stray not in broker.retained)


async def test_a_stray_change_under_way_at_the_new_leaders_first_change(
    topology, broker, vote, until
) -> None:
    """At the broker: the old leader's change, then the new one's; both continue the same table."""
    async with replica(broker, vote, "b") as b:
        node, late = Node(broker), Node(broker)
        many = [f"10.2.{number >> 8}.{number & 255}/32" for number in range(600)]  # more than one shard
        others = topology.endpoint("n1", 2, *many)
        publish_retained(broker, topology.status("n1"))
        publish_retained(
            broker, topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32"), others)
        )
        vote.elect("b")
        await until(lambda: b.idle and node.table.settled and late.table.settled)
        previous = decode(Head, broker.retained[HEAD]).revision
        stray = Changes(previous + 1, previous, (stray_route("10.6.6.6/32"),))
        late.table.receive_changes(stray, 0.0)  # it had it before
        publish_retained(
            broker, topology.endpoints("n1", 2, topology.endpoint("n1", 1, "10.1.1.2/32"), others)
        )
        await until(lambda: b.idle and whole(broker, "10.1.1.2/32", *many) and node.table.settled)
        assert not late.table.settled
        broker.publish(CHANGES, encode(stray), False)
        await until(lambda: b.idle and node.table.settled and late.table.settled)
        assert dict(node.table.routes) == dict(late.table.routes)
        assert late.count == 601
        node.task.cancel()
        late.task.cancel()


@pytest.mark.parametrize(
    "stray",
    [
        pytest.param((HEAD, b""), id="head-cleared"),
        pytest.param((SHARD, b""), id="shard-cleared"),
        pytest.param((HEAD, b"nonsense"), id="head-nonsense"),
        pytest.param((SHARD, b"{}"), id="shard-nonsense"),
        pytest.param((HEAD, encode(Head(1, 0, "0" * 16, 0))), id="head-old"),
        pytest.param((HEAD, encode(Head(1 << 63, 0, "0" * 16, 0))), id="head-absurd"),
        pytest.param((SHARD, encode(Shard(1, 9, ()))), id="shard-old"),
        pytest.param((f"{HERE}/table/77", encode(Shard(1, 78, ()))), id="shard-too-many"),
        pytest.param((f"{HERE}/table/x", b"x"), id="no-shard"),
        pytest.param((f"{BASE}/vpcs/zz/head", b"x"), id="no-vpc"),
        pytest.param((f"{BASE}/vpcs/00000000beef/head", encode(Head(5, 0, "0" * 16, 0))), id="no-table"),
        pytest.param((LEADER, b""), id="leader-cleared"),
        pytest.param((LEADER, b"[]"), id="leader-nonsense"),
        pytest.param((LEADER, encode(Leader("x", 1))), id="leader-old"),
        pytest.param((LEADER, encode(Leader("x", 1 << 63))), id="leader-absurd"),
        pytest.param((LEADER, encode(gone("x"))), id="another-router-has-gone"),
        pytest.param((LEADER, encode(gone("a"))), id="an-earlier-session-of-its-own-has-ended"),
    ],
)
async def test_stray_writes_are_put_right(topology, broker, vote, until, stray: tuple[str, bytes]) -> None:
    async with replica(broker, vote, "a") as a:
        vote.elect("a")
        publish_retained(
            broker,
            topology.status("n1"),
            topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32")),
        )
        await until(lambda: a.idle and whole(broker, "10.1.1.1/32"))
        before = {topic: broker.retained[topic] for topic in broker.retained if "/nodes/" not in topic}
        broker.publish(*stray, True)
        await until(
            lambda: (
                a.idle
                and {
                    topic: broker.retained[topic] for topic in broker.retained if "/nodes/" not in topic
                }.keys()
                == before.keys()
                and whole(broker, "10.1.1.1/32")
                and leader(broker) == Leader("a", a.term)
            )
        )
        count = len(broker.published)
        await asyncio.sleep(0.7)  # it must not go on for ever
        assert len(broker.published) == count


async def test_a_claim_of_a_stranger_does_not_end_routing(topology, broker, vote, until) -> None:
    """The elected router claims again, above it."""
    async with replica(broker, vote, "a") as a:
        vote.elect("a")
        await until(lambda: a.idle)
        broker.publish(LEADER, encode(Leader("stranger", a.term + 1000)), True)
        publish_retained(
            broker,
            topology.status("n1"),
            topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32")),
        )
        await until(lambda: a.idle and whole(broker, "10.1.1.1/32"))
        assert leader(broker).id == "a"


async def test_a_broker_that_was_replaced_by_an_empty_one_between_two_leaders(
    topology, broker, vote, until
) -> None:
    async with replica(broker, vote, "a") as a, replica(broker, vote, "b") as b:
        vote.elect("a")
        publish_retained(
            broker,
            topology.status("n1"),
            topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32")),
        )
        await until(lambda: a.idle and whole(broker, "10.1.1.1/32"))
        await until(lambda: b.store.tables.routes(VPC))
        await a.kill()
        broker.stop()
        vote.elect("b")
        broker.start(empty=True)
        await until(lambda: b.idle and whole(broker, "10.1.1.1/32"))
        assert leader(broker).id == "b"


async def test_an_offline_node_keeps_its_routes_unless_withdrawal_is_set(
    topology, broker, vote, until
) -> None:
    messages = topology.status("n1"), topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32"))
    offline = topology.topics.status("default", "n1"), b'{"state":"offline"}'
    async with replica(broker, vote, "a", withdraw_after=60) as a:
        vote.elect("a")
        now = 0.0
        a.part(NodeLiveness)._clock = lambda: now
        publish_retained(broker, *messages)
        await until(lambda: a.idle and whole(broker, "10.1.1.1/32"))
        publish_retained(broker, offline)
        await until(lambda: a.part(NodeLiveness)._offline_since)
        now = 59.0
        a.part(NodeLiveness).withdraw()
        await asyncio.sleep(0.05)
        assert "10.1.1.1/32" in a.store.tables.routes(VPC)
        now = 60.0
        a.part(NodeLiveness).withdraw()
        await until(lambda: a.idle and whole(broker))
        publish_retained(broker, messages[0])
        await until(lambda: a.idle and whole(broker, "10.1.1.1/32"))


async def test_a_move_is_seen_without_a_gap_and_a_node_that_joins_again_changes_nothing(
    topology, broker, vote, until
) -> None:
    async with replica(broker, vote, "a") as a:
        vote.elect("a")
        node = Node(broker)
        publish_retained(broker, topology.status("n1"), topology.status("n2"))
        publish_retained(
            broker, topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32", epoch=1))
        )
        await until(lambda: a.idle and node.count == 1)
        seen, since = len(node.seen), len(broker.published)
        for sequence in (2, 3):  # its node controller restarted, and registers the same
            publish_retained(
                broker, topology.endpoints("n1", sequence, topology.endpoint("n1", 1, "10.1.1.1/32", epoch=1))
            )
        await until(lambda: a.idle and not a.store.changed.is_set())
        await asyncio.sleep(0.05)
        assert changes(broker, since) == []
        # The new node registers before the old one withdraws, and then the other way round.
        publish_retained(
            broker, topology.endpoints("n2", 1, topology.endpoint("n2", 1, "10.1.1.1/32", epoch=2))
        )
        publish_retained(broker, topology.endpoints("n1", 4))
        await until(lambda: a.idle and "10.1.1.1/32" in a.store.tables.routes(VPC))
        await until(lambda: a.store.tables.routes(VPC)["10.1.1.1/32"].node == "n2" and a.idle)
        await until(lambda: node.table.settled and node.table.revision == a.table(VPC)[0])
        assert {len(table) for table in node.seen[seen:]} == {1}
        publish_retained(broker, topology.endpoints("n2", 2))
        await until(lambda: a.idle and whole(broker) and node.count == 0)
        assert node.table.settled, "an empty table is one as well"
        node.task.cancel()


class Loners:
    """Routers without Kubernetes and without a database."""

    def __init__(self) -> None:
        self.voters: dict[str, Alone] = {}

    def voter(self, name: str) -> Alone:
        return self.voters.setdefault(name, Alone())


async def test_of_two_without_an_election_the_later_leads_and_the_other_is_fenced(
    topology, broker, until
) -> None:
    loners = Loners()
    async with replica(broker, loners, "b") as first:
        publish_retained(
            broker,
            topology.status("n1"),
            topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32")),
        )
        await until(lambda: first.idle and whole(broker, "10.1.1.1/32"))
        with capture_logs() as logs:
            async with replica(broker, loners, "a") as second:
                await until(lambda: second.idle and not first.term)
                since = len(broker.published)
                publish_retained(
                    broker, topology.endpoints("n1", 2, topology.endpoint("n1", 1, "10.1.1.2/32"))
                )
                await until(lambda: second.idle and whole(broker, "10.1.1.2/32"))
                await until(lambda: "10.1.1.2/32" in first.store.tables.routes(VPC))
                assert len(changes(broker, since)) == 1, "both published it"
                assert (leader(broker).id, first.term) == ("a", 0)
        (errors,) = [entry["event"] for entry in logs if entry["log_level"] == "error"]
        assert "--database-url" in errors


async def test_a_claim_is_raised_above_a_term_that_only_the_database_knows(
    topology, broker, vote, until
) -> None:
    async with replica(broker, vote, "a") as a:
        vote.elect("a")
        publish_retained(
            broker,
            topology.status("n1"),
            topology.endpoints("n1", 1, topology.endpoint("n1", 1, "10.1.1.1/32")),
        )
        await until(lambda: a.idle and whole(broker, "10.1.1.1/32"))
        since, known = len(broker.published), a.term + 10**6
        a.leadership.database_ahead(known)
        await until(lambda: a.idle and a.term > known)
        assert leader(broker).term == a.term
        assert not changes(broker, since), "nothing else changes"
        term = a.term
        a.leadership.database_ahead(term + 10**6)  # as another plane's would, on the same database
        publish_retained(broker, topology.endpoints("n1", 2, topology.endpoint("n1", 1, "10.1.1.2/32")))
        await until(lambda: a.idle and whole(broker, "10.1.1.2/32"))
        assert a.term == term, "they outdo each other for ever"


async def test_a_router_that_is_outdone_at_the_broker_does_not_raise_its_claim(
    topology, broker, vote, until
) -> None:
    async with replica(broker, vote, "a") as a, replica(broker, vote, "b") as b:
        vote.elect("a")
        await until(lambda: a.idle)
        a.election.blind = True
        lose, broker.lose = broker.lose, lambda topic, _: topic == LEADER  # the database is quicker
        broker.publish(LEADER, encode(Leader("b", a.term + 1000)), True)
        broker.lose = lose
        a.leadership.database_ahead(a.term + 1000)
        await until(lambda: not a.leadership.state.claim)
        assert (leader(broker).id, a.term, b.term) == ("b", 0, 0)
