"""From request to answer: stale caches refuse no request, and a pod that waits is answered in time."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from galactic.errors import NotYet, Rejected, Unreachable
from galactic.kube.memory import MemoryApi
from galactic.kube.resources import (
    CONFIG_MAPS,
    NAMESPACES,
    NODE_SEGMENTS,
    NODES,
    PODS,
    SERVICES,
    VPC_ATTACHMENTS,
    VPC_POLICIES,
    VPCS,
)
from galactic.names import (
    ADDRESSES_LABEL,
    API_VERSION,
    ATTACHMENT_ANNOTATION,
    ATTACHMENT_LABEL,
    NETWORKS_ANNOTATION,
    SERVICE_VPC_ANNOTATION,
    VPC_ANNOTATION,
)
from galactic.validation.joining import RECORDS
from galactic.webhook.cluster import Cluster
from galactic.webhook.dispatch import POD_NAME, Dispatcher, Rules
from galactic.webhook.joins import MOST_UNKNOWN, Joins
from galactic.webhook.nodesegment import NODE_NAME, identities
from galactic.webhook.review import Answer, Operation, Request, User

ACCOUNT = "system:serviceaccount:galactic-system:galactic-node"


@pytest.fixture
def cluster(api: MemoryApi) -> Cluster:
    return Cluster(api)


def joins(cluster: Cluster, api: MemoryApi) -> Joins:
    return Joins(api, "galactic-system", cluster.identifiers)


@pytest.fixture
def dispatcher(cluster: Cluster, api: MemoryApi) -> Dispatcher:
    """One that waits for nothing."""
    return Dispatcher(
        cluster, Rules(identities(f"galactic-node-{{node}},{ACCOUNT}"), patience=0.0), joins(cluster, api)
    )


def request(
    resource: Any,
    new: dict[str, Any],
    old: dict[str, Any] | None = None,
    *,
    operation: Operation | None = None,
    user: User = User("admin"),  # noqa: B008  (frozen)
    subresource: str = "",
) -> Request:
    meta = new["metadata"]
    made: Operation = "CREATE" if old is None else "UPDATE"
    return Request(
        "1",
        resource.plural,
        subresource,
        operation or made,
        meta.get("namespace", ""),
        meta.get("name", ""),
        user,
        new,
        old,
    )


def vpc(
    name: str = "blue", namespace: str = "net", *networks: str, ready: bool = True, **spec: Any
) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}"},
        "spec": {"networks": list(networks) or ["10.1.1.0/24"], **spec},
        "status": {"ready": ready},
    }


def attachment(
    name: str = "web", namespace: str = "net", *addresses: str, ready: bool = True
) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "vpc": {"apiVersion": API_VERSION, "kind": "VPC", "name": "blue"},
            "interface": {"addresses": list(addresses)},
        },
        "status": {"ready": ready},
    }


def pod(name: str = "web-1", **annotations: str) -> dict[str, Any]:
    keys = {"attachment": ATTACHMENT_ANNOTATION, "vpc": VPC_ANNOTATION, "networks": NETWORKS_ANNOTATION}
    written = {keys[key]: value for key, value in annotations.items()}
    return {
        "metadata": {"name": name, "namespace": "net", "annotations": written},
        "spec": {"containers": []},
    }


def completed(manifest: dict[str, Any], answer: Answer) -> dict[str, Any]:
    assert answer.refusal is None, str(answer.refusal)
    meta = manifest["metadata"]
    for step in answer.patch:
        _, _, place, *key = step["path"].split("/")
        if key:
            meta.setdefault(place, {})[key[0].replace("~1", "/")] = step["value"]
        else:
            meta[place] = step["value"]
    return manifest


async def test_what_the_cache_does_not_know_yet_is_looked_up(dispatcher: Dispatcher, api: MemoryApi) -> None:
    api.store(VPC_ATTACHMENTS, attachment())
    asked = request(
        PODS, completed(pod(attachment="web"), await dispatcher.mutate(request(PODS, pod(attachment="web"))))
    )
    assert (await dispatcher.validate(asked)).refusal is None
    # And so is a grant: for a VPC that was applied a moment ago, to a namespace that was.
    api.store(VPCS, vpc(allowedNamespaces={"from": "Selector", "selector": {"matchLabels": {"team": "a"}}}))
    api.store(NAMESPACES, {"metadata": {"name": "apps", "labels": {"team": "a"}}})
    assert (await dispatcher.validate(request(VPC_ATTACHMENTS, _abroad()))).refusal is None


def _abroad(vpc_name: str = "blue") -> dict[str, Any]:
    manifest = attachment("x", "apps")
    manifest["spec"]["vpc"] |= {"namespace": "net", "name": vpc_name}
    return manifest


async def test_a_grant_that_was_just_given_counts_before_the_cache_has_it(
    dispatcher: Dispatcher, api: MemoryApi, cluster: Cluster
) -> None:
    api.store(NAMESPACES, {"metadata": {"name": "apps"}})
    cluster.changed(VPCS, ("net", "blue"), api.store(VPCS, vpc()))
    assert isinstance((await dispatcher.validate(request(VPC_ATTACHMENTS, _abroad()))).refusal, Rejected)
    api.store(VPCS, vpc(allowedNamespaces={"from": "All"}))
    assert (await dispatcher.validate(request(VPC_ATTACHMENTS, _abroad()))).refusal is None


async def test_a_refusal_does_not_disclose_whether_the_vpc_exists(
    dispatcher: Dispatcher, api: MemoryApi
) -> None:
    api.store(VPCS, vpc())
    api.store(NAMESPACES, {"metadata": {"name": "apps"}})
    warnings = []
    for name in ("blue", "ghost"):
        api.requests.clear()
        answer = await dispatcher.validate(request(VPC_ATTACHMENTS, _abroad(name)))
        warnings.append((str(answer.refusal).replace(name, "NAME"), len(api.requests)))
    assert warnings[0] == warnings[1]


async def test_a_pod_waits_a_little_for_its_attachment(
    dispatcher: Dispatcher, api: MemoryApi, cluster: Cluster
) -> None:
    patient = Dispatcher(cluster, Rules(identities(""), patience=3600.0), joins(cluster, api))
    api.store(VPC_ATTACHMENTS, attachment(ready=False))
    asking = request(
        PODS, completed(pod(attachment="web"), await dispatcher.mutate(request(PODS, pod(attachment="web"))))
    )
    api.requests.clear()
    waiting = asyncio.create_task(patient.validate(asking))
    while not api.requests:
        await asyncio.sleep(0)
    for _ in range(100):  # nothing else is to be done
        await asyncio.sleep(0)
    assert not waiting.done()
    cluster.changed(VPC_ATTACHMENTS, ("net", "web"), api.store(VPC_ATTACHMENTS, attachment()))
    assert (await waiting).refusal is None
    cluster.changed(VPC_ATTACHMENTS, ("net", "web"), api.store(VPC_ATTACHMENTS, attachment(ready=False)))
    assert isinstance((await dispatcher.validate(asking)).refusal, NotYet)


def _refused(generation: int = 1) -> dict[str, Any]:
    """An attachment whose first specification the operator has refused."""
    condition = {"type": "Accepted", "status": "False", "reason": "Invalid", "message": "no such network"}
    manifest = attachment(ready=False)
    manifest["metadata"]["generation"] = generation
    manifest["status"] |= {"observedGeneration": 1, "conditions": [condition]}
    return manifest


@pytest.mark.parametrize("kind", ["attachment", "vpc"])
async def test_a_pod_waits_no_longer_for_what_the_operator_has_refused(
    api: MemoryApi, cluster: Cluster, kind: str
) -> None:
    """Neither for an attachment nor for a VPC: kube-controller-manager makes few pods at a time."""
    dispatcher = Dispatcher(cluster, Rules(identities(""), patience=3600.0, grace=0.01), joins(cluster, api))
    refused = _refused()
    if kind == "vpc":
        refused = vpc() | {"status": refused["status"]}
    api.store(VPCS if kind == "vpc" else VPC_ATTACHMENTS, refused)
    asking = pod(**{kind: "blue" if kind == "vpc" else "web"})
    asked = request(PODS, completed(asking, await dispatcher.mutate(request(PODS, asking))))
    answer = await dispatcher.validate(asked)  # ends by itself
    assert isinstance(answer.refusal, NotYet)


async def test_a_refusal_that_is_out_of_date_is_waited_for(api: MemoryApi, cluster: Cluster) -> None:
    """By a changed specification, and by what was applied a moment after the attachment."""
    for generation, rules in (
        (2, Rules(identities(""), patience=3600.0, grace=0.0)),
        (1, Rules(identities(""), patience=3600.0, grace=3600.0)),
    ):
        dispatcher = Dispatcher(cluster, rules, joins(cluster, api))
        api.store(VPC_ATTACHMENTS, _refused(generation))
        asking = pod(attachment="web")
        asked = request(PODS, completed(asking, await dispatcher.mutate(request(PODS, asking))))
        waiting = asyncio.create_task(dispatcher.validate(asked))
        for _ in range(200):
            await asyncio.sleep(0)
        assert not waiting.done()
        cluster.changed(VPC_ATTACHMENTS, ("net", "web"), api.store(VPC_ATTACHMENTS, attachment()))
        assert (await waiting).refusal is None
        cluster.changed(VPC_ATTACHMENTS, ("net", "web"), None)


async def test_a_pod_with_an_attachment_of_its_own(dispatcher: Dispatcher, api: MemoryApi) -> None:
    api.store(VPCS, vpc())
    patched = completed(pod(vpc="blue"), await dispatcher.mutate(request(PODS, pod(vpc="blue"))))
    name = patched["metadata"]["annotations"][ATTACHMENT_ANNOTATION]
    assert name.startswith("web-1-")
    assert patched["metadata"]["annotations"][NETWORKS_ANNOTATION] == f"{name}@galactic0"
    assert (await dispatcher.validate(request(PODS, patched))).refusal is None
    api.store(VPC_ATTACHMENTS, attachment(name))
    assert "made for another pod" in str((await dispatcher.validate(request(PODS, patched))).refusal)


async def test_only_living_pods_share(dispatcher: Dispatcher, api: MemoryApi) -> None:
    api.store(VPC_ATTACHMENTS, attachment())
    for name, more in (
        ("alive", {}),
        ("over", {"status": {"phase": "Succeeded"}}),
        ("going", {"deletionTimestamp": "2026-01-01T00:00:00Z"}),
    ):
        other = pod(name, attachment="web")
        other["metadata"]["labels"] = {ATTACHMENT_LABEL: "web"}
        other["metadata"] |= {key: value for key, value in more.items() if key != "status"}
        api.store(PODS, other | {key: value for key, value in more.items() if key == "status"})
    patched = completed(pod(attachment="web"), await dispatcher.mutate(request(PODS, pod(attachment="web"))))
    (warning,) = (await dispatcher.validate(request(PODS, patched))).warnings
    assert warning.startswith("pod alive has VPCAttachment web as well")


async def test_a_pod_that_was_not_mutated_does_not_slip_through(
    dispatcher: Dispatcher, api: MemoryApi
) -> None:
    api.store(VPC_ATTACHMENTS, attachment())
    answer = await dispatcher.validate(request(PODS, pod(attachment="web")))
    assert "mutating webhook" in str(answer.refusal)


async def test_addresses_are_held_from_the_moment_they_are_known(
    dispatcher: Dispatcher, api: MemoryApi, cluster: Cluster
) -> None:
    cluster.changed(VPCS, ("net", "blue"), api.store(VPCS, vpc()))
    first = attachment("web", "net", "10.1.1.1/24", ready=False)
    cluster.changed(VPC_ATTACHMENTS, ("net", "web"), first)
    second = attachment("api", "net", "10.1.1.1/24", ready=False)
    answer = await dispatcher.validate(request(VPC_ATTACHMENTS, second))
    assert "held by VPCAttachment net/web" in str(answer.refusal)
    # Not by itself, not by one that did not get it, not by one that is gone.
    assert (await dispatcher.validate(request(VPC_ATTACHMENTS, first))).refusal is None
    lost = first | {"status": {"conditions": [{"type": "Accepted", "status": "False"}]}}
    cluster.changed(VPC_ATTACHMENTS, ("net", "web"), lost)
    assert (await dispatcher.validate(request(VPC_ATTACHMENTS, second))).refusal is None
    cluster.changed(VPC_ATTACHMENTS, ("net", "web"), first)
    cluster.changed(VPC_ATTACHMENTS, ("net", "web"), None)
    assert (await dispatcher.validate(request(VPC_ATTACHMENTS, second))).refusal is None


async def test_the_clusters_ranges_are_read_from_nodes(dispatcher: Dispatcher, api: MemoryApi) -> None:
    api.store(
        NODES, {"metadata": {"name": "node-1"}, "spec": {"podCIDRs": ["10.244.1.0/24", "fd00:244::/64"]}}
    )
    answer = await dispatcher.validate(request(VPCS, vpc("x", "net", "10.244.0.0/16", "fd00:244::/48")))
    assert answer.refusal is None
    assert [warning.partition(",")[0] for warning in answer.warnings] == [
        "spec.networks: 10.244.0.0/16 overlaps 10.244.1.0/24",
        "spec.networks: fd00:244::/48 overlaps fd00:244::/64",
    ]


@pytest.mark.parametrize(
    ("user", "refused"),
    [
        pytest.param(User("admin"), False, id="a-person"),
        pytest.param(User("galactic-node-node-1"), False, id="itself"),
        pytest.param(User("galactic-node-node-2"), True, id="another"),
        pytest.param(User(ACCOUNT, {NODE_NAME: ["node-1"]}), False, id="token-for-it"),
        pytest.param(User(ACCOUNT, {NODE_NAME: ["node-2"]}), True, id="token-for-another"),
        pytest.param(User(ACCOUNT, {POD_NAME: ["agent-1"]}), False, id="its-pod"),
        pytest.param(User(ACCOUNT, {POD_NAME: ["agent-2"]}), True, id="anothers-pod"),
        pytest.param(User(ACCOUNT, {POD_NAME: ["agent-3"]}), True, id="a-pod-that-is-on-no-node"),
        pytest.param(User(ACCOUNT, {POD_NAME: ["agent-4"]}), True, id="a-pod-that-is-gone"),
        pytest.param(User(ACCOUNT), True, id="a-token-that-tells-nothing"),
    ],
)
async def test_a_node_writes_its_own_segment(
    dispatcher: Dispatcher, api: MemoryApi, user: User, refused: bool
) -> None:
    for number in (1, 2):
        meta = {"name": f"agent-{number}", "namespace": "galactic-system"}
        api.store(PODS, {"metadata": meta, "spec": {"nodeName": f"node-{number}"}})
    api.store(PODS, {"metadata": {"name": "agent-3", "namespace": "galactic-system"}, "spec": {}})
    segment = {"metadata": {"name": "node-1"}, "spec": {"prefix": "2001:db8:ff01:100::/56"}}
    for subresource in ("", "status"):
        asked = request(NODE_SEGMENTS, segment, segment, user=user, subresource=subresource)
        assert ((await dispatcher.validate(asked)).refusal is not None) == refused


@pytest.mark.parametrize(
    ("resource", "manifest"),
    [
        pytest.param(VPCS, vpc("x", "net", "10.1.1.1/24"), id="vpc"),
        pytest.param(VPC_ATTACHMENTS, attachment("x", "net", "nonsense"), id="attachment"),
        pytest.param(NODE_SEGMENTS, {"metadata": {"name": "n"}, "spec": {"prefix": "::/1"}}, id="segment"),
        pytest.param(PODS, pod(attachment="Bad Name"), id="pod"),
    ],
)
async def test_what_was_bad_before_can_be_updated_and_deleted(
    dispatcher: Dispatcher, resource: Any, manifest: dict[str, Any]
) -> None:
    assert (await dispatcher.validate(request(resource, manifest))).refusal is not None
    touched = {**manifest, "metadata": {**manifest["metadata"], "finalizers": []}}
    assert (await dispatcher.validate(request(resource, touched, manifest))).refusal is None
    going = {**manifest, "metadata": {**manifest["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    assert (await dispatcher.validate(request(resource, going, {"metadata": {}}))).refusal is None
    assert (
        await dispatcher.validate(request(resource, manifest, manifest, operation="DELETE"))
    ).refusal is None


@pytest.mark.parametrize("resource", [VPCS, VPC_ATTACHMENTS], ids=["VPC", "VPCAttachment"])
async def test_metadata_without_bound_are_refused_whatever_else_changes(
    dispatcher: Dispatcher, resource: Any
) -> None:
    small = vpc() if resource == VPCS else attachment()
    large = {**small, "metadata": {**small["metadata"], "annotations": {"a": "x" * (70 << 10)}}}
    for old in (None, small):
        refusal = (await dispatcher.validate(request(resource, large, old))).refusal
        assert isinstance(refusal, Rejected)
        assert (refusal.reason, refusal.field) == ("TooLarge", "metadata")
    assert (await dispatcher.validate(request(resource, small, large))).refusal is None


SHARED = "0000000004d2"


def records(api: MemoryApi) -> dict[str, str]:
    stored = api.stored(CONFIG_MAPS, RECORDS, "galactic-system")
    return {} if stored is None else stored["data"]


async def test_an_identifier_needs_a_permission(dispatcher: Dispatcher, api: MemoryApi) -> None:
    asked: list[dict[str, Any]] = []
    api.permits = lambda spec: asked.append(spec) or spec["user"] == "admin"  # type: ignore[func-returns-value]
    tenant = User("tenant", {"scopes": ["a"]}, ("tenants",), "7")
    joining = vpc(identifier=SHARED, ready=False)
    answer = await dispatcher.validate(request(VPCS, joining, user=tenant))
    assert "tenant may not join" in str(answer.refusal)
    assert not records(api)
    attributes = {"group": "galactic.datumapis.com", "resource": "identifiers", "verb": "join"}
    assert asked == [
        {
            "user": "tenant",
            "uid": "7",
            "groups": ["tenants"],
            "extra": {"scopes": ["a"]},
            "resourceAttributes": attributes | {"name": SHARED, "namespace": "net"},
        }
    ]
    # Later in the life of a VPC that has no identifier yet as well.
    plain = vpc(ready=False)
    answer = await dispatcher.validate(request(VPCS, joining, plain, user=tenant))
    assert "tenant may not join" in str(answer.refusal)
    # No review is made of a VPC that requests none, or the one that it has.
    has = plain | {"status": {"identifier": SHARED}}
    assert (await dispatcher.validate(request(VPCS, plain, user=tenant))).refusal is None
    assert (await dispatcher.validate(request(VPCS, joining, has, user=tenant))).refusal is None
    assert len(asked) == 2
    assert (await dispatcher.validate(request(VPCS, joining))).refusal is None
    assert records(api) == {"uid-blue": f"net/blue {SHARED}"}


async def test_a_dry_run_is_not_recorded(dispatcher: Dispatcher, api: MemoryApi) -> None:
    dry = replace(request(VPCS, vpc(identifier=SHARED)), dry_run=True)
    assert (await dispatcher.validate(dry)).refusal is None
    assert not records(api)


async def test_records_that_are_not_needed_go(
    dispatcher: Dispatcher, api: MemoryApi, cluster: Cluster
) -> None:
    assert (await dispatcher.validate(request(VPCS, vpc(identifier=SHARED)))).refusal is None
    settled = vpc(identifier=SHARED)
    settled["status"]["identifier"] = SHARED
    cluster.changed(VPCS, ("net", "blue"), settled)
    for number in range(MOST_UNKNOWN + 1):
        api.change(CONFIG_MAPS, RECORDS, {"data": {f"gone-{number}": "x"}}, "galactic-system")
    other = vpc("green", identifier="0000000004d3", ready=False)
    assert (await dispatcher.validate(request(VPCS, other))).refusal is None
    assert set(records(api)) == {"uid-green"}


async def test_nothing_joins_while_the_record_cannot_be_written(
    dispatcher: Dispatcher, api: MemoryApi
) -> None:
    api.fail = lambda verb, resource, _: (
        Unreachable("kube-apiserver", "away") if (verb, resource) == ("patch", CONFIG_MAPS) else None
    )
    with pytest.raises(Unreachable):
        await dispatcher.validate(request(VPCS, vpc(identifier=SHARED)))


async def test_a_network_inside_another_namespaces_termination_is_refused(
    dispatcher: Dispatcher, api: MemoryApi, cluster: Cluster
) -> None:
    shared = api.store(VPCS, vpc(allowedNamespaces={"from": "All"}))
    cluster.changed(VPCS, ("net", "blue"), shared)
    outer = attachment("outer", "team", "10.1.1.1/24")
    outer["spec"]["vpc"]["namespace"] = "net"
    outer["spec"]["routes"] = [{"destination": "192.168.3.0/24", "via": "10.1.1.1"}]
    cluster.changed(VPC_ATTACHMENTS, ("team", "outer"), outer)
    inner = attachment("inner", "other", "10.1.1.2/24")
    inner["spec"]["vpc"]["namespace"] = "net"
    inner["spec"]["routes"] = [{"destination": "192.168.3.128/25", "via": "10.1.1.2"}]
    for namespace in ("other", "team", "net"):
        inner["metadata"]["namespace"] = namespace
        refusal = (await dispatcher.validate(request(VPC_ATTACHMENTS, inner))).refusal
        assert (refusal is not None) == (namespace == "other"), namespace
        assert refusal is None or "lies inside a network that a VPCAttachment of another namespace" in str(
            refusal
        )
    address = attachment("address", "other", "192.168.3.7/24")
    address["spec"]["vpc"]["namespace"] = "net"
    refusal = (await dispatcher.validate(request(VPC_ATTACHMENTS, address))).refusal
    assert "spec.interface.addresses: 192.168.3.7/32 lies inside" in str(refusal)
    # When the outer one goes, and not for a default route.
    cluster.changed(VPC_ATTACHMENTS, ("team", "outer"), None)
    outer["spec"]["routes"][0]["destination"] = "0.0.0.0/0"
    cluster.changed(VPC_ATTACHMENTS, ("team", "outer"), outer)
    inner["metadata"]["namespace"] = "other"
    assert (await dispatcher.validate(request(VPC_ATTACHMENTS, inner))).refusal is None


async def test_the_owner_decides_who_may_terminate(
    dispatcher: Dispatcher, api: MemoryApi, cluster: Cluster
) -> None:
    closed = vpc(allowedNamespaces={"from": "All"}, allowedTerminations={"from": "Same"})
    cluster.changed(VPCS, ("net", "blue"), api.store(VPCS, closed))
    terminating = attachment("gate", "other", "10.1.1.1/24")
    terminating["spec"]["vpc"]["namespace"] = "net"
    terminating["spec"]["routes"] = [{"destination": "192.168.3.0/24", "via": "10.1.1.1"}]
    refusal = (await dispatcher.validate(request(VPC_ATTACHMENTS, terminating))).refusal
    assert "spec.routes: VPC net/blue does not let namespace other terminate networks" in str(refusal)
    own = attachment("gate", "net", "10.1.1.1/24")
    own["spec"]["routes"] = terminating["spec"]["routes"]
    assert (await dispatcher.validate(request(VPC_ATTACHMENTS, own))).refusal is None
    # A grant of a moment ago, which the cache has not seen.
    api.store(VPCS, vpc(allowedNamespaces={"from": "All"}, allowedTerminations={"from": "All"}))
    assert (await dispatcher.validate(request(VPC_ATTACHMENTS, terminating))).refusal is None


SLIP = ATTACHMENT_ANNOTATION.replace("attachment", "attachement")
OTHER = "galactic.datumapis.com/note"


@pytest.mark.parametrize(
    ("resource", "annotations", "warned"),
    [
        pytest.param(PODS, {SLIP: "web", "example.com/x": ""}, [(SLIP, ATTACHMENT_ANNOTATION)], id="slip"),
        pytest.param(
            PODS, {"galactic.datumapis.com/vpc": "blue"}, [("galactic.datumapis.com/vpc", VPC_ANNOTATION)],
            id="another-domain-of-ours",
        ),
        pytest.param(PODS, {OTHER: "", SLIP: ""}, [(OTHER, ""), (SLIP, ATTACHMENT_ANNOTATION)], id="two"),
        pytest.param(PODS, {"galactic.datumapis.com/configuration": "5a"}, [], id="of-our-own-pods"),
        pytest.param(PODS, {"notgalactic.datumapis.com/x": "", "galactic": ""}, [], id="of-others"),
        pytest.param(VPCS, {VPC_ANNOTATION: "blue"}, [(VPC_ANNOTATION, "")], id="on-another-kind"),
    ],
)  # fmt: skip
async def test_annotations_of_ours_without_effect_are_warned_of(
    dispatcher: Dispatcher, resource: Any, annotations: dict[str, str], warned: list[tuple[str, str]]
) -> None:
    manifest = pod() if resource == PODS else vpc()
    manifest["metadata"]["annotations"] = annotations
    answer = await dispatcher.validate(request(resource, manifest))
    assert answer.refusal is None
    assert answer.warnings == tuple(
        f"metadata.annotations[{name}]: has no effect here; "
        + (f"did you mean {meant}?" if meant else "remove it")
        for name, meant in warned
    )


async def test_an_update_of_a_pod_repeats_no_warning(dispatcher: Dispatcher) -> None:
    manifest = pod()
    manifest["metadata"]["annotations"] = {SLIP: "web"}
    assert not (await dispatcher.validate(request(PODS, manifest, manifest))).warnings


def headless(annotation: str | None, **spec: Any) -> dict[str, Any]:
    annotations = {} if annotation is None else {SERVICE_VPC_ANNOTATION: annotation}
    return {
        "metadata": {"name": "db", "namespace": "net", "annotations": annotations},
        "spec": {"clusterIP": "None", "selector": {"app": "db"}, **spec},
    }


@pytest.mark.parametrize(
    ("service", "op"),
    [
        pytest.param(headless("blue"), "add", id="added"),
        pytest.param(headless("blue", selector={"app": "db", ADDRESSES_LABEL: "vpc"}), "", id="there"),
        pytest.param(headless(None, selector={"app": "db", ADDRESSES_LABEL: "vpc"}), "remove", id="removed"),
        pytest.param(headless(None), "", id="not-asked-for"),
    ],
)
async def test_a_service_is_published_by_one_controller(
    dispatcher: Dispatcher, service: dict[str, Any], op: str
) -> None:
    answer = await dispatcher.mutate(request(SERVICES, service))
    assert answer.refusal is None
    assert [step["op"] for step in answer.patch] == [op] * bool(op)
    assert all(step["path"] == "/spec/selector/galactic.datumapis.com~1addresses" for step in answer.patch)


@pytest.mark.parametrize(
    ("service", "reason"),
    [
        pytest.param(headless("blue", clusterIP=""), "NotHeadless", id="with-an-address"),
        pytest.param(headless("blue", selector={}), "NoSelector", id="no-selector"),
        pytest.param(headless("a/b/c"), "InvalidName", id="no-name"),
        pytest.param(headless("elsewhere/blue"), "NotGranted", id="not-granted"),
    ],
)
async def test_a_service_that_cannot_be_published_is_refused(
    dispatcher: Dispatcher, service: dict[str, Any], reason: str
) -> None:
    answer = await dispatcher.mutate(request(SERVICES, service))
    assert isinstance(answer.refusal, Rejected)
    assert answer.refusal.reason == reason
    assert answer.refusal.field


def policy(namespace: str = "net", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "rules", "namespace": namespace}, "spec": {"vpc": {"name": "blue"}, **spec}}


@pytest.mark.parametrize(
    ("spec", "refusal"),
    [
        pytest.param({}, "", id="default-deny"),
        pytest.param({"ingress": [{"ports": [{"port": 80, "endPort": 81}]}]}, "", id="ports"),
        pytest.param(
            {"ingress": [{"ports": [{"port": 81, "endPort": 80}]}]},
            "spec.ingress[0].ports[0].endPort: 80 is less than port 81; swap them",
            id="end-port-first",
        ),
        pytest.param(
            {"ingress": [{"ports": [{"endPort": 80}]}]},
            "spec.ingress[0].ports[0].endPort: 80 ends a range without a beginning; give port as well",
            id="no-port",
        ),
        pytest.param(
            {"ingress": [{"ports": [{"port": "http"}]}]}, "spec.ingress[0].ports[0].port", id="name"
        ),
        pytest.param(
            {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.1/8"}}]}]},
            "spec.egress[0].to[0].ipBlock.cidr: '10.0.0.1/8': 10.0.0.1/8 has host bits set; write 10.0.0.0/8",
            id="host-bits",
        ),
        pytest.param(
            {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["fd00::/64"]}}]}]},
            "spec.egress[0].to[0].ipBlock.except[0]: fd00::/64 is not within 10.0.0.0/8; give networks that cidr has",
            id="exception-of-the-other-family",
        ),
        pytest.param(
            {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "attachmentSelector": {}}]}]},
            "spec.ingress[0].from[0]: ipBlock and a selector exclude each other; make two peers of them",
            id="block-and-selector",
        ),
        pytest.param(
            {"ingress": [{"from": [{}]}]}, "spec.ingress[0].from[0]: a peer without any field", id="no-peer"
        ),
        pytest.param(
            {"attachmentSelector": {"matchLabels": {"app": "a b"}}},
            "spec.attachmentSelector.matchLabels[app]: 'a b' is not a label's value",
            id="label-value",
        ),
        pytest.param(
            {"attachmentSelector": {"matchExpressions": [{"key": "app", "operator": "In"}]}},
            "spec.attachmentSelector.matchExpressions[0].values: operator In with 0 values; give values",
            id="in-nothing",
        ),
        pytest.param(
            {"vpc": {"namespace": "other", "name": "blue"}},
            "spec.vpc: VPC other/blue does not exist or does not admit",
            id="vpc",
        ),
    ],
)
async def test_rules(dispatcher: Dispatcher, api: MemoryApi, spec: dict[str, Any], refusal: str) -> None:
    answer = await dispatcher.validate(request(VPC_POLICIES, policy(**spec)))
    assert (answer.refusal is None) == (not refusal)
    assert refusal in str(answer.refusal)


@pytest.mark.parametrize(
    ("floor", "refusal"),
    [
        ({"policyTypes": ["Ingress"], "vpc": {"name": "blue"}}, ""),
        ({"vpc": {"name": "red"}}, "/red is not this VPC; leave it out"),
        (
            {"ingress": [{"from": [{}]}]},
            "spec.policies[0].ingress[0].from[0]: a peer without any field means nothing",
        ),
    ],
)
async def test_a_floor(dispatcher: Dispatcher, floor: dict[str, Any], refusal: str) -> None:
    answer = await dispatcher.validate(request(VPCS, vpc(policies=[floor])))
    assert (answer.refusal is None) == (not refusal)
    assert refusal in str(answer.refusal)
