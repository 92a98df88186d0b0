"""What is marked ``vrf`` or ``every_kernel`` runs in the oldest and the newest guest kernel, whatever this machine's
kernel can do. What packet filter rules do to packets is tried in those between as well: kernels of one release differ.

A kernel is booted three times, for the rules' packets and for half of the other files each: the imports of Python take
seconds in a guest, and a guest has one processor.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from galactic_lab.builds import guest_kernels
from galactic_lab.builds.build_linux import build
from galactic_lab.state import LINUX

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent
MARKED = re.compile(r"pytest\.mark\.(vrf|every_kernel)\b")
INIT = """#!/bin/sh
mount -t proc proc /proc && mount -t sysfs sysfs /sys && mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/tmp
ip link set lo up
cd {checkout} && env PATH=/usr/sbin:/usr/bin:/sbin:/bin TMPDIR=/var/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={path} \\
  {python} -m pytest -q --color=no --tb=short --timeout=1800 {without} -m "vrf or every_kernel" {tests}
echo "guest: exit code $?"
halt -f
"""
WITHOUT = f"-p no:cacheprovider -p no:hypothesispytest -p no:xdist --confcutdir={HERE}"
"""What no test here needs and takes seconds to import in a guest."""
RULES = "test_packets.py"
FILES = sorted(path.name for path in HERE.glob("test_*.py") if MARKED.search(path.read_text()))
OTHERS = [name for name in FILES if name != RULES]
BOOTS = {"rules": (RULES,), "others-1": tuple(OTHERS[::2]), "others-2": tuple(OTHERS[1::2])}


def cases() -> list[object]:
    """(kernel, files). Two names of one kernel are one kernel."""
    sources = {name: guest_kernels.known(name) for name in guest_kernels.KERNELS}
    names = {source or name: name for name, source in sources.items()}
    return [
        pytest.param(name, files, id=f"{source.version if source else name}-{boot}")
        for name, source in sources.items()
        if name in names.values()
        for boot, files in BOOTS.items()
        if boot == "rules" or name in {guest_kernels.PINNED, LINUX}
    ]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("kernel", "files"), cases())
def test_in_a_guest(tmp_path: Path, kernel: str, files: tuple[str, ...]) -> None:
    source = guest_kernels.known(kernel)
    linux = build(source).find("linux") if source else None
    assert linux, f"the {kernel} guest kernel ({source or 'not chosen yet'}) is not built: galactic lab build"
    init = tmp_path / "init"
    path = f"{CHECKOUT / 'controllers'}:{CHECKOUT / 'src'}"
    tests = " ".join(str(HERE / name) for name in files)
    words = {"python": sys.executable, "without": WITHOUT, "tests": tests}
    init.write_text(INIT.format(checkout=CHECKOUT, path=path, **words))
    init.chmod(0o755)
    root = "root=/dev/root rootfstype=hostfs rootflags=/ ro"
    arguments = f"{root} mem=1G quiet seccomp=auto con=null con0=null,fd:1 ssl=null"
    command = [sys.executable, "-P", "-m", "galactic_lab.kernel.processor", str(linux), *arguments.split()]
    command += [f"uml_dir={tmp_path}", f"init={init}"]
    guest = subprocess.run(
        command, stdin=subprocess.DEVNULL, text=True, capture_output=True, timeout=3540, check=False
    )
    assert "guest: exit code 0" in guest.stdout, guest.stdout[-6000:]
    assert " passed" in guest.stdout
    assert "skipped" not in guest.stdout
