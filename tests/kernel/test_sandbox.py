"""A pod's namespace by its path, on the real kernel."""

import os
import subprocess

import pytest

from galactic.node.dataplane.sandbox import absence, alive, device


@pytest.fixture
def mounted(tmp_path):
    """A namespace mounted on a file, as container runtimes do."""
    path = tmp_path / "ns"
    path.touch()
    subprocess.run(["unshare", f"--net={path}", "ip", "link", "set", "lo", "up"], check=True)
    yield path
    subprocess.run(["umount", path], check=False, capture_output=True)


def test_a_namespace_is_alive_while_it_is_mounted(mounted):
    assert alive(str(mounted))
    subprocess.run(["umount", mounted], check=True)
    assert mounted.exists()
    assert not alive(str(mounted)), "the file alone is no namespace"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("/proc/4194304/ns/net", "node.netnsDir", id="of-a-process-elsewhere"),
        pytest.param(
            "/run/elsewhere/netns/cni-1", "does not see /run/elsewhere/netns: set node.netnsDir", id="folder"
        ),
        pytest.param("/etc/passwd", "/etc/passwd is not a pod's network namespace", id="a-file"),
        pytest.param("/tmp/none", "/tmp/none is not a pod's network namespace", id="gone"),
    ],
)
def test_the_absence_of_a_namespace_has_its_remedy(path, expected):
    assert not alive(path)
    assert expected in absence(path)


@pytest.mark.parametrize(
    "path",
    [
        "/proc/self/ns/net",
        "/proc/self/ns/mnt",
        "/proc/self/ns/user",
        "/dev/null",
        "/etc/passwd",
        "/none",
        "/a\0b",
        "/",
    ],
)
def test_our_own_and_what_is_none_is_no_pods(path):
    assert not alive(path)


def test_a_namespace_by_a_process(mounted):
    held = os.open(mounted, os.O_RDONLY)
    try:
        assert alive(f"/proc/{os.getpid()}/fd/{held}")
    finally:
        os.close(held)


def test_what_a_device_is_like(mounted):
    inside = ["nsenter", f"--net={mounted}"]
    made = "ip link add a0 mtu 1380 address 02:00:00:00:00:07 type veth peer name a1"
    subprocess.run([*inside, *made.split()], check=True)
    assert device("a0", str(mounted)) == ("02:00:00:00:00:07", 1380)
    assert device("a2", str(mounted)) is None
    assert device("a0") is None
    assert device("a0", "/none") is None
    assert device("lo") == (
        "00:00:00:00:00:00",
        int(subprocess.check_output(["cat", "/sys/class/net/lo/mtu"])),
    )
