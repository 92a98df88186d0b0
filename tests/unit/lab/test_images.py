"""The image of the lab's pods: its program, from the package of any release of Debian."""

from pathlib import Path

import pytest

from galactic_lab.builds.build import BuildFailed
from galactic_lab.images import base


@pytest.mark.parametrize("place", ["bin", "usr/bin"])
def test_busybox_is_found_in_the_package_of_each_release(tmp_path: Path, place: str) -> None:
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "busybox").touch()
    assert base.extracted(tmp_path) == tmp_path / place / "busybox"


def test_a_package_without_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="busybox-static has no busybox"):
        base.extracted(tmp_path)
