"""The kubelet's calls when things go wrong: a caller that is killed at any moment, calls that race, and a thousand of
them in any order, after which a node that is rebuilt from nothing must be the same.
"""

import asyncio
import json
import random

import pytest
from waits import until

from galactic.linux.objects import Change, EndDT46, Objects, route_of
from galactic.node.dataplane import plan
from galactic.node.dataplane.memory import MemoryKernel
from galactic.node.state.checkpoint import Checkpoint

HOST_END = "G0000000jU00GH"
NAMES = {"container": "CNI_CONTAINERID", "netns": "CNI_NETNS", "ifname": "CNI_IFNAME"}


class GatedKernel(MemoryKernel):
    """Stops before each of its steps until let on. ``stopped`` is set while one waits."""

    def gate(self):
        self.gated, self.stopped, self.go = True, asyncio.Event(), asyncio.Event()

    def ungate(self):
        self.gated = False
        self.go.set()

    async def step(self):
        await self.stopped.wait()
        self.stopped.clear()
        self.go.set()

    async def _wait(self):
        if getattr(self, "gated", False):
            self.stopped.set()
            await self.go.wait()
            if self.gated:
                self.go.clear()

    async def write(self, wanted: Change) -> None:
        await self._wait()
        await super().write(wanted)
        await self._wait()

    async def read_pod(self, netns: str, device: str) -> Objects | None:
        await self._wait()
        return await super().read_pod(netns, device)

    async def write_pod(self, netns: str, wanted: Change) -> None:
        await self._wait()
        await super().write_pod(netns, wanted)
        await self._wait()


STEPS = 4
"""Of an ADD to a new VPC: before and after the host's objects, reading the pod, before and after the pod's."""


def request(node, verb, body, **more):
    """An HTTP request as the plugin writes it, without the plugin."""
    values = {"container": "c1", "netns": "/ns/1", "ifname": "galactic0"} | more
    text = json.dumps(body).encode()
    lines = [f"POST /cni/v1/{verb} HTTP/1.1", "Host: galactic", f"Content-Length: {len(text)}"]
    lines += [f"{NAMES[name]}: {value}" for name, value in values.items()]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + text


async def ask(node, verb, body, **more):
    """(exit code, CNI's answer) of a call, without a process for it."""
    reader, writer = await asyncio.open_unix_connection(node.socket)
    writer.write(request(node, verb, body, **more))
    reply = await reader.read()
    writer.close()
    head, _, text = reply.partition(b"\r\n\r\n")
    return int(b" 200 " not in head.partition(b"\r\n")[0]), json.loads(text or b"{}")


async def start(node, command, body):
    """The plugin, with its input."""
    plugin = await asyncio.create_subprocess_exec(
        *node.plugin,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        env={"CNI_COMMAND": command, "GALACTIC_SOCKET": str(node.socket)}
        | {"CNI_CONTAINERID": "c1", "CNI_NETNS": "/ns/1", "CNI_IFNAME": "galactic0"},
    )
    assert plugin.stdin
    plugin.stdin.write(json.dumps(body).encode())
    plugin.stdin.close()
    return plugin


def leaves_nothing(node):
    inside = node.kernel.namespaces["/ns/1"]
    records = list((node.directory / "attachments").iterdir())
    return not (node.store.attachments or inside or records or HOST_END in node.kernel.host.links)


@pytest.fixture
async def gated(node):
    """The node, on a kernel that can be stopped."""
    kernel = GatedKernel()
    kernel.add_namespace("/ns/1")
    await node.stop()
    node.kernel = kernel
    await node.start()
    yield node
    kernel.ungate()


@pytest.mark.parametrize("steps", range(STEPS))
async def test_a_caller_that_hangs_up_at_any_step_leaves_nothing(gated, config, steps):
    gated.kernel.gate()
    _, writer = await asyncio.open_unix_connection(gated.socket)
    writer.write(request(gated, "add", config()))
    for _ in range(steps):
        await gated.kernel.step()
    await gated.kernel.stopped.wait()
    assert gated.store.attachments
    writer.close()
    await until(lambda: not gated.store.attachments)
    gated.kernel.ungate()
    await until(lambda: leaves_nothing(gated))
    assert (await gated.cni("ADD", config())).code == 0


@pytest.mark.parametrize("steps", range(STEPS))
async def test_the_plugin_is_killed_at_any_step_of_add(gated, config, steps):
    gated.kernel.gate()
    plugin = await start(gated, "ADD", config())
    for _ in range(steps):
        await gated.kernel.step()
    await gated.kernel.stopped.wait()
    plugin.kill()
    await plugin.wait()
    await until(lambda: not gated.store.attachments)
    gated.kernel.ungate()
    await until(lambda: leaves_nothing(gated))
    assert (await gated.cni("DEL", config())).code == 0


@pytest.mark.parametrize("bytes_sent", [0, 10, 60, 200, -1])
async def test_half_a_request_does_nothing(node, config, bytes_sent):
    _, writer = await asyncio.open_unix_connection(node.socket)
    writer.write(request(node, "add", config())[:bytes_sent])
    await writer.drain()
    writer.close()
    assert (await ask(node, "del", config()))[0] == 0
    assert leaves_nothing(node)


@pytest.mark.parametrize("steps", range(3))
async def test_a_del_whose_caller_is_gone_is_done_all_the_same(gated, config, steps):
    await gated.cni("ADD", config())
    gated.kernel.gate()
    _, writer = await asyncio.open_unix_connection(gated.socket)
    writer.write(request(gated, "del", config()))
    if steps:
        await gated.kernel.stopped.wait()
    else:
        await until(lambda: not gated.store.attachments)
    writer.close()
    if steps > 1:
        await gated.kernel.step()
    gated.kernel.ungate()
    await until(lambda: leaves_nothing(gated))


@pytest.mark.parametrize("steps", range(STEPS))
async def test_a_del_during_an_add_wins(gated, config, steps):
    """Whichever the runtime hears of first, nothing is left."""
    gated.kernel.gate()
    add = asyncio.create_task(ask(gated, "add", config()))
    for _ in range(steps):
        await gated.kernel.step()
    await gated.kernel.stopped.wait()
    delete = asyncio.create_task(ask(gated, "del", config()))
    await until(lambda: not gated.store.attachments)
    gated.kernel.ungate()
    code, body = await add
    assert (code, body.get("code")) == (1, 11)
    assert (await delete)[0] == 0
    await until(lambda: leaves_nothing(gated))


async def test_a_failed_repetition_keeps_what_was_there(node, config):
    before = (await node.cni("ADD", config())).body
    attachment = node.store.attachments[1234, 42]
    node.kernel.fail = HOST_END
    changed = config(mtu=1400)
    assert (await node.cni("ADD", changed)).body["code"] == 11
    assert node.store.attachments[1234, 42] == attachment
    node.kernel.fail = ""
    assert (await node.cni("ADD", config())).body == before


async def test_two_pods_ask_for_the_same_at_once(node, config):
    node.kernel.add_namespace("/ns/2")
    answers = await asyncio.gather(
        ask(node, "add", config()), ask(node, "add", config(), container="c2", netns="/ns/2")
    )
    assert sorted(code for code, _ in answers) == [0, 1]
    (attachment,) = node.store.attachments.values()
    assert node.kernel.peers[HOST_END] == (attachment.netns, "galactic0")


async def test_two_hundred_pods_at_once(node, config):
    paths = [node.kernel.add_namespace(f"/ns/many-{number}") for number in range(200)]
    digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    answers = await asyncio.gather(
        *(
            ask(
                node,
                "add",
                config(f"{digits[1 + number // 62]}{digits[number % 62]}", last=2 + number),
                container=f"many-{number}",
                netns=path,
            )
            for number, path in enumerate(paths)
        )
    )
    assert [code for code, _ in answers] == [0] * 200
    assert len(node.store.attachments) == 200


class RuntimeHistory:
    """Random calls of a runtime, and the attachments that must follow: exactly those of ADDs that succeeded."""

    def __init__(self, node, config, seed):
        self.node, self.config, self.dice = node, config, random.Random(seed)
        self.pods = {}  # container → its namespace, while that exists
        self.attached = {}  # attachment → (container, ifname, result)
        self.made = 0

    async def step(self):
        verbs = [self.add] * 8 + [self.delete] * 4 + [self.check, self.check, self.collect, self.vanish]
        await self.dice.choice(verbs)()

    def _configuration(self, number):
        digits = "123456789abcdef"
        vpc = "ab"[number % 2]
        return self.config(digits[number], last=1 + number, cniVersion="1.1.0") | {
            "vpc": vpc,
            "mtu": self.dice.choice((0, 0, 1400)),
        }

    async def _call(self, verb, number, container, **more):
        netns = self.pods.get(container, f"/ns/{container}")
        values = {"container": container, "netns": netns, "ifname": "galactic0"}
        return await ask(self.node, verb, self._configuration(number) | more, **values)

    async def add(self):
        number = self.dice.randrange(12)
        attachment = self.attached.get(number)
        if attachment and self.dice.random() < 0.5:
            container = attachment[0]
        else:
            self.made += 1
            container = f"c{self.made}"
            self.pods[container] = self.node.kernel.add_namespace(f"/ns/{container}")
        code, body = await self._call("add", number, container)
        if attachment and attachment[0] != container and attachment[0] in self.pods:
            assert (code, body["code"]) == (1, 11)
        elif container not in self.pods:
            assert (code, body["code"]) == (1, 4)
        else:
            assert code == 0, body
            self.attached[number] = (container, body)

    async def delete(self):
        number = self.dice.randrange(12)
        container = self.attached[number][0] if number in self.attached else "c0"
        assert (await self._call("del", number, container))[0] == 0
        self.attached.pop(number, None)

    async def check(self):
        number = self.dice.randrange(12)
        if number in self.attached:
            container, result = self.attached[number]
            code, body = await self._call("check", number, container, prevResult=result)
            assert (code == 0) == (container in self.pods), body

    async def collect(self):
        number = self.dice.randrange(12)
        valid = [{"containerID": container, "ifname": "galactic0"} for container, _ in self.attached.values()]
        if number in self.attached and self.dice.random() < 0.5:
            container, _ = self.attached.pop(number)
            valid = [entry for entry in valid if entry["containerID"] != container]
        assert (await self._call("gc", number, "c0", **{"cni.dev/valid-attachments": valid}))[0] == 0

    async def vanish(self):
        if self.pods:
            container = self.dice.choice(sorted(self.pods))
            self.node.kernel.remove_namespace(self.pods.pop(container))


def _seen(host):
    """The host's objects with VPCs in place of the numbers that their tables happen to have."""
    vpcs = {table: vpc for vpc, table in plan.tables_of(host).items()}

    def named(key):
        table, network, metric = route_of(key)
        return vpcs.get(table, table), network, metric

    return (
        {name: (link.kind, link.master, link.mtu, link.up) for name, link in host.links.items()},
        host.addresses,
        {
            named(key): to._replace(table=vpcs[to.table]) if isinstance(to, EndDT46) else to
            for key, to in host.routes.items()
        },
        host.rules,
        host.sysctls,
    )


@pytest.mark.parametrize("seed", range(4))
async def test_a_thousand_calls_then_rebuilt_from_nothing(node, config, seed, monkeypatch):
    """Four seeds of 250. The kernel's state is compared with that of a kernel that knows nothing of them, on which the
    controller starts with the records alone.
    """
    monkeypatch.setattr("galactic.node.dataplane.sync.BACKOFF_SECONDS", (0.01, 0.05))
    days = RuntimeHistory(node, config, seed)
    for _ in range(250):
        await days.step()
    attachments = {
        (attachment.container, attachment.ifname) for attachment in node.store.attachments.values()
    }
    live = {(container, "galactic0") for container, _ in days.attached.values() if container in days.pods}
    assert live <= attachments
    assert all(container in {c for c, _ in days.attached.values()} for container, _ in attachments)
    for number, (container, _) in list(days.attached.items()):
        if container not in days.pods:
            await days._call("del", number, container)
    assert {
        (attachment.container, attachment.ifname) for attachment in node.store.attachments.values()
    } == live
    await node.stop()
    worn = node.kernel
    node.kernel = MemoryKernel()
    for path in worn.namespaces:
        node.kernel.add_namespace(path)
    await node.start()
    await until(lambda: _seen(node.kernel.host) == _seen(worn.host))
    assert worn.namespaces == node.kernel.namespaces
    assert worn.peers == node.kernel.peers
    assert len(Checkpoint(node.directory).attachments()) == len(live)
