"""A node with a peered VPC: routes to the peer's pods by their SIDs, on this node too, over restarts, until it ends."""

from dataclasses import replace
from ipaddress import ip_network

from statuses import vpcattachment
from waits import until

from galactic.kube.api import Object
from galactic.linux.objects import Encap
from galactic.messages import Route
from galactic.node.kubernetes.entitlement import entitlement
from galactic.node.state.attachment import Peer, attachment_of
from galactic.node.state.checkpoint import decode, encode
from galactic.node.state.remote import Source, entry

VPC, PEER = 1234, 1235
PEERS = [{"vpc": "jV", "networks": ["10.2.0.0/16"]}]


def set_table(store, revision: int) -> None:
    """A pod of the peer on this node, and one elsewhere; and a third VPC's, which no operator named."""
    routes = [
        Route(f"10.2.0.{node}/32", (f"2001:db8:ff0{node}:100::4d3:1",), "default", f"node-{node}", "0001", 1)
        for node in (1, 2)
    ]
    routes.append(Route("10.2.0.9/32", ("2001:db8:ff02:100::4d9:1",), "default", "node-2", "0001", 1))
    store.set_table(VPC, Source.MQTT, revision, dict(entry(VPC, "default", route) for route in routes))


def ways(node) -> dict[str, str]:
    """Network → SID, of the IPv4 routes with encap."""
    return {
        ".".join(map(str, key[-4:])): Encap(to.device, to.segment, to.mode).segment.hex()
        for key, to in node.kernel.host.routes.items()
        if isinstance(to, Encap)
    }


async def test_routes_of_a_peer_are_in_the_kernel_while_it_is_one(node, config):
    await node.cni("ADD", config(peers=PEERS))
    set_table(node.store, 1)
    await until(lambda: ways(node).keys() == {"10.2.0.1", "10.2.0.2"})
    before = dict(node.kernel.host.routes)
    await node.stop()
    await node.start()
    assert node.kernel.host.routes == before, "a restart changes nothing"
    set_table(node.store, 2)
    await until(lambda: node.store.tables.complete(VPC) and not node.store.dirty.now)
    assert node.kernel.host.routes == before
    (attachment,) = node.store.attachments.values()
    assert attachment.peers == (Peer(PEER, (ip_network("10.2.0.0/16"),)),)
    node.store.amend(replace(attachment, peers=()))
    await until(lambda: not ways(node))
    node.store.amend(attachment)
    await until(lambda: ways(node).keys() == {"10.2.0.1", "10.2.0.2"})


async def test_peers_of_any_attachment_of_the_vpc_count(node, config):
    """While the operator writes one status after the other."""
    node.kernel.add_namespace("/ns/2")
    await node.cni("ADD", config(peers=PEERS))
    await node.cni("ADD", config("H", last=2), container="c2", netns="/ns/2")
    set_table(node.store, 1)
    await until(lambda: len(ways(node)) == 2)
    await node.cni("DEL", config(peers=PEERS))
    await until(lambda: not ways(node))


def status(config, **configuration: object) -> Object:
    made = vpcattachment(config())
    made["status"]["configuration"] |= configuration
    return made


def test_peers_are_those_of_the_status(config):
    peers = [{"vpc": "0000000004d3", "networks": ["10.2.0.0/16", "fd00:2::/32"]}]
    known = entitlement(status(config, peers=peers)).config
    attachment = attachment_of(known, "c1", "/ns/1", "galactic0")
    assert attachment.peers == (Peer(PEER, (ip_network("10.2.0.0/16"), ip_network("fd00:2::/32"))),)
    assert decode(encode(attachment)) == attachment
    assert entitlement(status(config)).config.peers == ()
