"""The Tiltfile, run by a Starlark interpreter whose builtins record their arguments: it parses, and everything that it
names exists.
"""

import hashlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import starlark
import yaml
from typer.testing import CliRunner

from galactic.cli.main import app
from galactic_lab.assets import helm
from tilt import MULTUS, ROOT, Tiltfile

DOCKERFILE = (ROOT / "controllers/Dockerfile").read_text()
CONTROLLERS = ("operator", "webhook", "router", "node")


@pytest.fixture(scope="module")
def tiltfile() -> Tiltfile:
    return Tiltfile((ROOT / "Tiltfile").read_text())


@pytest.fixture(scope="module")
def rendered(tiltfile):
    """Manifests that `helm template` renders with the Tiltfile's values; the chart's schema has accepted them."""
    call = tiltfile.only("helm")
    program = helm()
    assert program, "Helm is needed: `galactic lab build` brings it"
    words = [
        program,
        "template",
        call["name"],
        ROOT / call["path_to_chart"],
        "--namespace",
        call["namespace"],
    ]
    words += [word for path in call["values"] for word in ("--values", ROOT / path)]
    words += [word for value in call["set"] for word in ("--set", value)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def workloads(objects):
    return {
        manifest["metadata"]["name"]: manifest
        for manifest in objects
        if manifest["kind"] in ("Deployment", "DaemonSet", "StatefulSet")
    }


def test_an_unknown_argument_is_found():
    """The test's own test."""
    with pytest.raises(starlark.StarlarkError, match="unexpected keyword argument 'targets'"):
        Tiltfile("docker_build('galactic', '.', targets='dev')")


def test_it_allows_only_the_cluster_of_kind_config(tiltfile):
    cluster = yaml.safe_load((ROOT / "kind-config.yaml").read_text())
    assert tiltfile.only("allow_k8s_contexts")["contexts"] == f"kind-{cluster['name']}"
    for resource in tiltfile.calls["local_resource"]:
        command = " ".join(resource["cmd"])
        if re.search(r"kubectl|kind_underlay", command):
            assert f"kind-{cluster['name']}" in command
        if "kind get nodes" in command:
            assert f"--name {cluster['name']}" in command


def test_image_sources_exist_and_are_watched(tiltfile):
    call = tiltfile.only("docker_build")
    assert (ROOT / call["context"]).samefile(ROOT)
    assert (ROOT / call["dockerfile"]).read_text() == DOCKERFILE
    assert f" AS {call['target']}\n" in DOCKERFILE
    for path in call["only"]:
        assert (ROOT / path).exists(), path
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(Path(source).is_relative_to(path) for path in call["only"]), source


def test_synced_sources_are_on_the_import_path(tiltfile):
    """That this is the folder in the image: tests/image."""
    fallback, sync, run = tiltfile.only("docker_build")["live_update"]
    assert sync["sync"]["local_path"] == "controllers/galactic"
    assert re.fullmatch(r"/opt/galactic/lib/python3\.\d+/site-packages/galactic", sync["sync"]["remote_path"])
    assert run["run"]["cmd"] == "kill -HUP 1"
    for path in fallback["fall_back_on"]["files"]:
        assert (ROOT / path).exists(), path
        assert not Path(path).is_relative_to("controllers/galactic")


def test_the_chart_takes_the_values_and_uses_the_image(tiltfile, rendered):
    """And its containers may be written to, and none is a hook that Tilt would apply at once."""
    image = tiltfile.only("docker_build")["ref"]
    found = workloads(rendered)
    for name in CONTROLLERS:
        (container,) = found[f"galactic-{name}"]["spec"]["template"]["spec"]["containers"]
        assert container["image"].partition(":")[0] == image
        assert container["command"] == [f"galactic-{name}"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is False
    hooks = [manifest["metadata"].get("annotations", {}).get("helm.sh/hook", "test") for manifest in rendered]
    assert set(hooks) == {"test"}, "Tilt leaves out tests and nothing else"


def test_every_resource_exists(tiltfile, rendered):
    known = set(workloads(rendered))
    for text in (call["yaml"] for call in tiltfile.calls["k8s_yaml"] if isinstance(call["yaml"], str)):
        known |= {manifest["metadata"]["name"] for manifest in yaml.safe_load_all(text)}
    for call in tiltfile.calls["k8s_resource"]:
        assert call["workload"] in known
    assert set(workloads(rendered)) <= {call["workload"] for call in tiltfile.calls["k8s_resource"]}
    resources = tiltfile.resources()
    for name, call in resources.items():
        assert set(call.get("resource_deps", ())) <= resources.keys(), name
        for path in call.get("deps", ()):
            assert (ROOT / path).exists(), path


def test_everything_fetched_is_pinned(tiltfile):
    """Addresses have a version in them, and so has Multus' image."""
    fetched = [" ".join(call["command"]) for call in tiltfile.calls["local"]]
    fetched += [" ".join(call["cmd"]) for call in tiltfile.calls["local_resource"]]
    addresses = re.findall(r"https://\S+", "\n".join(fetched))
    assert len(addresses) == 2
    for address in addresses:
        assert re.search(r"/v\d+\.\d+\.\d+/", address), address
    (multus,) = [call["yaml"] for call in tiltfile.calls["k8s_yaml"] if "multus" in str(call["yaml"])]
    assert re.search(r"multus-cni:v\d+\.\d+\.\d+-thick", multus)
    assert "snapshot" not in multus
    assert "50Mi" not in multus


def test_the_page_without_tilt_installs_the_same_multus(tiltfile):
    """And not the image that moves, which the manifest names: what the page has for that is run."""
    page = (ROOT / "docs/kind.md").read_text()
    fetched = [word for call in tiltfile.calls["local"] for word in call["command"] if "://" in word]
    assert fetched == re.findall(r"https://\S+multus\S+\.yml", page)
    (replaced,) = re.findall(r"sed ('s/multus-cni[^']+')", page)
    done = subprocess.run(
        ["sed", shlex.split(replaced)[0]], input=MULTUS, capture_output=True, text=True, check=True
    )
    (pinned,) = [call["yaml"] for call in tiltfile.calls["k8s_yaml"] if "multus" in str(call["yaml"])]
    images = [re.findall(r"image: (\S+)", text) for text in (done.stdout, pinned)]
    assert images[0] == images[1] != []


@pytest.mark.parametrize("right", [True, False])
def test_plugins_with_a_wrong_checksum_are_not_unpacked(tiltfile, tmp_path, right):
    """The script for a node, with something else in the place of what it fetches."""
    call = tiltfile.resources()["cni-plugins"]
    (script,) = re.findall(r"sh -c '(.+?)'\n", call["cmd"][2], re.DOTALL)
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
    for call in tiltfile.calls["local_resource"]:
        program, *rest = call["cmd"]
        if program == "sh":
            done = subprocess.run(["sh", "-n", "-c", rest[1]], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            for inner in re.findall(r"sh -c '(.+?)'\n", rest[1], re.DOTALL):
                assert subprocess.run(["sh", "-n", "-c", inner], check=False).returncode == 0
        else:
            assert (ROOT / rest[0]).exists()


def test_the_button_is_manual_and_runs_a_galactic_command(tiltfile):
    call = tiltfile.resources()["connectivity"]
    assert call["trigger_mode"] == "manual"
    assert call["auto_init"] is False
    words = re.search(r"\.venv/bin/galactic (.+)", call["cmd"][2])
    assert words
    path = [word for word in words[1].split() if word.isalpha()]
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert shown.exit_code == 0, shown.output
    for flag in re.findall(r"--[a-z-]+", words[1]):
        assert flag in shown.output
