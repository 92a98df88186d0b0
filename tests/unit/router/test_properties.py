"""What users rely on, over random histories of a whole plane: pods, nodes with clocks of their own, messages, a router.

The oracle is the world itself: where the pods really are, and who was there first. It knows nothing of epochs,
sequences or tables. Nodes take epochs as the node controller does; what they say is delivered late, twice, out of order
or, if something newer follows, never. The router is its store and its Adj-RIBs-Out, whose messages go one by one to
followers: each node with the very state machine and the very rules of what it routes.

What must be true of every commit, however little of the world the router has heard by then, is asked of every commit
(``_right``): of what was heard, who was there before, and nothing else.
"""

import os
import random
from collections import defaultdict, deque
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from galactic.messages import Changes, Endpoint, Head, Route, Shard
from galactic.node.mqtt.replica import FORGOTTEN, TableReplica
from galactic.node.state.remote import RemoteRoutes, Source, pack
from galactic.router.egress import adj_rib_out as module
from galactic.router.egress.adj_rib_out import AdjRibOut
from galactic.router.egress.retained import RetainedTable
from galactic.router.rib.import_policy import OPEN, Policy, Unlisted
from galactic.router.rib.path import Attachment, NodeRef
from galactic.router.rib.store import ALL, Store
from galactic.srv6 import sid

VPCS = (0x4D2, 0x4D3)
NODES = (("east", "n1"), ("east", "n2"), ("east", "n3"), ("west", "n4"))
NETWORKS = ("10.1.1.1/32", "10.1.1.0/24", "fd00::1/128", "fd00::/64")  # some inside of others
STRANGER = NodeRef("west", "n9")
RANDOM = os.environ.get("GALACTIC_RANDOM_HISTORIES")
"""So many histories that were never tried before, instead of the same hundred. For who looks for something: among
thousands of them are some of which the model knows too little, and who changes something else need not be told of that.
"""
HOUR = 3600
HORIZON = 24 * HOUR
SKEWS = (0, -10 * HOUR, 10 * HOUR, 1000 * HOUR)  # the last is not believed of anybody who comes new
some_function = st.integers(1, 2)
some_node = st.sampled_from([name for _, name in NODES])
some_networks = st.lists(st.sampled_from(NETWORKS), min_size=1, max_size=3, unique=True).map(tuple)


@dataclass(frozen=True)
class Who:
    """An attachment."""

    cluster: str
    vpc: int
    function: int

    @property
    def name(self) -> str:
        return f"ns/a{self.function}"


@dataclass
class Pod:
    """Where an attachment really is, and what it announces there."""

    who: Who
    networks: tuple[str, ...]
    epoch: int
    settled: bool  # its epoch was taken with knowledge of the table
    trusted: bool = True  # its attachment was ready at some time since


@dataclass(frozen=True)
class EndpointPath:
    """What a node said of an attachment and may say. ``sound``: it is to be believed although it is not in force."""

    node: "Node"
    networks: frozenset[str]
    epoch: int
    sound: bool

    def in_force(self, who: Who, held: dict[str, Route]) -> bool:
        mine = self.node.cluster, self.node.name, f"{who.function:04x}", self.epoch
        return any(
            network in held
            and mine
            == (held[network].cluster, held[network].node, held[network].function, held[network].epoch)
            for network in self.networks
        )


@dataclass
class Node:
    """One node: its pods, its clock, what it said and the router did not hear yet, and its follower of each VPC."""

    cluster: str
    name: str
    skew: int = 0
    sequence: int = 0
    pods: dict[Who, Pod] = field(default_factory=dict)
    says: list[tuple[int, tuple[Endpoint, ...]]] = field(default_factory=list)  # all of it, oldest first
    heard: int = 0  # the latest sequence that was delivered
    word: tuple[Endpoint, ...] = ()  # and what it said
    exists: bool = True
    silent: bool = False
    given_up: bool = False  # silent for longer than --withdraw-after
    missed: bool = False  # it did not hear something, and reads again what does not add up
    tables: dict[int, TableReplica] = field(default_factory=dict)
    remotes: dict[int, RemoteRoutes] = field(default_factory=dict)

    @property
    def origin(self) -> NodeRef:
        return NodeRef(self.cluster, self.name)

    @property
    def alive(self) -> bool:
        return self.exists and not self.silent


class Plane(RuleBasedStateMachine):
    """Standalone, with the admissions that ``policy`` begins with."""

    world = None
    checked = False
    clusters = ("east", "west")
    committing = False

    def __init__(self) -> None:
        super().__init__()
        self.now, self.dice = 2000 * HOUR, random.Random(7)
        self.nodes = {name: Node(cluster, name) for cluster, name in NODES if cluster in self.clusters}
        self.holders: dict[tuple[int, str], Who] = {}  # at the last look, and they did not let go since
        self.attachments: dict[str, Attachment] = {}
        self.policy = OPEN
        self.store = Store(checked=self.checked, policy=self.policy)
        self.adj_ribs_out: dict[int, AdjRibOut] = {}
        self.retained: dict[int, RetainedTable] = defaultdict(RetainedTable)
        self.told: dict[int, dict[str, Route]] = {vpc: {} for vpc in VPCS}
        self.committed: dict[int, dict[str, Route]] = {vpc: {} for vpc in VPCS}
        self.admissions_changed = False  # since the last commit
        self.published = 0
        for node in self.nodes.values():
            self._boot(node)

    @initialize(
        seed=st.integers(0, 1 << 16), skews=st.lists(st.sampled_from(SKEWS[:3]), min_size=4, max_size=4)
    )
    def clocks_are_set(self, seed: int, skews: list[int]) -> None:
        self.dice = random.Random(seed)
        for node, skew in zip(self.nodes.values(), skews, strict=False):
            node.skew = skew

    def _boot(self, node: Node) -> None:
        prefix = self.world.prefix(node.name)
        here = sid(prefix, 1, 1).address.packed[:8]
        node.tables = {vpc: TableReplica(vpc, node.cluster, 0.0) for vpc in VPCS}
        node.remotes = {vpc: RemoteRoutes(here) for vpc in VPCS}
        self.store.nodes.set_prefix(node.origin, prefix)
        for vpc in VPCS:
            self._join(node, vpc)

    def _join(self, node: Node, vpc: int) -> None:
        """It reads what is retained."""
        for number, shard in self.retained[vpc].shards.items():
            node.tables[vpc].receive_shard(number, shard, 0.0)
        node.tables[vpc].receive_head(self.retained[vpc].head, 0.0)
        self._tell(node, vpc)

    def _reads_again(self, node: Node) -> None:
        for vpc in VPCS if node.alive and node.missed else ():
            for _ in range(FORGOTTEN + 1):
                if not node.tables[vpc].settled:
                    node.tables[vpc].reread(0.0)
                    self._join(node, vpc)

    def _tell(self, node: Node, vpc: int) -> None:
        table = node.tables[vpc]
        if table.complete:
            node.remotes[vpc].set_table(Source.MQTT, table.revision, table.routes, table.drain_before())
            for pod in node.pods.values():
                if pod.who.vpc == vpc and not pod.settled:  # an epoch taken without the table, once
                    known = node.remotes[vpc].epochs(pod.who.function)
                    pod.settled = True
                    if any(epoch >= pod.epoch for epoch in known):
                        pod.epoch = max(self.now + node.skew, *(epoch + 1 for epoch in known))
                        self._say(node)

    # -- what happens in the world -----------------------------------------------------------------------------------

    def _whereabouts(self) -> dict[Who, Node]:
        """Where everybody is; those on a silent node are there until they are somewhere else."""
        standing = (node for node in self.nodes.values() if node.exists and not node.given_up)
        there = sorted(standing, key=lambda node: node.alive)
        return {who: node for node in there for who in node.pods}

    @rule(
        function=some_function,
        vpc=st.sampled_from(VPCS),
        node=some_node,
        networks=some_networks,
        blind=st.booleans(),
    )
    def starts(self, function: int, vpc: int, node: str, networks: tuple[str, ...], blind: bool) -> None:
        """A pod starts, or moves: its node knows the epochs in the table, unless it has no table yet."""
        there = self.nodes.get(node)
        if there is None or not there.alive:
            return
        who = Who(there.cluster, vpc, function)
        found = self.attachments.get(who.name)
        if self.checked:
            if found is None:
                return
            who, networks = Who(there.cluster, found.vpc, function), tuple(sorted(found.networks))
        if who in there.pods:
            return
        before = self._whereabouts().get(who)
        remotes = there.remotes[who.vpc]
        known = [] if blind else remotes.epochs(function)
        epoch = max([self.now + there.skew, *(each + 1 for each in known)])
        # Without a whole table of its own a node cannot know yet; it corrects itself when it has one.
        there.pods[who] = Pod(who, networks, epoch, settled=not blind and there.tables[who.vpc].complete)
        there.pods[who].trusted = found is None or found.ready
        remotes.announce([pack(network) for network in networks])
        self._say(there)
        if before is not None and before.alive:  # a silent one goes on saying what it said
            self._remove(before, who)
            self._say(before)
        if blind and there.tables[who.vpc].complete:
            self._tell(there, who.vpc)

    @rule(data=st.data(), blind=st.booleans())
    def moves(self, data: st.DataObject, blind: bool) -> None:
        """With what it has, to a node of its cluster that is there."""
        found = self._whereabouts()
        if found:
            who = data.draw(st.sampled_from(sorted(found, key=str)))
            others = [
                it.name for it in self.nodes.values() if it.cluster == who.cluster and it is not found[who]
            ]
            if others:
                node = data.draw(st.sampled_from(others))
                self.starts(who.function, who.vpc, node, found[who].pods[who].networks, blind)

    @rule(data=st.data(), networks=some_networks)
    def changes(self, data: st.DataObject, networks: tuple[str, ...]) -> None:
        """What a pod announces, where it is: fewer, more, others."""
        running = sorted((who for who, node in self._whereabouts().items() if node.alive), key=str)
        if not running:
            return
        who = data.draw(st.sampled_from(running))
        node = self._whereabouts()[who]
        if self.checked:
            found = self.attachments.get(who.name)
            networks = tuple(sorted(found.networks)) if found else ()
        pod, remotes = node.pods[who], node.remotes[who.vpc]
        left = {(who.vpc, network) for network in set(pod.networks) - set(networks)}
        self.holders = {key: has for key, has in self.holders.items() if has != who or key not in left}
        remotes.withdraw([pack(network) for network in pod.networks])
        remotes.announce([pack(network) for network in networks])
        pod.networks = networks
        self._say(node)

    @rule(data=st.data())
    def ends(self, data: st.DataObject) -> None:
        running = sorted((who for who, node in self._whereabouts().items() if node.alive), key=str)
        if running:
            who = data.draw(st.sampled_from(running))
            node = self._whereabouts()[who]
            self._remove(node, who)
            self._say(node)

    @rule(node=some_node, skew=st.sampled_from(SKEWS), hours=st.sampled_from([1, 1, 2000]))
    def time_goes_by(self, node: str, skew: int, hours: int) -> None:
        """And some clock is set."""
        self.now += hours * HOUR
        if node in self.nodes:
            self.nodes[node].skew = skew

    @rule(data=st.data(), stage=st.sampled_from(["offline", "given up", "back"]))
    def falls_silent(self, data: st.DataObject, stage: str) -> None:
        """Dead, and nobody has said so: its last word stands until it is outdone, or for so long that its routes are
        to go. Or it was, and is heard again.
        """
        there = [it.name for it in self.nodes.values() if it.exists and (it.silent or it.pods)]
        if not there:
            return
        found = self.nodes[data.draw(st.sampled_from(there))]
        if stage == "back":
            if found.silent:
                self._heard_again(found)
            return
        if not found.silent:
            found.silent = found.missed = True
            self.store.nodes.set_offline(found.origin, True)  # what it said before may still be under way
        if stage == "given up" and not found.given_up:
            found.given_up = True
            self.holders = {key: has for key, has in self.holders.items() if has not in found.pods}
            self.store.nodes.withdraw(found.origin, True)

    def _back(self, node: Node) -> None:
        node.silent = node.given_up = False
        self.store.nodes.set_offline(node.origin, False)
        self.store.nodes.withdraw(node.origin, False)

    def _heard_again(self, node: Node) -> None:
        """What was started elsewhere meanwhile is ended here."""
        self.packs()
        self._back(node)
        for vpc in VPCS:
            node.tables[vpc].restart(0.0)
            self._join(node, vpc)
        self._reads_again(node)
        others = [each for each in self.nodes.values() if each is not node and each.alive]
        for who in node.pods.keys() & {who for each in others for who in each.pods}:
            self._remove(node, who)
        self._say(node)

    @rule(node=some_node)
    def is_deleted(self, node: str) -> None:
        """With all that was there. Or it was, and is made again."""
        found = self.nodes.get(node)
        if found is not None and found.exists:
            self._back(found)
            found.exists, found.word = False, ()
            for who in list(found.pods):
                self._remove(found, who)
            self.store.nodes.remove(found.origin)
        elif found is not None:
            found.exists = found.missed = True  # what was told while it was not there
            found.says, found.heard, found.sequence = [], 0, 0
            self._boot(found)

    def _remove(self, node: Node, who: Who) -> None:
        pod = node.pods.pop(who)
        self.holders = {key: has for key, has in self.holders.items() if has != who}
        node.remotes[who.vpc].withdraw([pack(network) for network in pod.networks])

    def _say(self, node: Node) -> None:
        """All of its endpoints, as one message that is yet to arrive."""
        node.sequence += 1
        prefix = self.world.prefix(node.name)
        said = tuple(
            Endpoint(
                f"{pod.who.vpc:012x}",
                f"{pod.who.function:04x}",
                pod.who.name,
                str(sid(prefix, pod.who.vpc, pod.who.function)),
                pod.networks,
                pod.epoch,
            )
            for pod in node.pods.values()
        )
        node.says.append((node.sequence, said))
        if self.dice.random() < 0.5:
            self._deliver(node, node.sequence, said)
            if self.dice.random() < 0.5:
                self.dice.choice((self.commits, self.tells))()

    # -- messages ----------------------------------------------------------------------------------------------------

    @rule(data=st.data(), commit=st.booleans())
    def arrives(self, data: st.DataObject, commit: bool) -> None:
        """Anything that some node ever said arrives, maybe again, maybe after what it said later."""
        speakers = [node for node in self.nodes.values() if node.says and node.exists]
        if speakers:
            node = data.draw(st.sampled_from(speakers))
            sequence, said = data.draw(st.sampled_from(node.says))
            self._deliver(node, sequence, said)
        if commit:
            self.commits()

    def _deliver(self, node: Node, sequence: int, said: tuple[Endpoint, ...]) -> None:
        took = self.store.nodes.set_endpoints(node.origin, sequence, said)
        assert took == (sequence >= node.heard), "the newest counts, whatever comes after it"
        if sequence >= node.heard:
            node.heard, node.word = sequence, said

    def somebody_lies(self, node: str, networks: tuple[str, ...]) -> None:
        """That it has that node's prefix, and pods there."""
        victim = self.nodes.get(node)
        if self.checked or victim is None or not victim.exists:
            return  # in Kubernetes nobody says a prefix over MQTT
        self.tells()
        prefix = self.world.prefix(node)
        said = tuple(
            Endpoint(f"{VPCS[0]:012x}", f"{it:04x}", "", str(sid(prefix, VPCS[0], it)), networks, self.now)
            for it in range(1, 4)
        )
        self.store.nodes.set_prefix(STRANGER, prefix)
        self.store.nodes.set_endpoints(STRANGER, 1, said)
        assert not self.store.commit(self.now + HORIZON).routes, "a prefix is somebody's"
        assert self.store.nodes.prefix_conflicts() == {STRANGER: victim.origin}
        self.store.nodes.remove(STRANGER)
        assert not self.store.commit(self.now + HORIZON).routes

    def packs(self) -> None:
        self.tells()
        for vpc, adj_rib_out in self.adj_ribs_out.items():
            self._pack(vpc, adj_rib_out)

    def _pack(self, vpc: int, adj_rib_out: AdjRibOut) -> None:
        pack = adj_rib_out.pack()
        if pack is None:
            return
        retained = self.retained[vpc]
        for number, shard in pack.shards.items():
            retained.shards[number] = shard
            self._hear(vpc, shard, number)
        retained.head = pack.head
        self._hear(vpc, pack.head, None)
        for number in pack.clear:
            del retained.shards[number]
        adj_rib_out.confirmed(pack)

    def _hear(self, vpc: int, message: Changes | Shard | Head | None, number: int | None) -> None:
        for node in self.nodes.values():
            if not node.alive:
                continue
            match message:
                case Changes():
                    node.tables[vpc].receive_changes(message, 0.0)
                case Shard():
                    node.tables[vpc].receive_shard(number, message, 0.0)
                case _:
                    node.tables[vpc].receive_head(message, 0.0)
            self._tell(node, vpc)

    # -- the router --------------------------------------------------------------------------------------------------

    def commits(self) -> None:
        """What changed is due, and told with what changes until the broker has confirmed what was told before.

        One at a time, as the router's lock sees to: what is told between two parts begins no other commit.
        """
        if self.committing:
            return
        self.committing = True
        try:
            self._commit()
        finally:
            self.committing = False

    def _commit(self) -> None:
        before = {vpc: dict(routes) for vpc, routes in self.committed.items()}
        some, more = self.dice.choice((1, 2, 5, ALL)), True
        while more:
            commit = self.store.commit(self.now + HORIZON, some)
            more = commit.more
            for vpc, changed in commit.routes.items():
                for network, route in changed.set.items():
                    assert self.committed[vpc].get(network) != route, "what was right is set again"
                    self.committed[vpc][network] = route
                for network, route in changed.delete.items():
                    assert self.committed[vpc].pop(network) == route, "gone already"
                self.adj_ribs_out.setdefault(vpc, AdjRibOut(vpc)).put(changed, self.now)
            for vpc, adj_rib_out in self.adj_ribs_out.items():
                if more and adj_rib_out.pending and self.dice.random() < 0.2:
                    self._publish(vpc, adj_rib_out)
        for vpc in VPCS:
            assert self.store.tables.routes(vpc) == self.committed[vpc], (
                "another table than the one that was told"
            )
            self._right(vpc, before[vpc], self.committed[vpc])
        self.admissions_changed = False

    def _claims(self, vpc: int) -> dict[Who, list[EndpointPath]]:
        """What the router has heard of the attachments of a VPC, as far as it is theirs to say."""
        found: dict[Who, list[EndpointPath]] = defaultdict(list)
        for node in self.nodes.values():
            if not node.exists or node.given_up:
                continue
            for said in node.word:
                who = Who(node.cluster, int(said.vpc, 16), int(said.function, 16))
                attachment = self.attachments.get(who.name)
                networks, ready = frozenset(said.networks), True
                if self.checked and attachment is not None and attachment.vpc == who.vpc:
                    networks, ready = networks & attachment.networks, attachment.ready
                elif self.checked:
                    continue
                if who.vpc == vpc:
                    sound = ready and said.epoch <= self.now + HORIZON
                    found[who].append(EndpointPath(node, networks, said.epoch, sound))
        return found

    def _right(self, vpc: int, before: dict[str, Route], now: dict[str, Route]) -> None:
        claims = self._claims(vpc)
        places: dict[Who, set[tuple[str, int]]] = defaultdict(set)
        for network, route in now.items():
            who = Who(route.cluster, vpc, int(route.function, 16))
            places[who].add((route.node, route.epoch))
            assert len(places[who]) == 1, "an attachment is in two places"
            assert self._admits(who, certainly=False), "a cluster that may not be there"
            its = [it for it in claims[who] if (it.node.name, it.epoch) == (route.node, route.epoch)]
            assert any(network in it.networks for it in its), "nobody has said so"
            assert any(it.sound or it.in_force(who, before) for it in its), "believed too early"
        for who, its in claims.items():
            standing = [it for it in its if it.sound or it.in_force(who, before)]
            if not standing or not self._admits(who, certainly=True):
                continue
            for network in frozenset.intersection(*(it.networks for it in its)):
                assert network in now, "a gap"
                held = before.get(network)
                if held is not None and (held.cluster, int(held.function, 16)) == (who.cluster, who.function):
                    has = now[network].cluster, int(now[network].function, 16)
                    assert has == (who.cluster, who.function), "taken from who holds it"
            there = [it for it in standing if not it.node.silent or it.in_force(who, before)] or standing
            if who in places:
                assert {epoch for _, epoch in places[who]} == {max(it.epoch for it in there)}, (
                    "not the newest"
                )

    def _admits(self, who: Who, *, certainly: bool) -> bool:
        """Whether its cluster may be in its VPC, as far as that is known."""
        return True

    def tells(self) -> None:
        self.commits()
        for vpc, adj_rib_out in self.adj_ribs_out.items():
            if adj_rib_out.pending:
                self._publish(vpc, adj_rib_out)

    def _publish(self, vpc: int, adj_rib_out: AdjRibOut) -> None:
        """Message by message, route by route: what a follower sees at each moment."""
        self.now += 1  # revisions are at least the time, and nobody waits for the next second here
        seen, after = self.told[vpc], self.store.tables.routes(vpc)
        stays = seen.keys() & after.keys()
        withdrawing = False
        for message in adj_rib_out.changes(self.now):
            self.published += 1
            for route in message.set:
                assert not withdrawing, "make before break"
                assert seen.get(route.network) != route, "announced twice"
                seen[route.network] = route
                assert len(route.segments) == 1
                assert stays <= seen.keys(), "a gap"
            for network in message.delete:
                withdrawing = True
                assert seen.pop(network, None) is not None, "withdrawn twice"
                assert stays <= seen.keys(), "a gap"
            self._hear(vpc, message, None)
        assert seen == dict(after)

    def _settle(self) -> None:
        """Everybody's last word arrives, also what nodes say on hearing the others."""
        while True:
            said = {name: node.sequence for name, node in self.nodes.items()}
            for node in self.nodes.values():
                if node.exists and node.says:
                    self._deliver(node, *node.says[-1])
            self.packs()
            for node in self.nodes.values():
                self._reads_again(node)
            if said == {name: node.sequence for name, node in self.nodes.items()}:
                return

    def restarts(self) -> None:
        """Another router goes on from what is retained and what the nodes said last, in whatever order."""
        self.packs()
        while self.store.pending or not all(it.idle for it in self.adj_ribs_out.values()):
            self.packs()  # what nodes said on hearing that
        held = {vpc: found.routes() for vpc, found in self.retained.items()}
        rejected = {(it.attachment, it.reason) for it in self.store.rejections()}
        self.store = Store(checked=self.checked, policy=self.policy)
        for node in self.dice.sample(list(self.nodes.values()), len(self.nodes)):
            if node.exists:
                self.store.nodes.set_prefix(node.origin, self.world.prefix(node.name))
                if node.heard:
                    self.store.nodes.set_endpoints(node.origin, node.heard, node.word)
                self.store.nodes.withdraw(node.origin, node.given_up)
                self.store.nodes.set_offline(node.origin, node.silent)
        for name, attachment in self.attachments.items():
            self.store.nodes.set_attachment(name, attachment)
        deque(self.store.install(held), 0)
        self.adj_ribs_out = {vpc: AdjRibOut(vpc, found) for vpc, found in self.retained.items()}
        assert not self.store.commit(self.now + HORIZON).routes, "what was right is told again"
        assert all(adj_rib_out.pack() is None for adj_rib_out in self.adj_ribs_out.values()), "packed again"
        assert {(it.attachment, it.reason) for it in self.store.rejections()} == rejected

    def comes_again(self) -> None:
        """All nodes say what they said before: a new session with the broker, an agent that restarts."""
        self._settle()
        published = self.published
        for node in self.nodes.values():
            if node.alive and node.says:
                self._say(node)
        self._settle()
        assert self.published == published, "what was right is told again"

    def everybody_leaves(self) -> None:
        for node in self.nodes.values():
            if node.exists:
                self._heard_again(node)
            for who in list(node.pods):
                self._remove(node, who)
                self._say(node)
        self._settle()
        assert not any(self.store.tables.routes(vpc) for vpc in VPCS)
        assert not any(found.head or found.shards for found in self.retained.values()), "retained"

    @rule(what=st.sampled_from(["commits", "tells", "packs", "the_table_is_where_the_pods_are"]))
    def goes_on(self, what: str) -> None:
        getattr(self, what)()

    @rule(
        what=st.sampled_from(["restarts", "restarts", "comes_again", "somebody_lies", "everybody_leaves"]),
        node=some_node,
        networks=some_networks,
    )
    def seldom(self, what: str, node: str, networks: tuple[str, ...]) -> None:
        if what == "somebody_lies":
            self.somebody_lies(node, networks)
        else:
            getattr(self, what)()

    # -- what must be true -------------------------------------------------------------------------------------------

    @invariant()
    def nothing_routes_to_itself(self) -> None:
        for node in self.nodes.values():
            here = sid(self.world.prefix(node.name), 1, 1).address.packed[:8]
            for vpc, remotes in node.remotes.items():
                for pod in node.pods.values():
                    if pod.who.vpc == vpc:
                        own = [remotes.segment(pack(network)) for network in pod.networks]
                        assert own == [None] * len(own), "a route to its own address"
                assert not any(remotes.segment(network).startswith(here) for network in remotes)

    def teardown(self) -> None:
        self.the_table_is_where_the_pods_are()

    def the_table_is_where_the_pods_are(self) -> None:
        """The oracle: in the end, whatever happened on the way."""
        self._settle()
        there = self._whereabouts()
        for vpc in VPCS:
            must: dict[str, set[Who]] = defaultdict(set)
            may: dict[str, set[Who]] = defaultdict(set)
            for who, node in there.items():
                if who.vpc == vpc:
                    entitled, certain = self._entitled(node.pods[who])
                    rivals = self._in_force_elsewhere(who, node)
                    for network in entitled:
                        may[network].add(who)
                        if certain and not rivals:
                            must[network].add(who)
                    for rival in rivals:
                        for network in self._entitled(rival.pods[who])[0]:
                            may[network].add(who)
            table = self.store.tables.routes(vpc)
            assert must.keys() <= table.keys() <= may.keys()
            for network, route in table.items():
                has = Who(route.cluster, vpc, int(route.function, 16))
                assert has in may[network]
                before = self.holders.get((vpc, network))
                assert before in (None, has) or before not in must[network], "taken from who holds it"
                self.holders[vpc, network] = has
                assert route.node in {
                    there[has].name,
                    *(it.name for it in self._in_force_elsewhere(has, there[has])),
                }
                assert route.segments == (str(sid(self.world.prefix(route.node), vpc, has.function)),)
            self._seen_by_nodes(vpc, table, there)

    def _in_force_elsewhere(self, who: Who, there: Node) -> list[Node]:
        """Nodes of whose death nobody knew when their word came in force: it stands where that of the living is not to
        be believed, or is older, by a clock that nobody there could know.
        """
        entitled, certain = self._entitled(there.pods[who])
        doubtful = not there.alive or not (entitled and certain)
        return [
            node
            for node in self.nodes.values()
            if node.exists and node.silent and not node.given_up and node is not there
            if who in node.pods and (doubtful or node.pods[who].epoch > there.pods[who].epoch)
        ]

    def _entitled(self, pod: Pod) -> tuple[set[str], bool]:
        """The networks that the plane routes to it, and whether it does for certain."""
        return set(pod.networks), pod.epoch <= self.now + HORIZON

    def _seen_by_nodes(self, vpc: int, table, there: dict[Who, Node]) -> None:
        for node in self.nodes.values():
            if not node.alive or (node.missed and not table):
                continue  # one that was away when the table became empty cannot tell that from a stray hand's doing
            follower = node.tables[vpc]
            assert follower.settled or not table, "no table was ever told"
            assert follower.routes.keys() == {pack(network) for network in table}
            mine = {net for pod in node.pods.values() if pod.who.vpc == vpc for net in pod.networks}
            elsewhere = {net: it for net, it in table.items() if it.node != node.name and net not in mine}
            remotes = node.remotes[vpc]
            assert set(remotes) >= {pack(network) for network in elsewhere}
            for network, route in elsewhere.items():
                function = int(route.function, 16)
                segment = sid(self.world.prefix(route.node), vpc, function).address.packed
                assert remotes.segment(pack(network)) == segment
            everywhere = {
                at.name for at in self.nodes.values() if at.exists for who in at.pods if who.vpc == vpc
            }
            if everywhere <= {node.name}:
                assert not any(remotes.segment(pack(network)) for network in NETWORKS), "alone, with routes"


class Checked(Plane):
    """In Kubernetes: one cluster, whose attachments come, go, change and are not ready."""

    checked, clusters = True, ("east",)

    @initialize()
    def attachments_are_made(self) -> None:
        for function in range(1, 3):
            self.attached(function, VPCS[function % 2], NETWORKS[:2], ready=True)

    @rule(
        function=some_function,
        vpc=st.sampled_from(VPCS),
        networks=st.lists(st.sampled_from(NETWORKS), max_size=3, unique=True),
        ready=st.booleans(),
    )
    def attached(self, function: int, vpc: int, networks: list[str], ready: bool) -> None:
        found = Attachment(vpc, function, frozenset(networks), ready)
        self.attachments[f"ns/a{function}"] = found
        for node in self.nodes.values():
            if ready and (pod := node.pods.get(Who(node.cluster, vpc, function))):
                pod.trusted = True
        self.store.nodes.set_attachment(f"ns/a{function}", found)

    @rule(function=some_function)
    def deleted(self, function: int) -> None:
        if self.attachments.pop(f"ns/a{function}", None):
            self.store.nodes.set_attachment(f"ns/a{function}", None)

    def _entitled(self, pod: Pod) -> tuple[set[str], bool]:
        found = self.attachments.get(pod.who.name)
        if found is None or found.vpc != pod.who.vpc or not pod.trusted:
            return set(), True
        return set(pod.networks) & found.networks, found.ready and super()._entitled(pod)[1]


class Joining(Plane):
    """Two clusters and VPCs that are one's own, shared, or nobody's, as the admissions say by now."""

    @rule(
        unlisted=st.sampled_from(Unlisted),
        vpcs=st.dictionaries(
            st.sampled_from(VPCS), st.frozensets(st.sampled_from(["east", "west"])), max_size=2
        ),
    )
    def admissions_change(self, unlisted: Unlisted, vpcs: dict[int, frozenset[str]]) -> None:
        self.policy = Policy(unlisted, vpcs)
        self.admissions_changed = True
        self.store.tables.set_policy(self.policy)
        self.holders.clear()

    def _admits(self, who: Who, *, certainly: bool) -> bool:
        if who.vpc in self.policy.vpcs:
            return who.cluster in self.policy.vpcs[who.vpc]
        if self.policy.unlisted is Unlisted.FIRST:
            has = {route.cluster for route in self.committed[who.vpc].values()}
            assert len(has) <= 1, "a VPC of two clusters that nobody admitted"
            return not certainly or (who.cluster in has and not self.admissions_changed)
        return self.policy.unlisted is Unlisted.ANYBODY

    def _entitled(self, pod: Pod) -> tuple[set[str], bool]:
        entitled, certain = super()._entitled(pod)
        cluster, vpc = pod.who.cluster, pod.who.vpc
        if vpc in self.policy.vpcs:
            return (entitled if cluster in self.policy.vpcs[vpc] else set()), certain
        if self.policy.unlisted is Unlisted.NOBODY:
            return set(), True
        if self.policy.unlisted is Unlisted.FIRST:
            told = {route.cluster for route in self.store.tables.routes(vpc).values()}
            assert len(told) <= 1, "a VPC of two clusters that nobody admitted"
            owners = {has.cluster for (of, _), has in self.holders.items() if of == vpc} or told
            if owners and cluster not in owners:
                return set(), True
        return entitled, certain


@pytest.mark.timeout(900)  # what fails is made small before it is shown
@pytest.mark.parametrize("machine", [Plane, Checked, Joining])
def test_what_users_rely_on(world, monkeypatch, machine: type[Plane]) -> None:
    monkeypatch.setattr(module, "MAX_PAYLOAD", module._ENVELOPE + 400)  # two or three routes a message
    monkeypatch.setattr(machine, "world", world)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=int(RANDOM or 100),
            stateful_step_count=40,
            deadline=None,
            derandomize=not RANDOM,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
