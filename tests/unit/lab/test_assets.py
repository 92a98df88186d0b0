"""Which programs a lab runs: the machine's where they fit, else builds of ours."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from galactic.errors import Rejected
from galactic_lab import assets
from galactic_lab.assets import fits, needed, release
from galactic_lab.builds import build_modules, packages
from galactic_lab.builds.build_modules import SERVERS, default_version

MINOR = int(default_version().split(".")[1])


@pytest.mark.parametrize(
    ("printed", "version"),
    [
        pytest.param("Client Version: v1.37.2\nKustomize Version: v5.8.1\n", (1, 37), id="kubectl"),
        pytest.param(
            'Client Version: version.Info{Major:"1", Minor:"20", GitVersion:"v1.20.2"}\n',
            (1, 20),
            id="old-kubectl",
        ),
        pytest.param("Kubernetes v1.34.4\n", (1, 34), id="server"),
        pytest.param('version.BuildInfo{Version:"v4.1.1", GoVersion:"go1.25.3"}\n', (4, 1), id="helm"),
        pytest.param("error: unknown flag: --client\n", None, id="something-else"),
        pytest.param("", None, id="silence"),
    ],
)
def test_release(printed: str, version: tuple[int, int] | None) -> None:
    assert release(printed) == version


@pytest.mark.parametrize(
    ("client", "server", "right"),
    [
        pytest.param((1, 37), (1, 37), True, id="equal"),
        pytest.param((1, 36), (1, 37), True, id="one-older"),
        pytest.param((1, 38), (1, 37), True, id="one-newer"),
        pytest.param((1, 35), (1, 37), False, id="two-older"),
        pytest.param((1, 39), (1, 37), False, id="two-newer"),
        pytest.param((2, 37), (1, 37), False, id="another-major"),
        pytest.param(None, (1, 37), False, id="no-version"),
    ],
)
def test_fits(client: tuple[int, int] | None, server: tuple[int, int], right: bool) -> None:
    assert fits(client, server) is right


class Machine:
    """A machine with these programs in PATH, and what ``KUBEBUILDER_ASSETS`` points to: name → what it prints."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.assets = folder / "bin", folder / "assets"
        monkeypatch.setattr(packages, "program", self._program)
        monkeypatch.setenv("KUBEBUILDER_ASSETS", str(self.assets))
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))

    def _program(self, name: str) -> str | None:
        path = self.folder / name
        return str(path) if path.exists() else None

    def has(self, in_path: Mapping[str, str], brought: Mapping[str, str]) -> None:
        for folder, programs in ((self.folder, in_path), (self.assets, brought)):
            folder.mkdir()
            for name, printed in programs.items():
                write(folder / name, printed)


def write(path: Path, printed: str) -> None:
    path.write_text(f"#!/bin/sh\necho '{printed}'\n")
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def servers(version: str) -> dict[str, str]:
    return dict.fromkeys(SERVERS, f"Kubernetes v{version}")


def kubectl(version: str) -> dict[str, str]:
    return {"kubectl": f"Client Version: v{version}"}


HELM = {"helm": 'version.BuildInfo{Version:"v3.17.0"}'}
OURS = f"kubernetes-{default_version()}"
NEAR, FAR = f"1.{MINOR - 1}.3", f"1.{MINOR - 9}.3"
ETCD = {"etcd": "etcd Version: 3.6.0"}


@pytest.mark.parametrize(
    ("in_path", "brought", "asked", "builds"),
    [
        pytest.param({}, {}, "", {OURS, "etcd", "helm"}, id="nothing"),
        pytest.param(kubectl(FAR) | HELM, {}, "", {OURS, "etcd"}, id="helm-and-an-old-kubectl"),
        pytest.param(
            servers(NEAR) | ETCD, {}, "", {OURS, "etcd", "helm"}, id="servers-in-path-are-no-matter"
        ),
        pytest.param(HELM, servers(NEAR) | ETCD, "", {OURS}, id="brought-without-kubectl"),
        pytest.param(HELM, servers(NEAR) | ETCD | kubectl(NEAR), "", set(), id="all-brought"),
        pytest.param(
            HELM | kubectl(NEAR), servers(NEAR) | ETCD | kubectl(FAR), "", set(), id="kubectl-in-path-fits"
        ),
        pytest.param(HELM, servers(FAR) | ETCD, "", {f"kubernetes-1.{MINOR - 9}"}, id="old-ones-brought"),
        pytest.param(HELM | kubectl(NEAR), servers(NEAR), "", {"etcd"}, id="brought-without-etcd"),
        pytest.param(HELM, ETCD | {"kube-apiserver": ""}, "", {OURS, "etcd"}, id="not-all-three-brought"),
        pytest.param(HELM, servers(NEAR) | ETCD, "1.34", {"kubernetes-1.34", "etcd"}, id="asked-for-another"),
        pytest.param(HELM, {}, f"1.{MINOR}", {OURS, "etcd"}, id="asked-for-the-newest"),
        pytest.param(HELM, {}, f"1.{MINOR}.0", {f"kubernetes-1.{MINOR}.0", "etcd"}, id="asked-for-a-patch"),
    ],
)
def test_needed(
    machine: Machine, in_path: Mapping[str, str], brought: Mapping[str, str], asked: str, builds: set[str]
) -> None:
    machine.has(in_path, brought)
    names = {one.name for one in needed(asked)}
    assert names == {build_modules.etcd().name if name == "etcd" else name for name in builds}


@pytest.mark.parametrize("version", ["1", "v1.34", "1.34.x", "latest", "2.0", "1.34.4.1"])
def test_what_is_no_version_is_refused(machine: Machine, version: str) -> None:
    with pytest.raises(Rejected, match="no version of Kubernetes such as"):
        needed(version)


def test_what_is_found(machine: Machine) -> None:
    """Kubectl and Helm of the machine where their versions fit, else cached builds; each with its origin."""
    machine.has(HELM | kubectl(FAR) | {"mosquitto": ""}, {})
    with pytest.raises(Rejected, match="kube-apiserver is missing; run `galactic lab build`"):
        assets.find()
    for one in needed():
        one.home.mkdir(parents=True)
        for file in one.files:
            write(one.home / file, "")
    assets_found = assets.find()
    assert assets_found.version == (1, MINOR)
    assert [assets_found.helm, assets_found.mosquitto] == [
        machine.folder / name for name in ("helm", "mosquitto")
    ]
    assert [
        path.name
        for path in (assets_found.apiserver, assets_found.etcd, assets_found.kubectl)
        if assets.ours(path)
    ] == [*("kube-apiserver", "etcd", "kubectl")]
    assert not assets.ours(assets_found.helm)


def test_what_was_brought_is_found(machine: Machine) -> None:
    machine.has(HELM | {"mosquitto": ""}, servers(NEAR) | ETCD | kubectl(NEAR))
    found = assets.find()
    assert found.version == (1, MINOR - 1)
    assert {path.parent for path in (found.apiserver, found.scheduler, found.etcd, found.kubectl)} == {
        machine.assets
    }
    (machine.assets / "kubectl").unlink()
    with pytest.raises(Rejected, match="kubectl is missing"):
        assets.find()
