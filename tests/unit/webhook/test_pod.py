"""Pods that ask for an attachment: completed, refused, or left alone."""

import json
from typing import Any

import pytest

from galactic.errors import NotYet, Rejected
from galactic.names import (
    ATTACHMENT_ANNOTATION,
    ATTACHMENT_LABEL,
    GENERATED,
    NETWORKS_ANNOTATION,
    VPC_ANNOTATION,
)
from galactic.webhook import pod
from galactic.webhook.pod import Attachment


def manifest(name: str = "web-1", annotations: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    meta: dict[str, Any] = {"name": name, "namespace": "blue"}
    if annotations is not None:
        meta["annotations"] = annotations
    return {"metadata": meta | more.pop("metadata", {}), "spec": {"containers": []}, **more}


def of(*annotations: str, **more: Any) -> pod.Pod:
    """A Pod with annotations written KEY=VALUE, where a, v and n stand for ours and Multus's."""
    keys = {"a": ATTACHMENT_ANNOTATION, "v": VPC_ANNOTATION, "n": NETWORKS_ANNOTATION}
    pairs = (annotation.partition("=") for annotation in annotations)
    return pod.parse(manifest(annotations={keys[key]: value for key, _, value in pairs}, **more), "blue")


def patched(before: dict[str, Any], patch: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """The object after a JSON patch of add operations (RFC 6902)."""
    after = json.loads(json.dumps(before))
    for step in patch:
        assert step["op"] == "add"
        *path, last = [part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]]
        place = after
        for part in path:
            place = place[part]
        place[last] = step["value"]
    return after


@pytest.mark.parametrize(
    ("asking", "reason", "message"),
    [
        pytest.param(
            of("a=web", spec={"hostNetwork": True}),
            "HostNetwork",
            "spec.hostNetwork: true",
            id="host-network",
        ),
        pytest.param(
            of(
                "a=web", metadata={"annotations": {ATTACHMENT_ANNOTATION: "web", pod.MIRROR_ANNOTATION: "a1"}}
            ),
            "StaticPod",
            "run it as a DaemonSet",
            id="static-pod",
        ),
        pytest.param(
            of("a=web", 'n=[{"name":"web","ips":["10.1.1.1"]}]'),
            "ConfiguredElsewhere",
            "give spec.interface.addresses",
            id="address-in-the-networks",
        ),
        pytest.param(
            of("a=web", 'n=[{"name":"web","default-route":["10.1.1.1"]}]'),
            "ConfiguredElsewhere",
            "spec.routes",
            id="default-route-in-the-networks",
        ),
        pytest.param(of("a="), "InvalidName", "'' is not the name", id="empty-name"),
        pytest.param(of("a=a,b"), "InvalidName", "'a,b'", id="two-names"),
        pytest.param(of("a=green/web"), "InvalidName", "one in namespace blue", id="of-another-namespace"),
        pytest.param(of("v=a/b/c"), "InvalidName", "NAMESPACE/NAME", id="vpc-with-two-slashes"),
        pytest.param(of("v="), "InvalidName", "not the name of a VPC", id="empty-vpc"),
        pytest.param(of("v=blue", "a=web"), "TwoAttachments", "remove one", id="both"),
        pytest.param(
            of("a=web", "n=[{"), "MalformedNetworks", "cni.cncf.io/networks]: '[{'", id="malformed-networks"
        ),
        pytest.param(of("a=web", "n=x@y,z@y"), "DuplicateInterface", "'y'", id="interface-twice"),
        pytest.param(of("a=web", "n=x@eth0"), "DuplicateInterface", "'eth0'", id="interface-of-the-pod"),
        pytest.param(of("a=web", "n=x,y@net1"), "DuplicateInterface", "'net1'", id="interface-multus-names"),
    ],
)
def test_refused(asking: pod.Pod, reason: str, message: str) -> None:
    with pytest.raises(Rejected) as refusal:
        pod.checked(asking)
    assert refusal.value.reason == reason
    assert message in str(refusal.value)
    assert refusal.value.field


@pytest.mark.parametrize(
    "asking",
    [
        pytest.param(of("a=web"), id="attachment"),
        pytest.param(of("a=web.example"), id="attachment-with-a-dot"),
        pytest.param(of("v=blue"), id="vpc"),
        pytest.param(of("v=net/blue"), id="vpc-of-another-namespace"),
        pytest.param(of("a=web", "n=x,y@b"), id="beside-others"),
        pytest.param(of("a=web", 'n=[{"name":"x","mac":"c2:b0:57:49:47:f1"}]'), id="beside-one-with-a-mac"),
        pytest.param(
            of("v=blue", "a=web-1-abcde", metadata={"labels": {ATTACHMENT_LABEL: GENERATED}}),
            id="seen-before",
        ),
    ],
)
def test_accepted(asking: pod.Pod) -> None:
    pod.checked(asking)
    assert asking.concerned


@pytest.mark.parametrize(
    ("annotations", "labels", "networks"),
    [
        pytest.param({}, None, "web@galactic0", id="alone"),
        pytest.param({NETWORKS_ANNOTATION: "x"}, {}, "x,web@galactic0", id="after-another"),
        pytest.param(
            {NETWORKS_ANNOTATION: "web@galactic0"}, {"app": "web"}, "web@galactic0", id="written-by-hand"
        ),
    ],
)
def test_what_is_added(annotations: dict[str, str], labels: dict[str, str] | None, networks: str) -> None:
    before = manifest(annotations={ATTACHMENT_ANNOTATION: "web", **annotations})
    if labels is not None:
        before["metadata"]["labels"] = labels
    after = patched(before, pod.mutated(pod.parse(before, "blue"), "web", "galactic0").patch)
    assert after["metadata"]["annotations"] == {
        ATTACHMENT_ANNOTATION: "web",
        **annotations,
        NETWORKS_ANNOTATION: networks,
    }
    assert after["metadata"]["labels"] == {**(labels or {}), ATTACHMENT_LABEL: "web"}
    assert not pod.mutated(pod.parse(after, "blue"), "web", "galactic0").patch, "not idempotent"


OWNER = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "u1", "controller": True}
COPIED = {"labels": {ATTACHMENT_LABEL: GENERATED}}


def test_that_of_a_stateful_set_is_named_after_its_place() -> None:
    asking = of("v=blue", metadata={"name": "db-0", "ownerReferences": [OWNER]})
    assert pod.attachment_name(asking, "abcde") == "db-0"
    by_hand = of("v=blue", metadata={"name": "db-0"})
    assert pod.attachment_name(by_hand, "abcde") == "db-0-abcde"


@pytest.mark.parametrize(
    ("asking", "attachment", "taken"),
    [
        pytest.param(["v=blue", "a=db-0"], None, False, id="first"),
        pytest.param(["v=blue", "a=db-0"], Attachment("g", True, generated=True), False, id="the-next"),
        pytest.param(["v=blue", "a=db-0"], Attachment("g", True), True, id="a-users"),
        pytest.param(["v=blue", "a=db-1"], Attachment("g", True, generated=True), True, id="of-another-pod"),
    ],
)
def test_a_stateful_set_goes_on_with_its_own(
    asking: list[str], attachment: Attachment | None, taken: bool
) -> None:
    requester = of(*asking, metadata={"name": "db-0", "ownerReferences": [OWNER], **COPIED})
    if not taken:
        pod.fresh(requester, attachment)
        return
    with pytest.raises(Rejected) as refusal:
        pod.fresh(requester, attachment)
    assert refusal.value.reason == "AttachmentTaken"


def test_one_that_the_operator_made_is_shared_with_no_pod() -> None:
    pod.shareable(of("a=web"), None)
    pod.shareable(of("a=web"), Attachment("g", True))
    with pytest.raises(Rejected, match="was made for a pod"):
        pod.shareable(of("a=db-0"), Attachment("g", True, generated=True))


def test_an_attachment_of_its_own_is_named_after_the_pod() -> None:
    before = manifest(
        name="", annotations={VPC_ANNOTATION: "net/blue"}, metadata={"generateName": "web-5d4f-"}
    )
    asking = pod.parse(before, "blue")
    assert asking.vpc == ("net", "blue")
    name = pod.attachment_name(asking, "abcde")
    assert name == "web-5d4f-abcde"
    after = patched(before, pod.mutated(asking, name, "galactic0").patch)
    assert after["metadata"]["annotations"][ATTACHMENT_ANNOTATION] == name
    assert after["metadata"]["annotations"][NETWORKS_ANNOTATION] == f"{name}@galactic0"
    assert after["metadata"]["labels"] == {ATTACHMENT_LABEL: GENERATED}
    again = pod.parse(after, "blue")
    pod.checked(again)
    assert not pod.mutated(again, again.attachment, "galactic0").patch


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("web", "web-abcde", id="short"),
        pytest.param("a" * 80, "a" * 57 + "-abcde", id="cut-to-63"),
        pytest.param("a" * 56 + "-bcd", "a" * 56 + "-abcde", id="no-dash-before-the-dash"),
        pytest.param("web.example", "web-example-abcde", id="a-label-has-no-dots"),
        pytest.param("", "pod-abcde", id="nothing-to-go-by"),
    ],
)
def test_generated_names_are_labels(name: str, expected: str) -> None:
    assert pod.attachment_name(pod.Pod("blue", name), "abcde") == expected
    assert len(expected) <= 63


def test_labels_differ_by_attachment() -> None:
    names = ["web", GENERATED, "a" * 64, "a" * 65]
    values = {pod.label(name) for name in names}
    assert len(values) == len(names)
    assert GENERATED not in values
    assert max(map(len, values)) <= 63


def test_an_entry_under_another_name_is_warned_of_and_left() -> None:
    answer = pod.mutated(of("a=web", "n=web@other"), "web", "galactic0")
    assert "interface other" in answer.warnings[0]
    assert not [step for step in answer.patch if "networks" in step["path"]]


def test_the_attachments_interface_must_be_free() -> None:
    with pytest.raises(Rejected, match="'galactic0'"):
        pod.mutated(of("a=web", "n=x@galactic0"), "web", "galactic0")


def test_missing_and_not_ready_converge() -> None:
    with pytest.raises(NotYet, match=r"no VPCAttachment blue/web; make it.*tries again by itself"):
        pod.ready(of("a=web"), None)
    with pytest.raises(NotYet, match=r"not ready \(VPC blue/x does not exist\).*tries again by itself"):
        pod.ready(of("a=web"), Attachment("galactic0", ready=False, message="VPC blue/x does not exist"))
    pod.ready(of("a=web"), Attachment("galactic0", ready=True))


def test_a_copied_manifest_does_not_take_another_pods_attachment() -> None:
    pod.fresh(of("v=blue", "a=web-abcde"), None)
    with pytest.raises(Rejected, match="made for another pod"):
        pod.fresh(of("v=blue", "a=web-abcde"), Attachment("galactic0", ready=True))


def test_sharing_is_warned_of() -> None:
    assert not pod.shared(of("a=web"), []).warnings
    answer = pod.shared(of("a=web"), ["web-2", "web-1"])
    assert answer.refusal is None
    assert answer.warnings[0].startswith("pod web-1, web-2 have VPCAttachment web as well")


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        pytest.param(of("a=web"), of("a=api"), ATTACHMENT_ANNOTATION, id="changed"),
        pytest.param(of("a=web"), of(), ATTACHMENT_ANNOTATION, id="removed"),
        pytest.param(of(), of("a=web"), ATTACHMENT_ANNOTATION, id="set"),
        pytest.param(of("v=blue"), of("v=green"), VPC_ANNOTATION, id="another-vpc"),
        pytest.param(
            of("a=web", "n=web@galactic0"), of("a=web"), NETWORKS_ANNOTATION, id="our-entry-removed"
        ),
        pytest.param(
            of("a=web", "n=web@galactic0"),
            of("a=web", "n=web@x"),
            NETWORKS_ANNOTATION,
            id="our-entry-changed",
        ),
        pytest.param(of("a=web", "n=web@g"), of("a=web", "n=web@g,x"), None, id="a-network-more"),
        pytest.param(of("a=web", "n=web@g,x"), of("a=web", "n=web@g"), None, id="a-network-less"),
        pytest.param(of("n=x"), of("n=y"), None, id="none-of-ours"),
        pytest.param(of("a=web", status={"phase": "Succeeded"}), of("a=api"), None, id="over"),
        pytest.param(of("a=web", "n=["), of("a=web", "n=x"), None, id="was-malformed"),
    ],
)
def test_a_running_pod_keeps_its_annotations(old: pod.Pod, new: pod.Pod, field: str | None) -> None:
    if field is None:
        pod.updated(old, new)
        return
    with pytest.raises(Rejected, match="make it again") as refusal:
        pod.updated(old, new)
    assert refusal.value.field == f"metadata.annotations[{field}]"
