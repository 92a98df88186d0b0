"""Services with the annotation of a VPC: their EndpointSlices follow Pods, attachments and the Service."""

import asyncio
from itertools import count
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galactic.kube.resources import ENDPOINT_SLICES, EVENTS, PODS, SERVICES, VPC_ATTACHMENTS, VPCS
from galactic.names import (
    ADDRESSES_LABEL,
    ADDRESSES_OF_VPC,
    ATTACHMENT_ANNOTATION,
    ATTACHMENT_LABEL,
    SERVICE_VPC_ANNOTATION,
)
from galactic.operator.backends import Backend, backend
from galactic.operator.services.index import Index
from galactic.operator.services.reconciler import Services
from galactic.operator.slices import (
    MANAGED_BY,
    MANAGER,
    MAX_ENDPOINTS,
    Endpoint,
    Group,
    Slice,
    key_of,
    plan,
)
from galactic.operator.state import Caches

IPV4, IPV6 = Group("IPv4", ()), Group("IPv6", ())
UIDS = count(1)


def endpoint(number, **conditions):
    ready = {"ready": True, "serving": True, "terminating": False} | conditions
    target = {"kind": "Pod", "namespace": "default", "name": f"p{number:05}", "uid": f"u{number}"}
    body = {"addresses": [f"10.0.{number >> 8}.{number & 255}"], "conditions": ready, "targetRef": target}
    return Endpoint(f"u{number}", body["addresses"][0], body)


def wanted(numbers, group=IPV4):
    made = [endpoint(number) for number in numbers]
    return {group: {slice_.key: slice_ for slice_ in made}} if made else {}


def applied(present, planned):
    """The slices after the writes, by name."""
    slices = {slice_.name: slice_ for slice_ in present}
    for change in planned.changes:
        name = change.present.name if change.present else f"new-{next(UIDS)}"
        slices[name] = Slice("default", name, "1", "db", "u", change.group, change.endpoints)
    for surplus in planned.surplus:
        del slices[surplus.name]
    return list(slices.values())


def test_a_change_writes_one_slice():
    slices = applied([], plan([], wanted(range(350))))
    assert sorted(len(slice_.endpoints) for slice_ in slices) == [50, 100, 100, 100]
    assert not plan(slices, wanted(range(350))).changes
    assert len(plan(slices, wanted(range(351))).changes) == 1
    assert len(plan(slices, wanted(range(1, 350))).changes) == 1
    assert len(plan(slices, wanted(range(1, 351))).changes) == 1, "what comes goes where another went"
    unready = wanted(range(350))
    one = endpoint(7, ready=False)
    unready[IPV4][one.key] = one
    assert len(plan(slices, unready).changes) == 1


def test_nothing_is_left_of_none():
    slices = applied([], plan([], wanted(range(150))))
    assert applied(slices, plan(slices, {})) == []


def test_what_adds_is_written_before_what_removes():
    slices = applied([], plan([], wanted(range(200))))
    planned = plan(slices, wanted([*range(10, 100), *range(110, 205)]))
    assert [change.adds for change in planned.changes] == [True, False]


def test_few_endpoints_in_many_slices_are_packed_again():
    slices = applied([], plan([], wanted(range(450))))
    planned = plan(slices, wanted(range(0, 450, 3)))
    assert [change.adds for change in planned.changes] == [True, True]
    assert len(planned.surplus) == 3
    assert sorted(len(one.endpoints) for one in applied(slices, planned)) == [50, 100]


STEPS = st.lists(st.tuples(st.sets(st.integers(0, 450), max_size=450), st.booleans()), max_size=6)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_slices_have_what_is_wanted_once_and_never_too_much(steps):
    slices = []
    for numbers, duplicated in steps:
        if duplicated and slices:  # a write whose answer was lost
            slices.append(Slice("default", f"again-{next(UIDS)}", "1", "db", "u", IPV4, slices[0].endpoints))
        desired = wanted(numbers)
        slices = applied(slices, plan(slices, desired))
        found = [key_of(body) for slice_ in slices for body in slice_.endpoints]
        assert sorted(found) == sorted(desired.get(IPV4, {}))
        assert all(0 < len(slice_.endpoints) <= MAX_ENDPOINTS for slice_ in slices)
        assert len(slices) <= 2 * -(-len(numbers) // MAX_ENDPOINTS)
        assert not plan(slices, desired).changes


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        pytest.param({}, Backend(), id="nothing"),
        pytest.param(
            {
                "spec": {
                    "hostname": "db-0",
                    "subdomain": "db",
                    "containers": [{"ports": [{"name": "sql", "containerPort": 5432}, {"containerPort": 1}]}],
                    "initContainers": [
                        {"restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 2}]},
                        {"ports": [{"name": "early", "containerPort": 3}]},
                    ],
                },
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            },
            Backend({}, "db-0", "db", True, {("sql", "TCP"): 5432, ("side", "TCP"): 2}),
            id="all",
        ),
    ],
)
def test_what_is_read_of_a_pod(pod, expected):
    assert backend({"metadata": {"name": "p"}, **pod}) == expected


def service(cluster, name="db", *, vpc="v", excluded=True, selector=None, headless="None", **spec):
    selector = {"app": "db"} if selector is None else selector
    selector |= {ADDRESSES_LABEL: ADDRESSES_OF_VPC} if excluded else {}
    annotations = {} if vpc is None else {SERVICE_VPC_ANNOTATION: vpc}
    body = {
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"clusterIP": headless, "selector": selector, **spec},
    }
    return cluster.api.put(SERVICES, body, "default")["metadata"]["uid"]


def pod(cluster, name, *, ready=True, app="db", attachment=None, **spec):
    meta = {
        "name": name,
        "labels": {"app": app, ATTACHMENT_LABEL: "a"},
        "annotations": {ATTACHMENT_ANNOTATION: attachment or name},
    }
    conditions = [{"type": "Ready", "status": str(ready)}]
    body = {
        "metadata": meta,
        "spec": {"nodeName": "node-1", **spec},
        "status": {"phase": "Running", "conditions": conditions},
    }
    cluster.api.put(PODS, body, "default")


def becomes(cluster, name, ready):
    status = {"conditions": [{"type": "Ready", "status": str(ready)}]}
    cluster.api.change(PODS, name, {"status": status}, "default", subresource="status")


def slices(cluster, family="IPv4"):
    return [slice_ for slice_ in cluster.api.all(ENDPOINT_SLICES) if slice_["addressType"] == family]


def published(cluster, family="IPv4"):
    """Pod → (address, ready)."""
    return {
        endpoint["targetRef"]["name"]: (endpoint["addresses"][0], endpoint["conditions"]["ready"])
        for slice_ in slices(cluster, family)
        for endpoint in slice_["endpoints"]
    }


def problems(cluster):
    return {
        event["reason"]: event["message"]
        for event in cluster.api.all(EVENTS)
        if event["involvedObject"]["kind"] == "Service"
    }


@pytest.fixture
async def named(cluster):
    """VPC ``v``, and two pods of it, of which one is ready."""
    cluster.vpc("v", "10.1.1.0/24", "2001:10:1:1::/64")
    for number, name in enumerate(("db-0", "db-1"), 1):
        cluster.attachment(name, "v", f"10.1.1.{number}/24", f"2001:10:1:1::{number}/64")
        pod(cluster, name, ready=name == "db-0", hostname=name, subdomain="db")
    await cluster.settled()
    return cluster


async def test_both_families_with_hostname_and_owner(named):
    uid = service(named, ports=[{"name": "sql", "port": 5432}])
    await named.settled()
    assert published(named) == {"db-0": ("10.1.1.1", True), "db-1": ("10.1.1.2", False)}
    assert published(named, "IPv6")["db-0"] == ("2001:10:1:1::1", True)
    (made,) = slices(named)
    assert made["metadata"]["labels"] == {
        MANAGED_BY: MANAGER,
        "kubernetes.io/service-name": "db",
        "service.kubernetes.io/headless": "",
    }
    assert [owner["uid"] for owner in made["metadata"]["ownerReferences"]] == [uid]
    assert made["ports"] == [{"name": "sql", "port": 5432, "protocol": "TCP"}]
    first = made["endpoints"][0]
    assert (first["hostname"], first["nodeName"]) == ("db-0", "node-1")
    assert not problems(named)


async def test_readiness_is_followed_with_one_write(named):
    service(named)
    await named.settled()
    named.api.requests.clear()
    becomes(named, "db-1", True)
    await named.settled()
    assert published(named)["db-1"] == ("10.1.1.2", True)
    assert [request[:2] for request in named.api.requests] == [("patch", "EndpointSlice")] * 2
    named.api.change(PODS, "db-0", {"metadata": {"finalizers": ["x"]}}, "default")
    named.api.remove(PODS, "db-0", "default")
    await named.settled()
    (conditions,) = [
        endpoint["conditions"]
        for endpoint in slices(named)[0]["endpoints"]
        if endpoint["targetRef"]["name"] == "db-0"
    ]
    assert conditions == {"ready": False, "serving": True, "terminating": True}
    named.api.change(PODS, "db-0", {"metadata": {"finalizers": None}}, "default")
    await named.settled()
    assert set(published(named)) == {"db-1"}


async def test_those_that_are_not_ready_too(named):
    service(named, publishNotReadyAddresses=True)
    await named.settled()
    assert published(named)["db-1"] == ("10.1.1.2", True)


async def test_a_pod_without_its_interface_is_not_ready(named):
    service(named)
    await named.settled()
    conditions = named.status("db-0")["conditions"]
    lacking = {"type": "Attached", "status": "False", "reason": "PodNotAttached", "message": "m"}
    body = {"status": {"conditions": [*conditions, lacking]}}
    await named.stop()
    named.api.change(VPC_ATTACHMENTS, "db-0", body, "default", subresource="status")
    key, reconciler = ("default", "db"), named.reconciler
    reconciler.caches.attachments.set(named.api.stored(VPC_ATTACHMENTS, "db-0", "default"))
    placed = await reconciler._reconcilers.services._placed(key, reconciler.caches.services.get(key))
    ready = {
        one.endpoint.body["targetRef"]["name"]: one.endpoint.body["conditions"]["ready"] for one in placed
    }
    assert ready == {"db-0": False, "db-1": False}


async def test_ports_by_name_are_the_pods(named):
    named.attachment("db-2", "v", "10.1.1.3/24")
    containers = [{"ports": [{"name": "sql", "containerPort": 6000}]}]
    pod(named, "db-2", containers=containers)
    service(named, ports=[{"port": 5432, "targetPort": "sql"}])
    await named.settled()
    by_pod = {
        endpoint["targetRef"]["name"]: [port["port"] for port in slice_["ports"]]
        for slice_ in slices(named)
        for endpoint in slice_["endpoints"]
    }
    assert by_pod == {"db-0": [], "db-1": [], "db-2": [6000]}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        pytest.param({"excluded": False}, "NotExclusive", id="kubernetes-publishes"),
        pytest.param({"headless": "10.96.0.9"}, "NotHeadless", id="with-an-address"),
        pytest.param({"selector": {}}, "NoSelector", id="no-selector"),
        pytest.param({"vpc": "a/b/c"}, "InvalidName", id="no-name"),
        pytest.param({"vpc": "w"}, "VPCNotFound", id="unknown"),
        pytest.param({"vpc": "other/w"}, "NotGranted", id="of-another-namespace"),
    ],
)
async def test_what_is_wrong_is_an_event_and_publishes_nothing(named, arguments, reason):
    service(named, **arguments)
    await named.settled()
    assert not published(named)
    assert set(problems(named)) == {reason}


async def test_a_vpc_that_comes_later(named):
    service(named, vpc="w")
    await named.settled()
    named.vpc("w", "10.9.9.0/24")
    named.attachment("x", "w")
    pod(named, "x")
    await named.settled()
    assert set(published(named)) == {"x"}


async def test_of_another_namespace_by_its_grant(named):
    named.vpc("shared", "10.7.7.0/24", namespace="other", allowedNamespaces={"from": "All"})
    named.attachment("x", "other/shared")
    pod(named, "x")
    service(named, vpc="other/shared")
    await named.settled()
    assert set(published(named)) == {"x"}
    assert not problems(named)
    revoked = {"spec": {"allowedNamespaces": {"from": "Same"}}}
    named.api.change(VPCS, "shared", revoked, "other")
    await named.settled()
    assert set(published(named)) == {"x"}, "its pod is still attached"
    assert "NotGranted" in problems(named)


async def test_without_the_annotation_nothing_is_left(named):
    service(named)
    await named.settled()
    named.api.change(SERVICES, "db", {"metadata": {"annotations": {SERVICE_VPC_ANNOTATION: None}}}, "default")
    await named.settled()
    assert not slices(named)


async def test_labels_of_pods_and_the_selector_are_followed(named):
    service(named)
    await named.settled()
    named.api.change(PODS, "db-1", {"metadata": {"labels": {"app": "other"}}}, "default")
    await named.settled()
    assert set(published(named)) == {"db-0"}
    named.api.change(SERVICES, "db", {"spec": {"selector": {"app": "other"}}}, "default")
    await named.settled()
    assert set(published(named)) == {"db-1"}


async def test_a_slice_that_another_changed_or_deleted_is_put_right(named):
    service(named)
    await named.settled()
    (made,) = slices(named)
    named.api.change(ENDPOINT_SLICES, made["metadata"]["name"], {"endpoints": []}, "default")
    await named.settled()
    assert set(published(named)) == {"db-0", "db-1"}
    named.api.remove(ENDPOINT_SLICES, made["metadata"]["name"], "default")
    await named.settled()
    assert set(published(named)) == {"db-0", "db-1"}


async def test_a_restart_of_the_operator_writes_nothing(named):
    service(named)
    await named.settled()
    await named.stop()
    named.api.requests.clear()
    await named.start()
    await named.settled()
    assert not [
        request for request in named.api.requests if request[1] == "EndpointSlice" and request[0] != "list"
    ]


async def test_what_changed_while_the_operator_was_away(named):
    service(named)
    await named.settled()
    await named.stop()
    named.api.remove(PODS, "db-1", "default")
    becomes(named, "db-0", False)
    await named.start()
    await named.settled()
    assert published(named) == {"db-0": ("10.1.1.1", False)}


async def test_two_pods_with_one_address_are_one_endpoint(named):
    pod(named, "newer", attachment="db-1")
    service(named)
    await named.settled()
    assert published(named) == {"db-0": ("10.1.1.1", True), "newer": ("10.1.1.2", True)}


async def test_many_changes_at_once_are_one_write(named):
    for number in range(150):
        named.attachment(f"x{number}", "v")
        pod(named, f"x{number}", ready=False)
    service(named)
    await named.settled()
    assert len(slices(named)) == 2
    named.api.requests.clear()
    for number in range(150):
        becomes(named, f"x{number}", True)
    await asyncio.sleep(0)
    await named.settled()
    assert len([request for request in named.api.requests if request[1] == "EndpointSlice"]) <= 4


async def test_pairs_of_services_and_pods_that_do_not_belong_together_are_not_kept(monkeypatch):
    """A tenant may make thousands of either: their product would fill the operator's memory, and its time."""
    caches, index, pods_count = Caches(), Index(), 40
    for number in range(pods_count):
        meta = {"name": f"p{number}", "namespace": "default", "uid": f"u{number}", "resourceVersion": "1"}
        labels = {ATTACHMENT_LABEL: "web", "app": "web" if number == 7 else "other"}
        annotations = {ATTACHMENT_ANNOTATION: "web"}
        caches.pods.set({"metadata": meta | {"labels": labels, "annotations": annotations}})
        index.pod(("default", f"p{number}"), exists=True)
    keys = [("default", f"s{number}") for number in range(30)]
    for _, name in keys:
        meta = {
            "name": name,
            "namespace": "default",
            "uid": name,
            "annotations": {SERVICE_VPC_ANNOTATION: "v"},
        }
        selector = {"app": "web", ADDRESSES_LABEL: ADDRESSES_OF_VPC}
        caches.services.set({"metadata": meta, "spec": {"clusterIP": "None", "selector": selector}})
        index.service(("default", name), caches.services.get(("default", name)))
    events = SimpleNamespace(record=lambda *_: None)
    services = Services(SimpleNamespace(caches=caches, events=events), index)
    read = []
    monkeypatch.setattr(caches.pods, "get", lambda key, get=caches.pods.get: (read.append(key), get(key))[1])
    for _ in range(2):
        for key in keys:
            await services.reconcile(key)
    assert sum(len(former.pods) for former in services._read.values()) == len(keys), "the one that all select"
    assert len(read) == pods_count + len(keys)
    for key in keys:
        caches.services.remove(key)
        index.service(key, None)
        await services.reconcile(key)
    assert not services._labels
