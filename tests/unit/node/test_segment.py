"""The NodeSegment: read for the prefix, its status written, against an API server in memory."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv6Network

import pytest
from waits import until

from galactic.crds.model import parse
from galactic.crds.nodesegment import NodeSegment
from galactic.errors import Unreachable
from galactic.kube.memory import MemoryApi
from galactic.kube.resources import NODE_SEGMENTS
from galactic.messages import Route
from galactic.node.kubernetes import segment as module
from galactic.node.kubernetes.segment import Facts, Segment, conditions, difference
from galactic.node.state.condition import ConditionState
from galactic.node.state.remote import Source, entry


@pytest.fixture(autouse=True)
def unrefreshed(monkeypatch):
    """Nothing is written because time has passed."""
    monkeypatch.setattr(module, "REFRESH_SECONDS", 10.0**6)


class Server(MemoryApi):
    """An API server with the NodeSegment of node-1. ``away``: patches are not answered. Watches wait for
    ``flowing``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.away, self.unanswered, self.selectors = False, 0, set()
        self.fail, self.flowing = self._failure, asyncio.Event()
        self.flowing.set()

    def _failure(self, verb, _resource, _name):
        if verb != "patch" or not self.away:
            return None
        self.unanswered += 1
        return Unreachable("kube-apiserver", "away")

    @property
    def object(self):
        return self.stored(NODE_SEGMENTS, "node-1")

    @property
    def version(self):
        return self.object["metadata"]["resourceVersion"]

    @property
    def written(self):
        return [patch["status"] for _, _, patch in self.patches]

    def set(self, prefix):
        spec = {"spec": {"prefix": prefix}}
        if self.object:
            self.change(NODE_SEGMENTS, "node-1", spec)
        else:
            self.put(NODE_SEGMENTS, {"metadata": {"name": "node-1"}, **spec})

    def set_conditions(self, *statuses):
        """Writes the operator's conditions of the NodeSegment."""
        conditions = self.object.get("status", {}).get("conditions", [])
        kept = [condition for condition in conditions if condition["type"] != "Accepted"]
        status = {"status": {"conditions": [*kept, *statuses]}}
        self.change(NODE_SEGMENTS, "node-1", status, subresource="status")

    def delete_segment(self):
        self.remove(NODE_SEGMENTS, "node-1")

    async def pages(self, *arguments, fields="", **more):
        self.selectors.add(fields)
        async for page in super().pages(*arguments, fields=fields, **more):
            yield page

    async def watch(self, *arguments, fields="", **more):
        self.selectors.add(fields)
        async for event in super().watch(*arguments, fields=fields, **more):
            await self.flowing.wait()
            yield event


async def looked(segment):
    """Whatever was to be written has been."""
    await until(lambda: not segment._changed.is_set())
    segment._changed.set()
    await until(lambda: not segment._changed.is_set())


READY = ConditionState("Ready", status=True, reason="Ready")
OVERLAP = {"type": "Accepted", "status": "False", "reason": "PrefixOverlap", "message": "of another"}
FACTS = Facts({"kernel": "6.1", "version": "1", "encap": "encap.red"}, (READY,))


@asynccontextmanager
async def reporting(node, kube):
    segment = Segment(kube, "node-1", node.store, lambda: FACTS)
    task = asyncio.create_task(segment.run())
    try:
        yield segment
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_prefix_comes_from_its_own_segment_only(node):
    node.store.node.prefix = None
    kube = Server()
    async with reporting(node, kube) as segment:
        await until(lambda: segment.problem and "there is no NodeSegment node-1" in segment.problem)
        kube.set("2001:db8:ff07:100::/56")
        await until(lambda: node.store.node.prefix == IPv6Network("2001:db8:ff07:100::/56"))
        await until(lambda: segment.problem is None)
    assert kube.selectors == {"metadata.name=node-1"}


async def test_status_lists_the_attachments(node, config):
    kube = Server()
    kube.set("2001:db8:ff01:100::/56")
    async with reporting(node, kube) as segment:
        await node.cni("ADD", config())
        await until(lambda: kube.object.get("status", {}).get("endpoints"))
        status = parse(NodeSegment, kube.object).status
        (endpoint,) = status.endpoints
        assert endpoint.container_id == "c1"
        assert endpoint.sid == "2001:db8:ff01:100::4d2:2a"
        assert endpoint.networks == ("10.1.1.1/32", "2001:10:1:1::1/128")
        assert status.sequence == node.store.registration().sequence
        assert (status.loopback, status.counts.vpcs) == ("2001:db8:ff01:100:ffff:ffff:ffff:ffff", 1)
        assert [(condition.type, condition.status) for condition in status.conditions] == [("Ready", "True")]
        await looked(segment)
        before = len(kube.written)
        await node.cni("ADD", config())
        await looked(segment)
        assert len(kube.written) == before, "nothing new, nothing written"
        await node.cni("DEL", config())
        await until(lambda: kube.object["status"]["endpoints"] == [])
        assert kube.written[-1].keys() == {"endpoints", "sequence", "counts"}, "only what changed is sent"


async def test_routes_to_other_nodes_are_no_part_of_the_status(node, config):
    """One change of a pod would otherwise make every node of its VPC write."""
    kube = Server()
    kube.set("2001:db8:ff01:100::/56")
    kube.object["status"] = {"counts": {"vpcs": 0, "endpoints": 0, "routes": 7}}
    async with reporting(node, kube) as segment:
        await node.cni("ADD", config())
        await until(lambda: kube.object.get("status", {}).get("endpoints"))
        removals = [
            status["counts"]["routes"] for status in kube.written if "routes" in status.get("counts", {})
        ]
        assert removals == [None], "that of an earlier version"
        assert kube.object["status"]["counts"] == {"vpcs": 1, "endpoints": 1}
        await looked(segment)
        before = len(kube.written)
        for revision in range(1, 6):
            route = Route(
                "10.1.1.9/32",
                (f"2001:db8:ff0{revision % 8 + 2}:100::4d2:9",),
                "default",
                "x",
                "0009",
                revision,
            )
            node.store.set_table(1234, Source.MQTT, revision, dict([entry(1234, "default", route)]))
            await until(lambda: node.sync.routes == 1)
            segment._changed.set()
            await looked(segment)
        assert len(kube.written) == before


async def test_ways_out_and_published_addresses_are_reported_until_they_are_gone(node, config):
    kube = Server()
    kube.set("2001:db8:ff01:100::/56")
    async with reporting(node, kube):
        await node.cni("ADD", config())
        await until(lambda: kube.object.get("status", {}).get("endpoints"))
        assert not {"gateways", "published"} & kube.object["status"].keys()
        sid, address = "2001:db8:ff01:100::4d2:64", "203.0.113.1"
        for segments, published in (([sid], [address]), ([sid], []), ([], [])):
            node.store.set_leading(segments, published)
            await until(lambda published=published: kube.object["status"].get("published") == published)
            await until(lambda segments=segments: kube.object["status"].get("gateways") == segments)


async def test_ways_out_of_an_earlier_life_are_reported_until_the_kernel_was_read(node, config):
    kube, sid = Server(), "2001:db8:ff01:100::4d2:64"
    kube.set("2001:db8:ff01:100::/56")
    kube.object["status"] = {"gateways": [sid], "published": ["203.0.113.1"]}
    async with reporting(node, kube):
        await node.cni("ADD", config())
        await until(lambda: kube.object["status"].get("endpoints"))
        assert kube.object["status"]["gateways"] == [sid]
        assert kube.object["status"]["published"] == ["203.0.113.1"]
        node.store.set_leading([sid], [])
        await until(lambda: kube.object["status"]["published"] == [])
        assert kube.object["status"]["gateways"] == [sid]


async def test_status_is_written_when_the_api_server_is_back(node, config):
    kube = Server()
    kube.set("2001:db8:ff01:100::/56")
    kube.away = True
    async with reporting(node, kube):
        assert (await node.cni("ADD", config())).code == 0
        await until(lambda: kube.unanswered)
        kube.away = False
        await until(lambda: kube.object.get("status", {}).get("endpoints"))


async def test_a_segment_that_is_deleted_takes_nothing_down(node, config):
    kube = Server()
    kube.set("2001:db8:ff01:100::/56")
    async with reporting(node, kube) as segment:
        await node.cni("ADD", config())
        kube.delete_segment()
        await until(lambda: segment.problem)
    assert node.store.node.prefix
    assert node.store.attachments


async def test_a_segment_that_is_made_again_gets_its_whole_status(node, config):
    kube = Server()
    kube.set("2001:db8:ff01:100::/56")
    async with reporting(node, kube) as segment:
        await node.cni("ADD", config())
        await until(lambda: kube.object.get("status", {}).get("endpoints"))
        before = kube.object["status"]
        kube.delete_segment()
        await until(lambda: segment.problem)
        kube.set("2001:db8:ff01:100::/56")
        await until(lambda: kube.object.get("status", {}).keys() == before.keys())
        after = kube.object["status"]
        assert segment.problem is None
    assert {**after, "conditions": ()} == {**before, "conditions": (), "sequence": node.store.node.sequence}


async def test_a_problem_is_reported_again_after_the_api_server_was_away(node):
    kube = Server()
    kube.set("2001:db8:ff01:100::/120")
    async with reporting(node, kube) as segment:
        await until(lambda: segment.problem and "/120" in segment.problem)
        segment._connection(connected=False)
        assert segment.problem == "kube-apiserver does not answer"
        segment._connection(connected=True)
        assert "/120" in segment.problem


async def test_the_operators_conditions_are_neither_removed_nor_kept(node, config):
    kube = Server()
    kube.set("2001:db8:ff01:100::/56")

    def types() -> list[str]:
        conditions = kube.object.get("status", {}).get("conditions", ())
        return sorted(condition["type"] for condition in conditions)

    async with reporting(node, kube):
        await until(lambda: types() == ["Ready"])
        kube.set_conditions(OVERLAP)
        await node.cni("ADD", config())
        await until(lambda: kube.object["status"].get("endpoints"))
        assert types() == ["Accepted", "Ready"]
        kube.set_conditions()
        await node.cni("DEL", config())
        await until(lambda: not kube.object["status"]["endpoints"])
        assert types() == ["Ready"]


async def test_conditions_that_were_overtaken_wait_and_endpoints_do_not(node, config):
    kube = Server()
    kube.set("2001:db8:ff01:100::/56")
    async with reporting(node, kube) as segment:
        await until(lambda: kube.object.get("status", {}).get("conditions"))
        await until(lambda: segment._version == kube.version)
        kube.flowing.clear()  # a watch that is behind
        kube.set_conditions(OVERLAP)
        kube.object["status"]["conditions"][0] |= {"reason": "Mangled"}
        await node.cni("ADD", config())
        await until(lambda: kube.object["status"].get("endpoints"))
        assert kube.object["status"]["conditions"][1] == OVERLAP
        kube.flowing.set()
        await until(lambda: kube.object["status"]["conditions"][0]["type"] == "Accepted")


async def test_an_answer_that_comes_late_is_not_taken_for_what_is_so_now(node, config, monkeypatch):
    """The watch was quicker: it has the operator's condition from after our patch already."""
    kube = Server()
    kube.set("2001:db8:ff01:100::/56")
    async with reporting(node, kube) as segment:
        await until(lambda: kube.object.get("status", {}).get("conditions"))
        await until(lambda: segment._version == kube.version)
        patch = kube.patch

        async def slowly(*arguments, **more):
            monkeypatch.setattr(kube, "patch", patch)
            answer = await patch(*arguments, **more)
            kube.set_conditions(OVERLAP)
            await until(lambda: segment._version == kube.version)
            return answer

        monkeypatch.setattr(kube, "patch", slowly)
        await node.cni("ADD", config())
        await until(lambda: kube.patch == patch)
        monkeypatch.setattr(
            segment, "_facts", lambda: replace(FACTS, conditions=(replace(READY, reason="No"),))
        )
        segment._changed.set()
        await until(lambda: {"Accepted", "No"} <= set(_reasons(kube)))


def _reasons(kube):
    return [
        word
        for condition in kube.object["status"]["conditions"]
        for word in (condition["type"], condition["reason"])
    ]


async def test_an_answer_that_comes_after_the_end_makes_no_segment(node, config, monkeypatch):
    kube = Server()
    kube.set("2001:db8:ff01:100::/56")
    async with reporting(node, kube) as segment:
        await until(lambda: kube.object.get("status", {}).get("conditions"))
        patch, answered = kube.patch, []

        async def slowly(*arguments, **more):
            answer = await patch(*arguments, **more)
            kube.delete_segment()
            await until(lambda: segment._status is None)
            answered.append(answer)
            return answer

        monkeypatch.setattr(kube, "patch", slowly)
        await node.cni("ADD", config())
        await until(lambda: answered)
        assert "there is no NodeSegment node-1" in (segment.problem or "")


async def test_an_unusable_prefix_is_named_and_the_old_one_kept(node):
    kube = Server()
    kube.set("2001:db8:ff01:100::/120")
    async with reporting(node, kube) as segment:
        await until(lambda: segment.problem and "/120" in segment.problem)
    assert node.store.node.prefix == IPv6Network("2001:db8:ff01:100::/56")


@pytest.mark.parametrize(
    ("status", "since"),
    [pytest.param("True", "2020-01-01T00:00:00Z", id="same"), pytest.param("False", None, id="changed")],
)
def test_a_transition_time_changes_with_the_status(status, since):
    known = [{"type": "Ready", "status": status, "lastTransitionTime": "2020-01-01T00:00:00Z"}]
    (condition,) = conditions((READY,), known)
    assert (condition["lastTransitionTime"] == "2020-01-01T00:00:00Z") == (since is not None)


def test_difference_is_what_a_merge_patch_needs():
    assert difference({"a": 1, "b": [1]}, {"a": 1, "b": [2], "c": 3}) == {"b": [1]}
