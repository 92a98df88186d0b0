"""Definitions that change reach what is attached, against an API server in memory."""

import asyncio
import json
from contextlib import asynccontextmanager
from ipaddress import ip_interface, ip_network

import pytest
from waits import until

from galactic.errors import Rejected, Unreachable
from galactic.kube.api import Event
from galactic.linux.objects import MAIN_TABLE, route_key
from galactic.names import NODE_LABEL
from galactic.node.kubernetes import definitions
from galactic.node.kubernetes.definitions import Definitions, configured

KEY = (1234, 42)
NAME = "default/blue-G"
MORE = [{"destination": "172.16.0.0/12"}]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(definitions, "LAG_SECONDS", 0.05)
    monkeypatch.setattr(definitions, "BACKOFF_SECONDS", (0.01, 0.02))


def as_list(config):
    """As a definition has it."""
    plugin = {name: value for name, value in config.items() if name not in ("cniVersion", "name")}
    return json.dumps({"cniVersion": "1.0.0", "name": config["name"], "plugins": [plugin]})


class MemoryKube:
    """The definitions, as a watch with a selector shows them."""

    def __init__(self):
        self.objects, self.version, self.events, self.asked = {}, 0, asyncio.Queue(), set()

    def set(self, text, name="blue-G"):
        self.version += 1
        meta = {"namespace": "default", "name": name, "resourceVersion": str(self.version)}
        kind = "MODIFIED" if name in self.objects else "ADDED"
        self.objects[name] = {"metadata": meta, "spec": {"config": text}}
        self.events.put_nowait(Event(kind, self.objects[name]))

    def delete(self, name="blue-G"):
        self.events.put_nowait(Event("DELETED", self.objects.pop(name)))

    async def list(self, resource, _namespace=None, *, fields="", labels="", least=""):
        self.asked.add(("list", resource.plural, fields, labels, least))
        while not self.events.empty():
            self.events.get_nowait()
        return list(self.objects.values()), str(self.version)

    async def watch(self, resource, _version, _namespace=None, *, fields="", labels=""):
        self.asked.add(("watch", resource.plural, fields, labels))
        while True:
            yield await self.events.get()


@asynccontextmanager
async def watching(node, kube):
    watched = Definitions(kube, "node-1", node.store)
    task = asyncio.create_task(watched.run())
    try:
        yield watched
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def inside(node):
    """What the pod's interface has."""
    return node.kernel.namespaces["/ns/1"]["galactic0"]


async def test_only_its_own_definitions_are_asked_for_and_from_memory(node):
    kube = MemoryKube()
    async with watching(node, kube):
        await until(lambda: len(kube.asked) == 2)
    own = f"{NODE_LABEL}=node-1"
    plural = "network-attachment-definitions"
    assert kube.asked == {("list", plural, "", own, "0"), ("watch", plural, "", own)}


@pytest.mark.parametrize(
    ("change", "routed", "announced"),
    [
        pytest.param(
            {"networks": ["10.1.1.0/24", "10.9.0.0/16", "2001:10:1:1::/64"]},
            "10.9.0.0/16",
            None,
            id="networks",
        ),
        pytest.param({"routes": [{"destination": "172.16.0.0/12"}]}, "172.16.0.0/12", None, id="routes"),
        pytest.param(
            {"terminations": [{"network": "192.168.3.0/24", "via": "10.1.1.1"}]},
            None,
            "192.168.3.0/24",
            id="terminations",
        ),
    ],
)
async def test_a_change_reaches_the_running_pod_and_goes_again(node, config, change, routed, announced):
    kube = MemoryKube()
    kube.set(as_list(config()))
    assert (await node.cni("ADD", config())).code == 0
    before = node.store.attachments[KEY]
    own = dict(inside(node).routes)
    async with watching(node, kube):
        kube.set(as_list(config(**change)))
        if routed:
            await until(lambda: route_key(MAIN_TABLE, ip_network(routed)) in inside(node).routes)
        if announced:
            await until(lambda: ip_network(announced) in node.store.attachments[KEY].announces)
        now = node.store.attachments[KEY]
        assert (now.container, now.netns, now.ifname, now.epoch) == (
            before.container,
            before.netns,
            before.ifname,
            before.epoch,
        )
        kube.set(as_list(config()))
        await until(lambda: inside(node).routes == own and node.store.attachments[KEY] == before)


async def test_the_mtu_follows_too(node, config):
    kube = MemoryKube()
    await node.cni("ADD", config())
    async with watching(node, kube):
        kube.set(as_list(config(routes=MORE, mtu=1400)))
        await until(lambda: node.store.attachments[KEY].routes)
    assert node.store.attachments[KEY].mtu == 1400
    await until(lambda: node.kernel.host.links["G0000000jU00GH"].mtu == 1400)


async def test_addresses_follow_too(node, config):
    kube = MemoryKube()
    await node.cni("ADD", config())
    async with watching(node, kube):
        kube.set(as_list(config(addresses=["10.1.1.7/24"])))
        await until(lambda: list(inside(node).addresses) == [("galactic0", ip_interface("10.1.1.7/24"))])
    assert node.store.registration().endpoints[0].networks == ("10.1.1.7/32",)


async def test_what_changed_while_nobody_watched_is_made_good(node, config):
    kube = MemoryKube()
    await node.cni("ADD", config())
    kube.set(as_list(config(routes=MORE)))
    async with watching(node, kube):
        await until(lambda: node.store.attachments[KEY].routes)


async def test_an_attachment_that_came_with_an_older_definition_is_made_good(node, config):
    kube = MemoryKube()
    kube.set(as_list(config(routes=MORE)))
    async with watching(node, kube) as watched:
        await until(lambda: not watched._dirty)
        await node.cni("ADD", config())
        await until(lambda: node.store.attachments[KEY].routes)


async def test_a_definition_that_is_gone_changes_nothing(node, config):
    kube = MemoryKube()
    kube.set(as_list(config()))
    await node.cni("ADD", config())
    async with watching(node, kube) as watched:
        before = node.store.attachments[KEY]
        kube.delete()
        kube.set(as_list(config(routes=MORE)), "another")
        await until(lambda: kube.events.empty() and "another" in str(watched._informer.objects))
        await until(lambda: not watched._wake.is_set() and not watched._dirty)
        assert node.store.attachments[KEY] is before


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("{", "configuration list", id="no-json"),
        pytest.param('{"plugins":[]}', "configuration list", id="no-plugin"),
        pytest.param('{"plugins":["x"]}', "configuration list", id="no-object"),
        pytest.param(
            as_list({"name": "b", "type": "galactic", "vpc": "jU"}), "vpcattachment", id="field-missing"
        ),
        pytest.param({"addresses": ["10.1.1.300/24"]}, "addresses", id="no-address"),
        pytest.param({"vpcattachment": "H"}, "others", id="another-attachment"),
        pytest.param({"vpc": "jV"}, "others", id="another-vpc"),
    ],
)
async def test_what_is_not_understood_changes_nothing_and_is_told(node, config, text, told):
    kube = MemoryKube()
    await node.cni("ADD", config())
    before = node.store.attachments[KEY]
    async with watching(node, kube) as watched:
        assert watched.problem is None
        kube.set(text if isinstance(text, str) else as_list(config() | text))
        await until(lambda: watched.problem)
        assert NAME in watched.problem
        assert told in watched.problem
        assert node.store.attachments[KEY] == before
        kube.set(as_list(config(routes=MORE)))
        await until(lambda: node.store.attachments[KEY].routes)
        assert watched.problem is None


async def test_what_could_not_be_kept_is_tried_again(node, config, monkeypatch):
    kube = MemoryKube()
    await node.cni("ADD", config())
    failures = [Unreachable("records", "disk full")]
    amend = node.store.amend

    def failing(attachment):
        if failures:
            raise failures.pop()
        amend(attachment)

    monkeypatch.setattr(node.store, "amend", failing)
    async with watching(node, kube):
        kube.set(as_list(config(routes=MORE)))
        await until(lambda: node.store.attachments[KEY].routes)


def test_other_plugins_of_the_list_are_left_aside(config):
    listed = json.loads(as_list(config()))
    listed["plugins"].append({"type": "tuning"})
    assert configured(json.dumps(listed), KEY, "c", "/ns/1", "galactic0").name == NAME
    listed["plugins"].append(listed["plugins"][0])
    with pytest.raises(Rejected):
        configured(json.dumps(listed), KEY, "c", "/ns/1", "galactic0")
