"""Where this machine's kernel has no VRF, the tests that need one run in the lab's guest kernel, a file a boot: a guest
has one processor, the machine may have more.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from galactic.lab.build_linux import LINUX

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent
INIT = """#!/bin/sh
mount -t proc proc /proc && mount -t sysfs sysfs /sys && mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/tmp
ip link set lo up
cd {checkout} && env PATH=/usr/sbin:/usr/bin:/sbin:/bin TMPDIR=/var/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={path} \\
  {python} -m pytest -q --tb=short --timeout=1800 -p no:cacheprovider -m vrf {tests}
echo "guest: exit code $?"
halt -f
"""


FILES = sorted(path.name for path in HERE.glob("test_*.py") if "pytest.mark." + "vrf" in path.read_text())


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("file", FILES)
def test_what_needs_vrf(has_vrf: bool, tmp_path: Path, file: str) -> None:
    if has_vrf:
        pytest.skip("this kernel has VRF: those tests ran here")
    linux = LINUX.home / "linux"
    if not linux.exists():
        pytest.skip("no guest kernel yet: galactic lab build")
    init = tmp_path / "init"
    path = f"{CHECKOUT / 'controllers'}:{CHECKOUT / 'src'}"
    init.write_text(INIT.format(checkout=CHECKOUT, path=path, python=sys.executable, tests=HERE / file))
    init.chmod(0o755)
    arguments = (
        "root=/dev/root rootfstype=hostfs rootflags=/ ro mem=1G quiet con=null con0=null,fd:1 ssl=null"
    )
    command = [str(linux), *arguments.split(), f"uml_dir={tmp_path}", f"init={init}"]
    guest = subprocess.run(
        command, stdin=subprocess.DEVNULL, text=True, capture_output=True, timeout=3540, check=False
    )
    assert "guest: exit code 0" in guest.stdout, guest.stdout[-6000:]
    assert " passed" in guest.stdout
    assert "skipped" not in guest.stdout
