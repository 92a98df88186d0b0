"""VPCs on nodes whose packet filter other products use: their rules, as their documentation has them, leave packets of
VPCs alone. Each product's rules are ahead of Galactic's, and then Galactic puts its jumps first, as on a node.

Every rule that could concern a VPC is made to: addresses of Services and pools of pods lie in the VPC's networks.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from two_nodes import ADDRESSES, PORT, Net, patiently

pytestmark = pytest.mark.vrf

SERVICE = {4: "10.1.1.2", 6: "2001:10:1:1::2"}
"""What others take for a Service's address: it is pod 2's."""
ENDPOINT = {4: "10.244.0.9:8080", 6: "[fd00:244::9]:8080"}
POOL = {4: "10.1.0.0/16", 6: "2001:10:1::/48"}
"""What others take for their pods."""
WHOLE = {4: 32, 6: 128}


@dataclass(frozen=True)
class Product:
    """``rules``: text for iptables-restore, with {service}, {endpoint}, {pool}, {other} and {whole}."""

    rules: str


PRODUCTS = {
    "kindnet": Product("""*nat
:KIND-MASQ-AGENT - [0:0]
-I POSTROUTING -m addrtype ! --dst-type LOCAL -m comment --comment "kind-masq-agent" -j KIND-MASQ-AGENT
-A KIND-MASQ-AGENT -d {other} -j RETURN
-A KIND-MASQ-AGENT -j MASQUERADE
COMMIT
"""),
    "kube-proxy-iptables": Product("""*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SVC-A - [0:0]
:KUBE-SEP-A - [0:0]
-I PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-SERVICES -d {service}/{whole} -p tcp -m tcp --dport 4242 -j KUBE-SVC-A
-A KUBE-SVC-A ! -s {other} -d {service}/{whole} -p tcp -m tcp --dport 4242 -j KUBE-MARK-MASQ
-A KUBE-SVC-A -j KUBE-SEP-A
-A KUBE-SEP-A -p tcp -m tcp -j DNAT --to-destination {endpoint}
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
COMMIT
*filter
:KUBE-FORWARD - [0:0]
:KUBE-SERVICES - [0:0]
-I FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-I FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-SERVICES -d {service}/{whole} -p tcp -m tcp --dport 4242 -j REJECT
COMMIT
"""),
    "calico": Product("""*raw
:cali-PREROUTING - [0:0]
-I PREROUTING -m comment --comment "cali:6gwbT8clXdHdC1b1" -j cali-PREROUTING
-A cali-PREROUTING -j MARK --set-xmark 0x0/0xf0000
-A cali-PREROUTING -i cali+ -j MARK --set-xmark 0x40000/0x40000
-A cali-PREROUTING -m mark --mark 0x10000/0x10000 -j ACCEPT
COMMIT
*nat
:cali-POSTROUTING - [0:0]
:cali-nat-outgoing - [0:0]
-I POSTROUTING -m comment --comment "cali:O3lYWMrLQYEMJtB5" -j cali-POSTROUTING
-A cali-POSTROUTING -j cali-nat-outgoing
-A cali-nat-outgoing -s {pool} -j MASQUERADE --random-fully
COMMIT
*filter
:cali-FORWARD - [0:0]
-I FORWARD -m comment --comment "cali:wUHhoiAYhphO9Mso" -j cali-FORWARD
-A cali-FORWARD -j MARK --set-xmark 0x0/0xe0000
-A cali-FORWARD -i cali+ -m conntrack --ctstate INVALID -j DROP
-A cali-FORWARD -o cali+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -m comment --comment "cali:S93hcgKJrXEqnTfs" -m mark --mark 0x10000/0x10000 -j ACCEPT
COMMIT
"""),
    "cilium": Product("""*raw
:CILIUM_PRE_raw - [0:0]
-I PREROUTING -m comment --comment "cilium-feeder: CILIUM_PRE_raw" -j CILIUM_PRE_raw
-A CILIUM_PRE_raw -m mark --mark 0x200/0xf00 -j CT --notrack
COMMIT
*nat
:CILIUM_POST_nat - [0:0]
-I POSTROUTING -m comment --comment "cilium-feeder: CILIUM_POST_nat" -j CILIUM_POST_nat
-A CILIUM_POST_nat -s {pool} ! -d {other} ! -o cilium_+ -j MASQUERADE --random-fully
COMMIT
*filter
:CILIUM_FORWARD - [0:0]
-I FORWARD -m comment --comment "cilium-feeder: CILIUM_FORWARD" -j CILIUM_FORWARD
-A CILIUM_FORWARD -o cilium_host -j ACCEPT
-A CILIUM_FORWARD -i lxc+ -j ACCEPT
COMMIT
"""),
    "docker": Product("""*nat
:DOCKER - [0:0]
-I PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-I POSTROUTING -s {pool} ! -o docker0 -j MASQUERADE
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
-I FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
COMMIT
"""),
}


def others(net: Net, product: Product, backend: str) -> None:
    for node in net.nodes.values():
        for family, command in ((4, "iptables"), (6, "ip6tables")):
            words = {
                "service": SERVICE[family],
                "endpoint": ENDPOINT[family],
                "pool": POOL[family],
                "other": "10.244.0.0/16" if family == 4 else "fd00:244::/32",
                "whole": WHOLE[family],
            }
            given = product.rules.format(**words)
            net.sh(node, f"{command}-{backend}-restore -w --noflush <<'E'\n{given}E")


@contextmanager
def cleared(net: Net) -> Iterator[None]:
    """No rule of anybody is left afterwards."""
    try:
        yield
    finally:
        tables = "".join(f"*{name}\\nCOMMIT\\n" for name in ("raw", "mangle", "nat"))
        tables += "*filter\\n:INPUT ACCEPT [0:0]\\n:FORWARD ACCEPT [0:0]\\nCOMMIT\\n"
        for node in net.nodes.values():
            for command in ("iptables-legacy", "ip6tables-legacy"):
                net.sh(node, f"printf '{tables}' | {command}-restore -w")
            net.sh(node, "nft flush ruleset")


def entries(net: Net) -> int:
    """Of the connection tables of both nodes."""
    path = "/proc/sys/net/netfilter/nf_conntrack_count"
    return sum(int(net.sh(node, f"cat {path}")) for node in net.nodes.values())


def seen_by(net: Net, client: str, server: str, family: int) -> str:
    """The address that the server sees in a TCP connection of the client's; the server answers with it. "" if none
    comes about within two seconds.
    """
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    place = ADDRESSES[server][0 if family == 4 else 1]

    def listening() -> socket.socket:
        made = socket.socket(kind, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((place, PORT))
        made.listen()
        made.settimeout(2)
        return made

    def answer(listener: socket.socket) -> None:
        try:
            connection, (address, *_) = listener.accept()
        except TimeoutError:
            return
        with connection:
            connection.sendall(address.encode())

    def ask() -> str:
        with socket.socket(kind, socket.SOCK_STREAM) as made:
            made.settimeout(2)
            try:
                made.connect((place, PORT))
                return made.recv(100).decode()
            except OSError:
                return ""

    with net.pods[server].run(listening) as listener:
        answering = threading.Thread(target=answer, args=(listener,))
        answering.start()
        try:
            return net.pods[client].run(ask)
        finally:
            answering.join()


WAYS = [("1", "2"), ("2", "1"), ("1", "3"), ("3", "2")]
"""Client and server: to the other node, back, on one node, and from a pod that terminates."""


def connected(net: Net) -> Iterator[tuple[tuple[str, str, int], bool]]:
    """Whether the server sees the client's own address, of each way, one after the other."""
    for client, server in WAYS:
        for family in (4, 6):
            yield (
                (client, server, family),
                any(
                    seen_by(net, client, server, family) == ADDRESSES[client][0 if family == 4 else 1]
                    for _ in range(2)  # the first may wait for neighbour discovery
                ),
            )


CASES = [
    *(
        pytest.param(product, backend, backend, id=f"{name}-{backend}")
        for name, product in PRODUCTS.items()
        for backend in ("legacy", "nft")
    ),
    # a chain of the other backend that drops is a finding: test_foreign_chains.py
    pytest.param(PRODUCTS["kindnet"], "nft", "legacy", id="kindnet-nft-ours-legacy"),
    pytest.param(PRODUCTS["calico"], "legacy", "nft", id="calico-legacy-ours-nft"),
]


@pytest.mark.parametrize(("product", "theirs", "ours"), CASES)
def test_no_rule_of_theirs_applies(net: Net, product: Product, theirs: str, ours: str) -> None:
    with cleared(net):
        net.protect(backend=ours)
        others(net, product, theirs)
        net.protect(backend=ours)
        before = entries(net)
        found = dict(connected(net))
        assert len(found) == 2 * len(WAYS)
        assert found == dict.fromkeys(found, True)
        assert entries(net) <= before


@pytest.mark.parametrize("product", [pytest.param(one, id=name) for name, one in PRODUCTS.items()])
def test_without_the_exclusion_from_tracking_they_apply(net: Net, product: Product) -> None:
    """The fixtures do harm: a pod appears under another address, or is not reached."""
    with cleared(net):
        others(net, product, "nft")
        net.protect(without=lambda rule: rule.target == "NOTRACK", backend="nft")
        assert not all(own for _, own in connected(net))


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_pings_and_errors_pass_beside_a_masquerade_rule(net: Net, backend: str) -> None:
    """ICMP, which connection tracking relates to other packets."""
    with cleared(net):
        others(net, PRODUCTS["kindnet"], backend)
        net.protect(backend=backend)
        assert any(net.answers("1", ADDRESSES["2"][0]) for _ in patiently())
        assert net.answers("1", ADDRESSES["2"][1])
        assert net.answers("1", "169.254.1.1")
