"""Each command, started out of the image as a cluster would: as the user of the image, without a capability, with a
root file system that cannot be written to.
"""

import json
import os
import subprocess
import tomllib

import pytest
from container import NODE, SECONDS
from waiting import eventually, free_port, health

from galactic_lab.controlplane.mosquitto import Mosquitto
from release.distributions import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONTROLLERS = (
    "galactic-operator",
    "galactic-webhook",
    "galactic-router",
    "galactic-node",
    "galactic-node-prepare",
)
COMMANDS = sorted(PROJECT["scripts"].keys() - {"galactic-cni", "kubectl_complete-galactic"})
"""Commands for users; kubectl runs the latter itself."""
SPACE = "2001:db8:ff00::/40"


@pytest.mark.parametrize("command", COMMANDS)
def test_it_has_help(image, command):
    done = image.container().run(command, "--help")
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()


def test_kubectl_gets_completions(image):
    done = image.container().run("kubectl_complete-galactic", "sta")
    assert (done.returncode, [line.split()[0] for line in done.stdout.splitlines()]) == (0, ["status", ":0"])


@pytest.mark.parametrize("command", [*CONTROLLERS, "galactic"])
def test_it_knows_its_version(image, command):
    done = image.container().run(command, "--version")
    assert (done.returncode, done.stdout.split()[-1]) == (0, PROJECT["version"]), done.stderr


def test_without_a_command_it_prints_its_usage(image):
    assert image.config["Cmd"] == ["galactic", "--help"]


def test_the_root_file_system_is_read_only(image):
    """The test's own test."""
    done = image.container(user=0).run(
        "/bin/sh", "-c", "touch /x /opt/galactic/x /tmp/x; id -u; grep Cap /proc/self/status"
    )
    assert done.stderr.count("Read-only file system") == 3
    assert done.stdout.startswith("0\n")
    assert {line.split()[1] for line in done.stdout.splitlines()[1:]} == {"0" * 16}


def test_a_router_alone_serves_a_broker(image, tmp_path):
    """The router publishes its claim to lead, is healthy, and ends at SIGTERM."""
    tmp_path.chmod(0o755)
    broker, port = Mosquitto(tmp_path), free_port()
    broker.start()
    try:
        router = image.container().start(
            *(
                "galactic-router",
                "--kubernetes",
                "false",
                "--require-entitlements",
                "false",
                "--mqtt-url",
                broker.url,
            ),
            *("--srv6-block", SPACE, "--metrics-port", str(port), "--log-format", "console"),
        )
        try:
            eventually(lambda: health(port)[0] == 200, unless=router.alive)
            done = subprocess.run(
                [
                    "mosquitto_sub",
                    "-p",
                    str(broker.port),
                    "-t",
                    "galactic/v1/router/leader",
                    "-C",
                    "1",
                ],
                capture_output=True,
                text=True,
                check=True,
                timeout=SECONDS,
            )
            assert json.loads(done.stdout)["term"] >= 1
        finally:
            code, output = router.end()
        assert code == 0, output
        assert "Traceback" not in output
    finally:
        broker.kill()


@pytest.mark.parametrize(
    ("command", "logged"),
    [
        pytest.param("galactic-operator", "Connect call failed", id="operator"),
        pytest.param("galactic-webhook", "kube-apiserver: ", id="webhook"),
    ],
)
def test_a_command_that_needs_an_api_server_waits_and_logs_it(image, tmp_path, command, logged):
    """A kubeconfig that leads nowhere: everything is imported and started, and nothing was to be written."""
    (tmp_path / "kubeconfig").write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "x",
                "clusters": [{"name": "x", "cluster": {"server": f"http://127.0.0.1:{free_port()}"}}],
                "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
                "users": [{"name": "x", "user": {}}],
            }
        )
    )
    tmp_path.chmod(0o755)
    port = free_port()
    more = ("--port", str(free_port())) if command == "galactic-webhook" else ()
    container = image.container(mounts={"/etc/galactic": tmp_path}, memory=["/tmp"])
    process = container.start(
        command,
        "--metrics-port",
        str(port),
        *more,
        KUBECONFIG="/etc/galactic/kubeconfig",
        POD_NAMESPACE="galactic-system",
    )
    try:
        eventually(lambda: logged in f"{health(port)[1]}{process.output}", unless=process.alive)
        eventually(lambda: health(port)[0], unless=process.alive)
    finally:
        code, output = process.end()
    assert code == 0, output
    assert "Read-only" not in output


def test_a_node_starts_with_three_capabilities_and_reports_what_is_missing(image, tmp_path):
    """In a network namespace without anybody else: neither broker nor API server nor underlay are there."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    lock = tmp_path / "xtables.lock"
    lock.touch()
    (tmp_path / "netns").mkdir()
    mounts = {"/run/galactic": state, "/run/xtables.lock": lock, "/run/netns": tmp_path / "netns"}
    container = image.container(user=0, capabilities=NODE, mounts=mounts, net=False)
    process = container.start(
        *("galactic-node", "--node-name", "n1", "--srv6-block", SPACE, "--metrics-port", "9154"),
        KUBECONFIG="/nowhere",
    )
    try:
        eventually(lambda: process.first, unless=process.alive)
        ask = (
            "import urllib.request as r, urllib.error as e\n"
            "try: print(r.urlopen('http://127.0.0.1:9154/healthz', timeout=30).read().decode())\n"
            "except e.HTTPError as x: print(x.read().decode())\n"
        )

        def healthz() -> str:
            words = ["nsenter", "--target", str(process.first), "--net", "python3", "-c", ask]
            return subprocess.run(words, capture_output=True, text=True, check=False).stdout

        eventually(healthz, unless=process.alive)
        # what exactly depends on this kernel
        eventually(lambda: healthz().strip() not in ("", "ok"), unless=process.alive)
        for missing in ("broker unreachable", "no client of the API server"):
            eventually(lambda: missing in process.output, unless=process.alive)  # noqa: B023
    finally:
        code, output = process.end()
    assert code == 0, output
    assert "Read-only" not in output


def test_a_node_without_a_name_is_refused(image):
    done = image.container(user=0, capabilities=NODE).run("galactic-node", "--srv6-block", SPACE)
    assert done.returncode != 0
    assert "node_name" in done.stdout + done.stderr


def test_the_image_installs_the_packet_filter(image, tmp_path):
    """Libxtables and its extensions for python-iptables, iptables-nft, and the modules of Python that they want."""
    lock = tmp_path / "xtables.lock"
    lock.touch()
    rule = {"family": 6, "chain": "FORWARD", "target": "ACCEPT", "in_interface": "G+"}
    container = image.container(user=0, capabilities=NODE, mounts={"/run/xtables.lock": lock}, net=False)
    worked = []
    for backend in ("legacy", "nft"):
        order = json.dumps({"backend": backend, "rules": [rule]})
        done = container.run("/opt/galactic/bin/python3", "-m", "galactic.linux.iptables", given=order)
        if done.returncode == 0:
            assert json.loads(done.stdout)["changed"] == ["IPv6 FORWARD"]
            worked.append(backend)
        else:  # this kernel lacks that kind of tables; the program is whole all the same
            assert "No module named" not in done.stderr, done.stderr
            assert "No such file" not in done.stderr, done.stderr
    assert worked


NEWER_TABLE = "table ip kube-proxy { set s { type ipv4_addr; }\n map m { type ipv4_addr : verdict; }\n}"


def test_the_image_writes_its_tables_beside_those_of_a_newer_nft(image):
    """As the kube-proxy of a current Kubernetes writes them; Debian 12's nft crashes there."""
    program = (
        "import asyncio; from galactic.linux.nftables import Nftables, lacking\n"
        "async def main():\n"
        "    print('lacking:', await lacking())\n"
        "    await Nftables().apply('add table inet galactic-test\\nadd chain inet galactic-test first\\n')\n"
        "    print(await Nftables().present('inet galactic-test'))\n"
        "asyncio.run(main())\n"
    )
    words = (
        "printf '%s\n' \"$1\" | nft-newer -f - || exit 3",
        "nft list tables; echo nft: $?",
        'exec python3 -c "$2"',
    )
    container = image.container(user=0, capabilities=NODE, net=False)
    done = container.run("sh", "-c", "\n".join(words), "sh", NEWER_TABLE, program)
    if done.returncode == 3 and "not supported" in done.stderr.lower():
        pytest.skip("this kernel has no nf_tables")
    assert "nft: 139" in done.stdout, "the first one reads it now: is there need of a second?"
    assert "lacking: \n" in done.stdout, done.stdout + done.stderr
    assert "frozenset({'first'})" in done.stdout


def test_node_prepare_probes_the_kernel_and_prints_a_table(image):
    done = image.container(user=0, capabilities=NODE, net=False).run(
        "galactic-node-prepare", "--srv6-block", SPACE
    )
    rows = {line.split()[0] for line in done.stdout.splitlines()}
    assert {"Modules", "Underlay", "Settings", "VRF", "EndDT46"} <= rows, done.stdout + done.stderr
    assert "this host is" in done.stdout.splitlines()[-1]


def test_the_plugin_is_installed_on_an_empty_node(image, tmp_path):
    """By the image's installer, as the chart's init container calls it; it runs where there is no libc."""
    host = tmp_path / "host"
    (host / "opt/cni/bin").mkdir(parents=True)
    container = image.container(user=0, mounts={"/host/opt/cni/bin": host / "opt/cni/bin"})
    done = container.run("/opt/galactic/plugin/.galactic/install", "/host/opt/cni/bin")
    assert done.returncode == 0, done.stderr

    def enter() -> None:
        os.chroot(host)
        os.chdir("/")

    called = subprocess.run(
        ["/opt/cni/bin/galactic"],
        input='{"cniVersion":"1.0.0"}',
        env={"CNI_COMMAND": "VERSION"},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=enter,
    )
    assert called.returncode == 0, called.stderr
    assert "1.1.0" in json.loads(called.stdout)["supportedVersions"]
    removed = container.run("/opt/galactic/plugin/.galactic/install", "--remove", "/host/opt/cni/bin")
    assert removed.returncode == 0, removed.stderr
    assert list((host / "opt/cni/bin").iterdir()) == []


def test_signals_reach_process_1(image):
    """SIGTERM ends a controller at once, not after the runtime's patience."""
    port = free_port()
    process = image.container().start(
        *(
            "galactic-router",
            "--kubernetes",
            "false",
            "--require-entitlements",
            "false",
            "--mqtt-url",
            f"mqtt://127.0.0.1:{free_port()}",
        ),
        *("--metrics-port", str(port)),
    )
    eventually(lambda: health(port)[0] == 503, unless=process.alive)
    assert process.end()[0] == 0
