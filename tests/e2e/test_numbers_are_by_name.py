"""Packets of known size are in the metrics, in `galactic top`, `flows` and `usage`, by name, and counted once."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from routers import leading
from story import ANSWER_SECONDS, Tenant, eventually

from galactic.linux.link_counters import HEADER_BYTES
from galactic_lab.cluster import Lab
from galactic_lab.state import METRICS_PORT

GALACTIC = Path(sys.executable).with_name("galactic")
PINGS, DATA = 40, 1000
SIZE = HEADER_BYTES + 20 + 8 + DATA
"""Bytes of one echo request or reply, as the host end counts it."""
BESIDE = 60 * 100
"""Bytes that others may have sent meanwhile: ARP, neighbour discovery, pings of the settling."""
USAGE_SECONDS = 400
"""The lab's nodes publish every ten seconds. A message may come before the router has recorded the attachment."""
SAMPLE = re.compile(r"^(galactic_node_\w+)\{(.*)\} (\S+)$", re.MULTILINE)


SUMMED = ("hours", "sent_bytes", "received_packets")


def this_month() -> str:
    return f"{datetime.now(UTC):%Y-%m}"


BEGAN = this_month()


@pytest.fixture(scope="module")
def blue(replicas: Lab, lodgers: Callable[..., Tenant]) -> Tenant:
    tenant = lodgers("blue")
    tenant.settle({"one": ("node-1", "10.1.1.1/24"), "two": ("node-2", "10.1.1.2/24", "2001:10:1:1::2/64")})
    tenant.all_reach((("one", "10.1.1.2"),))
    return tenant


Series = tuple[str, frozenset[tuple[str, str]]]


def series(name: str, **labels: str) -> Series:
    return f"galactic_node_{name}", frozenset(labels.items())


def metrics(lab: Lab, node: str) -> dict[Series, float]:
    """The node's series by name and labels, as a scrape has them."""
    url = f"http://[::1]:{METRICS_PORT}/metrics"
    ask = f"import urllib.request as r; print(r.urlopen('{url}', timeout=60).read().decode())"
    argv = [sys.executable, "-ISEc", ask]
    read = lambda: lab.run(node, argv, check=False, timeout=ANSWER_SECONDS).stdout  # noqa: E731
    text = eventually(f"the controller of {node} answers", read)
    return {
        (name, frozenset(re.findall(r'(\w+)="([^"]*)"', labels))): float(value)
        for name, labels, value in SAMPLE.findall(text)
    }


def labels_of(tenant: Tenant, name: str) -> dict[str, str]:
    """Those of an attachment's series."""
    space = tenant.namespace
    return {"vpc_name": f"{space}/vpc", "attachment_namespace": space, "attachment": name}


def counted(tenant: Tenant, node: str, name: str) -> dict[tuple[str, str], float]:
    """(bytes or packets, direction) of an attachment."""
    found = metrics(tenant.lab, node)
    labels = labels_of(tenant, name)
    return {
        (what, way): found.get(series(f"attachment_{what}_total", **labels, direction=way), -1.0)
        for what in ("bytes", "packets")
        for way in ("sent", "received")
    }


def galactic(tenant: Tenant, *words: str, ok: tuple[int, ...] = (0,)) -> Any:
    argv = [str(GALACTIC), *words, "-o", "json"]
    variables = os.environ | {"GALACTIC_DATABASE_URL": tenant.lab.state.database_url()}
    if words[0] != "usage":
        argv += ["--kubeconfig", str(tenant.lab.kubeconfig), "--request-timeout", str(ANSWER_SECONDS - 60)]
    done = subprocess.run(
        argv, capture_output=True, text=True, env=variables, check=False, timeout=ANSWER_SECONDS
    )
    assert done.returncode in ok, done.stderr
    return json.loads(done.stdout or "[]")


def ping(tenant: Tenant) -> None:
    argv = ["ping", "-n", "-q", "-i0.05", f"-c{PINGS}", f"-s{DATA}", "-w300", "10.1.1.2"]
    printed = tenant.run("one", argv, timeout=ANSWER_SECONDS)
    assert f"{PINGS} received" in printed, printed


@contextmanager
def meanwhile(tenant: Tenant, pod: str, address: str) -> Iterator[None]:
    """A pod sends pings all the time."""
    ended = threading.Event()

    def pings() -> None:
        while not ended.is_set():
            tenant.run(
                pod,
                ["ping", "-n", "-q", "-i0.1", "-c50", "-W1", address],
                check=False,
                timeout=ANSWER_SECONDS,
            )

    sending = threading.Thread(target=pings)
    sending.start()
    try:
        yield
    finally:
        ended.set()
        sending.join()


def test_metrics_have_the_packets_by_name_and_over_a_restart(blue: Tenant) -> None:
    lab = blue.lab
    eventually("one is counted", lambda: counted(blue, "node-1", "one")["bytes", "sent"] > 0)
    before = counted(blue, "node-1", "one"), counted(blue, "node-2", "two")
    ping(blue)
    lab.restart("controller/node-1")

    def risen() -> bool:
        now = counted(blue, "node-1", "one"), counted(blue, "node-2", "two")
        for node, way in ((0, "sent"), (0, "received"), (1, "sent"), (1, "received")):
            size = now[node]["bytes", way] - before[node]["bytes", way]
            packets = now[node]["packets", way] - before[node]["packets", way]
            if not (PINGS * SIZE <= size <= PINGS * SIZE + BESIDE and PINGS <= packets <= PINGS + 60):
                return False
        return True

    eventually(lambda: f"{PINGS} packets of {SIZE} bytes: {before}, {counted(blue, 'node-1', 'one')}", risen)
    found = metrics(lab, "node-1")
    vpc = found[series("vpc_bytes_total", vpc_name=f"{blue.namespace}/vpc", direction="sent")]
    assert vpc >= PINGS * SIZE
    identifier = lab.get("vpc", "-n", blue.namespace, "vpc")["status"]["identifier"]
    assert not [key for key in found if identifier in str(key)], "no identifier is a label"


def test_what_has_no_route_is_dropped_by_reason(blue: Tenant) -> None:
    """An address of the VPC's network that no pod has."""
    dropped = series("attachment_dropped_packets_total", **labels_of(blue, "two"), reason="no_route")
    before = metrics(blue.lab, "node-2").get(dropped, 0.0)
    blue.run("two", ["ping", "-n", "-q", "-c5", "-i0.2", "-W1", "2001:10:1:1::99"], check=False)
    eventually("five packets more", lambda: metrics(blue.lab, "node-2").get(dropped, 0.0) >= before + 5)


def test_top_and_flows_show_what_is_on_its_way(blue: Tenant) -> None:
    with meanwhile(blue, "one", "10.1.1.2"):

        def topmost() -> bool:
            rows = galactic(blue, "top", "-n", blue.namespace, "--seconds", "5")["traffic"]
            rates = {row["name"]: row["sent_packets"] for row in rows}
            assert set(rates) == {f"{blue.namespace}/one", f"{blue.namespace}/two"}
            return all(rate > 0 for rate in rates.values())

        eventually("galactic top has both ends", topmost)
        (vpc,) = galactic(blue, "top", "vpc", "-n", blue.namespace)["traffic"]
        assert vpc["name"] == f"{blue.namespace}/vpc"

        def flows() -> set[tuple[str, ...]]:
            (watched,) = galactic(blue, "flows", "one", "-n", blue.namespace, "--seconds", "5")
            return {
                (flow["direction"], flow["source_name"], flow["destination"], flow["verdict"])
                for flow in watched["flows"]
                if flow["protocol"] == "icmp" and flow["packets"]
            }

        expected = {
            ("sent", f"{blue.namespace}/one", "10.1.1.2", "passed"),
            ("received", f"{blue.namespace}/two", "10.1.1.1", "passed"),
        }
        eventually("both directions of the pings pass", lambda: flows() == expected)
    assert packet_sockets(blue.lab) == []


def packet_sockets(lab: Lab) -> list[str]:
    """Those on node-1 for all protocols: what `galactic flows` opens."""
    lines = lab.exec("node-1", ["cat", "/proc/thread-self/net/packet"]).splitlines()[1:]
    return [line for line in lines if line.split()[3] == "0003"]


def test_flows_of_what_has_no_route(blue: Tenant) -> None:
    with meanwhile(blue, "two", "2001:10:1:1::98"):

        def dropped() -> bool:
            (watched,) = galactic(blue, "flows", f"{blue.namespace}/two", "--seconds", "4", ok=(0, 3))
            return any(
                (flow["destination"], flow["verdict"], flow["why"])
                == ("2001:10:1:1::98", "dropped", "no route")
                for flow in watched["flows"]
            )

        eventually("the flow is dropped for want of a route", dropped)


def usage(tenant: Tenant) -> dict[str, Any]:
    """The row of the tenant's VPC; empty where there is none yet, or the database is away."""
    rows = recorded(tenant)
    return (rows[-1] | {key: sum(row[key] for row in rows) for key in SUMMED}) if rows else {}


def recorded(tenant: Tenant, *words: str) -> list[dict[str, Any]]:
    """The rows of `galactic usage` for its VPC: of this month, and of that in which the story began."""
    return [
        row
        for month in sorted({BEGAN, this_month()})
        for row in galactic(
            tenant, "usage", "--month", month, "--vpc", f"{tenant.namespace}/vpc", *words, ok=(0, 1, 2, 4)
        )
    ]


def test_usage_is_in_the_database_once_whatever_was_away(blue: Tenant) -> None:
    lab = blue.lab
    eventually("there is usage", lambda: usage(blue).get("sent_bytes", 0) > 0, USAGE_SECONDS)
    kernel = lambda: sum(  # noqa: E731
        counted(blue, node, name)["bytes", "sent"] for node, name in (("node-1", "one"), ("node-2", "two"))
    )
    eventually(
        "it is what the kernels counted",
        lambda: usage(blue)["sent_bytes"] >= kernel() - BESIDE,
        USAGE_SECONDS,
    )
    before = usage(blue)
    assert before["attachments"] == 2
    assert before["hours"] > 0
    lab.supervisor.stop("postgres")
    try:
        ping(blue)
        lab.kill("controller/node-1")
        lab.restart(leading(lab))
        ping(blue)
    finally:
        lab.supervisor.start("postgres")
    least = before["sent_bytes"] + 2 * 2 * PINGS * SIZE
    eventually(
        "what was sent meanwhile is there", lambda: usage(blue).get("sent_bytes", 0) >= least, USAGE_SECONDS
    )
    after = usage(blue)
    assert after["sent_bytes"] <= kernel() + BESIDE, "and once"
    assert after["received_packets"] >= before["received_packets"] + 4 * PINGS


def test_a_gone_attachments_series_go_and_its_usage_stays(blue: Tenant) -> None:
    namespace = blue.namespace
    ping(blue)
    blue.delete_pod("one")
    eventually("its series are gone", lambda: counted(blue, "node-1", "one")["bytes", "sent"] < 0)

    def sent() -> int:
        rows = recorded(blue, "--attachments")
        return sum(row["sent_packets"] for row in rows if row["attachment"] == f"{namespace}/one")

    eventually("its last packets are recorded", lambda: sent() >= 4 * PINGS, USAGE_SECONDS)
