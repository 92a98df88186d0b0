"""The Tiltfile as Tilt itself loads it: everything that it names exists, and everything that it fetches is pinned."""

import hashlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from galactic.cli.main import app
from tilt import CONTEXT, MANUAL, MULTUS, ROOT, Loaded, Refused, load

DOCKERFILE = (ROOT / "controllers/Dockerfile").read_text()
CONTROLLERS = ("operator", "webhook", "router", "node")
WORKLOADS = ("Deployment", "DaemonSet", "StatefulSet")


@pytest.fixture(scope="module")
def tiltfile(tmp_path_factory) -> Loaded:
    return load(tmp_path_factory.mktemp("tilt"))


@pytest.fixture(scope="module")
def image(tiltfile):
    """The one image that is built."""
    (target,) = tiltfile.resources["galactic-node"]["ImageTargets"]
    return target


def test_an_unknown_argument_is_refused(tmp_path):
    wrong = tmp_path / "Tiltfile"
    wrong.write_text("docker_build('galactic', '.', targets='dev')")
    with pytest.raises(Refused, match='unexpected keyword argument "targets"'):
        load(tmp_path, wrong)


def test_it_allows_only_the_cluster_of_kind_config(tiltfile, tmp_path):
    cluster = yaml.safe_load((ROOT / "kind-config.yaml").read_text())["name"]
    assert f"kind-{cluster}" == CONTEXT
    with pytest.raises(Refused, match="might be a production kube context"):
        load(tmp_path, context="production")
    for words in tiltfile.commands.values():
        command = " ".join(words)
        if re.search(r"kubectl|kind_underlay", command):
            assert CONTEXT in command
        if "kind get nodes" in command:
            assert f"--name {cluster}" in command


def test_it_is_loaded_without_a_warning(tiltfile):
    """Tilt leaves out dependencies on resources that do not exist, and warns."""
    assert "Loading Tiltfile" in tiltfile.log
    assert "warning" not in tiltfile.log.lower(), tiltfile.log
    assert "unknown" not in tiltfile.log.lower(), tiltfile.log


def test_image_sources_exist_and_are_watched(image):
    details = image["BuildDetails"]
    assert Path(details["context"]).samefile(ROOT)
    assert details["dockerfileContents"] == DOCKERFILE
    assert f" AS {details['target']}\n" in DOCKERFILE
    (only,) = [one["patterns"] for one in details["contextIgnores"] if "**" in one.get("patterns", ())]
    paths = [pattern.removeprefix("!") for pattern in only if pattern != "**"]
    for path in paths:
        assert (ROOT / path).exists(), path
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(Path(source).is_relative_to(path) for path in paths), source


def test_synced_sources_are_on_the_import_path(image):
    """That this is the folder in the image: tests/image."""
    update = image["LiveUpdateSpec"]
    (sync,) = update["syncs"]
    assert sync["localPath"] == "controllers/galactic"
    assert re.fullmatch(r"/opt/galactic/lib/python3\.\d+/site-packages/galactic", sync["containerPath"])
    assert [one["args"] for one in update["execs"]] == [["sh", "-c", "kill -HUP 1"]]
    for path in update["stopPaths"]:
        assert (ROOT / path).exists(), path
        assert not Path(path).is_relative_to("controllers/galactic")


def test_the_chart_takes_the_values_and_uses_the_image(tiltfile, image):
    """And its containers may be written to, and no hook of Helm's is applied at once."""
    for name in CONTROLLERS:
        assert [one["selector"] for one in tiltfile.resources[f"galactic-{name}"]["ImageTargets"]] == [
            image["selector"]
        ]
        (workload,) = [one for one in tiltfile.objects(f"galactic-{name}") if one["kind"] in WORKLOADS]
        (container,) = workload["spec"]["template"]["spec"]["containers"]
        assert container["image"].partition(":")[0] == image["selector"]
        assert container["command"] == [f"galactic-{name}"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is False
    assert not [one for one in tiltfile.applied if "helm.sh/hook" in one["metadata"].get("annotations", {})]


def test_every_workload_is_a_resource_with_a_label(tiltfile):
    """Those that the Tiltfile does not name would have none."""
    found = {one["metadata"]["name"] for one in tiltfile.applied if one["kind"] in WORKLOADS}
    assert {f"galactic-{name}" for name in (*CONTROLLERS, "broker")} <= found
    assert found <= tiltfile.resources.keys()
    for name, resource in tiltfile.resources.items():
        assert resource["Labels"] or name == "uncategorized", name
        for path in resource["DeployTarget"].get("Deps") or ():
            assert Path(path).exists(), path


def test_everything_fetched_is_pinned(tiltfile):
    """Addresses have a version in them, and so has Multus' image."""
    fetched = [" ".join(words) for words in (*tiltfile.fetched, *tiltfile.commands.values())]
    addresses = re.findall(r"https://\S+", "\n".join(fetched))
    assert len(addresses) == 2
    for address in addresses:
        assert re.search(r"/v\d+\.\d+\.\d+/", address), address
    assert re.search(r"multus-cni:v\d+\.\d+\.\d+-thick$", multus(tiltfile)["image"])
    assert multus(tiltfile)["resources"]["limits"]["memory"] != "50Mi"


def multus(tiltfile):
    """Its container."""
    (daemons,) = tiltfile.objects("kube-multus-ds")
    (container,) = daemons["spec"]["template"]["spec"]["containers"]
    return container


def test_the_page_without_tilt_installs_the_same_multus(tiltfile):
    """And not the image that moves, which the manifest names: what the page has for that is run."""
    page = (ROOT / "docs/kind.md").read_text()
    fetched = [word for words in tiltfile.fetched for word in words if "://" in word]
    assert fetched == re.findall(r"https://\S+multus\S+\.yml", page)
    (replaced,) = re.findall(r"sed ('s/multus-cni[^']+')", page)
    done = subprocess.run(
        ["sed", shlex.split(replaced)[0]], input=MULTUS, capture_output=True, text=True, check=True
    )
    assert re.findall(r"image: (\S+)", done.stdout) == [multus(tiltfile)["image"]]


@pytest.mark.parametrize("right", [True, False])
def test_plugins_with_a_wrong_checksum_are_not_unpacked(tiltfile, tmp_path, right):
    """The script for a node, with something else in the place of what it fetches."""
    (script,) = re.findall(r"sh -c '(.+?)'\n", tiltfile.commands["cni-plugins"][2], re.DOTALL)
    bin_, packed = tmp_path / "bin", tmp_path / "packed.tgz"
    bin_.mkdir()
    (tmp_path / "bridge").write_text("a plugin")
    subprocess.run(["tar", "-C", tmp_path, "-czf", packed, "bridge"], check=True)
    curl = tmp_path / "curl"
    curl.write_text(f'#!/bin/sh\nwhile [ "$1" != --output ]; do shift; done\ncp {packed} "$2"\n')
    curl.chmod(0o755)
    script = script.replace("/opt/cni/bin", str(bin_))
    if right:
        known = hashlib.sha256(packed.read_bytes()).hexdigest()
        script = re.sub(r"sum=[0-9a-f]{64}", f"sum={known}", script)
    path = f"{tmp_path}:/usr/bin:/bin"
    done = subprocess.run(["sh", "-c", script], env={"PATH": path, "TMPDIR": str(tmp_path)}, check=False)
    assert (done.returncode == 0) == right
    assert {path.name for path in bin_.iterdir()} == ({"bridge", ".version"} if right else set())


def test_commands_are_valid_shell_and_name_existing_files(tiltfile):
    assert tiltfile.commands
    for program, *rest in tiltfile.commands.values():
        if program == "sh":
            done = subprocess.run(["sh", "-n", "-c", rest[1]], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            for inner in re.findall(r"sh -c '(.+?)'\n", rest[1], re.DOTALL):
                assert subprocess.run(["sh", "-n", "-c", inner], check=False).returncode == 0
        else:
            assert (ROOT / rest[0]).exists()


def test_the_button_is_manual_and_runs_a_galactic_command(tiltfile):
    assert tiltfile.resources["connectivity"]["TriggerMode"] == MANUAL
    words = re.search(r"\.venv/bin/galactic (.+)", tiltfile.commands["connectivity"][2])
    assert words
    path = [word for word in words[1].split() if word.isalpha()]
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert shown.exit_code == 0, shown.output
    for flag in re.findall(r"--[a-z-]+", words[1]):
        assert flag in shown.output
