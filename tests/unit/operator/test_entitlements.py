"""Entitlements of the cluster's attachments, which the operator publishes for routers outside."""

import asyncio
from contextlib import asynccontextmanager

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from waits import until

from galactic.bus.memory import MemoryBroker
from galactic.crds.model import parse
from galactic.crds.vpcattachment import VpcAttachment
from galactic.kube.resources import VPC_ATTACHMENTS, VPCS
from galactic.messages import MAX_PAYLOAD, Entitlement, Entitlements, Topics, decode, encode
from galactic.operator import entitlements
from galactic.operator.cluster_name import ClusterName
from galactic.operator.entitlement_list import Layout, entitlement
from galactic.operator.entitlements import EntitlementPublisher
from galactic.operator.state import Caches

TOPICS = Topics("galactic/v1")
STATUS = {
    "ready": True,
    "vpc": "ns/v",
    "identifier": "002a",
    "addresses": ["10.1.1.1/24", "2001:db8::1/64"],
    "configuration": {
        "vpc": "0000000004d2",
        "networks": ["10.1.1.0/24"],
        "terminations": [{"network": "192.168.3.0/24", "via": "10.1.1.1"}],
        "routes": [],
        "mtu": 1460,
    },
    "carriers": [{"pod": "b", "uid": "2", "node": "n2"}, {"pod": "a", "uid": "1", "node": "n1"}],
}


def item(name: str, version: int = 1, **status: object) -> dict:
    meta = {"namespace": "ns", "name": name, "uid": name, "resourceVersion": str(version), "generation": 1}
    kind = {"apiVersion": "galactic.datumapis.com/v1alpha", "kind": "VPCAttachment"}
    return {**kind, "metadata": meta, "spec": {"vpc": {"name": "v"}, "interface": {}}, "status": status}


def test_an_entry_is_the_attachments_status() -> None:
    networks = ("10.1.1.1/32", "2001:db8::1/128", "192.168.3.0/24")
    expected = Entitlement("ns/web", "0000000004d2", "002a", networks, ("n1", "n2"), True, "ns/v")
    assert entitlement(parse(VpcAttachment, item("web", **STATUS))) == expected
    assert entitlement(parse(VpcAttachment, item("web"))) == Entitlement("ns/web", "", "", (), (), False)


def entry(name: str, size: int) -> Entitlement:
    return Entitlement(name, "0000000004d2", "002a", ("x" * size,), (), True)


SIZES = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from([None, 10, 30_000, 70_000])), max_size=30
)


@given(SIZES, st.integers(1, 4))
def test_every_entry_is_in_one_shard_and_never_missing_from_what_is_published(steps, batch) -> None:
    layout, expected, published = Layout(entitlements.SHARD_BYTES), {}, {}
    for number, (name, size) in enumerate(steps):
        if size is None:
            layout.remove(name)
            expected.pop(name, None)
        else:
            expected[name] = entry(name, size)
            layout.put(expected[name])
        if number % batch:
            continue
        before = {name for entries in published.values() for name in entries}
        for shard in sorted(layout.dirty, reverse=True):
            published[shard] = dict(layout.shards[shard])
            there = {name for entries in published.values() for name in entries}
            assert before & expected.keys() <= there, "gone for a moment"
        layout.dirty.clear()
        assert {name: entry for entries in published.values() for name, entry in entries.items()} == expected
        assert sum(map(len, published.values())) == len(expected)
        for entries in published.values():
            assert len(msgspec.json.encode(Entitlements(1, 9, tuple(entries.values())))) < MAX_PAYLOAD


class Cluster:
    """The caches of an operator, and what the broker retains of its list."""

    def __init__(self) -> None:
        self.broker, self.caches = MemoryBroker(), Caches()
        self.now = 100
        self.problem: str | None = None
        self.name = ClusterName("default", "uid-1", self.report)

    def report(self, problem: str | None) -> None:
        self.problem = problem

    def publisher(self) -> EntitlementPublisher:
        @asynccontextmanager
        async def connect():
            session = self.broker.session()
            yield session
            self.broker.drop(session)

        return EntitlementPublisher(connect, TOPICS, self.name, self.caches, lambda: self.now)

    @asynccontextmanager
    async def leads(self):
        task = asyncio.create_task(self.publisher().run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @property
    def parts(self) -> dict[str, Entitlements]:
        retained = self.broker.retained.items()
        return {topic.rpartition("/")[2]: decode(Entitlements, payload) for topic, payload in retained}

    @property
    def names(self) -> list[str]:
        return sorted(
            attachment.attachment for part in self.parts.values() for attachment in part.attachments
        )

    def set(self, name: str, version: int = 1, **status: object) -> None:
        self.caches.of(VPC_ATTACHMENTS).set(item(name, version, **status))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(entitlements, "SETTLE_SECONDS", 0.02)
    return Cluster()


@pytest.fixture(name="until")
def _until():
    return until


async def test_the_list_follows_the_attachments(cluster: Cluster, until) -> None:
    cluster.set("a", **STATUS)
    async with cluster.leads():
        await until(lambda: cluster.names == ["ns/a"])
        cluster.set("b")
        await until(lambda: cluster.names == ["ns/a", "ns/b"])
        generation = cluster.parts["0"].generation
        cluster.set("a", 2, **(STATUS | {"ready": False}))
        await until(lambda: not cluster.parts["0"].attachments[0].ready)
        cluster.caches.of(VPC_ATTACHMENTS).remove(("ns", "a"), "a", "3")
        await until(lambda: cluster.names == ["ns/b"])
        assert cluster.parts["0"].generation == generation
        assert cluster.parts.keys() == {"0"}


def vpc(name: str, *peers: str, version: int = 1, **status: object) -> dict:
    meta = {"namespace": "ns", "name": name, "uid": name, "resourceVersion": str(version), "generation": 1}
    spec = {"networks": ["10.1.0.0/16"], "peers": [{"name": peer} for peer in peers]}
    kind = {"apiVersion": "galactic.datumapis.com/v1alpha", "kind": "VPC"}
    return {**kind, "metadata": meta, "spec": spec, "status": status}


async def test_the_list_has_the_vpcs_that_name_peers(cluster: Cluster, until) -> None:
    def declared() -> dict[str, tuple[str, ...]]:
        return {one.name: one.peers for part in cluster.parts.values() for one in part.vpcs}

    vpcs = cluster.caches.of(VPCS)
    vpcs.set(vpc("a", "b", identifier="00000000000a"))
    vpcs.set(vpc("c", identifier="00000000000c"))
    async with cluster.leads():
        await until(lambda: cluster.parts)
        assert declared() == {}, "its peer has no identifier"
        vpcs.set(vpc("b", "a", "c", identifier="00000000000b"))
        await until(
            lambda: declared() == {"ns/a": ("00000000000b",), "ns/b": ("00000000000a", "00000000000c")}
        )
        vpcs.set(vpc("c", version=2, identifier="00000000000c", attachments=7))
        vpcs.set(vpc("b", "c", version=2, identifier="00000000000b"))
        await until(lambda: declared() == {"ns/a": ("00000000000b",), "ns/b": ("00000000000c",)})
        vpcs.remove(("ns", "b"), "b", "3")
        await until(lambda: declared() == {})
        assert cluster.parts.keys() == {"0"}


async def test_a_cluster_without_attachments_has_an_empty_list(cluster: Cluster, until) -> None:
    async with cluster.leads():
        await until(lambda: cluster.parts == {"0": Entitlements(100, 1, (), "uid-1")})


async def test_another_replica_writes_a_later_list(cluster: Cluster, until, monkeypatch) -> None:
    """Its clock is behind, its list is shorter, and the one that led before is late with a part of its own."""
    monkeypatch.setattr(entitlements, "SHARD_BYTES", 100)
    for name in "abc":
        cluster.set(name)
    async with cluster.leads():
        await until(lambda: cluster.names == ["ns/a", "ns/b", "ns/c"])
        assert cluster.parts.keys() == {"0", "1", "2"}
    cluster.caches.of(VPC_ATTACHMENTS).remove(("ns", "c"), "c", "2")
    cluster.now = 50
    async with cluster.leads():
        await until(lambda: cluster.names == ["ns/a", "ns/b"] and cluster.parts.keys() == {"0", "1"})
        assert {part.generation for part in cluster.parts.values()} == {101}
        late = encode(Entitlements(100, 3, (entry("ns/old", 1),)))
        cluster.broker.publish(TOPICS.entitlements("default", 0), late, True)
        await until(lambda: cluster.names == ["ns/a", "ns/b"])


async def test_a_list_that_became_sparse_is_written_again(cluster: Cluster, until, monkeypatch) -> None:
    monkeypatch.setattr(entitlements, "SHARD_BYTES", 100)
    names = [f"n{number}" for number in range(8)]
    async with cluster.leads():
        for name in names:
            cluster.set(name)
        await until(lambda: len(cluster.names) == 8)
        for name in names[1:]:
            cluster.caches.of(VPC_ATTACHMENTS).remove(("ns", name), name, "2")
        await until(lambda: cluster.parts.keys() == {"0"} and cluster.names == ["ns/n0"])


async def test_a_broker_that_lost_the_list_gets_it_again(cluster: Cluster, until) -> None:
    cluster.set("a", **STATUS)
    async with cluster.leads():
        await until(lambda: cluster.names == ["ns/a"])
        cluster.broker.stop()
        cluster.broker.start(empty=True)
        await until(lambda: cluster.names == ["ns/a"])


TOPIC = TOPICS.entitlements("default", 0)


async def test_a_name_that_another_cluster_has_is_not_taken_until_it_is_free(
    cluster: Cluster, until, monkeypatch
) -> None:
    monkeypatch.setattr(entitlements, "TAKEN_SECONDS", 0.05)
    cluster.set("a")
    theirs = encode(Entitlements(7, 1, (), "uid-0"))
    cluster.broker.publish(TOPIC, theirs, True)
    async with cluster.leads():
        await until(lambda: cluster.problem)
        assert "default is the name of another cluster" in str(cluster.problem)
        assert "kube-system uid-0, here uid-1" in str(cluster.problem)
        assert "galactic/v1/entitlements/default/+" in str(cluster.problem)
        await asyncio.sleep(0.3)
        assert cluster.broker.retained[TOPIC] == theirs
        cluster.broker.publish(TOPIC, b"", True)  # as the message asks for, where the other one is no more
        await until(lambda: cluster.names == ["ns/a"])
        assert cluster.problem is None


@pytest.mark.parametrize("owner", ["", "uid-1"], ids=["earlier-version", "own"])
async def test_a_list_of_the_cluster_itself_is_replaced(cluster: Cluster, until, owner: str) -> None:
    cluster.set("a")
    cluster.broker.publish(TOPIC, encode(Entitlements(7, 1, (), owner)), True)
    async with cluster.leads():
        await until(lambda: cluster.names == ["ns/a"])
    assert cluster.problem is None


@pytest.mark.parametrize(("other", "stays"), [("uid-2", True), ("uid-0", False)])
async def test_of_two_that_began_at_once_one_stays(cluster: Cluster, until, other: str, stays: bool) -> None:
    cluster.set("a")
    async with cluster.leads():
        await until(lambda: cluster.names == ["ns/a"])
        theirs = encode(Entitlements(10**15, 1, (), other))
        cluster.broker.publish(TOPIC, theirs, True)
        if stays:
            await until(lambda: cluster.names == ["ns/a"])
            assert cluster.problem is None
        else:
            await until(lambda: cluster.problem)
            assert cluster.broker.retained[TOPIC] == theirs
