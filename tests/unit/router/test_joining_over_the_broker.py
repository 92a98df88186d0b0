"""Two clusters and a router outside both: they speak by mosquitto_pub, and learn by mosquitto_sub."""

import asyncio
import contextlib
import json
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

HEAD, SHARD = "galactic/v1/vpcs/0000000004d2/head", "galactic/v1/vpcs/0000000004d2/table/0"
BOTH = "vpcs: {'0000000004d2': {clusters: [east, west]}}"
EAST_ALONE = "vpcs: {'0000000004d2': {clusters: [east]}}"

PATIENCE_SECONDS = 120


def put(path: Path, text: str) -> None:
    """All at once: a router that reads it meanwhile does not find it empty, which is a policy as well."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


@asynccontextmanager
async def router(url: str, admissions: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """``galactic-router`` as a unit file would start it."""
    command = ("-m", "galactic.router", "--kubernetes", "false", "--mqtt-url", url, "--metrics-port", "0")
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, "--admissions", str(admissions), stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr
    lines: list[str] = []

    async def read() -> None:
        assert process.stderr
        while line := await process.stderr.readline():
            lines.append(line.decode())

    process.lines = lines  # type: ignore[attr-defined]
    reader = asyncio.create_task(read())
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        code = await process.wait()
        await reader
        assert code == 0, "".join(lines)


@pytest.fixture
def say(mosquitto):
    """Publishes as anybody could who may write these topics."""

    async def publish(*messages: tuple[str, bytes]) -> None:
        program = shutil.which("mosquitto_pub")
        assert program, "mosquitto_pub is needed: apt-get install mosquitto-clients"
        for topic, payload in messages:
            flags = ("-p", str(mosquitto.port), "-q", "1", "-r", "-t", topic)
            process = await asyncio.create_subprocess_exec(program, *flags, "-m", payload.decode())
            assert await process.wait() == 0

    return publish


@pytest.fixture
def learnt(mosquitto):
    """Waits until a node that joins now would read exactly these networks, each of that cluster."""

    async def wait(expected: dict[str, str]) -> None:
        found: dict[str, str] | None = None
        async with asyncio.timeout(PATIENCE_SECONDS):
            while found != expected:
                retained = await asyncio.to_thread(mosquitto.retained)
                routes = (
                    json.loads(retained[SHARD])["routes"] if HEAD in retained and SHARD in retained else ()
                )
                found = {route["network"]: route["cluster"] for route in routes}

    return wait


async def test_two_clusters_share_a_vpc_for_as_long_as_they_may(
    world, mosquitto, tmp_path, say, learnt
) -> None:
    mosquitto.start()
    admissions = tmp_path / "admissions.yaml"
    put(admissions, "{}")
    east, west = world.endpoint("n1", 1, "10.1.1.1/32"), world.endpoint("n2", 1, "10.1.1.2/32")
    async with router(mosquitto.url, admissions) as process:
        await say(world.status("n1", "east"), world.endpoints("n1", 1, east, cluster="east"))
        await learnt({"10.1.1.1/32": "east"})

        # west guessed the identifier: it does not get in, and nothing of it is told to anybody
        await say(world.status("n2", "west"), world.endpoints("n2", 1, west, cluster="west"))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not any("NotAdmitted" in line for line in process.lines):
                await asyncio.sleep(0.02)
        await learnt({"10.1.1.1/32": "east"})

        put(admissions, BOTH)
        await learnt({"10.1.1.1/32": "east", "10.1.1.2/32": "west"})  # equal functions, two attachments

        both = (
            world.endpoint("n2", 1, "10.1.1.2/32", epoch=1),
            world.endpoint("n2", 2, "10.1.1.1/32", epoch=1),
        )
        await say(world.endpoints("n2", 2, *both, cluster="west"))  # an address that east has
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not any('"Conflict"' in line and '"west"' in line for line in process.lines):
                await asyncio.sleep(0.02)
        await learnt({"10.1.1.1/32": "east", "10.1.1.2/32": "west"})

        put(admissions, "vpcs: {4d2: [east, west]}")  # nonsense: what was there before stays in force
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not any("stays in force" in line for line in process.lines):
                await asyncio.sleep(0.02)
        await learnt({"10.1.1.1/32": "east", "10.1.1.2/32": "west"})

        put(admissions, EAST_ALONE)
        await learnt({"10.1.1.1/32": "east"})
    async with router(mosquitto.url, admissions):  # and another router sees it the same way
        west = world.endpoint("n2", 1, "10.1.1.2/32", "10.1.1.3/32", epoch=2)
        east = world.endpoint("n1", 1, "10.1.1.1/32", "10.1.1.7/32", epoch=2)
        await say(
            world.endpoints("n2", 3, west, cluster="west"), world.endpoints("n1", 2, east, cluster="east")
        )
        await learnt({"10.1.1.1/32": "east", "10.1.1.7/32": "east"})


async def test_a_node_of_one_cluster_cannot_take_the_prefix_of_another_ones(
    world, mosquitto, tmp_path, say, learnt
) -> None:
    mosquitto.start()
    admissions = tmp_path / "admissions.yaml"
    put(admissions, "unlisted: anybody")
    async with router(mosquitto.url, admissions) as process:
        east = world.endpoint("n1", 1, "10.1.1.1/32")
        await say(world.status("n1", "east"), world.endpoints("n1", 1, east, cluster="east"))
        await learnt({"10.1.1.1/32": "east"})
        west = world.endpoint("n1", 2, "10.1.1.2/32", epoch=1)
        await say(world.status("n1", "a-west"), world.endpoints("n1", 1, west, cluster="a-west"))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not any("PrefixTaken" in line for line in process.lines):
                await asyncio.sleep(0.02)
        await learnt({"10.1.1.1/32": "east"})
    async with router(
        mosquitto.url, admissions
    ) as process:  # which replays the two in the order of their names
        more = world.endpoint("n1", 1, "10.1.1.1/32", "10.1.1.9/32", epoch=2)
        await say(world.endpoints("n1", 2, more, cluster="east"))
        await learnt({"10.1.1.1/32": "east", "10.1.1.9/32": "east"})
