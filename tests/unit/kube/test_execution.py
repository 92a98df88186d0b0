"""Commands in containers, against a server that speaks kubelet's protocol (v4.channel.k8s.io)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import WSMsgType, web
from kubernetes.aio import client as official

from galactic.errors import Rejected, Unreachable
from galactic.kube.client import Kube
from galactic.kube.execution import PROTOCOL, execute

OK = b'\x03{"status":"Success"}'
FAILED = b'\x03{"status":"Failure","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}'


@asynccontextmanager
async def serving(
    *frames: bytes, status: int = 0, hang: bool = False
) -> AsyncIterator[tuple[Kube, list[web.Request]]]:
    seen: list[web.Request] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        if status:
            return web.Response(status=status)
        stream = web.WebSocketResponse(protocols=(PROTOCOL,))
        await stream.prepare(request)
        for frame in frames:
            await stream.send_bytes(frame)
        if hang:
            assert (await stream.receive()).type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.CLOSING)
        await stream.close()
        return stream

    app = web.Application()
    app.router.add_get("/api/v1/namespaces/{namespace}/pods/{pod}/exec", answer)
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    listener = web.TCPSite(runner, "127.0.0.1", 0)
    await listener.start()
    assert listener._server is not None
    port = listener._server.sockets[0].getsockname()[1]
    configuration = official.Configuration(host=f"http://127.0.0.1:{port}")
    configuration.api_key = {"BearerToken": "Bearer of-the-user"}
    async with Kube(official.ApiClient(configuration)) as kube:
        yield kube, seen
    await runner.cleanup()


async def test_what_a_command_prints_and_how_it_ends() -> None:
    async with serving(b"\x01one ", b"\x02oh", b"\x01two", OK) as (kube, seen):
        assert await execute(kube, "ns", "pod", "main", ["say", "one two"]) == (0, "one two", "oh")
    (request,) = seen
    assert request.query.getall("command") == ["say", "one two"]
    assert request.query["container"] == "main"
    assert request.headers["Authorization"] == "Bearer of-the-user"


async def test_an_exit_code() -> None:
    async with serving(b"\x02no", FAILED) as (kube, _):
        assert await execute(kube, "ns", "pod", "main", ["x"]) == (3, "", "no")


@pytest.mark.parametrize(
    ("frames", "status", "kind", "reason"),
    [
        pytest.param((), 403, Rejected, "pods/exec", id="forbidden"),
        pytest.param((), 500, Unreachable, "500", id="no-kubelet"),
        pytest.param((b"\x01half",), 0, Unreachable, "ended before the command did", id="cut-off"),
        pytest.param((b"\x03nonsense",), 0, Unreachable, "pod ns/pod", id="nonsense"),
    ],
)
async def test_what_goes_wrong(
    frames: tuple[bytes, ...], status: int, kind: type[Exception], reason: str
) -> None:
    async with serving(*frames, status=status) as (kube, _):
        with pytest.raises(kind, match=reason):
            await execute(kube, "ns", "pod", "main", ["x"])


async def test_a_command_that_does_not_end_is_not_waited_for() -> None:
    async with serving(b"\x01...", hang=True) as (kube, _):
        with pytest.raises(Unreachable, match="took longer"):
            await execute(kube, "ns", "pod", "main", ["x"], seconds=0.3)


async def test_commands_that_run_are_known_and_those_that_ended_forgotten() -> None:
    async with serving(b"\x01...", hang=True) as (kube, _):
        running = asyncio.create_task(execute(kube, "ns", "pod", "main", ["look", "-v"]))
        while not kube.commands:
            await asyncio.sleep(0)
        assert kube.commands == ["pod ns/pod: `look`"]
        running.cancel()
        await asyncio.wait({running})
        assert kube.commands == []
