"""The real kernel, in network namespaces without names that are gone when their last handle is closed.

What needs VRFs is marked ``vrf``: it runs on this machine if its kernel has them, and in the newest guest kernel.
``every_kernel`` marks what kernels decide, with VRFs or without: it runs in the oldest guest kernel too
(``test_in_guest.py``).
"""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from galactic.linux.namespace import Namespace

Sh = Callable[..., str]
Until = Callable[[Callable[[], object]], None]
PATIENCE_SECONDS: Final = 120
"""For events that take milliseconds on an idle machine."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "vrf: needs a kernel with VRF devices, dummy devices and End.DT46")
    config.addinivalue_line("markers", "every_kernel: runs in the oldest and the newest guest kernel as well")


def inside(namespace: Namespace, command: str, *, check: bool = True) -> str:
    """The output of a shell command inside."""
    done = namespace.run(
        lambda: subprocess.run(["sh", "-ec", command], text=True, capture_output=True, check=False)
    )
    assert done.returncode == 0 or not check, f"{command}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def has_vrf() -> bool:
    with Namespace.fresh() as namespace:
        command = "ip link add name vrf9 type vrf table 9 && ip link add name dummy9 type dummy && echo yes"
        return inside(namespace, command, check=False).strip() == "yes"


@pytest.fixture(scope="session")
def vrfs(has_vrf: bool) -> None:
    """Skips what needs VRF devices where there are none."""
    if not has_vrf:
        pytest.skip("this kernel has no VRF: test_in_guest.py runs this in those that have")


@pytest.fixture(autouse=True)
def _only_where_there_are_vrfs(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("vrf"):
        request.getfixturevalue("vrfs")


@pytest.fixture(scope="session")
def sh() -> Sh:
    return inside


@pytest.fixture(scope="module")
def net(sh, vrfs):
    """Two nodes with pods of two VPCs: ``two_nodes.Net``."""
    from two_nodes import two_nodes

    with two_nodes(sh) as net:
        yield net


@pytest.fixture
def until() -> Until:
    """Returns once something is true."""

    def wait(true: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not true():
            assert time.monotonic() < deadline, "it has not come true"
            time.sleep(0.01)

    return wait


@pytest.fixture(autouse=True)
def _no_lock_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All users of iptables on a machine share one lock file, in whatever namespace they are: a test beside this one,
    or kube-proxy, would be waited for.
    """
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))


@pytest.fixture(autouse=True)
def _distutils_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the product starts ``galactic.linux.iptables``: setuptools' distutils takes half of that process's time."""
    monkeypatch.setenv("SETUPTOOLS_USE_DISTUTILS", "stdlib")


@pytest.fixture
def host(until):
    """A namespace with lo, and d0 (up, with addresses) whose other end is d1."""
    with Namespace.fresh() as namespace:
        inside(
            namespace,
            "ip link set lo up; ip link add d0 type veth peer name d1; ip link set d1 up; ip link set d0 up;"
            "ip addr add fd00::1/64 dev d0 nodad; ip addr add 10.0.0.1/24 dev d0;"
            "sysctl -qw net.ipv6.conf.all.seg6_enabled=1",
        )
        # The kernel's event for the other end comes a little later: it must not look like a change of the test.
        until(lambda: inside(namespace, "ip -o link").count(" state UP ") == 2)
        yield namespace


@pytest.fixture
def pod():
    """A pod's namespace."""
    with Namespace.fresh() as namespace:
        yield namespace


@pytest.fixture
def pair(host, pod, until):
    """A host end with a pod behind it, as the plan has it but without a VRF; neighbours are given up soon."""
    device, path = "G000000001001H", f"/proc/{os.getpid()}/fd/{pod._fd}"
    inside(
        host,
        f"ip link add {device} type veth peer name galactic0; ip link set galactic0 netns {path};"
        f"ip link set {device} up; ip addr add 169.254.1.1/32 dev {device};"
        f"ip addr add fe80::1/64 dev {device} nodad;"
        f"ip route add 10.1.1.1/32 dev {device}; ip -6 route add 2001:10:1:1::1/128 dev {device}",
    )
    inside(
        pod,
        "ip link set lo up; ip link set galactic0 up;"
        "ip addr add 10.1.1.1/24 dev galactic0 noprefixroute; ip route add 10.1.1.0/24 dev galactic0;"
        "ip addr add 2001:10:1:1::1/64 dev galactic0 nodad noprefixroute;"
        "ip -6 route add 2001:10:1:1::/64 dev galactic0;"
        "ip route add 169.254.1.1/32 dev galactic0",
    )
    for namespace, name in ((host, device), (pod, "galactic0")):
        for family in ("ipv4", "ipv6"):  # three probes within a third of a second, instead of three seconds
            inside(namespace, f"sysctl -qw net.{family}.neigh.{name}.retrans_time_ms=100")
    until(lambda: " state UP " in inside(host, f"ip -o link show {device}"))
    return host
