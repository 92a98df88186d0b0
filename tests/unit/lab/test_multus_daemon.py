"""Calls of the stand-in for Multus: the plugin asks the daemon, which calls the plugins of a pod's networks."""

import io
import json
import posix
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from galactic_lab.node import multus, multus_shim

ARGUMENTS = "K8S_POD_NAMESPACE=blue;K8S_POD_NAME=web"
PLUGIN = """#!/bin/sh
env | grep ^CNI_ | sort > {folder}/environment
cat > {folder}/input
{end}
"""


@pytest.fixture
def socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "multus.sock"
    monkeypatch.setattr(multus_shim, "SOCKET", str(path))
    monkeypatch.setattr(multus_shim, "TRIES", 1)
    return path


@pytest.fixture
def daemon(socket: Path) -> Iterator[None]:
    with multus.Daemon(str(socket), multus.Call) as daemon:
        thread = threading.Thread(target=daemon.serve_forever, args=[0.01])
        thread.start()
        yield
        daemon.shutdown()
        thread.join()


def plugin(folder: Path, end: str) -> None:
    """The default network's only plugin."""
    (folder / "bridge").write_text(PLUGIN.format(folder=folder, end=end))
    (folder / "bridge").chmod(0o755)


def call(folder: Path, monkeypatch: pytest.MonkeyPatch, command: str, container: str = "c1") -> int:
    """The exit status of one call of the plugin."""
    config = {
        "cniVersion": "1.0.0",
        "delegate": {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge", "mtu": 1400}]},
        "kubeconfig": str(folder / "absent"),
        "state": str(folder / "state"),
        "plugins": [str(folder)],
    }
    variables = {"COMMAND": command, "CONTAINERID": container, "IFNAME": "eth0", "ARGS": ARGUMENTS}
    for name, value in (variables | {"NETNS": ""}).items():
        monkeypatch.setitem(posix.environ, f"CNI_{name}".encode(), value.encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(config).encode())))
    return multus_shim.main()


@pytest.mark.usefixtures("daemon")
def test_a_call_reaches_the_networks_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(tmp_path, "exit 0")
    assert call(tmp_path, monkeypatch, "DEL") == 0
    environment = (tmp_path / "environment").read_text().splitlines()
    assert {"CNI_COMMAND=DEL", "CNI_CONTAINERID=c1", "CNI_NETNS=", f"CNI_ARGS={ARGUMENTS}"} <= set(
        environment
    )
    assert json.loads((tmp_path / "input").read_text()) == {
        "cniVersion": "1.0.0",
        "name": "pods",
        "type": "bridge",
        "mtu": 1400,
    }


@pytest.mark.usefixtures("daemon")
def test_a_failure_is_an_error_object_of_cni(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin(tmp_path, """echo '{"code": 7, "msg": "no such bridge"}'; exit 1""")
    assert call(tmp_path, monkeypatch, "DEL") == 1
    error = json.loads(capsys.readouterr().out)
    assert (error["cniVersion"], error["code"]) == ("1.0.0", 999)
    assert error["msg"] == "multus: plugin bridge failed (del): no such bridge (code 7)"


@pytest.mark.usefixtures("daemon")
def test_without_a_kubeconfig_nothing_is_attached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin(tmp_path, "exit 0")
    assert call(tmp_path, monkeypatch, "ADD") == 1
    assert "absent" in json.loads(capsys.readouterr().out)["msg"]
    assert not (tmp_path / "input").exists()


@pytest.mark.usefixtures("daemon")
def test_calls_do_not_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin that runs while the daemon answers another call ends it."""
    meet = f"touch {tmp_path}/met-$CNI_CONTAINERID; until test -e {tmp_path}/met-c2; do sleep 0.01; done"
    plugin(tmp_path, meet)
    first: list[int] = []
    thread = threading.Thread(target=lambda: first.append(call(tmp_path, monkeypatch, "DEL", "c1")))
    thread.start()
    while not (tmp_path / "met-c1").exists():
        assert thread.is_alive()
    assert call(tmp_path, monkeypatch, "DEL", "c2") == 0
    thread.join()
    assert first == [0]


@pytest.mark.usefixtures("daemon")
def test_a_daemon_that_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(multus.Daemon, "handle_error", lambda *_: None)
    monkeypatch.setattr(multus, "answer", lambda *_: 1 / 0)
    assert call(tmp_path, monkeypatch, "ADD") == 1
    assert json.loads(capsys.readouterr().out)["msg"] == "multus: its daemon: failed"


@pytest.mark.usefixtures("daemon")
def test_a_configuration_that_is_no_json_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(posix.environ, b"CNI_COMMAND", b"ADD")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"{")))
    assert multus_shim.main() == 1
    assert json.loads(capsys.readouterr().out)["msg"].startswith("multus: Expecting")


@pytest.mark.usefixtures("socket")
def test_without_the_daemon_it_is_to_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(tmp_path, monkeypatch, "ADD") == 1
    error = json.loads(capsys.readouterr().out)
    assert error["code"] == 11
    assert "its daemon" in error["msg"]
