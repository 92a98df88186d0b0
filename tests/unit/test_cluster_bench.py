"""The parts of ``bench/cluster`` whose errors would be wrong figures: the meter, the count of writes, the table."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "cluster"
PROGRAM = """
import asyncio, sys, time

def busy(seconds):
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass

async def long():
    busy(0.2)

async def main():
    await long()
    for _ in range(10):
        busy(0.02)
        await asyncio.sleep(0)
    print("done", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""
SECONDS = 30.0


@pytest.fixture
def bench(monkeypatch):
    for folder in ("operator", "cluster"):
        monkeypatch.syspath_prepend(BENCH.parent / folder)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(BENCH.parent):
            del sys.modules[name]


def figures(process: "subprocess.Popen[str]", path: Path) -> dict[str, float]:
    path.unlink(missing_ok=True)
    process.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    found: dict[str, float] = json.loads(path.read_text())
    return found


def test_the_meter_has_the_longest_turn_since_it_was_last_asked(tmp_path):
    program, path = tmp_path / "program.py", tmp_path / "figures.json"
    program.write_text(PROGRAM)
    argv = [sys.executable, "-P", str(BENCH / "metered.py"), str(path), str(program)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "done\n"
            first, second = figures(process, path), figures(process, path)
        finally:
            process.kill()
    assert 0.2 <= first["step"] <= first["turn"] < 0.4, "one turn, not the sum of all"
    assert first["name"] == "main"
    assert second["turn"] < 0.1


@pytest.mark.usefixtures("bench")
def test_writes_are_counted_once_by_user_kind_and_verb(tmp_path):
    from load import Audit

    log = tmp_path / "audit.log"
    status = {"resource": "vpcattachments", "subresource": "status"}
    events = [
        {"user": {"username": "operator"}, "verb": "patch", "objectRef": status},
        {"user": {"username": "operator"}, "verb": "patch", "objectRef": status},
        {"user": {"username": "galactic-node-n7"}, "verb": "create", "objectRef": {"resource": "events"}},
    ]
    lines = [json.dumps(event) + "\n" for event in events]
    log.write_text("".join(lines[:2]) + lines[2][:20])  # the server is about to write the rest
    audit = Audit(log)
    assert audit.drain() == {("operator", "vpcattachments/status", "patch"): 2}
    log.write_text("".join(lines))
    assert audit.drain() == {("galactic-node-n7", "events", "create"): 1}
    assert not audit.drain()


@pytest.mark.usefixtures("bench")
async def test_a_node_of_the_bench_has_the_tasks_of_a_real_one(tmp_path):
    from nodes import Node, Shared

    from galactic.kube.memory import MemoryApi

    node = Node("n1", Shared(tmp_path, "mqtt://127.0.0.1:1"))
    tasks = node._tasks(MemoryApi())
    assert {name for name in tasks.__slots__ if getattr(tasks, name) is None} == {"certificate", "slices"}


@pytest.mark.usefixtures("bench")
def test_every_figure_is_in_the_table(tmp_path):
    from processes import COMPONENTS, Turns
    from report import details, table
    from result import Result, Start

    def result(nodes: int, change: float) -> Result:
        made = Result(nodes, 100 * nodes, 50)
        made.writes = Counter(
            {("operator", "events", "create"): 100, ("galactic-node-n1", "pods", "patch"): 50}
        )
        turns = {name: Turns(0.03, 0.02, "worker", 0.01, 2) for name in COMPONENTS}
        turns |= {"nodes-1": Turns(0.5, 0.004, "step", 0, 0), "nodes-2": Turns(0.5, 0.007, "step", 0, 0)}
        made.turns = dict.fromkeys(("pods start", "paced", "one change", "broker restart", "start"), turns)
        memory = dict.fromkeys((*COMPONENTS, "nodes"), 2048.0)
        made.memory = {"filled": memory, "restarted": memory}
        made.spent = dict.fromkeys((*COMPONENTS, "kube-apiserver", "etcd"), 0.001)
        made.reachable = [number / 1000 for number in range(1, 101)]
        made.change = {"operator": change, "router-1": change, "router-2": 2 * change, "broker": 0.0}
        return made

    large = result(1000, 0.012)
    processes = (*COMPONENTS, "nodes", "kube-apiserver", "etcd", "broker")
    large.preloaded, large.base = 1000, dict.fromkeys(processes, 1 << 20)
    writes = Counter({("operator", "vpcs/status", "patch"): 2})
    large.start = Start(
        dict.fromkeys(processes, 3.0),
        dict.fromkeys(processes, 8.0),
        writes,
        dict.fromkeys(processes, 3 << 20),
    )
    large.turns["preloaded start"] = {"operator": Turns(0.2, 0.1, "step", 0, 0)}
    text = "\n".join(table([result(10, 0.010), large]))
    for row in (
        "| API writes a pod | 3.00 | 3.00 |",
        "| processor time of a pod, ours | 4.0 ms | 4.0 ms |",
        "| bound to reachable, p50 and p99 | 51 ms, 100 ms | 51 ms, 100 ms |",
        "| memory of webhook, an attachment | 2.0 KiB, 2.0 KiB | 2.0 KiB, 2.0 KiB |",
        "| longest turn of operator, running and at start | 30 ms, 30 ms | 30 ms, 200 ms |",
        "| attachments there before the start | - | 1,000 |",
        "| API writes of the start, such an attachment | - | 0.0020 |",
        "| operator, ready and consistent after | - | 3 s, 8 s |",
        "| RSS of kube-apiserver after the start, and an attachment | - | 3 MiB, 2.0 KiB |",
        "| longest turn of nodes, running and at start | 7 ms, 7 ms | 7 ms, 7 ms |",
        "| a change, operator | 10.00 ms (1.00) | 12.00 ms (1.20) |",
        "| a change, routers | 30.00 ms (1.00) | 36.00 ms (1.20) |",
        "| a change, broker | 0.00 ms (-) | 0.00 ms (-) |",
    ):
        assert row in text
    assert "operator create events 2.00, node patch pods 1.00" in "\n".join(details([result(10, 0.01)]))


TEMPLATE = {
    "attachment": {
        "metadata": {
            "name": "p0-abcde",
            "uid": "a0000000-0000-4000-8000-000000000001",
            "creationTimestamp": "2026-11-30T19:13:48Z",
            "labels": {"galactic.datumapis.com/vpc": "5e1d2c411aa3", "node.galactic.datumapis.com/n1": ""},
            "ownerReferences": [{"kind": "Pod", "name": "p0", "uid": "a0000000-0000-4000-8000-000000000002"}],
            "managedFields": [
                {"fieldsV1": {'k:{"uid":"a0000000-0000-4000-8000-000000000002"}': {}}, "manager": "Python"}
            ],
        },
        "spec": {"vpc": {"name": "wide", "namespace": "bench"}},
        "status": {
            "identifier": "6abe",
            "addresses": ["10.0.128.3/16", "fd00::1:3/64"],
            "carriers": [{"node": "n1", "pod": "p0", "uid": "a0000000-0000-4000-8000-000000000002"}],
            "conditions": [
                {"type": "Ready", "message": "a pod can be attached, with 10.0.128.3/16, fd00::1:3/64"},
                {"type": "Attached", "message": "a pod has its interface on node n1"},
            ],
            "configuration": {"vpc": "5e1d2c411aa3", "networks": ["10.0.0.0/16", "fd00::/64"]},
            "endpoint": {
                "epoch": 1796066029148307048,
                "networks": ["10.0.128.3/32", "fd00::1:3/128"],
                "node": "n1",
                "revision": 1796066029203,
                "sid": "2001:db8:ff00:0:5e1d:2c41:1aa3:6abe",
            },
            "vpc": "bench/wide",
        },
    },
    "definition": {
        "metadata": {"name": "p0-abcde", "uid": "a0000000-0000-4000-8000-000000000003"},
        "spec": {"config": '{"vpc":"tnOnWS4P","vpcattachment":"76K","attachment":"bench/p0-abcde"}'},
    },
    "pod": {
        "metadata": {
            "name": "p0",
            "uid": "a0000000-0000-4000-8000-000000000002",
            "annotations": {"k8s.v1.cni.cncf.io/networks": "p0-abcde@galactic0"},
        },
        "spec": {"nodeName": "n1"},
    },
    "endpoint": {"vpc": "5e1d2c411aa3", "function": "6abe", "sid": "2001:db8:ff00:0:5e1d:2c41:1aa3:6abe"},
    "record": {
        "container": "a0000000000040008000000000000002" * 2,
        "netns": "/run/netns/cni-a0000000-0000-4000-8000-000000000002",
        "networks": ["10.0.0.0/16", "fd00::/64"],
    },
}
"""Objects of one attachment, in short, as the system makes them."""


@pytest.fixture
def template(bench):
    from copies import Template, member_of

    member = member_of(TEMPLATE["attachment"], TEMPLATE["definition"], ip_network("2001:db8:ff00::/56"))
    return Template(member, **{kind: json.dumps(body) for kind, body in TEMPLATE.items()})


@pytest.fixture
def other(template):
    """Another attachment, whose words have the template's inside of them."""
    return replace(
        template.member,
        pod="p01",
        pod_uid="b0000000-0000-4000-8000-000000000002",
        name="p01-vwxyz",
        uid="b0000000-0000-4000-8000-000000000001",
        definition_uid="b0000000-0000-4000-8000-000000000003",
        vpc="v0-1",
        identifier=0x00000000ABCD,
        function=0x0ABE,
        addresses=("10.0.128.33", "fd00::1:33"),
        node="n11",
        prefix=ip_network("2001:db8:ff00:300::/56"),
        epoch=1796066029148307049,
    )


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        pytest.param("attachment", ("metadata", "name"), "p01-vwxyz", id="name"),
        pytest.param(
            "attachment",
            ("metadata", "labels"),
            {"galactic.datumapis.com/vpc": "00000000abcd", "node.galactic.datumapis.com/n11": ""},
            id="in-keys",
        ),
        pytest.param(
            "attachment",
            ("metadata", "managedFields", 0, "fieldsV1"),
            {'k:{"uid":"b0000000-0000-4000-8000-000000000002"}': {}},
            id="in-managed-fields",
        ),
        pytest.param(
            "attachment",
            ("status", "conditions", 0, "message"),
            "a pod can be attached, with 10.0.128.33/16, fd00::1:33/64",
            id="in-sentences",
        ),
        pytest.param(
            "attachment",
            ("status", "configuration", "networks"),
            ["10.0.0.0/16", "fd00::/64"],
            id="networks-of-the-vpc-stay",
        ),
        pytest.param("attachment", ("status", "endpoint", "epoch"), 1796066029148307049, id="numbers"),
        pytest.param(
            "attachment", ("status", "endpoint", "sid"), "2001:db8:ff00:300::abcd:abe", id="sid-as-written"
        ),
        pytest.param("attachment", ("status", "vpc"), "bench/v0-1", id="vpc"),
        pytest.param(
            "definition",
            ("spec", "config"),
            '{"vpc":"brn","vpcattachment":"Im","attachment":"bench/p01-vwxyz"}',
            id="base62",
        ),
        pytest.param(
            "pod",
            ("metadata", "annotations", "k8s.v1.cni.cncf.io/networks"),
            "p01-vwxyz@galactic0",
            id="annotation",
        ),
        pytest.param("record", ("container",), "b0000000000040008000000000000002" * 2, id="container"),
    ],
)
def test_a_copy_has_the_words_of_its_own_attachment(template, other, kind, path, value):
    from copies import Stamp

    found = json.loads(template.copy(Stamp(template.member.words), other).texts[kind])
    for step in path:
        found = found[step]
    assert found == value


@pytest.mark.usefixtures("bench")
def test_a_word_inside_of_another_is_none():
    from copies import Stamp

    assert Stamp(("p1",))("p1 p10 xp1 /p1/", ("q",)) == "q p10 xp1 /q/"


def test_a_copy_of_a_copy_is_the_template(template, other):
    from copies import Stamp

    copy = template.copy(Stamp(template.member.words), other)
    back = copy.copy(Stamp(other.words), template.member)
    assert back == template
    assert copy.differences(template) == ["attachment", "definition", "pod", "endpoint", "record"]


def test_moments_revisions_and_the_order_of_conditions_are_no_difference(template):
    attachment = json.loads(template.attachment)
    attachment["metadata"]["creationTimestamp"] = "2027-01-01T00:00:00Z"
    attachment["status"]["endpoint"]["revision"] = 7
    attachment["status"]["conditions"].reverse()
    made = replace(template, attachment=json.dumps(attachment))
    assert not made.differences(template)
    attachment["status"]["conditions"][0]["reason"] = "Other"
    assert replace(template, attachment=json.dumps(attachment)).differences(made) == ["attachment"]


@pytest.mark.usefixtures("bench")
def test_planned_members_share_no_number_or_address(template):
    from plan import VpcNumbers, planned

    networks = [ip_network("10.0.0.0/16"), ip_network("fd00::/64")]
    vpcs = {name: VpcNumbers(number, networks) for number, name in enumerate(("wide", "v0-0"), 1)}
    vpcs["wide"].take(template.member)
    prefixes = {f"n{node}": ip_network(f"2001:db8:ff00:{node}00::/56") for node in (1, 2, 3)}
    members = [*planned(range(1, 21), vpcs, prefixes, 100)]
    assert Counter(one.vpc for one in members) == {"wide": 2, "v0-0": 18}
    assert members[2].prefix == prefixes["n1"], "the fourth pod is on the first node again"
    assert [one.epoch for one in members] == [*range(101, 121)]
    everyone = [*members, replace(template.member, identifier=1)]
    assert len({one.key for one in everyone}) == len(everyone)
    assert len({(one.vpc, address) for one in everyone for address in one.addresses}) == 2 * len(everyone)
    assert len({uid for one in everyone for uid in (one.uid, one.pod_uid)}) == 2 * len(everyone)


@pytest.mark.usefixtures("bench")
def test_a_transaction_has_no_more_than_etcd_takes(monkeypatch):
    import etcd

    monkeypatch.setattr(etcd, "OPERATIONS", 3)
    monkeypatch.setattr(etcd, "BYTES", 10)
    values = {"a": "1", "b": "1", "c": "1", "d": "1", "e": "12345", "f": "123456", "g": "1" * 30, "h": "1"}
    parts = [*etcd.batches(values.items())]
    assert [[*part] for part in parts] == [["a", "b", "c"], ["d", "e"], ["f"], ["g"], ["h"]]
    assert {name: value for part in parts for name, value in part.items()} == values
