"""Changes between a request and its answer, and in a namespace that is being deleted."""

from structlog.testing import capture_logs

from galactic.kube.api import Terminating
from galactic.kube.resources import EVENTS, NADS, NAMESPACES, PODS, VPC_ATTACHMENTS, VPCS
from galactic.names import ATTACHMENT_ANNOTATION, ATTACHMENT_LABEL, GENERATED, VPC_ANNOTATION
from galactic.operator.context import FINALIZER

KEY = ("default", "a")
GOING = {"metadata": {"deletionTimestamp": "2026-01-02T00:00:00Z", "finalizers": ["kubernetes"]}}


def refuse(cluster):
    """Nothing is made in the namespace any more."""
    cluster.api.fail = lambda verb, _resource, _name: (
        Terminating("it is being terminated", reason="NamespaceTerminating") if verb == "create" else None
    )


def made(cluster, kind):
    return sum(request[:2] == ("create", kind.kind) for request in cluster.api.requests)


def answers(cluster, method, resource, meanwhile):
    """``meanwhile(answer)`` happens between the next such request and its answer."""
    real = getattr(cluster.api, method)

    async def slowly(kind, *arguments, **more):
        answer = await real(kind, *arguments, **more)
        if kind == resource and getattr(cluster.api, method) is slowly:
            setattr(cluster.api, method, real)
            await meanwhile(answer)
        return answer

    setattr(cluster.api, method, slowly)


async def test_a_definition_that_is_deleted_before_its_creation_is_answered_is_made_again(cluster):
    async def goes(_answer):
        cluster.api.remove(NADS, "a", "default")

    answers(cluster, "create", NADS, goes)
    cluster.vpc("v")
    cluster.attachment("a")
    await cluster.settled()
    assert cluster.nad("a")


async def test_an_attachment_that_goes_before_its_status_is_answered_holds_nothing(cluster):
    async def goes(_answer):
        cluster.api.remove(VPC_ATTACHMENTS, "a", "default")

    cluster.vpc("v")
    await cluster.settled()
    answers(cluster, "patch", VPC_ATTACHMENTS, goes)
    cluster.attachment("a")
    await cluster.settled()
    assert cluster.reconciler.caches.attachments.get(KEY) is None
    assert not cluster.reconciler.allocator.of(("default", "v")).members


async def test_what_goes_while_it_is_listed_is_gone(cluster):
    cluster.vpc("v")
    cluster.attachment("a")
    await cluster.settled()

    async def goes(_answer):
        cluster.api.remove(VPC_ATTACHMENTS, "a", "default")

    answers(cluster, "list", VPC_ATTACHMENTS, goes)
    await cluster.reconciler.resync()
    assert cluster.reconciler.caches.attachments.get(KEY) is None


async def test_a_vpc_is_held_by_an_attachment_that_comes_while_its_status_is_written(cluster):
    cluster.vpc("v")
    cluster.attachment("a")
    await cluster.settled()
    assert FINALIZER in cluster.api.stored(VPCS, "v", "default")["metadata"]["finalizers"]
    cluster.api.patches.clear()

    async def another_comes(_answer):
        cluster.attachment("b")
        await cluster.until(lambda: cluster.reconciler.allocator.vpc_of(("default", "b")) is not None)

    answers(cluster, "patch", VPCS, another_comes)
    cluster.api.remove(VPC_ATTACHMENTS, "a", "default")
    await cluster.settled()
    finalizers = [
        patch["metadata"].get("finalizers")
        for kind, _, patch in cluster.api.patches
        if kind == "VPC" and "metadata" in patch
    ]
    assert [] not in finalizers, "it was free to go for a moment"


async def test_nothing_is_asked_for_in_a_namespace_that_is_going(cluster):
    cluster.vpc("v", namespace="other", allowedNamespaces={"from": "All"})
    cluster.attachment("a", "other/v")
    await cluster.settled()
    before, patches = made(cluster, NADS), len(cluster.api.patches)
    with capture_logs() as logs:
        cluster.api.change(NAMESPACES, "default", GOING)
        await cluster.settled()
        refuse(cluster)
        cluster.api.remove(NADS, "a", "default")
        await cluster.settled()
    assert made(cluster, NADS) == before
    assert len(cluster.api.patches) == patches
    assert not [entry for entry in logs if entry["log_level"] != "debug"]


async def test_a_refusal_in_a_terminating_namespace_is_not_reported(cluster):
    """The watch of namespaces has not delivered it yet."""
    cluster.vpc("v", namespace="other", allowedNamespaces={"from": "All"})
    cluster.attachment("a", "other/v")
    await cluster.settled()
    refuse(cluster)
    before = made(cluster, NADS)
    with capture_logs() as logs:
        cluster.api.remove(NADS, "a", "default")
        meta = {
            "name": "p",
            "annotations": {ATTACHMENT_ANNOTATION: "p-own", VPC_ANNOTATION: "other/v"},
            "labels": {ATTACHMENT_LABEL: GENERATED},
        }
        cluster.api.put(PODS, {"metadata": meta, "spec": {}, "status": {"phase": "Pending"}}, "default")
        cluster.attachment("b", "nowhere")
        await cluster.settled()
    assert made(cluster, NADS) == before + 1
    assert made(cluster, VPC_ATTACHMENTS) == 1
    assert made(cluster, EVENTS) > 0, "of the one that has no VPC"
    assert not [entry for entry in logs if entry["log_level"] != "debug"]
    assert not cluster.reconciler.events.dropped
