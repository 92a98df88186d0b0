"""Runs tests marked ``vrf`` or ``every_kernel`` in the newest guest kernel, whatever this machine's kernel can do, and
those marked ``every_kernel`` in the oldest as well. Rules in legacy tables are tried in the kernels between too: these
interpret some rules differently.

A kernel is booted for the rules' packets, and once or twice for the other files: the imports of Python take seconds in
a guest, and a guest has one processor. Some boots run side by side: what does not arrive is waited for most of the
time.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from galactic_lab.builds import guest_kernels
from galactic_lab.builds.build_linux import build
from galactic_lab.builds.guest_kernels import PINNED
from galactic_lab.state import LINUX

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent
INIT = """#!/bin/sh
mount -t proc proc /proc && mount -t sysfs sysfs /sys && mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/tmp
ip link set lo up
cd {checkout} && env PATH=/usr/sbin:/usr/bin:/sbin:/bin TMPDIR=/var/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={path} \\
  {python} -m pytest -q --color=no --tb=short --timeout=1800 {without} {choice} {tests}
echo "guest: exit code $?"
{python} -c 'import ctypes; ctypes.CDLL(None).reboot(0x4321FEDC)'
"""
"""reboot(2) with RB_POWER_OFF: the smallest Debian has no program for it."""
WITHOUT = f"-p no:cacheprovider -p no:hypothesispytest -p no:xdist --confcutdir={HERE}"
"""Plugins that no test here needs, and that take seconds to import in a guest."""
RULES = "test_packets.py"
SIDE_BY_SIDE = 3


def files(marked: str) -> list[str]:
    """The other files with such a marker."""
    pattern = re.compile(rf"pytest\.mark\.({marked})\b")
    return sorted(
        path.name
        for path in HERE.glob("test_*.py")
        if pattern.search(path.read_text()) and path.name != RULES
    )


@dataclass(frozen=True)
class Boot:
    """Of a kernel, with those tests of the files that pytest's options choose."""

    kernel: str
    name: str
    files: tuple[str, ...]
    choice: str = "-m 'vrf or every_kernel'"


def boots(kernel: str) -> list[Boot]:
    if kernel == LINUX:
        halves = [Boot(kernel, f"others-{n + 1}", tuple(ALL[n::2])) for n in range(2)]
        return [Boot(kernel, "rules", (RULES,)), *halves]
    if kernel == PINNED:
        return [Boot(kernel, "rules", (RULES,)), Boot(kernel, "others", tuple(EVERY), "-m every_kernel")]
    return [Boot(kernel, "rules", (RULES,), "-m every_kernel -k 'not nft'")]


ALL, EVERY = files("vrf|every_kernel"), files("every_kernel")


def cases() -> list[object]:
    """Boots. Two names of one kernel are one kernel."""
    sources = {name: guest_kernels.known(name) for name in guest_kernels.KERNELS}
    names = {sources[name] or name: name for name in sorted(sources, key=(PINNED, LINUX).__contains__)}
    return [
        pytest.param(boot, id=f"{boot.name}@{source.version if source else name}")
        for name, source in sources.items()
        if name in names.values()
        for boot in boots(name)
    ]


@pytest.fixture(scope="module")
def booted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Boot, Future[str]]]:
    """The output of each boot that was chosen; the longest begin first."""
    chosen: list[Boot] = [
        item.callspec.params["boot"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path
    ]
    guests: list[subprocess.Popen[str]] = []
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        try:
            yield {
                boot: pool.submit(run, tmp_path_factory.mktemp(boot.name), boot, guests)
                for boot in sorted(chosen, key=lambda boot: len(boot.files), reverse=True)
            }
        finally:  # of an interrupted run
            pool.shutdown(wait=False, cancel_futures=True)
            for guest in guests:
                if guest.poll() is None:
                    os.killpg(guest.pid, signal.SIGKILL)  # a traced guest has further processes


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("boot", cases())
def test_in_a_guest(
    booted: dict[Boot, Future[str]], boot: Boot, record_property: Callable[[str, object], None]
) -> None:
    record_property("files", " ".join(boot.files))
    output = booted[boot].result()
    assert "guest: exit code 0" in output, output[-6000:]
    assert " passed" in output
    assert "skipped" not in output


def run(folder: Path, boot: Boot, guests: list[subprocess.Popen[str]]) -> str:
    """The output of a guest that runs the tests of a boot. It is entered in ``guests``."""
    source = guest_kernels.known(boot.kernel)
    linux = build(source).find("linux") if source else None
    assert linux, (
        f"the {boot.kernel} guest kernel ({source or 'not chosen yet'}) is not built: galactic lab build"
    )
    init = folder / "init"
    path = f"{CHECKOUT / 'controllers'}:{CHECKOUT / 'src'}"
    tests = " ".join(str(HERE / name) for name in boot.files)
    words = {"python": sys.executable, "without": WITHOUT, "choice": boot.choice, "tests": tests}
    init.write_text(INIT.format(checkout=CHECKOUT, path=path, **words))
    init.chmod(0o755)
    root = "root=/dev/root rootfstype=hostfs rootflags=/ ro"
    arguments = f"{root} mem=1G quiet seccomp=auto con=null con0=null,fd:1 ssl=null"
    command = [sys.executable, "-P", "-m", "galactic_lab.kernel.processor", str(linux), *arguments.split()]
    command += [f"uml_dir={folder}", f"init={init}"]
    guest = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    guests.append(guest)
    output, _ = guest.communicate(timeout=3540)
    return output
