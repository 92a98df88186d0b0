"""Whether the container runtime starts pods with Multus follows from the files of a folder."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from galactic.node.kubernetes import multus
from galactic.node.kubernetes.multus import MultusConfiguration, condition

SHIM = json.dumps({"cniVersion": "1.0.0", "name": "multus-cni-network", "type": "multus-shim"}).encode()
THIN = json.dumps(
    {"name": "multus-cni-network", "type": "multus", "delegates": [{"type": "flannel"}]}
).encode()
LIST = json.dumps({"name": "multus", "plugins": [{"type": "galactic-lab-multus"}]}).encode()
FLANNEL = json.dumps({"name": "cbr0", "plugins": [{"type": "flannel"}, {"type": "portmap"}]}).encode()


@pytest.mark.parametrize(
    ("files", "status", "reason"),
    [
        pytest.param(
            {"10-flannel.conflist": FLANNEL, "00-multus.conf": SHIM}, True, "Configured", id="thick"
        ),
        pytest.param({"00-multus.conf": THIN}, True, "Configured", id="thin"),
        pytest.param({"00-multus.conflist": LIST}, True, "Configured", id="a-list"),
        pytest.param({"10-flannel.conflist": FLANNEL}, False, "MultusNotFirst", id="away"),
        pytest.param(
            {"05-flannel.conflist": FLANNEL, "10-multus.conf": SHIM},
            False,
            "MultusNotFirst",
            id="sorts-behind",
        ),
        pytest.param(
            {"00-a.conf": b"{", "10-multus.conf": SHIM}, True, "Configured", id="behind-an-invalid-one"
        ),
        pytest.param({"00-a.conf": b"[]", "10-multus.conf": SHIM}, True, "Configured", id="behind-no-object"),
        pytest.param(
            {"00-a.conflist": b'{"plugins": []}', "10-f.conflist": FLANNEL},
            False,
            "MultusNotFirst",
            id="an-empty-list",
        ),
        pytest.param({}, False, "NoConfiguration", id="none"),
    ],
)
def test_what_the_condition_says(files: dict[str, bytes], status: bool, reason: str) -> None:
    finding = condition(files, "/etc/cni/net.d")
    assert (finding.type, finding.status, finding.reason) == ("MultusConfigured", status, reason)
    assert "/etc/cni/net.d" in finding.message


def states(folder: Path, configuration: MultusConfiguration) -> tuple[bool, bool, str]:
    turned = configuration.check(folder)
    (finding,) = configuration.conditions()
    return turned, finding.status, finding.reason


def test_what_comes_and_goes_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "net.d"
    configuration = MultusConfiguration(folder)
    assert configuration.conditions() == ()
    assert states(folder, configuration) == (True, False, "Unreadable")
    folder.mkdir()
    assert states(folder, configuration) == (True, False, "NoConfiguration")
    (folder / "multus.d").mkdir()  # where Multus keeps its kubeconfig
    (folder / "00-multus.conf.tmp").write_bytes(SHIM)
    assert states(folder, configuration) == (False, False, "NoConfiguration")
    (folder / "10-flannel.conflist").write_bytes(FLANNEL)
    assert states(folder, configuration) == (True, False, "MultusNotFirst")
    (folder / "00-multus.conf.tmp").rename(folder / "00-multus.conf")
    assert states(folder, configuration) == (True, True, "Configured")
    assert states(folder, configuration) == (False, True, "Configured")
    (folder / "00-multus.conf").unlink()
    assert states(folder, configuration) == (True, False, "MultusNotFirst")


def test_files_are_read_when_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "00-multus.conf").write_bytes(SHIM)
    reads: list[Path] = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (reads.append(path), read(path))[1])
    configuration = MultusConfiguration(tmp_path)
    for _ in range(3):
        configuration.check(tmp_path)
    assert len(reads) == 1
    (tmp_path / "00-multus.conf").write_bytes(FLANNEL)
    assert states(tmp_path, configuration) == (True, False, "MultusNotFirst")


async def test_the_callback_gets_each_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multus, "CHECK_SECONDS", 0.001)
    turns: list[Any] = []
    configuration = MultusConfiguration(tmp_path)
    work = asyncio.create_task(configuration.run(lambda: turns.append(configuration.conditions()[0].status)))
    async with asyncio.timeout(10):
        while not turns:
            await asyncio.sleep(0.001)
        (tmp_path / "00-multus.conf").write_bytes(SHIM)
        while len(turns) < 2:
            await asyncio.sleep(0.001)
    work.cancel()
    assert turns == [False, True]


async def test_without_a_folder_nothing_is_checked() -> None:
    configuration = MultusConfiguration(None)
    await configuration.run(lambda: pytest.fail("called"))
    assert configuration.conditions() == ()
