"""Promises to users, over random histories of a whole plane: pods, nodes with clocks of their own, messages, a router.

The oracle is the simulation itself: where the pods really are, and who was there first. It knows nothing of epochs,
sequences or tables. Nodes take epochs as the node controller does; their messages are delivered late, twice, out of
order or, if a newer one follows, never. The router is its store and its Adj-RIBs-Out, whose messages go one by one to
followers: each node with the product's table replica and remote routes.

Every commit is checked (``_right``) against the messages that the router has received by then, and the holders before
it.
"""

import os
import random
from collections import defaultdict, deque
from dataclasses import dataclass, field
from ipaddress import IPv6Address

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from galactic.messages import Changes, Endpoint, Head, Route, Shard
from galactic.node.mqtt.replica import FORGOTTEN, TableReplica
from galactic.node.state.attachment import PATH_ID
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
"""The number of new random histories, instead of the same hundred. For searches by hand: among thousands are some that
the model predicts wrongly, which should not fail an unrelated change.
"""
HOUR = 3600
HORIZON = 24 * HOUR
SKEWS = (0, -10 * HOUR, 10 * HOUR, 1000 * HOUR)  # the last is rejected in a new endpoint
some_function = st.integers(1, 2)
some_node = st.sampled_from([name for _, name in NODES])
some_networks = st.lists(st.sampled_from(NETWORKS), min_size=1, max_size=3, unique=True).map(tuple)


@dataclass(frozen=True)
class AttachmentKey:
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

    who: AttachmentKey
    networks: tuple[str, ...]
    epoch: int
    settled: bool  # its epoch was taken with knowledge of the table
    trusted: bool = True  # its attachment was ready at some time since

    @property
    def path_id(self) -> bytes:
        return PATH_ID.pack(self.who.function, self.epoch)


@dataclass(frozen=True)
class EndpointPath:
    """A registered endpoint within its entitlement. ``sound``: it may be installed although it is not in force."""

    node: "Node"
    networks: frozenset[str]
    epoch: int
    sound: bool

    def in_force(self, who: AttachmentKey, table: dict[str, Route]) -> bool:
        mine = self.node.cluster, self.node.name, f"{who.function:04x}", self.epoch
        return any(
            network in table
            and mine
            == (table[network].cluster, table[network].node, table[network].function, table[network].epoch)
            for network in self.networks
        )


@dataclass
class Node:
    """One node: its pods, its clock, its messages that the router has yet to receive, and its table of each VPC."""

    cluster: str
    name: str
    skew: int = 0
    sequence: int = 0
    pods: dict[AttachmentKey, Pod] = field(default_factory=dict)
    sent: list[tuple[int, tuple[Endpoint, ...]]] = field(default_factory=list)  # all of it, oldest first
    received: int = 0  # the latest sequence that was delivered
    registered: tuple[Endpoint, ...] = ()  # and its endpoints
    exists: bool = True
    silent: bool = False
    given_up: bool = False  # silent for longer than --withdraw-after
    missed: bool = False  # it missed a message, and reads a table again that does not add up
    tables: dict[int, TableReplica] = field(default_factory=dict)
    remote_routes: dict[int, RemoteRoutes] = field(default_factory=dict)

    @property
    def ref(self) -> NodeRef:
        return NodeRef(self.cluster, self.name)

    @property
    def alive(self) -> bool:
        return self.exists and not self.silent


class Plane(RuleBasedStateMachine):
    """Standalone, with the admissions that ``policy`` begins with."""

    topology = None
    checked = False
    clusters = ("east", "west")
    committing = False

    def __init__(self) -> None:
        super().__init__()
        self.now, self.dice = 2000 * HOUR, random.Random(7)
        self.nodes = {name: Node(cluster, name) for cluster, name in NODES if cluster in self.clusters}
        self.holders: dict[tuple[int, str], AttachmentKey] = {}  # at the last check, unless released since
        self.attachments: dict[str, Attachment] = {}
        self.policy = OPEN
        self.store = Store(checked=self.checked, policy=self.policy)
        self.adj_ribs_out: dict[int, AdjRibOut] = {}
        self.retained: dict[int, RetainedTable] = defaultdict(RetainedTable)
        self.advertised: dict[int, dict[str, Route]] = {vpc: {} for vpc in VPCS}
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
        prefix = self.topology.prefix(node.name)
        here = sid(prefix, 1, 1).address.packed[:8]
        node.tables = {vpc: TableReplica(vpc, node.cluster, 0.0) for vpc in VPCS}
        node.remote_routes = {vpc: RemoteRoutes(here) for vpc in VPCS}
        self.store.nodes.set_prefix(node.ref, prefix)
        for vpc in VPCS:
            self.reread(node, vpc)

    def reread(self, node: Node, vpc: int) -> None:
        """It reads the retained table."""
        for number, shard in self.retained[vpc].shards.items():
            node.tables[vpc].receive_shard(number, shard, 0.0)
        node.tables[vpc].receive_head(self.retained[vpc].head, 0.0)
        self.follow(node, vpc)

    def _reads_again(self, node: Node) -> None:
        for vpc in VPCS if node.alive and node.missed else ():
            for _ in range(FORGOTTEN + 1):
                if not node.tables[vpc].settled:
                    node.tables[vpc].reread(0.0)
                    self.reread(node, vpc)

    def follow(self, node: Node, vpc: int) -> None:
        table = node.tables[vpc]
        if table.complete:
            node.remote_routes[vpc].set_table(Source.MQTT, table.revision, table.routes, table.drain_before())
            for pod in node.pods.values():
                if pod.who.vpc == vpc and not pod.settled:  # an epoch taken without the table, once
                    known = node.remote_routes[vpc].epochs(pod.who.function)
                    pod.settled = True
                    if any(epoch >= pod.epoch for epoch in known):
                        networks = [pack(network) for network in pod.networks]
                        node.remote_routes[vpc].withdraw(networks, pod.path_id)
                        pod.epoch = max(self.now + node.skew, *(epoch + 1 for epoch in known))
                        node.remote_routes[vpc].announce(networks, pod.path_id)
                        self.register(node)
            node.remote_routes[vpc].judge()

    # -- pods, clocks and nodes ----------------------------------------------------------------------------------------

    def _whereabouts(self) -> dict[AttachmentKey, Node]:
        """The node of each attachment; one on a silent node is there until it is elsewhere."""
        standing = (node for node in self.nodes.values() if node.exists and not node.given_up)
        nodes = sorted(standing, key=lambda node: node.alive)
        return {who: node for node in nodes for who in node.pods}

    @rule(
        function=some_function,
        vpc=st.sampled_from(VPCS),
        node=some_node,
        networks=some_networks,
        blind=st.booleans(),
    )
    def starts(self, function: int, vpc: int, node: str, networks: tuple[str, ...], blind: bool) -> None:
        """A pod starts, or moves: its node knows the epochs in the table, unless it has no table yet."""
        target = self.nodes.get(node)
        if target is None or not target.alive:
            return
        who = AttachmentKey(target.cluster, vpc, function)
        attachment = self.attachments.get(who.name)
        if self.checked:
            if attachment is None:
                return
            who, networks = (
                AttachmentKey(target.cluster, attachment.vpc, function),
                tuple(sorted(attachment.networks)),
            )
        if who in target.pods:
            return
        before = self._whereabouts().get(who)
        remote_routes = target.remote_routes[who.vpc]
        known = [] if blind else remote_routes.epochs(function)
        epoch = max([self.now + target.skew, *(epoch + 1 for epoch in known)])
        # Without a whole table of its own a node cannot know yet; it corrects itself when it has one.
        target.pods[who] = Pod(who, networks, epoch, settled=not blind and target.tables[who.vpc].complete)
        target.pods[who].trusted = attachment is None or attachment.ready
        remote_routes.announce([pack(network) for network in networks], target.pods[who].path_id)
        self.register(target)
        if before is not None and before.alive:  # a silent node's last message stays
            self._remove(before, who)
            self.register(before)
        if blind and target.tables[who.vpc].complete:
            self.follow(target, who.vpc)

    @rule(data=st.data(), blind=st.booleans())
    def moves(self, data: st.DataObject, blind: bool) -> None:
        """With what it has, to a node of its cluster that is there."""
        places = self._whereabouts()
        if places:
            who = data.draw(st.sampled_from(sorted(places, key=str)))
            others = [
                node.name
                for node in self.nodes.values()
                if node.cluster == who.cluster and node is not places[who]
            ]
            if others:
                node = data.draw(st.sampled_from(others))
                self.starts(who.function, who.vpc, node, places[who].pods[who].networks, blind)

    @rule(data=st.data(), networks=some_networks)
    def changes(self, data: st.DataObject, networks: tuple[str, ...]) -> None:
        """A pod announces other networks: fewer, more, others."""
        running = sorted((who for who, node in self._whereabouts().items() if node.alive), key=str)
        if not running:
            return
        who = data.draw(st.sampled_from(running))
        node = self._whereabouts()[who]
        if self.checked:
            attachment = self.attachments.get(who.name)
            networks = tuple(sorted(attachment.networks)) if attachment else ()
        pod, remote_routes = node.pods[who], node.remote_routes[who.vpc]
        left = {(who.vpc, network) for network in set(pod.networks) - set(networks)}
        self.holders = {key: has for key, has in self.holders.items() if has != who or key not in left}
        remote_routes.withdraw([pack(network) for network in pod.networks], pod.path_id)
        remote_routes.announce([pack(network) for network in networks], pod.path_id)
        pod.networks = networks
        self.register(node)

    @rule(data=st.data())
    def ends(self, data: st.DataObject) -> None:
        running = sorted((who for who, node in self._whereabouts().items() if node.alive), key=str)
        if running:
            who = data.draw(st.sampled_from(running))
            node = self._whereabouts()[who]
            self._remove(node, who)
            self.register(node)

    @rule(node=some_node, skew=st.sampled_from(SKEWS), hours=st.sampled_from([1, 1, 2000]))
    def time_goes_by(self, node: str, skew: int, hours: int) -> None:
        """And some clock is set."""
        self.now += hours * HOUR
        if node in self.nodes:
            self.nodes[node].skew = skew

    @rule(data=st.data(), stage=st.sampled_from(["offline", "given up", "back"]))
    def falls_silent(self, data: st.DataObject, stage: str) -> None:
        """Offline: its last message stands until it is outdone, or until its routes are withdrawn. Or it is online
        again.
        """
        names = [node.name for node in self.nodes.values() if node.exists and (node.silent or node.pods)]
        if not names:
            return
        node = self.nodes[data.draw(st.sampled_from(names))]
        if stage == "back":
            if node.silent:
                self.return_online(node)
            return
        if not node.silent:
            node.silent = node.missed = True
            self.store.nodes.set_offline(node.ref, True)  # its earlier messages may still be under way
        if stage == "given up" and not node.given_up:
            node.given_up = True
            self.holders = {key: has for key, has in self.holders.items() if has not in node.pods}
            self.store.nodes.withdraw(node.ref, True)

    def _back(self, node: Node) -> None:
        node.silent = node.given_up = False
        self.store.nodes.set_offline(node.ref, False)
        self.store.nodes.withdraw(node.ref, False)

    def return_online(self, node: Node) -> None:
        """Attachments that were started elsewhere meanwhile end here."""
        self.packs()
        self._back(node)
        for vpc in VPCS:
            node.tables[vpc].restart(0.0)
            self.reread(node, vpc)
        self._reads_again(node)
        others = [other for other in self.nodes.values() if other is not node and other.alive]
        for who in node.pods.keys() & {who for other in others for who in other.pods}:
            self._remove(node, who)
        self.register(node)

    @rule(node=some_node)
    def is_deleted(self, node: str) -> None:
        """With all that was there. Or it was, and is made again."""
        existing = self.nodes.get(node)
        if existing is not None and existing.exists:
            self._back(existing)
            existing.exists, existing.registered = False, ()
            for who in list(existing.pods):
                self._remove(existing, who)
            self.store.nodes.remove(existing.ref)
        elif existing is not None:
            existing.exists = existing.missed = True  # messages while it did not exist
            existing.sent, existing.received, existing.sequence = [], 0, 0
            self._boot(existing)

    def _remove(self, node: Node, who: AttachmentKey) -> None:
        pod = node.pods.pop(who)
        self.holders = {key: has for key, has in self.holders.items() if has != who}
        node.remote_routes[who.vpc].withdraw([pack(network) for network in pod.networks], pod.path_id)

    def register(self, node: Node) -> None:
        """All of its endpoints, as one message that is yet to arrive."""
        node.sequence += 1
        prefix = self.topology.prefix(node.name)
        endpoints = tuple(
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
        node.sent.append((node.sequence, endpoints))
        if self.dice.random() < 0.5:
            self._deliver(node, node.sequence, endpoints)
            if self.dice.random() < 0.5:
                self.dice.choice((self.commits, self.publishes))()

    # -- messages ----------------------------------------------------------------------------------------------------

    @rule(data=st.data(), commit=st.booleans())
    def arrives(self, data: st.DataObject, commit: bool) -> None:
        """Any message that a node ever sent arrives, maybe again, maybe after a later one."""
        speakers = [node for node in self.nodes.values() if node.sent and node.exists]
        if speakers:
            node = data.draw(st.sampled_from(speakers))
            sequence, endpoints = data.draw(st.sampled_from(node.sent))
            self._deliver(node, sequence, endpoints)
        if commit:
            self.commits()

    def _deliver(self, node: Node, sequence: int, endpoints: tuple[Endpoint, ...]) -> None:
        accepted = self.store.nodes.set_endpoints(node.ref, sequence, endpoints)
        assert accepted == (sequence >= node.received), "the newest counts, whatever comes after it"
        if sequence >= node.received:
            node.received, node.registered = sequence, endpoints

    def forges(self, node: str, networks: tuple[str, ...]) -> None:
        """Another node registers that node's prefix, and pods there."""
        victim = self.nodes.get(node)
        if self.checked or victim is None or not victim.exists:
            return  # in Kubernetes no prefix comes over MQTT
        self.publishes()
        prefix = self.topology.prefix(node)
        endpoints = tuple(
            Endpoint(
                f"{VPCS[0]:012x}",
                f"{function:04x}",
                "",
                str(sid(prefix, VPCS[0], function)),
                networks,
                self.now,
            )
            for function in range(1, 4)
        )
        self.store.nodes.set_prefix(STRANGER, prefix)
        self.store.nodes.set_endpoints(STRANGER, 1, endpoints)
        assert not self.store.commit(self.now + HORIZON).routes, "a prefix has one node"
        assert self.store.nodes.prefix_conflicts() == {STRANGER: victim.ref}
        self.store.nodes.remove(STRANGER)
        assert not self.store.commit(self.now + HORIZON).routes

    def packs(self) -> None:
        self.publishes()
        for vpc, adj_rib_out in self.adj_ribs_out.items():
            self._pack(vpc, adj_rib_out)

    def _pack(self, vpc: int, adj_rib_out: AdjRibOut) -> None:
        pack = adj_rib_out.pack()
        if pack is None:
            return
        retained = self.retained[vpc]
        for number, shard in pack.shards.items():
            retained.shards[number] = shard
            self.receive(vpc, shard, number)
        retained.head = pack.head
        self.receive(vpc, pack.head, None)
        for number in pack.clear:
            del retained.shards[number]
        adj_rib_out.confirmed(pack)

    def receive(self, vpc: int, message: Changes | Shard | Head | None, number: int | None) -> None:
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
            self.follow(node, vpc)

    # -- the router --------------------------------------------------------------------------------------------------

    def commits(self) -> None:
        """Commits: changes become pending, and are published once the broker has confirmed the last ones.

        One at a time, as by the router's lock: publishing between two parts begins no other commit.
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
        paths = {
            vpc: self.paths_of(vpc) for vpc in VPCS
        }  # registrations between two parts belong to the next commit
        some, more = self.dice.choice((1, 2, 5, ALL)), True
        while more:
            commit = self.store.commit(self.now + HORIZON, some)
            more = commit.more
            for vpc, changed in commit.routes.items():
                for network, route in changed.set.items():
                    assert self.committed[vpc].get(network) != route, "an unchanged route is set again"
                    self.committed[vpc][network] = route
                for network, route in changed.delete.items():
                    assert self.committed[vpc].pop(network) == route, "gone already"
                self.adj_ribs_out.setdefault(vpc, AdjRibOut(vpc)).put(changed, self.now)
            for vpc, adj_rib_out in self.adj_ribs_out.items():
                if more and adj_rib_out.pending and self.dice.random() < 0.2:
                    self._publish(vpc, adj_rib_out)
        for vpc in VPCS:
            assert self.store.tables.routes(vpc) == self.committed[vpc], (
                "another table than the one that was published"
            )
            self._right(vpc, paths[vpc], before[vpc])
        self.admissions_changed = False

    def paths_of(self, vpc: int) -> dict[AttachmentKey, list[EndpointPath]]:
        """The registered paths of a VPC's attachments, within their entitlements."""
        paths: dict[AttachmentKey, list[EndpointPath]] = defaultdict(list)
        for node in self.nodes.values():
            if not node.exists or node.given_up:
                continue
            for endpoint in node.registered:
                who = AttachmentKey(node.cluster, int(endpoint.vpc, 16), int(endpoint.function, 16))
                attachment = self.attachments.get(who.name)
                networks, ready = frozenset(endpoint.networks), True
                if self.checked and attachment is not None and attachment.vpc == who.vpc:
                    networks, ready = networks & attachment.networks, attachment.ready
                elif self.checked:
                    continue
                if who.vpc == vpc:
                    sound = ready and endpoint.epoch <= self.now + HORIZON
                    paths[who].append(EndpointPath(node, networks, endpoint.epoch, sound))
        return paths

    def _right(
        self, vpc: int, paths: dict[AttachmentKey, list[EndpointPath]], before: dict[str, Route]
    ) -> None:
        now = self.committed[vpc]
        places: dict[AttachmentKey, set[tuple[str, int]]] = defaultdict(set)
        for network, route in now.items():
            who = AttachmentKey(route.cluster, vpc, int(route.function, 16))
            places[who].add((route.node, route.epoch))
            assert len(places[who]) == 1, "an attachment is in two places"
            assert self._admits(who, certainly=False), "a cluster that may not be there"
            its = [path for path in paths[who] if (path.node.name, path.epoch) == (route.node, route.epoch)]
            assert any(network in path.networks for path in its), "no node registered it"
            assert any(path.sound or path.in_force(who, before) for path in its), "installed too early"
        for who, its in paths.items():
            standing = [path for path in its if path.sound or path.in_force(who, before)]
            if not standing or not self._admits(who, certainly=True):
                continue
            for network in frozenset.intersection(*(path.networks for path in its)):
                assert network in now, "a gap"
                previous = before.get(network)
                if previous is not None and (previous.cluster, int(previous.function, 16)) == (
                    who.cluster,
                    who.function,
                ):
                    has = now[network].cluster, int(now[network].function, 16)
                    assert has == (who.cluster, who.function), "taken from its holder"
            candidates = [
                path for path in standing if not path.node.silent or path.in_force(who, before)
            ] or standing
            if who in places:
                assert {epoch for _, epoch in places[who]} == {max(path.epoch for path in candidates)}, (
                    "not the newest"
                )

    def _admits(self, who: AttachmentKey, *, certainly: bool) -> bool:
        """Whether its cluster may be in its VPC, as far as that is known."""
        return True

    def publishes(self) -> None:
        self.commits()
        for vpc, adj_rib_out in self.adj_ribs_out.items():
            if adj_rib_out.pending:
                self._publish(vpc, adj_rib_out)

    def _publish(self, vpc: int, adj_rib_out: AdjRibOut) -> None:
        """Message by message, route by route: what a follower sees at each moment."""
        self.now += 1  # revisions are at least the time, and the test does not wait for the next second
        seen, after = self.advertised[vpc], self.store.tables.routes(vpc)
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
            self.receive(vpc, message, None)
        assert seen == dict(after)

    def _settle(self) -> None:
        """Each node's last message arrives, also those that nodes send in response."""
        while True:
            sequences = {name: node.sequence for name, node in self.nodes.items()}
            for node in self.nodes.values():
                if node.exists and node.sent:
                    self._deliver(node, *node.sent[-1])
            self.packs()
            for node in self.nodes.values():
                self._reads_again(node)
            if sequences == {name: node.sequence for name, node in self.nodes.items()}:
                return

    def restarts(self) -> None:
        """Another router goes on from the retained tables and the nodes' last messages, in any order."""
        self.packs()
        while self.store.pending or not all(adj.idle for adj in self.adj_ribs_out.values()):
            self.packs()  # the nodes' responses
        retained = {vpc: table.routes() for vpc, table in self.retained.items()}
        rejected = {(rejection.attachment, rejection.reason) for rejection in self.store.rejections()}
        self.store = Store(checked=self.checked, policy=self.policy)
        for node in self.dice.sample(list(self.nodes.values()), len(self.nodes)):
            if node.exists:
                self.store.nodes.set_prefix(node.ref, self.topology.prefix(node.name))
                if node.received:
                    self.store.nodes.set_endpoints(node.ref, node.received, node.registered)
                self.store.nodes.withdraw(node.ref, node.given_up)
                self.store.nodes.set_offline(node.ref, node.silent)
        for name, attachment in self.attachments.items():
            self.store.nodes.set_attachment(name, attachment)
        deque(self.store.install(retained), 0)
        self.adj_ribs_out = {vpc: AdjRibOut(vpc, table) for vpc, table in self.retained.items()}
        assert not self.store.commit(self.now + HORIZON).routes, "an unchanged route is published again"
        assert all(adj_rib_out.pack() is None for adj_rib_out in self.adj_ribs_out.values()), "packed again"
        assert {(path.attachment, path.reason) for path in self.store.rejections()} == rejected

    def registers_again(self) -> None:
        """All nodes register the same again: a new session with the broker, a restarted agent."""
        self._settle()
        published = self.published
        for node in self.nodes.values():
            if node.alive and node.sent:
                self.register(node)
        self._settle()
        assert self.published == published, "an unchanged route is published again"

    def all_pods_end(self) -> None:
        for node in self.nodes.values():
            if node.exists:
                self.return_online(node)
            for who in list(node.pods):
                self._remove(node, who)
                self.register(node)
        self._settle()
        assert not any(self.store.tables.routes(vpc) for vpc in VPCS)
        assert not any(table.head or table.shards for table in self.retained.values()), "retained"

    @rule(what=st.sampled_from(["commits", "publishes", "packs", "the_table_is_where_the_pods_are"]))
    def goes_on(self, what: str) -> None:
        getattr(self, what)()

    @rule(
        what=st.sampled_from(["restarts", "restarts", "registers_again", "a_node_forges", "all_pods_end"]),
        node=some_node,
        networks=some_networks,
    )
    def seldom(self, what: str, node: str, networks: tuple[str, ...]) -> None:
        if what == "a_node_forges":
            self.forges(node, networks)
        else:
            getattr(self, what)()

    # -- what must be true -------------------------------------------------------------------------------------------

    @invariant()
    def nothing_routes_to_itself(self) -> None:
        for node in self.nodes.values():
            here = sid(self.topology.prefix(node.name), 1, 1).address.packed[:8]
            for vpc, remote_routes in node.remote_routes.items():
                for pod in node.pods.values():
                    if pod.who.vpc == vpc:
                        for network in map(pack, pod.networks):
                            lost = pod.path_id in remote_routes.lost(network)
                            assert lost or remote_routes.segment(network) is None, (
                                "a route to its own address"
                            )
                assert not any(remote_routes.segment(network).startswith(here) for network in remote_routes)

    def teardown(self) -> None:
        self.the_table_is_where_the_pods_are()

    def the_table_is_where_the_pods_are(self) -> None:
        """The oracle: in the end, whatever happened on the way."""
        self._settle()
        nodes = self._whereabouts()
        for vpc in VPCS:
            must: dict[str, set[AttachmentKey]] = defaultdict(set)
            may: dict[str, set[AttachmentKey]] = defaultdict(set)
            for who, node in nodes.items():
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
                has = AttachmentKey(route.cluster, vpc, int(route.function, 16))
                assert has in may[network]
                before = self.holders.get((vpc, network))
                assert before in (None, has) or before not in must[network], "taken from its holder"
                self.holders[vpc, network] = has
                assert route.node in {
                    nodes[has].name,
                    *(path.name for path in self._in_force_elsewhere(has, nodes[has])),
                }
                assert route.segments == (str(sid(self.topology.prefix(route.node), vpc, has.function)),)
            self._seen_by_nodes(vpc, table, nodes)

    def _in_force_elsewhere(self, who: AttachmentKey, target: Node) -> list[Node]:
        """Offline nodes whose endpoint was in force before: it stays where the online node's is rejected, or has an
        older epoch by a clock that the offline node did not know.
        """
        entitled, certain = self._entitled(target.pods[who])
        doubtful = not target.alive or not (entitled and certain)
        return [
            node
            for node in self.nodes.values()
            if node.exists and node.silent and not node.given_up and node is not target
            if who in node.pods and (doubtful or node.pods[who].epoch > target.pods[who].epoch)
        ]

    def _entitled(self, pod: Pod) -> tuple[set[str], bool]:
        """The networks that the plane routes to it, and whether it does for certain."""
        return set(pod.networks), pod.epoch <= self.now + HORIZON

    def _seen_by_nodes(self, vpc: int, table, nodes: dict[AttachmentKey, Node]) -> None:
        for node in self.nodes.values():
            if not node.alive or (node.missed and not table):
                continue  # one that was away when the table became empty takes that for a foreign write
            follower = node.tables[vpc]
            assert follower.settled or not table, "no table was ever published"
            assert follower.routes.keys() == {pack(network) for network in table}
            mine = {net for pod in node.pods.values() if pod.who.vpc == vpc for net in pod.networks}
            elsewhere = {
                net: path for net, path in table.items() if path.node != node.name and net not in mine
            }
            remote_routes = node.remote_routes[vpc]
            if table and not any(route.cluster == node.cluster for route in table.values()):
                remote_routes.judge()
                assert not any(remote_routes), "a table without a route of our cluster is not followed"
                continue
            assert set(remote_routes) >= {pack(network) for network in elsewhere}
            for network, route in elsewhere.items():
                function = int(route.function, 16)
                segment = sid(self.topology.prefix(route.node), vpc, function).address.packed
                assert remote_routes.segment(pack(network)) == segment
            remote_routes.judge()
            for network in mine & table.keys():
                route = table[network]
                here = [pod for pod in node.pods.values() if pod.who.vpc == vpc and network in pod.networks]
                lost = route.node != node.name and all(self._beaten(pod, route) for pod in here)
                expected = IPv6Address(route.segments[0]).packed if lost else None
                assert remote_routes.segment(pack(network)) == expected, "not the holder's"
            everywhere = {
                at.name for at in self.nodes.values() if at.exists for who in at.pods if who.vpc == vpc
            }
            if everywhere <= {node.name}:
                assert not any(remote_routes.segment(pack(network)) for network in NETWORKS), (
                    "alone, with routes"
                )

    @staticmethod
    def _beaten(pod: Pod, route: Route) -> bool:
        """Another attachment has the network, or the same one elsewhere since a later time."""
        same = (route.cluster, int(route.function, 16)) == (pod.who.cluster, pod.who.function)
        return not same or pod.epoch < route.epoch


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
        table = Attachment(vpc, function, frozenset(networks), ready)
        self.attachments[f"ns/a{function}"] = table
        for node in self.nodes.values():
            if ready and (pod := node.pods.get(AttachmentKey(node.cluster, vpc, function))):
                pod.trusted = True
        self.store.nodes.set_attachment(f"ns/a{function}", table)

    @rule(function=some_function)
    def deleted(self, function: int) -> None:
        if self.attachments.pop(f"ns/a{function}", None):
            self.store.nodes.set_attachment(f"ns/a{function}", None)

    def _entitled(self, pod: Pod) -> tuple[set[str], bool]:
        table = self.attachments.get(pod.who.name)
        if table is None or table.vpc != pod.who.vpc or not pod.trusted:
            return set(), True
        return set(pod.networks) & table.networks, table.ready and super()._entitled(pod)[1]


class Joining(Plane):
    """Two clusters, and VPCs of one, of both, or of none, by the present admissions."""

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

    def _admits(self, who: AttachmentKey, *, certainly: bool) -> bool:
        if who.vpc in self.policy.vpcs:
            return who.cluster in self.policy.vpcs[who.vpc]
        if self.policy.unlisted is Unlisted.FIRST:
            has = {route.cluster for route in self.committed[who.vpc].values()}
            assert len(has) <= 1, "a VPC of two clusters that were not admitted"
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
            clusters = {route.cluster for route in self.store.tables.routes(vpc).values()}
            assert len(clusters) <= 1, "a VPC of two clusters that were not admitted"
            owners = {has.cluster for (of, _), has in self.holders.items() if of == vpc} or clusters
            if owners and cluster not in owners:
                return set(), True
        return entitled, certain


@pytest.mark.timeout(900)  # hypothesis shrinks a failure before it reports it
@pytest.mark.parametrize("machine", [Plane, Checked, Joining])
def test_what_users_rely_on(topology, monkeypatch, machine: type[Plane]) -> None:
    monkeypatch.setattr(module, "MAX_PAYLOAD", module._ENVELOPE + 400)  # two or three routes a message
    monkeypatch.setattr(machine, "topology", topology)
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
