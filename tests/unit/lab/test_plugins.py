"""The scripts in a lab's folder of CNI plugins run: containerd calls them for each pod."""

import json
import subprocess
from pathlib import Path

import pytest

from galactic_lab.node import multus, plugins


@pytest.mark.parametrize("name", ["galactic", multus.NAME])
def test_each_answers_in_an_empty_environment(tmp_path: Path, name: str) -> None:
    plugins.write(tmp_path / "cni", galactic=True)
    done = subprocess.run(
        [tmp_path / "cni" / name],
        input=json.dumps({"cniVersion": "1.0.0"}),
        env={"CNI_COMMAND": "VERSION"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "1.0.0" in json.loads(done.stdout)["supportedVersions"]


def test_with_the_chart_galactics_own_is_installed_by_it(tmp_path: Path) -> None:
    plugins.write(tmp_path, galactic=False)
    assert [path.name for path in tmp_path.iterdir()] == [multus.NAME]
