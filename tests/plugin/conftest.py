"""The plugin as it goes onto nodes, in three versions, and a node for it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from chroot import PATIENCE_SECONDS, Chroot, Node

from cni_plugin import bundle


@pytest.fixture(scope="session")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Sources of another version; its hook waits long enough for a slow machine."""
    folder = tmp_path_factory.mktemp("sources")

    def changed(number: int) -> Path:
        home = folder / str(number)
        home.mkdir(exist_ok=True)
        for source in ("main.py", "install.py"):
            text = (Path(bundle.__file__).parent / source).read_text()
            text = text.replace("LIMIT_SECONDS = 20\n", f"LIMIT_SECONDS = {PATIENCE_SECONDS}\n")
            (home / source).write_text(f"{text}\nGENERATION = {number}\n")
        assert f"LIMIT_SECONDS = {PATIENCE_SECONDS}\n" in (home / "main.py").read_text()
        return home

    return changed


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory, patient: Callable[[int], Path]) -> list[Path]:
    """Three versions of the bundle; the first is that of the sources as they are."""
    assert os.geteuid() == 0, "chroot(2) needs root"
    folder = tmp_path_factory.mktemp("bundles")
    made = []
    with pytest.MonkeyPatch.context() as patch:
        for number in range(3):
            if number:
                patch.setattr(bundle, "HERE", patient(number))
            bundle.build(folder / str(number))
            made.append(folder / str(number))
    return made


@pytest.fixture
def node(tmp_path: Path, bundles: list[Path]):
    image = Chroot(tmp_path / "image")
    host = Chroot(tmp_path / "image" / "host")
    image.bin.parent.mkdir(parents=True)
    host.bin.mkdir(parents=True)
    made = Node(host, image)
    made.become(bundles[0])
    yield made
    for chroot in (host, image):
        for process in chroot.processes:
            process.kill()
            process.communicate()
