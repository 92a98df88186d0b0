"""Every component is rolled back to the version before, one after the other, and then upgraded in the same order: any
two of them run side by side in both ways. Meanwhile no echo of a ping is lost, and at each step a new pod is made that
reaches the others and is reached.
"""

import compileall
import os
import random
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from routers import leading
from story import ANSWER_SECONDS, Tenant, eventually, healthy

from galactic import __version__
from galactic_lab.cluster import Lab
from galactic_lab.controlplane.controllers import PORTS, router_name, router_port

COMPONENTS = ("operator", "webhook", "router", "nodes")
VERSION = "0.0.1"
"""Of the version before, in its metadata here: every program publishes it."""
BUILD = re.compile(r'^galactic_build_info\{.*version="(.+)"\} 1', re.MULTILINE)
NODES = ("node-1", "node-2", "node-3")


@pytest.fixture
def previous(replicas: Lab) -> Iterator[Path]:
    """The version before (previous/README.md), where nodes see it. Afterwards the present one runs everywhere."""
    folder = replicas.state.root / "previous"
    with tarfile.open(Path(__file__).parent / "previous/galactic.tar.xz") as packed:
        packed.extractall(folder, filter="data")
    metadata = folder / f"galactic-{VERSION}.dist-info" / "METADATA"
    metadata.parent.mkdir(exist_ok=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: galactic\nVersion: {VERSION}\n")
    compileall.compile_dir(folder, quiet=2)
    try:
        yield folder
    finally:
        for component in COMPONENTS:
            if versions(replicas, component) & {VERSION, None}:
                change(replicas, component, None)


def chosen(order: list[str]) -> list[str]:
    """One of the orders: GALACTIC_SEED=N another, GALACTIC_SEED=new a random one."""
    given = os.environ.get("GALACTIC_SEED", "1")
    seed = random.randrange(1 << 32) if given == "new" else int(given)
    random.Random(seed).shuffle(order)
    sys.stdout.write(f"GALACTIC_SEED={seed}: {order}\n")
    return order


def change(lab: Lab, component: str, sources: Path | None) -> None:
    """The component ends in good order and starts from there, as in a rolling update: the router that leads last."""
    wanted = VERSION if sources else __version__
    if component == "nodes":
        for node in NODES:
            lab.choose_version(f"controller/{node}", sources)
            lab.restart(f"controller/{node}")
    else:
        lab.choose_version(component, sources)
        programs = names(lab, component)
        first = leading(lab) if component == "router" else ""
        for name in sorted(programs, key=lambda name: name == first):
            lab.restart(name)
            eventually(f"{name} is of {wanted}", lambda name=name: version(lab, name) == wanted)
    eventually(f"{component} is of {wanted}", lambda: versions(lab, component) == {wanted})
    for node in NODES:
        eventually(f"the controller of {node} is at work", lambda node=node: healthy(lab, node))


def names(lab: Lab, component: str) -> list[str]:
    """The programs of a component beside the control plane."""
    return (
        [router_name(number) for number in range(lab.state.routers)] if component == "router" else [component]
    )


def version(lab: Lab, name: str) -> str | None:
    """That a program beside the control plane publishes; None while it does not answer."""
    port = PORTS[name] if name in PORTS else router_port(int(name.rpartition("-")[2]) - 1)
    ask = f"import urllib.request as r; print(r.urlopen('http://[::1]:{port}/metrics', timeout=60).read().decode())"
    metrics = lab.run("control", [sys.executable, "-ISEc", ask], check=False).stdout
    published = BUILD.search(metrics)
    return published[1] if published else None


def versions(lab: Lab, component: str) -> set[str | None]:
    """Those of all of its processes."""
    if component == "nodes":
        return {lab.get("nseg", node).get("status", {}).get("node", {}).get("version") for node in NODES}
    return {version(lab, name) for name in names(lab, component)}


@contextmanager
def pinged(lab: Lab, tenant: Tenant, pod: str, address: str) -> Iterator[None]:
    """Fifty echoes a second, of which none is lost."""
    argv = ["ping", "-n", "-i0.02", address]
    ping = lab.popen(f"pod/{tenant.namespace}/{pod}", argv, stdout=subprocess.PIPE)
    try:
        yield
    finally:
        ping.send_signal(signal.SIGINT)
        echoes, _ = ping.communicate(timeout=ANSWER_SECONDS)
    seen = [int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", echoes)]
    assert len(seen) > 100
    assert seen == list(range(1, len(seen) + 1)), f"missing: {set(range(1, seen[-1] + 1)) - set(seen)}"


def test_no_order_of_upgrades_and_rollbacks_loses_anything(
    replicas: Lab, tenants: Callable[..., Tenant], previous: Path
) -> None:
    lab, blue = replicas, tenants("blue")
    blue.settle({"one": ("node-1", "10.1.1.1/24"), "two": ("node-2", "10.1.1.2/24")})
    blue.all_reach((("one", "10.1.1.2"),))
    order = chosen([*COMPONENTS])
    made: list[str] = []
    with pinged(lab, blue, "one", "10.1.1.2"):
        for sources in (previous, None):
            for component in order:
                name = f"{component}-{'old' if sources else 'new'}"
                # The lab has one webhook: while that one is away every pod would be refused.
                if component != "webhook":
                    begin(blue, name, len(made))
                change(lab, component, sources)
                if component == "webhook":
                    begin(blue, name, len(made))
                made.append(name)
                arrived(blue, name, [*made[-2:-1], "one", "two"])
                sys.stdout.write(f"{name}: reached\n")
    assert {one for component in COMPONENTS for one in versions(lab, component)} == {__version__}


def begin(tenant: Tenant, name: str, number: int) -> None:
    """A new pod with an attachment of its own, which no step waits for."""
    pod = tenant._pod(name, NODES[number % len(NODES)], name, "")
    pod["metadata"]["annotations"] = {"k8s.v1alpha.galactic.datumapis.com/vpc": "vpc"}
    tenant.apply(pod)


def arrived(tenant: Tenant, name: str, others: list[str]) -> None:
    """It is Ready, and reaches the others and is reached by them."""
    tenant.wait_for_pods(name)
    address = addresses(tenant)
    pairs = [(name, address[other]) for other in others] + [(other, address[name]) for other in others]
    tenant.all_reach(pairs)


def addresses(tenant: Tenant) -> dict[str, str]:
    """By pod its IPv4 address in the VPC."""
    pods = tenant.lab.get("pods", "-n", tenant.namespace)["items"]
    own = {
        pod["metadata"]["name"]: pod["metadata"]["annotations"][
            "k8s.v1alpha.galactic.datumapis.com/vpc-attachment"
        ]
        for pod in pods
    }
    listed = tenant.lab.get("vpca", "-n", tenant.namespace)["items"]
    given = {one["metadata"]["name"]: one["status"]["addresses"] for one in listed}
    return {
        pod: next(address.partition("/")[0] for address in given[name] if "." in address)
        for pod, name in own.items()
    }
