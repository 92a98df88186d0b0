"""Peers in the statuses of VPCs, in their conditions, and in what attachments give pods."""

import json

import pytest

from galactic.kube.resources import EVENTS, VPC_ATTACHMENTS, VPCS

A, B, C = "10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"


def peer(name: str, namespace: str | None = None) -> dict[str, str]:
    return {"name": name} | ({"namespace": namespace} if namespace else {})


class Peered:
    """Two VPCs of two namespaces, which name each other."""

    def __init__(self, cluster) -> None:
        self.cluster = cluster
        cluster.vpc("a", A, peers=[peer("b", "other")])
        cluster.vpc("b", B, namespace="other", peers=[peer("a", "default")])

    def peers(self, name: str, namespace: str = "default") -> list[tuple[str, bool, str]]:
        peers = self.cluster.status(name, namespace, VPCS).get("peers", ())
        return [(f"{one['namespace']}/{one['name']}", one["inForce"], one["reason"]) for one in peers]

    def condition(self, name: str, namespace: str = "default"):
        return self.cluster.condition("Peered", name, namespace, VPCS)

    def change(self, name: str, namespace: str = "default", **spec) -> None:
        self.cluster.api.change(VPCS, name, {"spec": spec}, namespace)


@pytest.fixture
def peered(cluster) -> Peered:
    return Peered(cluster)


async def test_both_report_the_peering_in_force(cluster, peered) -> None:
    await cluster.settled()
    assert peered.peers("a") == [("other/b", True, "InForce")]
    assert peered.peers("b", "other") == [("default/a", True, "InForce")]
    assert cluster.status("a", resource=VPCS)["peers"][0]["networks"] == [B]
    assert (peered.condition("a")["status"], peered.condition("b", "other")["status"]) == ("True", "True")
    events = [event["reason"] for event in cluster.api.all(EVENTS)]
    assert events.count("InForce") == 2
    cluster.api.requests.clear()
    await cluster.reconciler.resync()
    await cluster.settled()
    assert {verb for verb, _, _ in cluster.api.requests} == {"list"}


@pytest.mark.parametrize(
    ("spec", "reason", "theirs"),
    [
        pytest.param({"peers": []}, "NotNamedBack", "Requested", id="taken-back"),
        pytest.param({"networks": ["10.1.7.0/24"]}, "NetworksOverlap", "NetworksOverlap", id="overlap"),
    ],
)
async def test_what_one_does_shows_at_both_and_passes(cluster, peered, spec, reason, theirs) -> None:
    await cluster.settled()
    peered.change("b", "other", **spec)
    await cluster.settled()
    assert peered.peers("a") == [("other/b", False, reason)]
    assert peered.peers("b", "other") == [("default/a", False, theirs)]
    assert peered.condition("a")["reason"] == reason
    assert "other/b" in peered.condition("a")["message"]
    peered.change("b", "other", peers=[peer("a", "default")], networks=[B])
    await cluster.settled()
    assert peered.condition("a")["status"] == peered.condition("b", "other")["status"] == "True"
    peered.change("b", "other", peers=[])
    peered.change("a", peers=[])
    await cluster.settled()
    assert peered.condition("a") is peered.condition("b", "other") is None
    assert peered.peers("a") == peered.peers("b", "other") == []


async def test_a_vpc_of_another_namespace_and_one_that_does_not_exist_look_alike(cluster) -> None:
    cluster.vpc("a", A, peers=[peer("b", "other"), peer("nowhere", "other"), peer("gone")])
    cluster.vpc("b", A, namespace="other", peers=[peer("a", "elsewhere")])
    await cluster.settled()
    first, second, own = cluster.status("a", resource=VPCS)["peers"]
    assert first["reason"] == second["reason"] == "NotNamedBack"
    assert first["message"] == second["message"].replace("nowhere", "b")
    assert (own["reason"], "make it" in own["message"]) == ("PeerNotFound", True)
    assert A not in json.dumps([first, second])


async def test_two_peers_that_overlap_are_both_cut_and_the_third_learns_no_names(cluster) -> None:
    cluster.vpc("a", A, peers=[peer("b"), peer("c", "other")])
    cluster.vpc("b", B, peers=[peer("a")])
    cluster.vpc("c", C, namespace="other", peers=[peer("a", "default")])
    await cluster.settled()
    assert cluster.condition("Peered", "a", resource=VPCS)["status"] == "True"
    cluster.api.change(VPCS, "c", {"spec": {"networks": ["10.2.9.0/24"]}}, "other")
    await cluster.settled()
    reasons = [one["reason"] for one in cluster.status("a", resource=VPCS)["peers"]]
    assert reasons == ["PeersOverlap", "PeersOverlap"]
    theirs = cluster.condition("Peered", "c", "other", VPCS)
    assert theirs["reason"] == "PeersOverlap"
    assert "default/b" not in theirs["message"]
    assert B not in theirs["message"]
    assert cluster.condition("Peered", "b", resource=VPCS)["reason"] == "PeersOverlap"


async def test_deleting_one_cuts_at_once(cluster, peered) -> None:
    """Its attachments keep it for a while yet."""
    cluster.attachment("x", "b", namespace="other")
    await cluster.settled()
    cluster.api.remove(VPCS, "b", "other")
    await cluster.settled()
    assert cluster.api.stored(VPCS, "b", "other")["metadata"]["deletionTimestamp"]
    assert peered.peers("a") == [("other/b", False, "PeerNotReady")]
    assert peered.condition("b", "other")["reason"] == "NotReady"


async def test_attachments_get_the_peers_networks_and_lose_them(cluster, peered) -> None:
    cluster.attachment("x", "a")
    await cluster.settled()
    configuration = cluster.status("x")["configuration"]
    identifier = cluster.status("b", "other", VPCS)["identifier"]
    assert configuration["networks"] == [A, B]
    assert configuration["peers"] == [{"vpc": identifier, "networks": [B]}]
    assert json.loads(cluster.nad("x"))["plugins"][0]["networks"] == [A, B]
    address = cluster.status("x")["addresses"]
    peered.change("b", "other", peers=[])
    await cluster.settled()
    configuration = cluster.status("x")["configuration"]
    assert configuration["networks"] == [A]
    assert not configuration["peers"]
    assert cluster.status("x")["addresses"] == address
    cluster.api.requests.clear()
    await cluster.reconciler.resync()
    await cluster.settled()
    assert {verb for verb, _, _ in cluster.api.requests} == {"list"}


async def test_addresses_are_of_the_vpc_itself(cluster, peered) -> None:
    cluster.attachment("x", "a", acceptedNetworks=["10.2.0.0/16"])
    await cluster.settled()
    assert cluster.condition("Ready", "x")["reason"] == "NoNetworkAccepted"
    cluster.attachment("y", "a", acceptedNetworks=["10.1.4.0/24", "10.2.4.0/24"])
    await cluster.settled()
    assert cluster.status("y")["configuration"]["networks"] == ["10.1.4.0/24", "10.2.4.0/24"]
    assert cluster.status("y")["addresses"][0].startswith("10.1.")


async def test_another_namespaces_attachment_accepts_a_later_peer_only_by_itself(cluster) -> None:
    cluster.vpc("a", A, allowedNamespaces={"from": "All"})
    cluster.vpc("b", B, peers=[peer("a")])
    cluster.attachment("x", "default/a", namespace="other")
    cluster.attachment("own", "a")
    await cluster.settled()
    cluster.api.change(VPCS, "a", {"spec": {"peers": [peer("b")]}}, "default")
    await cluster.settled()
    assert cluster.status("own")["configuration"]["networks"] == [A, B]
    assert cluster.status("x", "other")["configuration"]["networks"] == [A]
    assert B in cluster.condition("NetworksAccepted", "x", "other")["message"]
    cluster.api.change(VPC_ATTACHMENTS, "x", {"spec": {"acceptedNetworks": ["0.0.0.0/0"]}}, "other")
    await cluster.settled()
    assert cluster.status("x", "other")["configuration"]["networks"] == [A, B]
    cluster.attachment("later", "default/a", namespace="other")
    await cluster.settled()
    assert cluster.status("later", "other")["configuration"]["networks"] == [A, B]


async def test_a_change_of_counts_concerns_no_peer(cluster, peered) -> None:
    cluster.attachment("x", "b", namespace="other")
    await cluster.settled()
    cluster.api.requests.clear()
    cluster.attachment("y", "b", namespace="other")
    await cluster.settled()
    assert not [request for request in cluster.api.requests if request[1:] == ("VPC", "a")]
