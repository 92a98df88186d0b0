"""Each problem is a finding with its object and remedy, and a healthy cluster has none."""

import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import pytest
from states import (
    NOW,
    STAMP,
    Objects,
    condition,
    endpoint,
    event,
    fine,
    lease,
    node,
    pod,
    program,
    segment,
    snapshot,
)

from galactic import refusals
from galactic.cli.findings import NOTE, PROBLEM, findings, seconds
from galactic.cli.findings.events import EVENTS

Break = Callable[[Objects], dict[str, Any] | None]


def test_nothing_is_wrong_where_nothing_is_wrong() -> None:
    assert findings(snapshot(fine())) == []


def status(name: str, *conditions: dict[str, Any], **fields: Any) -> Break:
    def broken(objects: Objects) -> None:
        given = objects[name]["status"]
        given.update(fields)
        types = {condition["type"] for condition in conditions}
        given["conditions"] = [
            *(condition for condition in given["conditions"] if condition["type"] not in types),
            *conditions,
        ]

    return broken


def without(*names: str) -> Break:
    def broken(objects: Objects) -> None:
        for name in names:
            del objects[name]

    return broken


def changed(**given: dict[str, Any]) -> Break:
    def broken(objects: Objects) -> None:
        objects.update(given)

    return broken


def warned(*events: dict[str, Any], also: Break | None = None) -> Break:
    def broken(objects: Objects) -> dict[str, Any]:
        if also:
            also(objects)
        return {"events": events}

    return broken


def down(name: str, problem: str = "", node: str = "") -> Break:
    def broken(_: Objects) -> dict[str, Any]:
        names = ("operator", "router", "webhook")
        standing = [program(other) for other in names if other != name]
        return {"components": (*standing, program(name, 0, problem=problem, node=node))}

    return broken


def pending(objects: Objects) -> None:
    objects["Pod web"]["status"]["phase"] = "Pending"


def unrouted(objects: Objects) -> None:
    del objects["VPCAttachment web"]["status"]["endpoint"]


def past_the_webhook(objects: Objects) -> None:
    del objects["Pod web"]["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"]


@pytest.mark.parametrize(
    ("broken", "about", "reason", "message", "remedy"),
    [
        pytest.param(
            without("NodeSegment node-2", "VPCAttachment api", "Pod api"),
            *("Node node-2", "NoPrefix", "no SRv6 prefix", "a prefix that the underlay routes to the node"),
            id="node-without-prefix",
        ),
        pytest.param(
            warned(
                event(
                    "Node",
                    "node-2",
                    "PrefixOverlap",
                    "2001:db8:ff01:100::/56 overlaps … of NodeSegment node-1",
                ),
                also=without("NodeSegment node-2", "VPCAttachment api", "Pod api"),
            ),
            *(
                "Node node-2",
                "PrefixOverlap",
                "of NodeSegment node-1",
                "kubectl annotate node node-2 --overwrite",
            ),
            id="overlapping-prefix-in-the-annotation",
        ),
        pytest.param(
            lambda objects: (
                objects["Node node-2"]["metadata"]
                .setdefault("annotations", {})
                .update({"galactic.datumapis.com/srv6-prefix": "2001:db8:ff01:100::/56"})
            ),
            *("Node node-2", "PrefixOverlap", "of node node-1; node-2 keeps", "kubectl annotate node node-2"),
            id="two-nodes-with-one-prefix",
        ),
        pytest.param(
            status(
                "NodeSegment node-2", condition("Accepted", "False", "PrefixOverlap", "it overlaps another")
            ),
            *("NodeSegment node-2", "Accepted: PrefixOverlap", "overlaps", "spec.prefix"),
            id="overlapping-prefix-made-by-hand",
        ),
        pytest.param(
            status(
                "NodeSegment node-1",
                condition(
                    "BrokerConnected",
                    "False",
                    "Disconnected",
                    "the broker refused the connection: Bad user name or password; check mqtt_username",
                ),
            ),
            *(
                "NodeSegment node-1",
                "BrokerConnected",
                "Bad user name or password",
                "mqtt_password_file of galactic-node",
            ),
            id="wrong-mqtt-password-of-a-node",
        ),
        pytest.param(
            down("router", "mqtt: the broker refused the connection: Bad user name or password"),
            *("router", "NotReady", "Bad user name or password", "mqtt_password_file"),
            id="wrong-mqtt-password-of-the-router",
        ),
        pytest.param(
            status(
                "NodeSegment node-1",
                condition("VRF", "False", "Missing", "no VRF devices: `modprobe vrf` on the node"),
                condition("Ready", "False", "NotReady", "no VRF devices: `modprobe vrf` on the node"),
            ),
            *("NodeSegment node-1", "VRF: Missing", "modprobe vrf", "kubectl describe nseg node-1"),
            id="missing-kernel-feature",
        ),
        pytest.param(
            status(
                "NodeSegment node-1",
                condition(
                    "Neighbours", "False", "NeighbourFailed", "no answer to ARP … from blue/web 10.1.1.1"
                ),
            ),
            *("NodeSegment node-1", "Neighbours: NeighbourFailed", "blue/web 10.1.1.1", "galactic trace"),
            id="pod-that-does-not-answer",
        ),
        pytest.param(
            status(
                "VPCAttachment web",
                condition(
                    "Ready",
                    "False",
                    "AddressesExhausted",
                    "no free IPv4 address in 10.1.1.0/24; add a network to the VPC's spec.networks",
                ),
                ready=False,
            ),
            *("VPCAttachment blue/web", "AddressesExhausted", "add a network to the VPC's spec.networks", ""),
            id="full-network",
        ),
        pytest.param(
            status(
                "VPCAttachment web", condition("Granted", "False", "Revoked", "the VPC no longer admits it")
            ),
            *("VPCAttachment blue/web", "Revoked", "no longer admits", "spec.allowedNamespaces"),
            id="revoked-grant",
        ),
        pytest.param(
            status(
                "VPCAttachment web",
                condition(
                    "KindsCurrent",
                    "False",
                    "KindOutdated",
                    "the API server drops status.carriers; kubectl apply …",
                ),
            ),
            *(
                "kind VPCAttachment",
                "KindOutdated",
                "drops status.carriers",
                "kubectl apply --server-side -f crds/",
            ),
            id="kinds-of-an-earlier-version",
        ),
        pytest.param(
            status(
                "VPCAttachment web", condition("Conflict", "True", "Conflict", "10.1.1.1/32 is blue/api's")
            ),
            *("VPCAttachment blue/web", "Conflict", "10.1.1.1/32 is blue/api's", "other addresses"),
            id="conflict-of-networks",
        ),
        pytest.param(
            down("router", "postgres: PostgreSQL does not answer"),
            *("router", "NotReady", "routes do not depend on it", "database_url of galactic-router"),
            id="database-away",
        ),
        pytest.param(
            down("router", "postgres: PostgreSQL does not answer; mqtt: nobody listens there"),
            *("router", "NotReady", "route changes do not reach nodes", "check the broker"),
            id="database-and-broker-away",
        ),
        pytest.param(
            without("Lease galactic-router"),
            *("router", "NoLeader", "no replica leads", "deploy/galactic-router"),
            id="router-never-came",
        ),
        pytest.param(
            changed(**{"Lease galactic-router": lease("galactic-router", renewed="2027-01-15T07:00:00Z")}),
            *(
                "router",
                "NoLeader",
                "no replica leads (Lease galactic-router), for 3600 s",
                "galactic-router",
            ),
            id="router-away",
        ),
        pytest.param(
            down("webhook", "webhook: CrashLoopBackOff (no such file)"),
            *(
                "webhook",
                "NotReady",
                "pods that request an attachment cannot be created",
                "deploy/galactic-webhook",
            ),
            id="webhook-away",
        ),
        pytest.param(
            warned(
                event(
                    "ReplicaSet",
                    "blue/web",
                    "FailedCreate",
                    'failed calling webhook "pods.galactic.datumapis.com"',
                )
            ),
            *(
                "ReplicaSet blue/web",
                "FailedCreate",
                "failed calling webhook",
                "kubectl get pods -n net",
            ),
            id="webhook-away-as-users-see-it",
        ),
        pytest.param(
            past_the_webhook,
            *("Pod blue/web", "NotMutated", "without the entry in Multus' annotation", "recreate the pod"),
            id="pod-that-came-past-the-webhook",
        ),
        pytest.param(
            down("node", "held", node="node-1"),
            *(
                "node on node-1",
                "NotReady",
                "no pod can be attached or removed there",
                "-n net galactic-node-of-node-1",
            ),
            id="node-controller-away",
        ),
        pytest.param(
            unrouted,
            *(
                "VPCAttachment blue/web",
                "NotRouted",
                "attached on node-1, but no route",
                "kubectl describe vpca -n blue web",
            ),
            id="attached-and-not-routed",
        ),
        pytest.param(
            warned(
                event("Pod", "blue/web", "FailedCreatePodSandBox", "plugin galactic: code 11"), also=pending
            ),
            *("Pod blue/web", "FailedCreatePodSandBox", "code 11", "kubectl logs -n"),
            id="pod-that-cannot-be-attached",
        ),
        pytest.param(
            warned(
                event("VPCAttachment", "blue/web", "SidOutsidePrefix", "node node-2: … is not a SID of …")
            ),
            *("VPCAttachment blue/web", "SidOutsidePrefix", "node-2", "check galactic-node"),
            id="node-that-claims-what-is-not-its-own",
        ),
        pytest.param(
            changed(**{"NodeSegment node-1": segment(1) | {"status": {}}}),
            *("NodeSegment node-1", "Silent", "has not written its status", "-n net galactic-node-of-node-1"),
            id="silent-node",
        ),
        pytest.param(
            without("VPCAttachment web"),
            *("Pod blue/web", "AttachmentNotFound", "VPCAttachment blue/web does not exist", "apply it"),
            id="pod-without-attachment",
        ),
        pytest.param(
            status(
                "VPC blue", condition("Ready", "False", "OverlappingNetworks", "it overlaps"), ready=False
            ),
            *("VPC blue/blue", "OverlappingNetworks", "it overlaps", "kubectl describe vpc -n blue blue"),
            id="vpc-that-will-not-do",
        ),
    ],
)
def test_what_is_wrong_is_found(broken: Break, about: str, reason: str, message: str, remedy: str) -> None:
    objects = fine()
    more = broken(objects) or {}
    reported = list(findings(snapshot(objects, *more.get("events", ()), components=more.get("components"))))
    (match,) = [finding for finding in reported if finding.about == about]
    assert match.severity == PROBLEM
    assert match.reason.startswith(reason)
    assert message in match.message
    assert remedy in match.remedy
    others = [finding.about for finding in reported if finding.severity == PROBLEM and finding.about != about]
    assert not others, "one cause, one finding"


def test_each_refusal_of_a_routers_path_is_found() -> None:
    """Those of which the router makes Events; a condition has the others, or they belong to moves and starts."""
    source = files("galactic.router.rib").joinpath("path.py").read_text()
    source += files("galactic.router.rib").joinpath("networks.py").read_text()
    reasons = {
        *re.findall(r'reason="(\w+)"', source),
        "NotEntitled",
        "NotCarried",
        "EpochInFuture",
        "Duplicate",
    }
    assert len(reasons) > 12
    of_starts = {"NodeUnknown"}
    of_attachments = {"InvalidAddress"}  # in a status, not in an endpoint
    assert reasons - of_starts - of_attachments <= EVENTS


def test_a_smaller_link_is_a_note_that_names_the_node() -> None:
    things = fine()
    message = (
        "smaller links on the way: 1400 bytes to 2001:db8:ff02:100::/64 (reported by fd09::1); eth0 has 1500"
    )
    status("NodeSegment node-1", condition("PathMTU", "False", "SmallerLink", message))(things)
    (found,) = findings(snapshot(things))
    assert (found.severity, found.about, found.reason) == (NOTE, "NodeSegment node-1", "PathMTU: SmallerLink")
    assert "1400 bytes to node-2, 2001:db8:ff02:100::/64 (reported by fd09::1)" in found.message
    assert "docs/mtu.md" in found.remedy


def test_a_network_of_the_owner_that_was_not_accepted_is_a_note() -> None:
    things = fine()
    message = "VPC red/v got 10.96.0.0/12 after the attachment was ready"
    status("VPCAttachment web", condition("NetworksAccepted", "False", "NetworksDeclined", message))(things)
    (noted,) = findings(snapshot(things))
    assert (noted.severity, noted.about, noted.reason) == (NOTE, "VPCAttachment blue/web", "NetworksDeclined")
    assert noted.remedy.endswith("kubectl edit vpca -n blue web")


def test_what_is_the_matter_on_many_nodes_is_one_finding() -> None:
    objects = fine()
    for number in range(1, 10):
        objects[f"NodeSegment node-{number}"] = segment(number)
        objects[f"Node node-{number}"] = node(number)
        disconnected = condition(
            "BrokerConnected", "False", "Disconnected", "nobody listens there; see elsewhere"
        )
        status(f"NodeSegment node-{number}", disconnected)(objects)
    matching = [
        finding for finding in findings(snapshot(objects)) if finding.reason.startswith("BrokerConnected")
    ]
    assert [finding.about for finding in matching] == ["9 NodeSegments (node-1, node-2, node-3, …)"]
    assert "check the broker" in matching[0].remedy


def test_two_pods_on_one_attachment() -> None:
    objects = fine()
    objects["Pod twin"] = pod("web", 2)
    objects["Pod twin"]["metadata"]["name"] = "twin"
    objects["NodeSegment node-2"]["status"]["endpoints"].append(endpoint("web", 2, 1, 1))
    (finding,) = findings(snapshot(objects))
    assert (finding.severity, finding.about, finding.reason) == (NOTE, "VPCAttachment blue/web", "Shared")
    assert "blue/twin, blue/web" in finding.message
    objects["Pod twin"]["status"]["phase"] = "Succeeded"
    assert findings(snapshot(objects)) == []


def test_an_optional_feature_is_no_problem() -> None:
    objects = fine()
    status("NodeSegment node-1", condition("ReducedEncapsulation", "False", "Missing", "needs Linux 6.0"))(
        objects
    )
    (found,) = findings(snapshot(objects))
    assert found.severity == NOTE


def test_old_events_and_those_of_what_is_gone_are_history() -> None:
    objects = fine()
    pending(objects)
    old = event("Pod", "blue/web", "FailedCreatePodSandBox", "then", last="2027-01-15T07:00:00Z")
    deleted = event("Pod", "blue/gone", "FailedCreatePodSandBox", "of a pod that is no more")
    # The router repeats it every four minutes while it holds.
    ended = event("VPCAttachment", "blue/web", "NotEntitled", "node node-1: …", last="2027-01-15T07:54:00Z")
    assert findings(snapshot(objects, old, deleted, ended)) == []


def test_what_has_only_just_begun_is_no_finding() -> None:
    objects = fine()
    unrouted(objects)
    (place,) = objects["NodeSegment node-1"]["status"]["endpoints"]
    place["epoch"] = int((NOW - 2) * 1e9)
    assert findings(snapshot(objects)) == []


def test_an_epoch_of_a_clock_that_is_ahead_is_no_time_of_day() -> None:
    objects = fine()
    unrouted(objects)
    (place,) = objects["NodeSegment node-1"]["status"]["endpoints"]
    place["epoch"] = int((NOW + 3600) * 1e9)
    assert [finding.reason for finding in findings(snapshot(objects))] == ["NotRouted"]


def test_a_condition_of_the_operator_about_a_silent_router_is_one_finding() -> None:
    objects = fine()
    unrouted(objects)
    not_routed = {"type": "Routed", "status": "False", "reason": "NotRouted", "message": "no router has told"}
    objects["VPCAttachment web"]["status"]["conditions"].append(not_routed)
    (found,) = findings(snapshot(objects))
    assert (found.reason, found.message) == ("NotRouted", "no router has told")
    assert "kubectl describe vpca -n blue web" in found.remedy


def pod_gone(objects: Objects) -> None:
    del objects["Pod web"]


def pod_elsewhere(objects: Objects) -> None:
    objects["Pod web"]["spec"]["nodeName"] = "node-2"


def pod_going(objects: Objects) -> None:
    objects["Pod web"]["metadata"]["deletionTimestamp"] = STAMP


@pytest.mark.parametrize("leave", [pod_gone, pod_elsewhere, pod_going])
def test_a_status_that_nothing_updates_any_more_accuses_no_router(leave: Callable[[Objects], None]) -> None:
    """The NodeSegment of a lost node still lists its endpoints."""
    objects = fine()
    unrouted(objects)
    leave(objects)
    assert "NotRouted" not in [finding.reason for finding in findings(snapshot(objects))]


@pytest.mark.parametrize("leave", [pod_gone, pod_going])
def test_a_condition_of_pods_that_are_gone_is_no_finding(leave: Callable[[Objects], None]) -> None:
    objects = fine()
    unrouted(objects)
    not_routed = {"type": "Routed", "status": "False", "reason": "NotRouted", "message": "no router has told"}
    objects["VPCAttachment web"]["status"]["conditions"].append(not_routed)
    leave(objects)
    assert findings(snapshot(objects)) == []


def test_a_user_without_the_right_to_list_pods_learns_of_a_silent_router() -> None:
    objects = fine()
    unrouted(objects)
    del objects["Pod web"]
    seen = snapshot(objects)
    seen.unread["Pod"] = "forbidden"
    assert "NotRouted" in [finding.reason for finding in findings(seen)]


def test_a_router_outside_is_a_note_and_no_attachment_waits_for_it() -> None:
    objects = fine()
    unrouted(objects)
    del objects["Lease galactic-router"]
    seen = snapshot(objects)
    seen.router_outside = True
    (finding,) = findings(seen)
    assert (finding.severity, finding.about, finding.reason) == (NOTE, "router", "Outside")


def test_kinds_that_are_not_installed() -> None:
    empty = snapshot({}, components=())
    empty.unread = dict.fromkeys(("VPC", "VPCAttachment", "NodeSegment"), "the kind is not installed")
    reported = findings(empty)
    assert {finding.reason for finding in reported} == {"NotInstalled"}
    assert all("helm install" in finding.remedy for finding in reported)


def test_times_without_a_zone_are_utc_and_nonsense_is_long_ago() -> None:
    assert seconds("2027-01-15T08:00:00Z") == NOW
    assert seconds("2027-01-15T08:00:00") == NOW
    assert seconds("") == 0.0


def detached(**fields: Any) -> Objects:
    """Pod web runs, but its node has no endpoint for it."""
    objects = fine()
    objects["NodeSegment node-1"]["status"]["endpoints"] = []
    objects["Pod web"]["status"].update(fields)
    return objects


def unattached(objects: Objects, **given: Any) -> list[str]:
    return [
        finding.about
        for finding in findings(snapshot(objects, **given))
        if finding.reason == "PodNotAttached"
    ]


SANDBOX = {"type": "PodReadyToStartContainers", "status": "True"}


@pytest.mark.parametrize(
    ("fields", "accused"),
    [
        pytest.param({"startTime": "2027-01-15T07:59:30Z"}, True, id="for-30-s"),
        pytest.param({"startTime": "2027-01-15T07:59:31Z"}, False, id="for-29-s"),
        pytest.param(
            {
                "startTime": "2027-01-15T07:00:00Z",
                "conditions": [SANDBOX | {"lastTransitionTime": "2027-01-15T07:59:50Z"}],
            },
            False,
            id="its-sandbox-is-new",
        ),
        pytest.param({"phase": "Pending"}, False, id="it-does-not-run"),
        pytest.param({"phase": "Succeeded"}, False, id="it-has-ended"),
    ],
)
def test_a_pod_that_runs_without_its_interface_is_found(fields: dict[str, Any], accused: bool) -> None:
    assert unattached(detached(**fields)) == ["Pod blue/web"] * accused


def test_a_pod_that_is_attached_elsewhere_only_is_found() -> None:
    objects = fine()
    objects["Pod web"]["spec"]["nodeName"] = "node-2"
    assert unattached(objects) == ["Pod blue/web"]


def test_a_pod_on_the_network_of_its_node_has_no_interface() -> None:
    objects = detached()
    objects["Pod web"]["spec"]["hostNetwork"] = True
    assert unattached(objects) == []


def test_a_node_that_does_not_update_its_segment_accuses_no_pod() -> None:
    silent = detached()
    silent["NodeSegment node-1"]["status"]["conditions"] = []
    pod = detached()
    del pod["NodeSegment node-1"]
    away = (program("node", 0, node="node-1"), program("node", node="node-2"))
    assert unattached(silent) == unattached(pod) == unattached(detached(), components=away) == []


@pytest.mark.parametrize(
    ("owners", "remedy"),
    [
        (
            [{"kind": "ReplicaSet", "name": "web"}],
            "kubectl delete pod -n blue web; its owner replaces it",
        ),
        ([], "kubectl delete pod -n blue web; then create it again"),
    ],
)
def test_a_pod_without_its_interface_is_made_again(owners: list[dict[str, Any]], remedy: str) -> None:
    objects = detached()
    objects["Pod web"]["metadata"]["ownerReferences"] = owners
    (finding,) = (finding for finding in findings(snapshot(objects)) if finding.reason == "PodNotAttached")
    assert (finding.severity, finding.remedy) == (PROBLEM, remedy)


def test_a_controller_that_is_away_elsewhere_hides_no_pod() -> None:
    elsewhere = (program("node", node="node-1"), program("node", 0, node="node-2"))
    assert unattached(detached(), components=elsewhere) == ["Pod blue/web"]


THIEF = "red/thief"


def refusal_of(message: str, last: str = STAMP, uid: str = "") -> dict[str, Any]:
    """The kubelet's Event, which names the sandbox of the attempt."""
    refused = event("Pod", THIEF, "FailedCreatePodSandBox", f'sandbox "{last}": attachment: {message}', last)
    refused["involvedObject"] |= {"uid": uid} if uid else {}
    return refused


def thief(phase: str = "Pending") -> dict[str, Any]:
    """A pod without Galactic's annotations."""
    made = pod("thief", 2)
    made["metadata"] |= {"namespace": "red", "uid": "uid-1", "annotations": {}}
    made["status"]["phase"] = phase
    return made


def refused(*events: dict[str, Any], phase: str = "Pending") -> list[Any]:
    seen = snapshot(fine(), *events)
    seen.refused = {THIEF: thief(phase)}
    return findings(seen)


@pytest.mark.parametrize(
    ("message", "reason", "text", "remedy"),
    [
        pytest.param(
            refusals.other_namespace("blue/web", THIEF),
            "OtherNamespace",
            "node-2 does not attach it: its definition names VPCAttachment blue/web, which belongs to namespace blue",
            "name an attachment of namespace red",
            id="other-namespace",
        ),
        pytest.param(
            refusals.no_attachment(),
            "NoAttachment",
            "operator did not write",
            "delete that definition",
            id="none",
        ),
        pytest.param(
            refusals.not_carried("red/own", THIEF, "uid-1", "node-2"),
            "NotCarried",
            "leads to VPCAttachment red/own, which it does not carry",
            "create the pod again with that annotation",
            id="not-carried",
        ),
    ],
)
def test_a_pod_that_a_node_refuses_is_one_finding(message: str, reason: str, text: str, remedy: str) -> None:
    earlier = refusal_of("VPCAttachment x/y is not carried by pod", last="2027-01-15T07:58:00Z")
    (finding,) = refused(refusal_of(message), earlier)
    assert (finding.severity, finding.about, finding.reason) == (PROBLEM, f"Pod {THIEF}", reason)
    assert text in finding.message
    assert remedy in finding.remedy


def test_a_pod_of_galactic_that_no_carrier_names_waits_for_the_operator() -> None:
    objects = fine()
    pending(objects)
    message = refusals.not_carried("blue/web", "blue/web", "uid-1", "node-1")
    (finding,) = findings(
        snapshot(objects, event("Pod", "blue/web", "FailedCreatePodSandBox", f"attachment: {message}"))
    )
    assert (finding.about, finding.reason) == ("Pod blue/web", "NotCarried")
    assert "component=operator" in finding.remedy


def test_a_refusal_that_is_over_is_no_finding() -> None:
    message = refusals.other_namespace("blue/web", THIEF)
    assert refused(refusal_of(message), phase="Running") == []
    assert refused(refusal_of(message, uid="of a namesake that is gone")) == []
    assert refused(refusal_of(message, last="2027-01-15T07:00:00Z")) == []


def test_a_pod_that_runs_and_lost_its_attachment_leaves_its_vpc() -> None:
    objects = fine()
    del objects["VPCAttachment web"]
    (found,) = findings(snapshot(objects))
    assert (found.reason, found.about) == ("AttachmentNotFound", "Pod blue/web")
    assert "taken out of its VPC" in found.message
    assert "recreate the pod" in found.remedy


def test_a_router_whose_connections_others_can_read_is_noted_once() -> None:
    replicas = [
        event("Pod", f"net/galactic-router-{name}", "DatabaseExposed", "database_url: sslmode prefer")
        for name in "ab"
    ]
    elsewhere = event("Pod", "blue/web", "PasswordExposed", "of a tenant's making")
    (note,) = findings(snapshot(fine(), *replicas, elsewhere))
    assert (note.severity, note.about, note.reason) == (NOTE, "router", "DatabaseExposed")
    assert "sslmode prefer" in note.message


def service(**spec: Any) -> dict[str, Any]:
    annotations = {"galactic.datumapis.com/vpc": spec.pop("vpc", "vpc")}
    selector = {"app": "db", "galactic.datumapis.com/addresses": "vpc"}
    return {
        "kind": "Service",
        "metadata": {"name": "db", "namespace": "blue", "annotations": annotations},
        "spec": {"clusterIP": "None", "selector": selector} | spec,
    }


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        pytest.param(service(selector={"app": "db"}), "NotExclusive", id="kubernetes-publishes"),
        pytest.param(service(clusterIP="10.96.0.9"), "NotHeadless", id="with-an-address"),
        pytest.param(service(vpc="none"), "VPCNotFound", id="no-such-vpc"),
        pytest.param(service(vpc="NAME"), "", id="published"),
    ],
)
def test_services_that_publish_nothing(manifest: dict[str, Any], reason: str) -> None:
    objects = fine()
    vpc = next(one for one in objects.values() if one["kind"] == "VPC")["metadata"]
    manifest["metadata"]["namespace"] = vpc["namespace"]
    if (annotations := manifest["metadata"]["annotations"])["galactic.datumapis.com/vpc"] != "none":
        annotations["galactic.datumapis.com/vpc"] = vpc["name"]
    objects["Service db"] = manifest
    reported = findings(snapshot(objects))
    assert [finding.reason for finding in reported] == ([reason] if reason else [])
    assert all(finding.remedy for finding in reported)
