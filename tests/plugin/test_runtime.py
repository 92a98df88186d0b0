"""The built plugin and a node controller's server, driven as libcni drives plugins, in every version of CNI."""

import asyncio
import json
import random
import subprocess
import threading
import time
from collections.abc import Callable
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

import pytest
from chroot import PATIENCE_SECONDS
from libcni import PluginError, Runtime
from prometheus_client import CollectorRegistry
from statuses import Statuses

from cni_plugin import bundle
from galactic.node.cni import calls
from galactic.node.cni.calls import Calls
from galactic.node.cni.server import Server
from galactic.node.dataplane.dataplane import Dataplane
from galactic.node.dataplane.memory import MemoryKernel
from galactic.node.dataplane.plan import Host
from galactic.node.dataplane.sync import Sync
from galactic.node.metrics import Metrics
from galactic.node.state.checkpoint import Checkpoint
from galactic.node.state.epoch import Clock
from galactic.node.state.store import Store

VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
PREFIX, SPACE = IPv6Network("2001:db8:ff01:100::/56"), IPv6Network("2001:db8:ff00::/40")
HOST_END = "G0000000jU00GH"
ARGS = "IgnoreUnknown=1;K8S_POD_NAMESPACE=blue;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=c1"


class Controller:
    """A node controller's side of the socket, on a kernel in memory and in a thread of its own."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "agent.sock"
        self.kernel = MemoryKernel()
        self.kernel.add_namespace("/ns/1")
        self.thread: threading.Thread | None = None

    def start(self) -> None:
        ready = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._run(ready)))
        self.thread.start()
        assert ready.wait(PATIENCE_SECONDS)

    def seen(self) -> tuple[dict[str, Any], bool]:
        """The pod's addresses by device, and whether the host end is there, at one moment."""

        def look() -> tuple[dict[str, Any], bool]:
            pod = self.kernel.namespaces["/ns/1"]
            inside = {name: objects.addresses.copy() for name, objects in pod.items()}
            return inside, HOST_END in self.kernel.host.links

        async def looked() -> tuple[dict[str, Any], bool]:
            return look()

        if self.thread is None:
            return look()
        return asyncio.run_coroutine_threadsafe(looked(), self.loop).result(PATIENCE_SECONDS)

    def stop(self) -> None:
        if self.thread:
            self.loop.call_soon_threadsafe(self.over.set)
            self.thread.join()
            self.thread = None

    async def _run(self, ready: threading.Event) -> None:
        self.loop, self.over = asyncio.get_running_loop(), asyncio.Event()
        records = Checkpoint(self.socket.parent)
        records.prepare()
        store = Store("default", records, Clock())
        store.restore()
        store.set_prefix(PREFIX)
        exists = self.kernel.namespaces.__contains__
        metrics = Metrics(CollectorRegistry())
        host = Host(PREFIX, SPACE, "eth0")
        sync = Sync(self.kernel, store, lambda: host, metrics, Dataplane(self.kernel, store, exists))
        server = Server(
            self.socket,
            Calls(store, sync, Statuses(status), lambda: None, exists),
            metrics,
        )
        self.socket.unlink(missing_ok=True)
        tasks = [asyncio.create_task(sync.run()), asyncio.create_task(server.run())]
        while not (self.socket.exists() and sync.ready.is_set()):
            await asyncio.sleep(0.01)
        ready.set()
        await self.over.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, patient: Callable[[int], Path]) -> Path:
    """The bundle, bound to its present folder."""
    folder = tmp_path_factory.mktemp("cni") / "bin"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "HERE", patient(1))
        bundle.build(folder, str(folder))
    return folder


@pytest.fixture(autouse=True)
def _long_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node controller gives up before the plugin does; here both wait long enough for a slow machine."""
    monkeypatch.setattr(calls, "APPLY_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(calls, "UNDO_SECONDS", PATIENCE_SECONDS)


@pytest.fixture
def controller(tmp_path: Path):
    made = Controller(tmp_path / "run")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def runtime(installed, controller) -> Runtime:
    return Runtime(installed, {"GALACTIC_SOCKET": str(controller.socket)})


def network(version, **more):
    """The configuration that the operator writes into a NetworkAttachmentDefinition."""
    plugin = {
        "type": "galactic",
        "vpc": "jU",
        "vpcattachment": "G",
        "attachment": "blue/web",
        "mtu": 0,
        "interface": "galactic0",
        "addresses": ["10.1.1.1/24", "2001:10:1:1::1/64"],
        "networks": ["10.1.1.0/24", "2001:10:1:1::/64"],
        "terminations": [{"network": "192.168.3.0/24", "via": "10.1.1.1"}],
        "routes": [{"destination": "10.9.0.0/16", "via": "10.1.1.9"}],
    }
    return {"cniVersion": version, "name": "web", "plugins": [plugin | more]}


def status(name):
    """The operator's status of an attachment: ``blue/other`` is not the ``G`` of the definition."""
    own = {"vpcattachment": "H"} if name == "blue/other" else {}
    return network("1.1.0", attachment=name, **own)["plugins"][0]


def test_versions(runtime):
    for spoken in (*VERSIONS, "9.9.9"):
        assert runtime.versions("galactic", spoken) == list(VERSIONS)


@pytest.mark.parametrize("version", VERSIONS)
def test_add_check_and_del_of_a_container(runtime, controller, version):
    web = network(version)
    result = runtime.add(web, "c1", "/ns/1", "galactic0", ARGS)
    assert result["interfaces"] == [{"name": HOST_END}, {"name": "galactic0", "sandbox": "/ns/1"}]
    assert [ip.get("version") for ip in result["ips"]] == (["4", "6"] if version < "1" else [None, None])
    assert all(result["interfaces"][ip["interface"]]["name"] == "galactic0" for ip in result["ips"])
    assert {"dst": "10.9.0.0/16", "gw": "169.254.1.1"} in result["routes"]
    assert "dns" in result
    if version != "0.3.1":
        runtime.check(web, "c1", "/ns/1", "galactic0", ARGS)
    assert runtime.add(web, "c1", "/ns/1", "galactic0", ARGS) == result
    if version == "1.1.0":
        runtime.status(web)
    runtime.collect(web, [("c1", "galactic0")])
    assert HOST_END in controller.kernel.host.links
    for netns in ("/ns/1", "/ns/1", ""):
        runtime.delete(web, "c1", netns, "galactic0", ARGS)
    assert HOST_END not in controller.kernel.host.links
    assert not controller.kernel.namespaces["/ns/1"]


@pytest.mark.parametrize("version", VERSIONS)
def test_gc_removes_attachments_unknown_to_the_runtime(runtime, controller, version):
    web = network(version)
    runtime.add(web, "c1", "/ns/1", "galactic0", ARGS)
    if version == "1.1.0":
        runtime.cache.clear()  # the runtime lost its files; before 1.1.0 nothing would help then
    runtime.collect(web, [])
    assert HOST_END not in controller.kernel.host.links


def test_check_without_the_namespace_is_an_error(runtime, controller):
    web = network("1.0.0")
    runtime.add(web, "c1", "/ns/1", "galactic0")
    controller.kernel.remove_namespace("/ns/1")
    with pytest.raises(PluginError) as raised:
        runtime.check(web, "c1", "/ns/1", "galactic0")
    assert raised.value.code == 100


@pytest.mark.parametrize(
    ("change", "code"),
    [
        pytest.param({"cniVersion": "0.2.0"}, 1, id="version"),
        pytest.param({"name": ""}, 7, id="name"),
        pytest.param({"plugins": [network("1.0.0")["plugins"][0] | {"ipMasq": True}]}, 2, id="field"),
        pytest.param({"plugins": [network("1.0.0")["plugins"][0] | {"addresses": "x"}]}, 7, id="type"),
    ],
)
def test_errors_have_the_codes_of_the_specification(runtime, controller, change, code):
    with pytest.raises(PluginError) as raised:
        runtime.add(network("1.0.0") | change, "c1", "/ns/1", "galactic0")
    assert raised.value.code == code
    assert set(raised.value.reply) == {"cniVersion", "code", "msg", "details"}
    assert not controller.kernel.namespaces["/ns/1"]


def test_del_succeeds_without_the_node_controller(runtime, controller):
    """ADD and CHECK are to be tried again, DEL is done later, once."""
    web = network("1.1.0")
    runtime.add(web, "c1", "/ns/1", "galactic0")
    controller.stop()
    for ask, code in (
        (lambda: runtime.add(web, "c1", "/ns/1", "galactic0"), 11),
        (lambda: runtime.check(web, "c1", "/ns/1", "galactic0"), 11),
        (lambda: runtime.status(web), 50),
    ):
        with pytest.raises(PluginError) as raised:
            ask()
        assert raised.value.code == code
    runtime.delete(web, "c1", "/ns/1", "galactic0")
    runtime.delete(web, "c1", "", "galactic0")
    assert HOST_END in controller.kernel.host.links
    controller.start()
    runtime.add(network("1.1.0", attachment="blue/other"), "c1", "/ns/1", "galactic0")
    assert HOST_END not in controller.kernel.host.links
    assert not list((controller.socket.parent / "pending").iterdir())


def kill(runtime, web, command, seconds):
    """Starts the plugin and kills it so much later. Whether it was still running."""
    given = runtime._input(web, web["plugins"][0], None)
    environment = runtime.variables | runtime._environment(command, "c1", "/ns/1", "galactic0", "")
    plugin = subprocess.Popen(
        [runtime.folder / "galactic"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment
    )
    assert plugin.stdin
    plugin.stdin.write(json.dumps(given).encode())
    plugin.stdin.close()
    time.sleep(seconds)
    plugin.kill()
    return plugin.wait() != 0


def until(condition):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_plugins_killed_at_any_moment(runtime, controller):
    """ADD is whole or leaves nothing; after DEL nothing is there, however often it was killed before."""
    web, dice = network("1.1.0"), random.Random(11)
    runtime.add(web, "c1", "/ns/1", "galactic0")
    whole = controller.seen()
    assert whole[0]
    runtime.delete(web, "c1", "/ns/1", "galactic0")
    nothing = ({}, False)
    assert controller.seen() == nothing

    spans = {"ADD": 0.1, "DEL": 0.1}

    def killed(command):
        was = kill(runtime, web, command, dice.random() * spans[command])
        spans[command] *= 1.2 if was else 0.7  # until it is about as long as the command takes here
        return was

    rounds, kills, left = 0, 0, 0
    while rounds < 40 or kills <= 10 or not 0 < left < rounds:
        kills += killed("ADD")
        until(lambda: controller.seen() in (nothing, whole))
        left += controller.seen() == whole
        kills += killed("DEL")
        runtime.delete(web, "c1", "", "galactic0")
        assert controller.seen() == nothing
        rounds += 1


def test_dels_killed_without_a_node_controller(runtime, controller):
    """Each is kept whole or not at all."""
    web, dice = network("1.1.0"), random.Random(12)
    runtime.add(web, "c1", "/ns/1", "galactic0")
    controller.stop()
    for _ in range(20):
        kill(runtime, web, "DEL", dice.random() * 0.06)
    runtime.delete(web, "c1", "/ns/1", "galactic0")
    kept = [path for path in (controller.socket.parent / "pending").iterdir() if path.suffix != ".partial"]
    assert kept
    assert len({path.read_bytes() for path in kept}) <= 2, "with and without the result of the ADD"
    controller.start()
    until(lambda: not controller.seen()[1])
    until(lambda: not any(path.exists() for path in kept))
