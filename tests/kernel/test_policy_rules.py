"""Rules inside a VPC, by packets: the table that the node writes, on the nodes and pods of ``two_nodes``.

Pod 1 is the one that rules are about; 3 is on its node, 2 on the other. Pods 8 and 7 of VPC 2 have the addresses of 1
and 2.
"""

import socket
import subprocess
from contextlib import contextmanager, suppress
from ipaddress import ip_address, ip_network

import pytest
from two_nodes import ADDRESSES, PODS, PORT, path_of

from galactic import names
from galactic.linux.nftables import Present, Table, difference, rewrite
from galactic.node.policies.classes import classes
from galactic.node.policies.rules import PROTOCOLS, Allow, Rules
from galactic.node.policies.ruleset import TABLE, table

pytestmark = [pytest.mark.vrf, pytest.mark.every_kernel]

TCP, UDP = PROTOCOLS["TCP"], PROTOCOLS["UDP"]
ANYONE = (Allow(anyone=True),)


def rules(name="rules", *, ingress=None, egress=None, floor=False):
    return Rules(name, floor, ingress, egress)


def host_end(pod):
    return names.host_end(*PODS[pod][1:])


def members(*pods):
    return frozenset(ip_address(address) for pod in pods for address in ADDRESSES[pod])


class Enforced:
    """The rules of pods, as their nodes have them."""

    def __init__(self, net):
        self.net, self.tables = net, {number: Table(TABLE) for number in net.nodes}

    def __call__(self, pods, groups=None):
        """From now on these pods have rules, and no others."""
        for number in self.net.nodes:
            devices = {host_end(pod): own for pod, own in pods.items() if PODS[pod][0] == number}
            after = table(devices, groups or {})
            self.run(number, difference(self.tables[number], after))
            self.tables[number] = after

    def run(self, number, script):
        if script:
            command = ["nft", "-f", "-"]
            done = self.net.nodes[number].run(
                lambda: subprocess.run(command, input=script, text=True, capture_output=True, check=False)
            )
            assert done.returncode == 0, done.stderr + script

    def restart(self, number):
        """As a node controller does that has just started: it knows the names alone."""
        whole = self.tables[number]
        present = Present(True, frozenset(whole.chains), {name: one.kind for name, one in whole.sets.items()})
        self.run(number, rewrite(present, whole))


@pytest.fixture
def enforce(net):
    net.protect()
    enforced = Enforced(net)
    yield enforced
    enforced({})


def reach(net, clients, server, *, seconds=0.7):
    """The (client, family) whose TCP connection comes about."""
    return {
        (client, family)
        for client in clients
        for family in (4, 6)
        if net.connects(client, server, family, seconds)
    }


BOTH = {("2", 4), ("2", 6), ("3", 4), ("3", 6)}


def test_default_deny_of_ingress_lets_replies_pass(net, enforce):
    enforce({"1": [rules(ingress=())]})
    assert reach(net, "23", "1") == set()
    assert reach(net, "1", "2", seconds=5) | reach(net, "1", "3", seconds=5) == {("1", 4), ("1", 6)}
    for address in (*ADDRESSES["2"], *ADDRESSES["3"]):
        assert net.answers("1", address)
    assert reach(net, "7", "8", seconds=5) == {("7", 4), ("7", 6)}, "equal addresses of another VPC"
    enforce({})
    assert reach(net, "23", "1", seconds=5) == BOTH


def test_default_deny_of_egress_lets_replies_pass(net, enforce):
    enforce({"1": [rules(egress=())]})
    assert reach(net, "1", "2") == set()
    assert reach(net, "1", "3") == set()
    assert reach(net, "23", "1", seconds=5) == BOTH
    assert net.answers("2", ADDRESSES["1"][0])
    assert net.answers("2", ADDRESSES["1"][1])


@pytest.mark.parametrize(
    ("allowed", "clients"),
    [
        pytest.param(ANYONE, BOTH, id="anyone"),
        pytest.param((Allow(groups=frozenset({"two"})),), {("2", 4), ("2", 6)}, id="a-group"),
        pytest.param((Allow(groups=frozenset({"none"})),), set(), id="an-empty-group"),
        pytest.param((Allow(anyone=True, ports=((TCP, PORT, PORT),)),), BOTH, id="a-port"),
        pytest.param((Allow(anyone=True, ports=((TCP, PORT + 1, PORT + 1),)),), set(), id="another-port"),
        pytest.param((Allow(anyone=True, ports=((UDP, PORT, PORT),)),), set(), id="another-protocol"),
        pytest.param((Allow(anyone=True, ports=((TCP, PORT - 9, PORT),)),), BOTH, id="end-of-a-range"),
        pytest.param((Allow(anyone=True, ports=((TCP, PORT - 9, PORT - 1),)),), set(), id="beyond-a-range"),
        pytest.param(
            (Allow(blocks=((ip_network("10.1.1.0/24"), (ip_network("10.1.1.3/32"),)),)),),
            {("2", 4)},
            id="a-block-without-one",
        ),
        pytest.param(
            (
                Allow(blocks=((ip_network("2001:10:1:1::/64"), ()),), ports=((TCP, PORT, PORT),)),
                Allow(groups=frozenset({"two"}), ports=((UDP, 1, 9),)),
            ),
            {("2", 6), ("3", 6)},
            id="a-member-of-a-group-has-what-its-block-has",
        ),
    ],
)
def test_what_is_allowed_arrives_and_nothing_else(net, enforce, allowed, clients):
    groups = {"two": members("2"), "none": frozenset()}
    enforce({"1": [rules(ingress=allowed)]}, groups)
    found = {one for one in BOTH if one in clients and net.connects(*one[:1], "1", one[1], 5)}
    assert found == clients
    assert not {one for one in BOTH - clients if net.connects(one[0], "1", one[1], 0.7)}
    for client, family in BOTH:  # the pure core decides the same
        access = classes(allowed, groups).access(ip_address(ADDRESSES[client][family == 6]))
        may = access is None or any(
            protocol == TCP and first <= PORT <= last for protocol, first, last in access
        )
        assert may == ((client, family) in clients)


def test_egress_by_destination(net, enforce):
    enforce({"1": [rules(egress=(Allow(groups=frozenset({"two"})),))]}, {"two": members("2")})
    assert reach(net, "1", "2", seconds=5) == {("1", 4), ("1", 6)}
    assert reach(net, "1", "3") == set()


def test_policies_add_up_and_a_floor_does_not(net, enforce):
    first = rules("first", ingress=(Allow(groups=frozenset({"two"})),))
    second = rules("second", ingress=(Allow(groups=frozenset({"three"})),))
    floor = rules("floor", ingress=(Allow(groups=frozenset({"three"})),), floor=True)
    groups = {"two": members("2"), "three": members("3")}
    enforce({"1": [first, second]}, groups)
    assert reach(net, "23", "1", seconds=5) == BOTH
    enforce({"1": [first, second, floor]}, groups)
    assert reach(net, "3", "1", seconds=5) == {("3", 4), ("3", 6)}
    assert reach(net, "2", "1") == set()
    enforce({"1": [floor]}, groups)
    assert reach(net, "2", "1") == set()


def test_both_ends_have_rules_on_one_node(net, enforce):
    """A packet from one to the other is judged twice, and so is its reply."""
    one = rules("one", ingress=(), egress=(Allow(groups=frozenset({"three"})),))
    three = rules("three", ingress=(Allow(groups=frozenset({"one"})),), egress=())
    groups = {"one": members("1"), "three": members("3")}
    enforce({"1": [one], "3": [three]}, groups)
    assert reach(net, "1", "3", seconds=5) == {("1", 4), ("1", 6)}
    assert reach(net, "3", "1") == set()


@contextmanager
def bound(net, pod, family, port):
    def made():
        kind = socket.AF_INET6 if family == 6 else socket.AF_INET
        opened = socket.socket(kind, socket.SOCK_DGRAM)
        opened.bind((ADDRESSES[pod][family == 6], port))
        opened.settimeout(3)
        return opened

    with net.pods[pod].run(made) as opened:
        yield opened


def received(opened, seconds):
    opened.settimeout(seconds)
    with suppress(TimeoutError):
        return opened.recv(100)
    return None


@pytest.mark.parametrize("family", [4, 6])
def test_equal_connections_of_two_vpcs_share_nothing(net, enforce, family):
    """Pod 1 has asked 2, so 2's answer passes; the same packet of VPC 2 is no answer to anything."""
    enforce({"1": [rules(ingress=())], "8": [rules(ingress=())]})
    server = ADDRESSES["2"][family == 6], PORT
    client = ADDRESSES["1"][family == 6], PORT + 1
    with (
        bound(net, "1", family, PORT + 1) as one,
        bound(net, "2", family, PORT) as two,
        bound(net, "8", family, PORT + 1) as eight,
        bound(net, "7", family, PORT) as seven,
    ):
        seven.sendto(b"unasked", client)
        two.sendto(b"unasked", client)
        one.sendto(b"question", server)
        assert received(two, 5) == b"question"
        two.sendto(b"answer", client)
        assert received(one, 5) == b"answer"
        seven.sendto(b"no answer", client)
        assert received(eight, 1) is None


def ask_until_refused(opened):
    for _ in range(20):
        opened.send(b"nobody")
        received(opened, 0.5)


@pytest.mark.parametrize("family", [4, 6])
def test_errors_pass(net, enforce, family):
    """That a port is closed: an ICMP error, to a pod that may receive nothing."""
    enforce({"1": [rules(ingress=(), egress=ANYONE)]})
    with bound(net, "1", family, PORT + 1) as one:
        one.connect((ADDRESSES["2"][family == 6], PORT + 7))
        with pytest.raises(ConnectionRefusedError):
            ask_until_refused(one)


def test_a_connection_outlasts_changes_and_restarts(net, enforce):
    """Rules that are written again, and other rules, leave a connection that was allowed."""
    enforce({"1": [rules(ingress=(Allow(groups=frozenset({"two"})),))]}, {"two": members("2")})
    address = ADDRESSES["2"][1], PORT
    listener = net.pods["2"].run(lambda: socket.create_server(address, family=socket.AF_INET6))
    with listener, net.pods["1"].run(lambda: socket.create_connection(address, 5)) as client:
        server, _ = listener.accept()
        with server:
            for change in (
                lambda: enforce({"1": [rules("other", ingress=())]}),
                lambda: enforce.restart(1),
            ):
                change()
                server.sendall(b"from the server")
                client.settimeout(20)
                assert client.recv(100) == b"from the server"
                client.sendall(b"from the client")
                server.settimeout(20)
                assert server.recv(100) == b"from the client"
    assert reach(net, "2", "1") == set()


def test_datagrams_in_fragments_are_judged_as_a_whole(net, enforce):
    allowed = (Allow(anyone=True, ports=((UDP, PORT, PORT),)),)
    enforce({"1": [rules(ingress=allowed)]})
    for family in (4, 6):
        with bound(net, "1", family, PORT) as one, bound(net, "2", family, PORT) as two:
            large = bytes(4000)
            two.sendto(large, (ADDRESSES["1"][family == 6], PORT))
            one.settimeout(10)
            assert len(one.recv(9000)) == len(large)


def test_other_chains_see_unselected_pods_alone(net, enforce):
    """No packet of an unselected pod meets more than the look-up of its device."""
    enforce({"1": [rules(ingress=())]})
    assert path_of(net.nodes[1])
    listed = net.sh(net.nodes[1], f"nft list map {TABLE} ways-in")
    assert host_end("1") in listed
    assert host_end("3") not in listed
    dropped = net.sh(net.nodes[1], f"nft list set {TABLE} dropped-in")
    assert host_end("1") not in dropped
    assert not net.connects("3", "1", 4, 0.7)
    assert host_end("1") in net.sh(net.nodes[1], f"nft list set {TABLE} dropped-in")
