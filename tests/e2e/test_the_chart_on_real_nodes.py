"""The chart on real nodes, as docs/install.md says: installed, upgraded, rolled back and uninstalled under traffic; and
a node that is powered off and on.

Galactic's programs are pods from the image that `make image` builds. The stories are told in the order in which they
stand here, with the pods of examples/.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from story import ANSWER_SECONDS, POD_SECONDS, eventually

from galactic.lab import helm_release
from galactic.lab.cluster import Lab
from galactic.lab.runtime import proxy
from galactic.lab.state import NAMESPACE, checkout

GALACTIC = Path(sys.executable).with_name("galactic")
EXAMPLES = str(checkout() / "examples")
HELM_SECONDS = 600
COMPONENTS = {"broker": 1, "node": 3, "operator": 2, "router": 2, "webhook": 2}
"""How many pods each has with the chart's defaults, on three nodes."""
COMPONENT = "app.kubernetes.io/component"


@pytest.fixture(scope="module")
def blue(charted: Lab) -> Iterator[Lab]:
    """The examples are applied."""
    charted.kubectl("apply", "-f", EXAMPLES)
    try:
        for namespace in ("blue", "green"):
            timeout = f"--timeout={POD_SECONDS}s"
            charted.kubectl("wait", "-n", namespace, "--for=condition=Ready", "pod", "--all", timeout)
        yield charted
    finally:
        charted.kubectl("delete", "-f", EXAMPLES, f"--timeout={POD_SECONDS}s", "--ignore-not-found")


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart of the version before (tests/chart/previous/README.md); its image is that of this checkout."""
    folder = tmp_path_factory.mktemp("previous")
    (archive,) = (Path(__file__).parents[1] / "chart/previous").glob("*.tgz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / "galactic"


def helm(lab: Lab, *arguments: str) -> str:
    command = [str(lab.assets.helm), *arguments, f"--namespace={NAMESPACE}"]
    variables = os.environ | {"KUBECONFIG": str(lab.kubeconfig)}
    done = subprocess.run(
        command, env=variables, capture_output=True, text=True, timeout=HELM_SECONDS, check=False
    )
    assert done.returncode == 0, "\n".join([done.stderr, *helm_release.complaints(lab)])
    return done.stdout


def pods(lab: Lab) -> dict[str, dict[str, Any]]:
    """Galactic's pods that are not on their way out, by UID."""
    found = lab.get("pods", "-n", NAMESPACE, "-l", f"app.kubernetes.io/name=galactic,{COMPONENT}!=test")[
        "items"
    ]
    return {pod["metadata"]["uid"]: pod for pod in found if "deletionTimestamp" not in pod["metadata"]}


def ready(lab: Lab) -> dict[str, int]:
    """How many pods of each component are Ready."""
    labels = [
        pod["metadata"]["labels"][COMPONENT] for pod in pods(lab).values() if helm_release.is_ready(pod)
    ]
    return {component: labels.count(component) for component in sorted(set(labels))}


def status(lab: Lab) -> str:
    variables = os.environ | {"KUBECONFIG": str(lab.kubeconfig)}
    done = subprocess.run(
        [GALACTIC, "status"],
        env=variables,
        capture_output=True,
        text=True,
        timeout=ANSWER_SECONDS,
        check=False,
    )
    return done.stdout


def pings(lab: Lab, namespace: str, pod: str, address: str) -> bool:
    """Whether a container reaches an address, by a command in it."""
    command = [str(lab.assets.kubectl), f"--kubeconfig={lab.kubeconfig}", "exec", "-n", namespace, pod, "--"]
    command += ["ping", "-c", "1", "-W", "2", address]
    return subprocess.run(command, capture_output=True, timeout=ANSWER_SECONDS, check=False).returncode == 0


@contextmanager
def traffic(lab: Lab) -> Iterator[None]:
    """Five echoes a second from one node to another and on one node, none of which is lost."""
    ways = [("web", "10.1.1.2"), ("web", "2001:10:1:1::2"), ("web", "10.1.1.3")]
    running = [
        lab.popen(f"pod/blue/{pod}", ["ping", "-n", "-i0.2", address], stdout=subprocess.PIPE)
        for pod, address in ways
    ]
    began = time.monotonic()
    try:
        yield
    finally:
        seconds = time.monotonic() - began
        for process in running:
            process.send_signal(signal.SIGINT)
        outputs = [process.communicate(timeout=ANSWER_SECONDS)[0] for process in running]
    for way, output in zip(ways, outputs, strict=True):
        found = re.search(r"(\d+) packets transmitted", output)
        assert found, f"{way}: {output[-500:]}"
        sent, heard = int(found[1]), {int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", output)}
        assert sent > seconds, f"{way}: {sent} echoes in {seconds:.0f} s"
        # The last one may have been under way when ping was ended.
        lost = sorted(set(range(1, sent)) - heard)
        assert not lost, f"{way}: of {sent} in {seconds:.0f} s these are lost: {lost}"


def settled(lab: Lab) -> bool:
    return ready(lab) == COMPONENTS and len(pods(lab)) == sum(COMPONENTS.values())


def replaced(lab: Lab, before: dict[str, dict[str, Any]]) -> bool:
    """No pod of before is left, and all are Ready."""
    return not before.keys() & pods(lab).keys() and settled(lab)


def test_everything_runs_as_pods(charted: Lab) -> None:
    assert ready(charted) == COMPONENTS
    images = {
        container["image"]
        for pod in pods(charted).values()
        for container in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"])
    }
    assert len(images) == 2, f"Galactic's and the broker's, not {images}"
    programs = {entry["name"] for entry in charted.supervisor.status()}
    assert not programs & {"operator", "router", "webhook", "mosquitto"}
    assert not any(charted.controller_pid(member.name) for member in charted.state.members)
    eventually("nothing is wrong", lambda: "Nothing is wrong." in status(charted))


def test_the_examples(blue: Lab) -> None:
    """Two tenants with equal addresses: whom they reach, by commands inside of their containers."""
    for pod, address in (
        ("web", "10.1.1.2"),
        ("web", "2001:10:1:1::2"),
        ("web", "10.1.1.3"),
        ("api", "192.168.3.1"),
    ):
        eventually(f"{pod} reaches {address}", lambda p=pod, a=address: pings(blue, "blue", p, a))
    assert not pings(blue, "green", "one", "10.1.1.3"), "db is blue's"
    assert not pings(blue, "blue", "web", "10.1.1.4"), "three is green's"
    eventually("nothing is wrong", lambda: "Nothing is wrong." in status(blue))


def test_a_node_pod_is_deleted_under_traffic(blue: Lab) -> None:
    before = pods(blue)
    nodes = [uid for uid, pod in before.items() if pod["metadata"]["labels"][COMPONENT] == "node"]
    with traffic(blue):
        names = [before[uid]["metadata"]["name"] for uid in nodes]
        blue.kubectl("delete", "pod", "-n", NAMESPACE, *names, f"--timeout={POD_SECONDS}s")
        eventually(
            "others are Ready", lambda: not set(nodes) & pods(blue).keys() and settled(blue), POD_SECONDS
        )
    eventually("nothing is wrong", lambda: "Nothing is wrong." in status(blue))


def test_an_upgrade_and_a_rollback_under_traffic(blue: Lab) -> None:
    """Both replace every pod but the broker's, and a pod that is made in between is attached."""
    values = f"--values={helm_release.values_file(blue.state)}"
    wait = ("--wait", f"--timeout={HELM_SECONDS}s")
    steps = (
        ("upgrade", "galactic", str(helm_release.chart()), values, "--set=log.level=debug", *wait),
        ("rollback", "galactic", *wait),
    )
    with traffic(blue):
        for step in steps:
            before = {
                uid: pod
                for uid, pod in pods(blue).items()
                if pod["metadata"]["labels"][COMPONENT] != "broker"
            }
            helm(blue, *step)
            eventually(f"after {step[0]} others are Ready", lambda b=before: replaced(blue, b), POD_SECONDS)
    levels = {
        variable["value"]
        for pod in pods(blue).values()
        for container in pod["spec"]["containers"]
        for variable in container.get("env", ())
        if variable["name"] == "GALACTIC_LOG_LEVEL"
    }
    assert levels == {"info"}
    history = json.loads(helm(blue, "history", "galactic", "--output=json"))
    assert [entry["status"] for entry in history][-3:] == ["superseded", "superseded", "deployed"]
    again(blue, "db")
    eventually("web reaches db", lambda: pings(blue, "blue", "web", "10.1.1.3"))


def again(lab: Lab, pod: str) -> None:
    """The pod of the examples is made again."""
    lab.kubectl("delete", "pod", "-n", "blue", pod, f"--timeout={POD_SECONDS}s")
    lab.kubectl("apply", "-f", EXAMPLES)
    lab.kubectl("wait", "-n", "blue", "--for=condition=Ready", f"pod/{pod}", f"--timeout={POD_SECONDS}s")


def test_a_node_is_powered_off_and_on(blue: Lab) -> None:
    """Its pods run again, the attached one with its interface; nobody else's traffic was interrupted."""
    ours = {uid for uid, pod in pods(blue).items() if pod["spec"]["nodeName"] == "node-3"}
    with traffic(blue):
        blue.reboot("node-3")
        eventually("its pods run again", lambda: ours <= restarted(blue) and settled(blue), POD_SECONDS)
    eventually("two reaches one", lambda: pings(blue, "green", "two", "10.1.1.1"), POD_SECONDS)
    eventually("nothing is wrong", lambda: "Nothing is wrong." in status(blue))


def restarted(lab: Lab) -> set[str]:
    """Galactic's pods of which a container was started again, by UID."""
    return {
        uid
        for uid, pod in pods(lab).items()
        if any(one["restartCount"] for one in pod["status"].get("containerStatuses") or ())
    }


def test_services_lead_to_pods_beside_a_vpc(blue: Lab) -> None:
    """kube-proxy in either mode has its rules where Galactic has its own, and pods of a VPC reach Services."""
    address = blue.get("service", "kubernetes", "-n", "default")["spec"]["clusterIP"]
    modes = set()
    for pod in blue.get("pods", "-n", "blue")["items"]:
        name, node = pod["metadata"]["name"], pod["spec"]["nodeName"]
        modes.add(blue.exec(node, ["curl", "-gsS", "http://[::1]:10249/proxyMode"]))
        asked = ["curl", "-gskS", "-m", "20", f"https://[{address}]/version"]
        said = blue.run(f"pod/blue/{name}", asked, check=False).stdout
        assert "gitVersion" in said, f"{name} on {node}: {said}"
    assert modes == set(proxy.MODES)


def test_the_connectivity_test_of_the_image(charted: Lab) -> None:
    """`helm test` runs `galactic connectivity test` in a pod, whose pods run the same image."""
    assert "Succeeded" in helm(charted, "test", "galactic", f"--timeout={HELM_SECONDS}s")
    shown = charted.kubectl("logs", "-n", NAMESPACE, "galactic-test")
    assert "All 20 are as they should be" in shown, shown
    charted.kubectl("delete", "pod", "-n", NAMESPACE, "galactic-test", f"--timeout={POD_SECONDS}s")


def test_uninstalling_leaves_running_pods_connected(blue: Lab, previous: Path) -> None:
    """What is attached goes on, can be deleted, and is the next installation's: one of the previous chart."""
    values = f"--values={helm_release.values_file(blue.state)}"
    wait = ("--wait", f"--timeout={HELM_SECONDS}s")
    with traffic(blue):
        helm(blue, "uninstall", "galactic", *wait)
        eventually("no pod of Galactic's is left", lambda: not pods(blue), POD_SECONDS)
        for kind in ("secrets", "leases"):
            assert "galactic" not in blue.kubectl("get", kind, "-n", NAMESPACE, "-o", "name")
        assert "galactic" not in blue.kubectl("get", "mutatingwebhookconfigurations", "-o", "name")
        blue.kubectl("delete", "pod", "-n", "green", "three", f"--timeout={POD_SECONDS}s")
        helm(blue, "install", "galactic", str(previous), values, *wait)
        assert ready(blue) == COMPONENTS
    blue.kubectl("apply", "-f", EXAMPLES)
    blue.kubectl("wait", "-n", "green", "--for=condition=Ready", "pod/three", f"--timeout={POD_SECONDS}s")
    eventually("one reaches three", lambda: pings(blue, "green", "one", "10.1.1.4"))


def test_an_upgrade_from_the_previous_chart_under_traffic(blue: Lab) -> None:
    before = pods(blue)
    with traffic(blue):
        blue.up()  # which installs nothing: there is a release
        assert pods(blue).keys() == before.keys()
        with helm_release.install(blue) as upgrade:
            upgrade.finish()
        nodes = {uid for uid, pod in before.items() if pod["metadata"]["labels"][COMPONENT] == "node"}
        eventually("others are Ready", lambda: not nodes & pods(blue).keys() and settled(blue), POD_SECONDS)
    again(blue, "db")
    eventually("web reaches db", lambda: pings(blue, "blue", "web", "10.1.1.3"))
    eventually("nothing is wrong", lambda: "Nothing is wrong." in status(blue))
