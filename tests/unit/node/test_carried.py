"""A node attaches the pods that carry an attachment, as its status has it; against an API server in memory."""

import asyncio
import time
from contextlib import asynccontextmanager
from ipaddress import ip_interface, ip_network

import pytest
from clockwork import Clockwork
from statuses import carrier, vpcattachment
from waits import until

from galactic.errors import NotYet, Rejected, Unreachable
from galactic.kube.memory import MemoryApi
from galactic.kube.resources import VPC_ATTACHMENTS
from galactic.linux.objects import MAIN_TABLE, route_key
from galactic.names import carrier_label
from galactic.node.dataplane.plan import POD_METRIC
from galactic.node.kubernetes import carried
from galactic.node.kubernetes.carried import GRACE_SECONDS, CarriedAttachments
from galactic.node.kubernetes.tasks import KubernetesTasks
from galactic.node.state.attachment import PodRef

KEY = (1234, 42)
POD = PodRef("default", "web", "uid-1")
CARRIER = carrier("web", "uid-1")
NAME = "default/blue-G"
MORE = [{"destination": "172.16.0.0/12"}]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(carried, "LAG_SECONDS", 0.05)
    monkeypatch.setattr(carried, "BACKOFF_SECONDS", (0.01, 0.02))


class Server(MemoryApi):
    """An API server with VPCAttachments. ``away``: GETs are not answered. ``asked``: its lists and watches."""

    def __init__(self):
        super().__init__()
        self.asked, self.away = set(), False
        self.fail = lambda verb, *_: (
            Unreachable("kube-apiserver", "away") if self.away and verb == "find" else None
        )

    @property
    def gets(self):
        return sum(verb == "find" for verb, *_ in self.requests)

    def set(self, config, carriers=(CARRIER,), *, labelled=True):
        """``labelled``: the node's watch has it."""
        manifest = config if "metadata" in config else vpcattachment(config, carriers=carriers)
        labels = {carrier_label("node-1"): ""} if labelled else {}
        self.store(VPC_ATTACHMENTS, manifest | {"metadata": manifest["metadata"] | {"labels": labels}})

    def delete_attachment(self):
        self.remove(VPC_ATTACHMENTS, "blue-G", "default")

    async def pages(self, resource, *arguments, fields="", labels="", least=""):
        self.asked.add(("list", resource.plural, fields, labels, least))
        async for page in super().pages(resource, *arguments, fields=fields, labels=labels, least=least):
            yield page

    async def watch(self, resource, *arguments, fields="", labels=""):
        self.asked.add(("watch", resource.plural, fields, labels))
        async for event in super().watch(resource, *arguments, fields=fields, labels=labels):
            yield event


@asynccontextmanager
async def watching(node, kube, clock=time.monotonic):
    refused = []
    watched = CarriedAttachments(kube, "node-1", node.store, refused.append, clock)
    watched.refused = refused
    task = asyncio.create_task(watched.run())
    try:
        yield watched
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def decided_by(node, watched):
    """From here on the watch decides which pods are attached, as in the real controller."""
    node.authority = node.server._calls._authority = watched


def inside(node):
    """The addresses and routes of the pod's interface."""
    return node.kernel.namespaces["/ns/1"]["galactic0"]


async def test_only_attachments_of_its_own_pods_are_asked_for_and_from_memory(node):
    kube = Server()
    async with watching(node, kube):
        await until(lambda: len(kube.asked) == 2)
    own = carrier_label("node-1")
    plural = "vpcattachments"
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
    kube = Server()
    kube.set(config())
    assert (await node.cni("ADD", config())).code == 0
    before = node.store.attachments[KEY]
    own = dict(inside(node).routes)
    async with watching(node, kube):
        kube.set(config(**change))
        if routed:
            await until(lambda: route_key(MAIN_TABLE, ip_network(routed), POD_METRIC) in inside(node).routes)
        if announced:
            await until(lambda: ip_network(announced) in node.store.attachments[KEY].announces)
        now = node.store.attachments[KEY]
        assert (now.container, now.netns, now.ifname, now.epoch) == (
            before.container,
            before.netns,
            before.ifname,
            before.epoch,
        )
        kube.set(config())
        await until(lambda: inside(node).routes == own and node.store.attachments[KEY] == before)


async def test_the_mtu_follows_too(node, config):
    kube = Server()
    await node.cni("ADD", config())
    async with watching(node, kube):
        kube.set(config(routes=MORE, mtu=1400))
        await until(lambda: node.store.attachments[KEY].routes)
    assert node.store.attachments[KEY].mtu == 1400
    await until(lambda: node.kernel.host.links["G0000000jU00GH"].mtu == 1400)


async def test_addresses_follow_too(node, config):
    kube = Server()
    await node.cni("ADD", config())
    async with watching(node, kube):
        kube.set(config(addresses=["10.1.1.7/24"]))
        await until(lambda: list(inside(node).addresses) == [("galactic0", ip_interface("10.1.1.7/24"))])
    assert node.store.registration().endpoints[0].networks == ("10.1.1.7/32",)


async def test_changes_while_the_watch_was_away_are_caught_up(node, config):
    kube = Server()
    await node.cni("ADD", config())
    kube.set(config(routes=MORE))
    async with watching(node, kube):
        await until(lambda: node.store.attachments[KEY].routes)


async def test_an_attachment_that_came_with_an_older_definition_is_made_good(node, config):
    kube = Server()
    kube.set(config(routes=MORE))
    async with watching(node, kube) as watched:
        await until(lambda: not watched._dirty)
        await node.cni("ADD", config())
        await until(lambda: node.store.attachments[KEY].routes)


def broken(config, part, **fields):
    manifest = vpcattachment(config, carriers=[CARRIER])
    (manifest["status"]["configuration"] if part == "configuration" else manifest["status"]).update(fields)
    return manifest


@pytest.mark.parametrize(
    ("part", "fields", "text"),
    [
        pytest.param("status", {"addresses": ["10.1.1.300/24"]}, "addresses", id="no-address"),
        pytest.param("status", {"identifier": "002b"}, "others", id="another-attachment"),
        pytest.param("configuration", {"vpc": "0000000004d3"}, "others", id="another-vpc"),
        pytest.param("configuration", {"vpc": "000000000000"}, "status.configuration.vpc", id="reserved"),
        pytest.param("configuration", {"networks": ["10.1.1.1/24"]}, "networks", id="host-bits"),
        pytest.param("status", {"carriers": [{"pod": "web"}]}, "carriers", id="half-a-carrier"),
    ],
)
async def test_a_status_that_is_not_usable_changes_nothing_and_is_reported(node, config, part, fields, text):
    kube = Server()
    await node.cni("ADD", config())
    before = node.store.attachments[KEY]
    async with watching(node, kube) as watched:
        assert watched.problem is None
        kube.set(broken(config(), part, **fields))
        await until(lambda: watched.problem)
        assert NAME in watched.problem
        assert text in watched.problem
        assert node.store.attachments[KEY] == before
        kube.set(config(routes=MORE))
        await until(lambda: node.store.attachments[KEY].routes)
        await until(lambda: watched.problem is None)


async def test_a_status_without_a_configuration_changes_nothing(node, config):
    """As an operator of the previous version leaves it."""
    kube = Server()
    await node.cni("ADD", config())
    before = node.store.attachments[KEY]
    manifest = vpcattachment(config(routes=MORE), carriers=None)
    del manifest["status"]["configuration"]
    async with watching(node, kube) as watched:
        kube.set(manifest)
        await until(lambda: watched._known)
        await until(lambda: not watched._dirty)
        assert node.store.attachments[KEY] == before
        assert watched.problem is None


async def test_what_could_not_be_kept_is_tried_again(node, config, monkeypatch):
    kube = Server()
    await node.cni("ADD", config())
    failures = [Unreachable("records", "disk full")]
    amend = node.store.amend

    def failing(attachment):
        if failures:
            raise failures.pop()
        amend(attachment)

    monkeypatch.setattr(node.store, "amend", failing)
    async with watching(node, kube):
        kube.set(config(routes=MORE))
        await until(lambda: node.store.attachments[KEY].routes)


# Who is attached.


@pytest.fixture
def hurried(monkeypatch):
    """An ADD waits for a moment, and asks at once."""
    monkeypatch.setattr(carried, "WAIT_SECONDS", 0.3)
    monkeypatch.setattr(carried, "ASK_SECONDS", 0.05)
    monkeypatch.setattr(carried, "CONFIRM_SECONDS", 0.05)


async def test_a_pod_that_carries_it_is_given_what_the_status_has(node, config):
    kube = Server()
    kube.set(config(routes=MORE))
    async with watching(node, kube) as watched:
        await until(lambda: watched._known)
        given = await watched.entitled(POD, NAME)
    assert (given.key, given.attachment, given.addresses) == (KEY, NAME, tuple(config()["addresses"]))
    assert [route.destination for route in given.routes] == ["172.16.0.0/12"]
    assert kube.gets == 0, "the watch had it"


async def test_an_add_that_waits_for_the_watch_asks_the_api_server_once(node, hurried):
    """A thousand ADDs at once are no thousand requests a second."""
    kube = Server()
    async with watching(node, kube) as watched:
        await until(lambda: watched._follows)
        with pytest.raises(NotYet):
            await watched.entitled(POD, NAME)
    assert kube.gets == 1


def test_an_add_without_a_watch_asks_less_and_less(store):
    kube = Server()
    watched = CarriedAttachments(kube, "node-1", store, lambda _: None)
    with asyncio.Runner(loop_factory=Clockwork) as runner, pytest.raises(NotYet):
        runner.run(watched.entitled(POD, NAME))
    assert kube.gets == 3, "at once, and after 2 and 6 of 12 s"


async def test_it_is_served_while_the_api_server_is_away(node, config):
    kube = Server()
    kube.set(config())
    async with watching(node, kube) as watched:
        await until(lambda: watched._known)
        kube.away = True
        assert (await watched.entitled(POD, NAME)).key == KEY


async def test_a_runtime_without_uids_names_its_pods(node, config):
    kube = Server()
    kube.set(config())
    async with watching(node, kube) as watched:
        assert (await watched.entitled(PodRef("default", "web", ""), NAME)).key == KEY


async def test_an_add_waits_until_the_operator_has_written_its_pod(node, config):
    kube = Server()
    kube.set(config(), ())
    async with watching(node, kube) as watched:
        add = asyncio.create_task(watched.entitled(POD, NAME))
        await until(lambda: kube.gets == 1)
        assert not add.done()
        kube.set(config())
        assert (await add).key == KEY


async def test_one_that_the_watch_does_not_show_is_read(node, config):
    kube = Server()
    kube.set(config(), labelled=False)
    async with watching(node, kube) as watched:
        assert (await watched.entitled(POD, NAME)).key == KEY
    assert kube.gets == 1


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("pod", "name", "error", "reason", "text"),
    [
        pytest.param(
            PodRef("red", "web", "uid-1"), NAME, Rejected, "OtherNamespace", "namespace", id="namespace"
        ),
        pytest.param(POD, "", Rejected, "NoAttachment", "names no VPCAttachment", id="no-name"),
        pytest.param(
            PodRef("default", "other", "uid-2"), NAME, NotYet, "NotCarried", "not carried", id="pod"
        ),
        pytest.param(PodRef("default", "web", "uid-2"), NAME, NotYet, "NotCarried", "uid-2", id="namesake"),
        pytest.param(POD, "default/none", NotYet, "NotCarried", "not known", id="no-such-attachment"),
        pytest.param(PodRef("", "", ""), NAME, Rejected, "OtherNamespace", "namespace", id="no-pod"),
    ],
)
async def test_other_pods_are_refused(node, config, *, pod, name, error, reason, text):
    kube = Server()
    kube.set(config())
    async with watching(node, kube) as watched:
        with pytest.raises(error, match=text):
            await watched.entitled(pod, name)
        assert watched.refused == [reason]


async def test_vpcs_have_the_names_that_the_statuses_give(node, config):
    kube = Server()
    kube.set(config())
    async with watching(node, kube) as watched:
        await until(lambda: watched.vpc_names)
        assert watched.vpc_names == {KEY[0]: "default/blue"}


@pytest.mark.usefixtures("hurried")
async def test_a_refusal_names_what_the_api_server_answered(node, config):
    """The watch shows only attachments that have a carrier on the node."""
    kube = Server()
    kube.set(config(), labelled=False)
    async with watching(node, kube) as watched:
        await until(lambda: watched._informer.synced.is_set() and watched._informer.connected)
        with pytest.raises(NotYet, match="not carried"):
            await watched.entitled(PodRef("default", "other", "uid-2"), NAME)


@pytest.mark.usefixtures("hurried")
async def test_a_pod_of_another_node_is_refused(node, config):
    kube = Server()
    kube.set(config(), (carrier("web", "uid-1", "node-2"),))
    async with watching(node, kube) as watched:
        with pytest.raises(NotYet, match="node-1"):
            await watched.entitled(POD, NAME)


async def test_before_the_api_server_was_reached_an_add_is_to_be_tried_again():
    with pytest.raises(NotYet, match="kube-apiserver"):
        await KubernetesTasks(None, None).entitled(POD, NAME)


async def test_a_definition_has_no_effect_but_its_name(node, config):
    """A tenant may write any NetworkAttachmentDefinition: only the name in it is used."""
    kube = Server()
    kube.set(config())
    forged = config(vpc="a", vpcattachment="a", addresses=["10.1.1.66/24"], networks=["0.0.0.0/0"])
    async with watching(node, kube) as watched:
        decided_by(node, watched)
        args = {"CNI_ARGS": "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=uid-1"}
        answer = await node.cni("ADD", forged, **args)
        assert answer.code == 0, answer.text
        assert [ip["address"] for ip in answer.body["ips"]] == config()["addresses"]
        (attachment,) = node.store.attachments.values()
        assert (attachment.key, attachment.pod) == (KEY, "uid-1")
        assert [str(network) for network in attachment.networks] == config()["networks"]
        stranger = await node.cni(
            "ADD", config(), container="c2", CNI_ARGS="K8S_POD_NAMESPACE=red;K8S_POD_NAME=web"
        )
        assert (stranger.code, stranger.body["code"]) == (1, 7)
        assert "namespace" in stranger.body["msg"]
        assert node.store.attachments == {KEY: attachment}


# Who is attached no longer.


@pytest.fixture
async def attached(node, config):
    """A node, with pod uid-1 attached, and its watch; ``clock`` is what its time is."""
    kube, clock = Server(), [0.0]
    kube.set(config())
    async with watching(node, kube, lambda: clock[0]) as watched:
        await until(lambda: watched._known)
        decided_by(node, watched)
        await node.cni(
            "ADD", config(), CNI_ARGS="K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=uid-1"
        )
        assert node.store.attachments[KEY].pod == "uid-1"
        yield node, kube, watched, clock


def another(config):
    """The attachment, carried by another pod."""
    return vpcattachment(config(), carriers=[carrier("web", "uid-2")])


@pytest.mark.parametrize("lost", ["deleted", "carried by another pod"])
async def test_a_pod_that_lost_its_attachment_is_detached_after_a_grace(attached, config, lost):
    node, kube, watched, clock = attached
    await watched.expire()
    assert watched.condition().status
    kube.delete_attachment() if lost == "deleted" else kube.set(another(config))
    await until(lambda: not (known := watched._known.get(("default", "blue-G"))) or known.lost_by("uid-1"))
    await watched.expire()
    condition = watched.condition()
    assert (condition.type, condition.status, condition.reason) == ("Entitled", False, "NotEntitled")
    assert NAME in condition.message
    clock[0] = GRACE_SECONDS - 1
    await watched.expire()
    assert KEY in node.store.attachments
    clock[0] = GRACE_SECONDS + 1
    await watched.expire()
    assert KEY not in node.store.attachments
    assert watched.condition().status
    assert watched.refused == ["Detached"]


async def test_a_pod_that_carries_it_again_meanwhile_stays(attached, config):
    node, kube, watched, clock = attached
    kube.delete_attachment()
    await until(lambda: not watched._known)
    await watched.expire()
    kube.set(config())
    await until(lambda: watched._known)
    clock[0] = GRACE_SECONDS + 1
    await watched.expire()
    assert KEY in node.store.attachments
    assert watched.condition().status


async def test_a_watch_that_lost_it_detaches_no_pod(attached, config):
    """A label that someone removed hides the attachment from the watch; the API server has it."""
    node, kube, watched, clock = attached
    kube.set(config(), labelled=False)
    await until(lambda: not watched._known)
    await watched.expire()
    clock[0] = GRACE_SECONDS + 1
    await watched.expire()
    assert kube.gets == 1
    assert KEY in node.store.attachments


async def test_while_the_api_server_is_away_no_pod_is_detached(attached):
    node, kube, watched, clock = attached
    kube.delete_attachment()
    await until(lambda: not watched._known)
    await watched.expire()
    clock[0] = GRACE_SECONDS + 1
    kube.away = True
    await watched.expire()
    assert KEY in node.store.attachments
    kube.away = False
    await watched.expire()
    assert KEY not in node.store.attachments


async def test_one_that_an_earlier_version_attached_stays(node, config):
    kube, clock = Server(), [0.0]
    await node.cni("ADD", config())
    assert not node.store.attachments[KEY].pod
    async with watching(node, kube, lambda: clock[0]) as watched:
        await until(watched._informer.synced.is_set)
        await watched.expire()
        clock[0] = GRACE_SECONDS + 1
        await watched.expire()
    assert KEY in node.store.attachments
