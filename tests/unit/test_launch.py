"""A controller's process: what it serves, and how it ends. Tried on a real process."""

import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

PROGRAM = """
import asyncio, sys, time
from galactic import launch as module, monitoring
from galactic.errors import Unreachable
from galactic.launch import launch
from galactic.metrics import registry
from galactic.settings import OperatorSettings, load

async def main(health):
    health.set("broker", "is away" if {"sick", "tolerable"} & {*sys.argv} else None, ready="tolerable" in sys.argv)
    if "fail" in sys.argv:
        raise Unreachable("kube-apiserver", "nobody home")
    if "crash" in sys.argv:
        raise RuntimeError("a bug")
    if {"held up", "never"} & {*sys.argv}:
        module.GRACE_SECONDS = 1.0
    print("up", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        if "held up" in sys.argv:
            time.sleep(2)
            for _ in range(30):
                await asyncio.sleep(0.01)
        if "never" in sys.argv:
            await asyncio.Event().wait()
        print("cleaned up", flush=True)

address = [word.partition("=")[2] for word in sys.argv if word.startswith("address=")]
words = ["--metrics-port", sys.argv[1], *(f"--metrics-address={word}" for word in address)]
monitoring.ADDRESS_SECONDS = 0.2
drain = 1.5 if "drain" in sys.argv else 0.0
launch(load(OperatorSettings, words), "test", main, registry("test"), drain=drain)
"""


PATIENCE_SECONDS = 120


@contextmanager
def program(*words: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The process, which serves already, and its port. One that is taken in the meantime is another's: then another."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        argv = [sys.executable, "-c", PROGRAM, str(port), *words]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout
            assert process.stderr
            try:
                if process.stdout.readline() == "up\n":
                    yield process, port
                    return
                errors = process.stderr.read()
            finally:
                process.kill()
        assert "address already in use" in errors, errors


def get(port: int, path: str) -> tuple[int, str]:
    straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with straight.open(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_SECONDS) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as reply:
        return reply.code, reply.read().decode()


def ended(word: str) -> subprocess.CompletedProcess[str]:
    """The process of one that does not stay; it serves nothing."""
    argv = [sys.executable, "-c", PROGRAM, "0", word]
    return subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)


def test_metrics_and_health() -> None:
    with program() as (_, port):
        assert get(port, "/healthz") == (200, "ok\n")
        status, text = get(port, "/metrics")
        assert status == 200
        assert 'galactic_build_info{component="test",version="' in text
        assert "process_resident_memory_bytes" in text


def refused(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=PATIENCE_SECONDS):
            return False
    except ConnectionRefusedError:
        return True


def test_other_addresses_of_the_host_serve_nothing() -> None:
    with program("address=127.0.0.1") as (_, port):
        assert get(port, "/healthz") == (200, "ok\n")
        assert refused("127.0.0.2", port)
        assert refused("::1", port)
    with program() as (_, port):
        assert not refused("127.0.0.2", port)


def test_an_address_that_the_host_does_not_have_stops_no_controller() -> None:
    with program("address=192.0.2.1") as (process, port):
        assert refused("127.0.0.1", port)
        process.send_signal(signal.SIGTERM)
        out, logged = process.communicate(timeout=PATIENCE_SECONDS)
        assert (process.returncode, out) == (0, "cleaned up\n")
        assert "metrics_address is not an address of this host" in logged


def test_a_problem_is_named() -> None:
    with program("sick") as (_, port):
        assert get(port, "/healthz") == (503, "broker: is away\n")


@pytest.mark.parametrize(
    ("words", "ready"),
    [
        pytest.param([], (200, "ok\n"), id="healthy"),
        pytest.param(["sick"], (503, "broker: is away\n"), id="it-cannot-work"),
        pytest.param(["tolerable"], (200, "ok\n"), id="it-can-work-in-spite-of-it"),
    ],
)
def test_readiness_and_liveness(words: list[str], ready: tuple[int, str]) -> None:
    with program(*words) as (_, port):
        assert get(port, "/readyz") == ready
        assert get(port, "/livez") == (200, "ok\n")


def test_while_it_drains_it_works_and_is_not_ready() -> None:
    with program("drain") as (process, port):
        assert get(port, "/readyz") == (200, "ok\n")
        process.send_signal(signal.SIGTERM)
        while get(port, "/readyz")[0] == 200:
            pass
        assert process.poll() is None
        assert get(port, "/readyz") == (503, "stopping: it ends\n")
        out, _ = process.communicate(timeout=PATIENCE_SECONDS)
        assert (process.returncode, out) == (0, "cleaned up\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_on_a_signal_it_cleans_up_and_exits_0(number: signal.Signals) -> None:
    with program() as (process, port):
        get(port, "/healthz")
        process.send_signal(number)
        out, _ = process.communicate(timeout=PATIENCE_SECONDS)
        assert (process.returncode, out) == (0, "cleaned up\n")


@pytest.mark.parametrize(
    ("word", "ended"),
    [
        pytest.param("held up", (0, "cleaned up\n"), id="it-was-held-up-for-longer-than-it-has"),
        pytest.param("never", (1, ""), id="it-does-not-stop"),
    ],
)
def test_it_has_so_long_to_stop(word: str, ended: tuple[int, str]) -> None:
    with program(word) as (process, port):
        get(port, "/healthz")
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=PATIENCE_SECONDS)
        assert (process.returncode, out) == ended
        assert ("did not stop within the grace period" in errors) is (ended[0] == 1)


@pytest.mark.parametrize(
    ("word", "shown", "trace"),
    [
        pytest.param("fail", "kube-apiserver: nobody home", False, id="our-error-is-one-sentence"),
        pytest.param("crash", "RuntimeError: a bug", True, id="a-bug-shows-its-trace"),
    ],
)
def test_a_failure_is_logged_as_json_and_exits_1(word: str, shown: str, trace: bool) -> None:
    done = ended(word)
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    failed = next(line for line in lines if line["event"] == "failed")
    assert shown in json.dumps(failed)
    assert ("Traceback" in json.dumps(failed)) is trace
    assert failed["level"] == "error"
