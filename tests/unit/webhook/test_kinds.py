"""VPCs, VPCAttachments and NodeSegments: refusals, warnings, and objects that are no longer checked."""

import dataclasses
from ipaddress import IPv6Network, ip_address, ip_network
from typing import Any

import pytest

from galactic.crds.model import parse
from galactic.crds.vpc import Vpc
from galactic.crds.vpcattachment import Carrier, VpcAttachment
from galactic.errors import Rejected
from galactic.webhook import nodesegment, vpc, vpcattachment
from galactic.webhook.review import User
from galactic.webhook.vpc import Range, Used

SPACE = IPv6Network("2001:db8:ff00::/40")
PODS = Range(ip_network("10.244.0.0/16"), "the cluster's pods")


def network(*networks: str, ready: bool = False, status: dict[str, Any] | None = None, **spec: Any) -> Vpc:
    return parse(
        Vpc,
        {
            "metadata": {"name": "blue", "namespace": "net"},
            "spec": {"networks": networks, **spec},
            "status": status or {},
        },
    )


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        pytest.param(["10.1.1.0/33"], "spec.networks[0]: '10.1.1.0/33'", id="bad-length"),
        pytest.param(["nonsense"], "spec.networks[0]: 'nonsense'", id="no-network"),
        pytest.param(["10.1.1.1/24"], "write 10.1.1.0/24", id="host-bits"),
        pytest.param(
            ["10.1.1.0/24", "10.1.1.0/24"], "spec.networks[1]: 10.1.1.0/24 is there twice", id="duplicate"
        ),
        pytest.param(["10.0.0.0/8", "10.1.1.0/24"], "spec.networks[1]: 10.1.1.0/24 overlaps", id="overlap"),
        pytest.param(["224.1.0.0/16"], "multicast", id="multicast"),
        pytest.param(["169.254.1.0/24"], "link-local", id="link-local"),
        pytest.param(["127.0.0.0/8"], "loopback", id="loopback"),
        pytest.param(["ff05::/16"], "multicast", id="multicast-6"),
        pytest.param(["fe80:1::/32"], "link-local", id="link-local-6"),
        pytest.param(["::1/128"], "loopback", id="loopback-6"),
        pytest.param(["2001:db8:ff01::/48"], "SRv6 block 2001:db8:ff00::/40", id="srv6-space"),
    ],
)
def test_networks_that_could_not_work(networks: list[str], message: str) -> None:
    with pytest.raises(Rejected) as refusal:
        vpc.created(network(*networks), SPACE, ())
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        pytest.param({"identifier": "000000000000"}, "spec.identifier", id="zero"),
        pytest.param({"identifier": "ffffffffffff"}, "spec.identifier", id="all-ones"),
        pytest.param(
            {"allowedNamespaces": {"from": "Selector"}}, "spec.allowedNamespaces.selector", id="no-selector"
        ),
        pytest.param(
            {"allowedNamespaces": {"from": "Selector", "selector": {"matchLabel": {}}}},
            "spec.allowedNamespaces.selector",
            id="misspelt-selector",
        ),
        pytest.param(
            {"allowedNamespaces": {"from": "All", "selector": {}}},
            "spec.allowedNamespaces.selector",
            id="selector-without-effect",
        ),
    ],
)
def test_other_fields(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(Rejected) as refusal:
        vpc.created(network("10.1.1.0/24", **spec), SPACE, ())
    assert refusal.value.field == field


def test_shadowed_ranges_and_taken_identifiers_are_warned_of() -> None:
    answer = vpc.created(
        network("10.244.3.0/24", identifier="0000000004d2"), SPACE, (PODS,), ("other", "vpc")
    )
    assert answer.refusal is None
    shadowed, in_use = answer.warnings
    assert shadowed.startswith(
        "spec.networks: 10.244.3.0/24 overlaps 10.244.0.0/16, the cluster's pods: pods in the"
    )
    assert (
        in_use
        == "spec.identifier: 0000000004d2 belongs to a VPC of another namespace; this VPC is not ready while that "
        "one exists"
    )


def used(address: str) -> Used:
    return Used(("net", "web"), ip_address(address))


@pytest.mark.parametrize(
    ("old", "new", "occupied", "reason"),
    [
        pytest.param(["10.1.0.0/16"], ["10.2.0.0/16"], "10.1.1.1", "NetworkInUse", id="removed"),
        pytest.param(["10.1.0.0/16"], ["10.1.2.0/24"], "10.1.1.1", "NetworkInUse", id="shrunk"),
        pytest.param(["10.1.0.0/16"], ["10.1.1.0/24"], "10.1.1.1", None, id="shrunk-around-it"),
        pytest.param(["10.1.0.0/16"], ["10.0.0.0/8"], "10.1.1.1", None, id="grown"),
        pytest.param(["10.1.0.0/16"], ["10.1.0.0/16", "10.2.0.0/16"], "10.1.1.1", None, id="added"),
        pytest.param(
            ["10.1.0.0/16", "10.2.0.0/16"], ["10.2.0.0/16"], "10.9.1.1", None, id="was-outside-anyway"
        ),
        pytest.param(["10.1.1.1/16"], ["10.1.1.1/16"], "10.1.1.1", None, id="bad-but-untouched"),
        pytest.param(
            ["10.1.1.1/16"],
            ["10.1.1.1/16", "10.2.0.0/16"],
            "10.1.1.1",
            "InvalidNetwork",
            id="bad-and-touched",
        ),
    ],
)
def test_networks_change(old: list[str], new: list[str], occupied: str, reason: str | None) -> None:
    def change() -> None:
        vpc.updated(network(*old), network(*new), SPACE, (), [used(occupied)])

    if reason is None:
        change()
        return
    with pytest.raises(Rejected) as refusal:
        change()
    assert refusal.value.reason == reason
    if reason == "NetworkInUse":
        assert f"{occupied} (net/web)" in str(refusal.value)


def test_a_change_that_may_detach_pods_is_warned_of() -> None:
    allowed = {"from": "Same", "whenRevoked": "Detach"}
    before, after = network("10.1.1.0/24"), network("10.1.1.0/24", allowedNamespaces=allowed)
    assert "detached after 60 s" in vpc.updated(before, after, SPACE, (), ()).warnings[0]
    assert not vpc.updated(after, after, SPACE, (), ()).warnings
    keeps = network("10.1.1.0/24", allowedNamespaces={"from": "Same"})
    assert not vpc.updated(after, keeps, SPACE, (), ()).warnings


@pytest.mark.parametrize(
    ("old", "status", "new", "refused"),
    [
        pytest.param("0000000004d2", {}, "0000000004d3", True, id="changed"),
        pytest.param("0000000004d2", {}, None, True, id="removed"),
        pytest.param(None, {"identifier": "0000000004d2"}, "0000000004d3", True, id="another-than-given-out"),
        pytest.param(None, {"identifier": "0000000004d2"}, "0000000004d2", False, id="the-one-given-out"),
        pytest.param(None, {}, "0000000004d2", False, id="before-it-has-one"),
        pytest.param("000000000000", {}, "000000000000", False, id="bad-but-untouched"),
    ],
)
def test_an_identifier_is_for_life(
    old: str | None, status: dict[str, Any], new: str | None, refused: bool
) -> None:
    before = network("10.1.1.0/24", status=status, identifier=old)
    after = network("10.1.1.0/24", status=status, identifier=new)
    if not refused:
        vpc.updated(before, after, SPACE, (), ())
        return
    with pytest.raises(Rejected, match="immutable") as refusal:
        vpc.updated(before, after, SPACE, (), ())
    assert refusal.value.field == "spec.identifier"


def attachment(
    *addresses: str,
    name: str = "galactic0",
    vpc: dict[str, str] | None = None,
    routes: Any = (),
    ready: bool = False,
) -> VpcAttachment:
    reference = {"apiVersion": "galactic.datumapis.com/v1alpha", "kind": "VPC", "name": "blue"} | (vpc or {})
    # Past the schema, as it is where an object was stored before its schema was.
    interface = {"name": "galactic0", "addresses": addresses}
    made = parse(
        VpcAttachment,
        {
            "metadata": {"name": "web", "namespace": "net"},
            "spec": {"vpc": reference, "interface": interface, "routes": routes},
            "status": {"ready": ready},
        },
    )
    renamed = made.spec.interface.model_copy(update={"name": name})
    return made.model_copy(update={"spec": made.spec.model_copy(update={"interface": renamed})})


@pytest.mark.parametrize(
    ("asking", "field"),
    [
        pytest.param(attachment(vpc={"kind": "Network"}), "spec.vpc.kind", id="unknown-kind"),
        pytest.param(attachment(vpc={"apiVersion": "other/v1"}), "spec.vpc.kind", id="unknown-group"),
        pytest.param(attachment(name="a" * 16), "spec.interface.name", id="name-too-long"),
        pytest.param(attachment(name="a/b"), "spec.interface.name", id="slash"),
        pytest.param(attachment(name="a:b"), "spec.interface.name", id="colon"),
        pytest.param(attachment(name="."), "spec.interface.name", id="dot"),
        pytest.param(attachment(name=".."), "spec.interface.name", id="dots"),
        pytest.param(attachment(name="a b"), "spec.interface.name", id="space"),
        pytest.param(attachment(name="lo"), "spec.interface.name", id="lo"),
        pytest.param(attachment(name="eth0"), "spec.interface.name", id="eth0"),
        pytest.param(attachment("10.1.1.1/24", "nonsense"), "spec.interface.addresses[1]", id="bad-address"),
        pytest.param(
            attachment("10.1.1.1/24", routes=[{"destination": "10.9.0.0/16", "via": "2001:db8::1"}]),
            "spec.routes[0].via",
            id="via-of-another-family",
        ),
    ],
)
def test_malformed_attachments(asking: VpcAttachment, field: str) -> None:
    with pytest.raises(Rejected) as refusal:
        vpcattachment.checked(asking, None, SPACE)
    assert refusal.value.field == field
    # Who does not touch it is not asked to mend it; who does is.
    vpcattachment.checked(asking, asking, SPACE)


def test_what_was_touched_is_judged_beside_what_was_bad_before() -> None:
    before = attachment("10.1.1.1/24", name="lo")
    assert vpcattachment.checked(attachment("10.1.1.2/24", name="lo"), before, SPACE).networks
    with pytest.raises(Rejected, match="nonsense"):
        vpcattachment.checked(attachment("nonsense", name="lo"), before, SPACE)


@pytest.mark.parametrize(
    ("ready", "reference", "refused"),
    [
        pytest.param(True, {"name": "green"}, True, id="another-name"),
        pytest.param(True, {"namespace": "other"}, True, id="another-namespace"),
        pytest.param(True, {"namespace": "net"}, False, id="its-own-namespace-spelt-out"),
        pytest.param(False, {"name": "green"}, False, id="not-ready-yet"),
    ],
)
def test_the_vpc_of_a_ready_attachment_stays(ready: bool, reference: dict[str, str], refused: bool) -> None:
    before, after = attachment(ready=ready), attachment(vpc=reference, ready=ready)
    if not refused:
        assert vpcattachment.checked(after, before, SPACE).vpc == (reference.get("name") == "green")
        return
    with pytest.raises(Rejected, match="immutable"):
        vpcattachment.checked(after, before, SPACE)


def test_what_another_holds_is_refused_with_its_holder() -> None:
    holders = {ip_network("10.1.1.1/32"): ("net", "api"), ip_network("192.168.3.0/24"): ("net", "gate")}
    wanted = vpcattachment.checked(attachment("10.1.1.1/24"), None, SPACE).spec
    with pytest.raises(
        Rejected, match=r"spec.interface.addresses\[0\]: 10.1.1.1 is held by VPCAttachment net/api"
    ):
        vpcattachment.unheld(wanted, holders.get, "net")
    with pytest.raises(
        Rejected, match=r"10.1.1.1 is held by a VPCAttachment of another namespace; choose another$"
    ):
        vpcattachment.unheld(dataclasses.replace(wanted, vpc=("owner", "blue")), holders.get, "stranger")
    with pytest.raises(Rejected, match="net/api"):
        vpcattachment.unheld(dataclasses.replace(wanted, vpc=("owner", "blue")), holders.get, "owner")
    routes = [{"destination": "192.168.3.0/24", "via": "10.1.1.2"}]
    wanted = vpcattachment.checked(attachment("10.1.1.2/24", routes=routes), None, SPACE).spec
    with pytest.raises(
        Rejected, match=r"spec.routes\[0\].destination: 192.168.3.0/24 is held by .* net/gate"
    ):
        vpcattachment.unheld(wanted, holders.get, "net")
    routes = [{"destination": "192.168.3.0/24", "via": "10.1.1.9"}]
    wanted = vpcattachment.checked(attachment("10.1.1.2/24", routes=routes), None, SPACE).spec
    vpcattachment.unheld(wanted, holders.get, "net")


def test_outside_the_networks_is_warned_of_and_refused_when_strict() -> None:
    wanted = vpcattachment.checked(attachment("10.9.1.1/24"), None, SPACE).spec
    networks = (ip_network("10.1.1.0/24"),)
    assert "10.9.1.1 lies outside" in vpcattachment.placed(wanted, networks, strict=False).warnings[0]
    with pytest.raises(Rejected, match="give addresses inside"):
        vpcattachment.placed(wanted, networks, strict=True)
    inside = vpcattachment.checked(attachment("10.1.1.1/24"), None, SPACE).spec
    assert not vpcattachment.placed(inside, networks, strict=True).warnings


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        pytest.param("2001:db8:ff01:100::/56", "", id="free"),
        pytest.param("2001:db8:ff02:100::/56", "NodeSegment node-2", id="the-same"),
        pytest.param("2001:db8:ff02::/48", "NodeSegment node-2", id="around-another"),
        pytest.param("2001:db8:ff02:180::/64", "NodeSegment node-2", id="inside-another"),
        pytest.param("2001:db8:ff01:100::/65", "/65", id="too-long"),
        pytest.param("2001:db8:ff00::/47", "/47", id="too-short"),
        pytest.param("10.0.0.0/24", "not an IPv6 prefix", id="ipv4"),
        pytest.param("2001:db8:ff01:101::1/56", "host bits", id="host-bits"),
        pytest.param("2001:db8:aa01:100::/56", "outside the SRv6 block", id="outside-the-space"),
    ],
)
def test_prefixes(prefix: str, message: str) -> None:
    others = [
        ("node-1", "2001:db8:ff01:100::/56"),
        ("node-2", "2001:db8:ff02:100::/56"),
        ("node-3", "broken"),
    ]
    if not message:
        nodesegment.prefixed("node-1", prefix, SPACE, others)
        return
    with pytest.raises(Rejected) as refusal:
        nodesegment.prefixed("node-1", prefix, SPACE, others)
    assert message in str(refusal.value)
    assert refusal.value.field == "spec.prefix"


@pytest.mark.parametrize(
    ("user", "node"),
    [
        pytest.param(User("system:node:node-1"), "node-1", id="kubelet"),
        pytest.param(User("galactic-node-node-1"), "node-1", id="by-name"),
        pytest.param(
            User("system:serviceaccount:gs:node", {nodesegment.NODE_NAME: ["node-1"]}),
            "node-1",
            id="by-token",
        ),
        pytest.param(User("system:serviceaccount:gs:node"), None, id="token-of-an-old-server"),
        pytest.param(
            User("system:serviceaccount:other:node", {nodesegment.NODE_NAME: ["node-1"]}),
            None,
            id="another-account",
        ),
        pytest.param(User("admin"), None, id="a-person"),
    ],
)
def test_who_is_which_node(user: User, node: str | None) -> None:
    known = nodesegment.identities("system:node:{node}, galactic-node-{node},system:serviceaccount:gs:node")
    assert known.node(user) == node
    nodesegment.owned("node-1", node)
    if node:
        with pytest.raises(Rejected, match="node node-1 may write its own only"):
            nodesegment.owned("node-2", node)


def test_an_interface_keeps_its_name_under_a_pod() -> None:
    before = attachment()
    carrier = Carrier(pod="web-1", uid="u", node="node-1")
    carried = before.model_copy(update={"status": before.status.model_copy(update={"carriers": (carrier,)})})
    after = attachment(name="net1")
    vpcattachment.checked(after, before, SPACE)
    with pytest.raises(Rejected, match=r"spec.interface.name: 'net1' cannot replace 'galactic0' .*\(web-1\)"):
        vpcattachment.checked(after, carried, SPACE)
    vpcattachment.checked(carried, carried, SPACE)


def test_every_network_that_is_removed_is_named_with_its_own_addresses() -> None:
    before = ("10.1.0.0/16", "2001:10::/64", "10.3.0.0/24", "10.9.0.0/24")
    parsed = [ip_network(text) for text in before]
    addresses = [used("2001:10::5"), *(used(f"10.1.1.{last}") for last in (1, 2)), used("10.9.0.1")]
    refusal = vpc.removed(parsed, parsed[3:], addresses)
    assert str(refusal) == (
        "spec.networks: 10.1.0.0/16 cannot be removed or shrink while addresses in it are in use: 10.1.1.1 (net/web), "
        "10.1.1.2 (net/web); 2001:10::/64 cannot be removed or shrink while addresses in it are in use: 2001:10::5 "
        "(net/web); delete those VPCAttachments or change their addresses first"
    )


@pytest.mark.parametrize(
    ("peers", "message"),
    [
        pytest.param(
            [{"name": "blue"}], "spec.peers[0]: net/blue is this VPC itself; remove it", id="itself"
        ),
        pytest.param([{"name": "blue", "namespace": "net"}], "is this VPC itself", id="itself-written-out"),
        pytest.param(
            [{"name": "red"}, {"name": "red", "namespace": "net"}],
            "spec.peers[1]: net/red is there twice (spec.peers[0]); remove one of them",
            id="twice",
        ),
    ],
)
def test_peers_that_could_not_work(peers: list[dict[str, str]], message: str) -> None:
    with pytest.raises(Rejected) as refusal:
        vpc.created(network("10.1.0.0/16", peers=peers), SPACE, ())
    assert (
        message in f"{refusal.value.field}: {refusal.value}"
        if message.startswith("spec")
        else str(refusal.value)
    )
    with pytest.raises(Rejected):
        vpc.updated(network("10.1.0.0/16"), network("10.1.0.0/16", peers=peers), SPACE, (), ())


def other(name: str, namespace: str, network_: str, *peers: dict[str, str]) -> Vpc:
    meta = {"name": name, "namespace": namespace}
    return parse(Vpc, {"metadata": meta, "spec": {"networks": [network_], "peers": peers}})


BACK = {"name": "blue", "namespace": "net"}


@pytest.mark.parametrize(
    ("known", "warned"),
    [
        pytest.param(
            [other("red", "net", "10.1.7.0/24")], ["10.1.7.0/24 of VPC net/red overlaps"], id="own-namespace"
        ),
        pytest.param(
            [other("red", "far", "10.1.7.0/24", BACK)], ["VPC far/red overlaps 10.1.0.0/16"], id="agreed"
        ),
        pytest.param(
            [other("red", "far", "10.1.7.0/24")], [], id="nothing-of-one-that-does-not-name-it-back"
        ),
        pytest.param([other("red", "net", "10.2.0.0/16")], [], id="apart"),
        pytest.param(
            [other("red", "net", "10.2.0.0/16"), other("green", "far", "10.2.7.0/24", BACK)],
            [
                "spec.peers[1]: 10.2.7.0/24 of VPC far/green overlaps 10.2.0.0/16 of VPC net/red (spec.peers[0])"
            ],
            id="two-peers",
        ),
    ],
)
def test_peers_that_overlap_are_warned_of(known: list[Vpc], warned: list[str]) -> None:
    by_key = {(one.metadata.namespace, one.metadata.name): one for one in known}
    peers = [{"namespace": namespace, "name": name} for namespace, name in by_key]
    plain, peered = network("10.1.0.0/16"), network("10.1.0.0/16", peers=peers)
    for answer in (
        vpc.created(peered, SPACE, (), None, by_key.get),
        vpc.updated(plain, peered, SPACE, (), (), by_key.get),
        vpc.updated(network("10.9.0.0/16", peers=peers), peered, SPACE, (), (), by_key.get),
    ):
        assert len(answer.warnings) == len(warned)
        assert all(text in warning for text, warning in zip(warned, answer.warnings, strict=True))
    assert not vpc.updated(peered, peered, SPACE, (), (), by_key.get).warnings
