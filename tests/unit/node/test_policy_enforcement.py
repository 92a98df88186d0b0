"""The task that keeps the kernel's rules: what an ADD waits for, and that nothing is torn down by not knowing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_interface

import pytest

from galactic import names
from galactic.errors import NotYet, Unreachable
from galactic.linux.nftables import Present, Table
from galactic.node.policies import enforcement
from galactic.node.policies.enforcement import Enforcement
from galactic.node.policies.rules import Allow, Rules
from galactic.node.policies.ruleset import TABLE
from galactic.node.state.attachment import Attachment

DENY = Rules("policy-deny", False, (), None)
ALLOW = replace(DENY, ingress=(Allow(anyone=True),))
WEB = Attachment(1, 2, "blue/web", "c1", "/netns", "galactic0", (ip_interface("10.0.0.1/24"),))
DEVICE = names.host_end(1, 2)
ANSWER_SECONDS = 60


class Kernel:
    """Applies scripts by their effect on names: enough to see what was written, and when."""

    def __init__(self, present=None):
        self.scripts, self.given, self.number = [], present or Present(), 1
        self.failure, self.changed, self.followed = None, "", False

    async def apply(self, script):
        if self.failure:
            raise Unreachable("nft", self.failure)
        if script:
            self.scripts.append(script)
            self.number += 1

    async def present(self, table):
        assert table == TABLE
        return self.given

    async def fingerprint(self, table):
        return f"{hash(str(table))}{self.changed}"

    def generation(self):
        return self.number

    async def counted(self, table, name):
        return {DEVICE: 3, name: 1}


class Source:
    def __init__(self):
        self.complete, self.groups = True, {}
        self.lists, self.known, self.wanted = {}, {}, frozenset()

    def listed(self, attachment):
        return self.lists.get(attachment)

    def rules(self, slices):
        found = tuple(self.known.get(name) for name in slices)
        return None if None in found else found

    def want(self, vpcs):
        self.wanted = vpcs


class Node:
    def __init__(self, lacking="", present=None):
        self.kernel, self.source, self.attachments = Kernel(present), Source(), {}
        self.lacking, self.repaired = lacking, 0

        async def trial():
            return self.lacking

        self.enforcement = Enforcement(self.kernel, self.attachments, trial, asyncio.Event(), self.repair)

    def repair(self):
        self.repaired += 1

    @asynccontextmanager
    async def working(self, *, follow=True) -> AsyncIterator["Node"]:
        if follow:
            self.enforcement.follow(self.source)
        task = asyncio.create_task(self.enforcement.run())
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                yield self
        finally:
            task.cancel()

    async def add(self, attachment, slices):
        with self.enforcement.admitting(attachment, slices):
            await self.enforcement.enforced(attachment.key)
            self.attachments[attachment.key] = attachment
            self.source.lists[attachment.name] = slices

    async def until(self, true):
        while not true():
            self.enforcement.wake.set()
            await asyncio.sleep(0.001)

    @property
    def written(self):
        return "".join(self.kernel.scripts)


@pytest.mark.asyncio
async def test_an_attachment_without_rules_costs_nothing():
    async with Node().working() as node:
        await node.add(WEB, ())
        assert node.written == ""
        assert node.enforcement.condition().status


@pytest.mark.asyncio
async def test_an_add_waits_for_its_slices_and_then_for_the_kernel():
    async with Node().working() as node:
        adding = asyncio.create_task(node.add(WEB, (DENY.name,)))
        await node.until(lambda: node.source.wanted == {1})
        assert not adding.done()
        assert DEVICE not in node.written
        node.source.known[DENY.name] = DENY
        node.enforcement.wake.set()
        await adding
        assert f'"{DEVICE}"' in node.written


@pytest.mark.asyncio
async def test_an_add_gives_up_and_leaves_no_rules(monkeypatch):
    monkeypatch.setattr(enforcement, "WAIT_SECONDS", 0.05)
    async with Node().working() as node:
        with pytest.raises(NotYet, match="their PolicySlices are not known here"):
            await node.add(WEB, (DENY.name,))
        assert node.written == ""


@pytest.mark.asyncio
async def test_a_node_that_cannot_enforce_refuses_selected_pods_alone():
    async with Node(lacking="there is no program nft").working() as node:
        await node.until(lambda: node.enforcement.unable)
        with pytest.raises(Unreachable, match=r"a VPCPolicy selects blue/web.*no program nft"):
            await node.add(WEB, (DENY.name,))
        await node.add(WEB, ())
        assert not node.enforcement.condition().status
        assert node.written == ""


@pytest.mark.asyncio
async def test_nothing_is_written_before_everything_was_read():
    """A node controller that starts while the API server is away leaves the kernel's rules."""
    present = Present(True, frozenset({f"in4-{DEVICE}"}), {})
    node = Node(present=present)
    node.attachments[WEB.key] = WEB
    node.source.complete = False
    async with node.working():
        for _ in range(20):
            node.enforcement.wake.set()
            await asyncio.sleep(0.01)
        assert node.written == ""
        node.source.complete = True
        node.source.lists[WEB.name], node.source.known[DENY.name] = (DENY.name,), DENY
        await node.until(lambda: node.written)
        assert f"flush chain {TABLE} in4-{DEVICE}" in node.written
        assert f'"{DEVICE}"' in node.written


@pytest.mark.asyncio
async def test_an_attachment_that_is_not_known_after_a_start_is_closed():
    node = Node()
    node.attachments[WEB.key] = WEB
    async with node.working():
        await node.until(lambda: f'"{DEVICE}"' in node.written)
        assert "goto denied-in" in node.written


@pytest.mark.asyncio
async def test_unknown_slices_leave_the_rules_that_are_in_force():
    async with Node().working() as node:
        node.source.known[DENY.name] = DENY
        await node.add(WEB, (DENY.name,))
        before = node.written
        node.source.lists[WEB.name] = ("policy-other",)
        for _ in range(20):
            node.enforcement.wake.set()
            await asyncio.sleep(0.01)
        assert node.written == before
        node.source.known["policy-other"] = replace(ALLOW, name="policy-other")
        await node.until(lambda: node.written != before)


@pytest.mark.asyncio
async def test_a_change_writes_the_difference():
    async with Node().working() as node:
        node.source.known[DENY.name] = DENY
        await node.add(WEB, (DENY.name,))
        count = len(node.kernel.scripts)
        node.source.known[DENY.name] = ALLOW
        await node.until(lambda: len(node.kernel.scripts) > count)
        assert "ways-in" not in node.kernel.scripts[-1]
        assert "add rule" in node.kernel.scripts[-1]


@pytest.mark.asyncio
async def test_rules_outlast_their_attachment_and_make_way_for_the_next(monkeypatch):
    monkeypatch.setattr(enforcement, "LINGER_SECONDS", 3600.0)
    async with Node().working() as node:
        node.source.known[DENY.name] = DENY
        await node.add(WEB, (DENY.name,))
        del node.attachments[WEB.key]
        for _ in range(20):
            node.enforcement.wake.set()
            await asyncio.sleep(0.01)
        assert "delete table" not in node.written
        await node.add(WEB, ())
        assert node.kernel.scripts[-1] == f"delete table {TABLE}\n"


@pytest.mark.asyncio
async def test_rules_go_in_the_end(monkeypatch):
    monkeypatch.setattr(enforcement, "LINGER_SECONDS", 0.05)
    async with Node().working() as node:
        node.source.known[DENY.name] = DENY
        await node.add(WEB, (DENY.name,))
        del node.attachments[WEB.key]
        await node.until(lambda: "delete table" in node.written)


@pytest.mark.asyncio
async def test_a_failure_is_reported_and_tried_again():
    async with Node().working() as node:
        node.kernel.failure = "out of memory"
        node.source.known[DENY.name] = DENY
        adding = asyncio.create_task(node.add(WEB, (DENY.name,)))
        await node.until(lambda: not node.enforcement.condition().status)
        assert "out of memory" in node.enforcement.condition().message
        node.kernel.failure = None
        await adding
        await node.until(lambda: node.enforcement.condition().status)


@pytest.mark.asyncio
async def test_another_programs_change_is_put_back(monkeypatch):
    monkeypatch.setattr(enforcement, "VERIFY_SECONDS", 0.02)
    async with Node().working() as node:
        node.source.known[DENY.name] = DENY
        await node.add(WEB, (DENY.name,))
        count = len(node.kernel.scripts)
        await asyncio.sleep(0.2)
        assert len(node.kernel.scripts) == count, "what is in place is not written again"
        node.kernel.number += 1
        await asyncio.sleep(0.2)
        assert len(node.kernel.scripts) == count, "another table's transaction is nobody's business"
        node.kernel.changed, node.kernel.number = "by hand", node.kernel.number + 1
        await node.until(lambda: len(node.kernel.scripts) > count)
        assert node.repaired == 1
        assert Table(TABLE) != node.enforcement._kept.written


@pytest.mark.asyncio
async def test_a_reported_change_is_put_back_before_the_next_check(monkeypatch):
    monkeypatch.setattr(enforcement, "VERIFY_SECONDS", 3600.0)
    async with Node().working() as node:
        node.source.known[DENY.name] = DENY
        await node.add(WEB, (DENY.name,))
        count = len(node.kernel.scripts)
        node.enforcement.on_external_change()  # its own transaction
        await asyncio.sleep(0.1)
        assert len(node.kernel.scripts) == count
        node.kernel.changed, node.kernel.number = "by hand", node.kernel.number + 1
        node.enforcement.on_external_change()
        await node.until(lambda: len(node.kernel.scripts) > count)


@pytest.mark.asyncio
async def test_drops_are_counted_in_both_directions():
    async with Node().working() as node:
        assert await node.enforcement.drops() == {}
        node.source.known[DENY.name] = DENY
        await node.add(WEB, (DENY.name,))
        assert await node.enforcement.drops() == {DEVICE: 6, "dropped-in": 1, "dropped-out": 1}
