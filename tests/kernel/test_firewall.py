"""Firewall rules in a kernel's tables, by both backends: ours are there once, others' are left alone."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict
from ipaddress import IPv6Network
from pathlib import Path

import pytest

from galactic import srv6
from galactic.linux.firewall import firewall
from galactic.linux.firewall_fingerprint import fingerprint
from galactic.linux.namespace import Namespace
from galactic.linux.precedence import harmless

SPACE = IPv6Network("2001:db8:ff00::/40")
PREFIX = IPv6Network("2001:db8:ff01:100::/56")
RULES = firewall(SPACE, srv6.locator(PREFIX), srv6.loopback(PREFIX), ("eth0",))
EVERYWHERE = [
    f"IPv{family} {chain}" for family in (4, 6) for chain in ("FORWARD", "INPUT", "PREROUTING", "OUTPUT")
]
RAW = "IPv6 PREROUTING"


@pytest.fixture(params=["legacy", "nft"])
def backend(request):
    return request.param


def put(host, rules, backend=""):
    """As ``install``, inside a namespace: an asyncio subprocess is forked by the main thread, which is outside."""
    order = json.dumps({"backend": backend, "rules": [asdict(rule) for rule in rules]})
    command = [sys.executable, "-m", "galactic.linux.iptables"]
    while True:
        done = host.run(
            lambda: subprocess.run(command, input=order, text=True, capture_output=True, check=False)
        )
        if "xtables.lock was locked for" not in done.stderr:  # by a slow program: again, as the node does
            break
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def listed(sh, host, backend, table="filter", six=True):
    return sh(host, f"{'ip6tables' if six else 'iptables'}-{backend} -w -t {table} -S")


def test_once_and_only_once(host, sh, backend):
    assert put(host, RULES, backend)["changed"] == EVERYWHERE
    assert put(host, RULES, backend)["changed"] == []
    raw = listed(sh, host, backend, "raw").splitlines()
    assert "-A PREROUTING -j GALACTIC-PREROUTING" in raw
    assert "-A OUTPUT -j GALACTIC-OUTPUT" in raw
    chain = [line for line in raw if line.startswith("-A GALACTIC-PREROUTING")]
    assert [line.split()[-1] for line in chain] == [
        *["DROP", "--notrack", "DROP", "ACCEPT", "--notrack"],
        *["RETURN"] * 8,  # four kinds of errors, by lo and by eth0
        "DROP",
        *["RETURN", "RETURN", "DROP", "DROP"],
    ]
    assert "! -s 2001:db8:ff00::/40 -d 2001:db8:ff01:100::/64" in chain[-5]
    assert listed(sh, host, backend).count("-j ACCEPT") == 5
    assert listed(sh, host, backend, six=False).count("-j ACCEPT") == 3


def test_a_changed_setting_changes_that_table_only(host, sh, backend):
    put(host, RULES, backend)
    without = firewall(SPACE, srv6.locator(PREFIX), srv6.loopback(PREFIX), ("eth0",), guard=False)
    assert put(host, without, backend)["changed"] == [RAW]
    assert "! -s" not in listed(sh, host, backend, "raw")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("-t raw -D PREROUTING -j GALACTIC-PREROUTING", id="jump-gone"),
        pytest.param("-t raw -F GALACTIC-PREROUTING", id="rules-gone"),
        pytest.param("-t raw -D GALACTIC-PREROUTING 3", id="rule-gone"),
        pytest.param("-t raw -A PREROUTING -j GALACTIC-PREROUTING", id="jumped-into-twice"),
        pytest.param(
            "-t raw -R GALACTIC-PREROUTING 3 -i G+ -d 2001:db8:ff00::/40 -j ACCEPT", id="other-target"
        ),
        pytest.param("-t raw -I GALACTIC-PREROUTING -j ACCEPT", id="rule-too-much"),
    ],
)
def test_damage_is_mended(host, sh, backend, damage):
    put(host, RULES, backend)
    good = listed(sh, host, backend, "raw")
    sh(host, f"ip6tables-{backend} {damage}")
    assert put(host, RULES, backend)["changed"] == [RAW]
    assert listed(sh, host, backend, "raw") == good


def test_no_rule_of_another_program_comes_first(host, sh, backend):
    """It might accept what ours drop."""
    put(host, RULES, backend)
    sh(host, f"ip6tables-{backend} -t raw -I PREROUTING -p tcp -j ACCEPT")
    assert put(host, RULES, backend)["changed"] == [RAW]
    order = [line for line in listed(sh, host, backend, "raw").splitlines() if "-A PREROUTING" in line]
    assert order == ["-A PREROUTING -j GALACTIC-PREROUTING", "-A PREROUTING -p tcp -j ACCEPT"]


CALICO = """*raw
:cali-PREROUTING - [0:0]
-I PREROUTING -m comment --comment "cali:6gwbT8clXdHdC1b1" -j cali-PREROUTING
-A cali-PREROUTING -j MARK --set-xmark 0x0/0xf0000
-A cali-PREROUTING -i cali+ -j MARK --set-xmark 0x40000/0x40000
-A cali-PREROUTING -m mark --mark 0x10000/0x10000 -j ACCEPT
COMMIT
*filter
:cali-FORWARD - [0:0]
-I FORWARD -m comment --comment "cali:wUHhoiAYhphO9Mso" -j cali-FORWARD
-A cali-FORWARD -i cali+ -m conntrack --ctstate INVALID -j DROP
-A cali-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A cali-FORWARD -i cali+ -j ACCEPT
-I INPUT -m comment --comment "cali:Cz_u1IQiXIMmKD4c" -j RETURN -i cali+
COMMIT
"""
HARMLESS = {
    "calico": CALICO,
    "returns": "*raw\n:X - [0:0]\n-A X -j RETURN\n-A X -j ACCEPT\n-I PREROUTING -i cali+ -j X\nCOMMIT\n",
    "drops-more": "*raw\n-I PREROUTING -p tcp -j DROP\nCOMMIT\n",
    "accepts-as-ours": "*filter\n-I FORWARD -p tcp -j ACCEPT\nCOMMIT\n",
    "a-mark-that-was-cleared": (
        "*filter\n-I INPUT -m mark --mark 2/2 -j ACCEPT\n-I INPUT -j MARK --set-xmark 0/0xf\nCOMMIT\n"
    ),
    "established": "*filter\n-I INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n",
    "another-device": "*filter\n-I FORWARD -i docker0 -o docker0 -j DROP\n-I INPUT -i eth0 -j ACCEPT\nCOMMIT\n",
}
HARMFUL = {
    "raw-accepts": ("PREROUTING", "*raw\n-I PREROUTING -p tcp -j ACCEPT\nCOMMIT\n"),
    "a-chain-accepts": (
        "PREROUTING",
        "*raw\n:X - [0:0]\n-A X -m mark --mark 0x0/0xff -j ACCEPT\n-I PREROUTING -j X\nCOMMIT\n",
    ),
    "a-mark-that-was-set": (
        "PREROUTING",
        "*raw\n-I PREROUTING -m mark --mark 1 -j ACCEPT\n-I PREROUTING -p tcp -j MARK --set-mark 1\nCOMMIT\n",
    ),
    "returns-to-the-policy": ("PREROUTING", "*raw\n-I PREROUTING -p tcp -j RETURN\nCOMMIT\n"),
    "FORWARD-drops": (
        "FORWARD",
        "*filter\n-I FORWARD -m conntrack ! --ctstate RELATED,ESTABLISHED -j DROP\nCOMMIT\n",
    ),
    "FORWARD-rejects-by-goto": (
        "FORWARD",
        "*filter\n:X - [0:0]\n-A X -j REJECT\n-I FORWARD -p udp -g X\nCOMMIT\n",
    ),
    "a-mark-of-another-table": (
        "INPUT",
        "*filter\n-I INPUT -m mark --mark 0x10000/0x10000 -j ACCEPT\nCOMMIT\n",
    ),
    "INPUT-accepts": ("INPUT", "*filter\n-I INPUT -p tcp --dport 22 -j ACCEPT\nCOMMIT\n"),
}


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("theirs", HARMLESS.values(), ids=HARMLESS)
def test_behind_rules_without_effect_is_no_drift(host, sh, backend, theirs, six):
    """A program that insists on the first place, as Calico does, is left there: nothing is written, nothing differs."""
    command = f"{'ip6tables' if six else 'iptables'}-{backend}"
    good = put(host, RULES, backend)["fingerprint"]
    sh(host, f"{command}-restore -w --noflush <<'END'\n{theirs}END")
    before = [listed(sh, host, backend, table, six) for table in ("raw", "filter")]
    assert host.run(lambda: fingerprint(backend, harmless=harmless)) == good
    assert put(host, RULES, backend)["changed"] == []
    assert [listed(sh, host, backend, table, six) for table in ("raw", "filter")] == before


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("case", HARMFUL.values(), ids=HARMFUL)
def test_ahead_of_rules_with_effect(host, sh, backend, case, six):
    """An accepted packet is not checked by ours, and a dropped one not accepted."""
    chain, theirs = case
    command = f"{'ip6tables' if six else 'iptables'}-{backend}"
    good = put(host, RULES, backend)["fingerprint"]
    sh(host, f"{command}-restore -w --noflush <<'END'\n{theirs}END")
    assert host.run(lambda: fingerprint(backend, harmless=harmless)) != good
    assert put(host, RULES, backend)["changed"] == [f"IPv{6 if six else 4} {chain}"]
    assert host.run(lambda: fingerprint(backend, harmless=harmless)) == good


def test_others_rules_stay_as_they_are(host, sh, backend):
    sh(
        host,
        f"ip6tables-{backend} -N KUBE-FORWARD; ip6tables-{backend} -A KUBE-FORWARD -p tcp --dport 80 -j DROP",
    )
    sh(host, f"ip6tables-{backend} -A FORWARD -j KUBE-FORWARD; ip6tables-{backend} -P FORWARD DROP")
    before = listed(sh, host, backend)
    put(host, RULES, backend)
    during = listed(sh, host, backend)
    assert [line for line in during.splitlines() if "GALACTIC" not in line] == before.splitlines()
    order = [line for line in during.splitlines() if line.startswith("-A FORWARD")]
    assert order == ["-A FORWARD -j GALACTIC-FORWARD", "-A FORWARD -j KUBE-FORWARD"]
    put(host, (), backend)
    assert listed(sh, host, backend) == before


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        pytest.param("true", "legacy", id="nobody-yet"),
        pytest.param("iptables-nft -P FORWARD DROP", "nft", id="nft"),
        pytest.param("iptables-legacy -P FORWARD DROP", "legacy", id="legacy"),
    ],
)
def test_the_backend_is_the_one_others_use(host, sh, others, expected):
    sh(host, others)
    assert put(host, RULES)["backend"] == expected
    assert put(host, RULES) == put(host, RULES) | {"changed": []}


def test_no_other_table_springs_into_being(host):
    put(host, RULES, "legacy")
    names = ("/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names")
    found = host.run(lambda: [sorted(Path(name).read_text().split()) for name in names])
    assert found == [["filter", "raw"], ["filter", "raw"]]


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
def test_hundreds_of_others_rules_keep_order_comments_and_counters(host, sh, backend, six):
    """In our chains' own tables and in others, before and behind our jump, at install, repair and removal."""
    command = f"{'ip6tables' if six else 'iptables'}-{backend}"
    network = "2001:db8:{n:x}::/64" if six else "10.{n}.0.0/16"
    rules = [
        f'[{n}:{n * 60}] -A {chain} -s {network.format(n=n % 250)} -m comment --comment "rule {n}" -j ACCEPT'
        for chain in ("FORWARD", "INPUT", "OTHERS")
        for n in range(1, 201)
    ]
    script = "\n".join(
        [
            "*filter",
            ":OTHERS - [0:0]",
            *rules,
            "COMMIT",
            "*raw",
            "[7:7] -A PREROUTING -j ACCEPT",
            "COMMIT",
            "",
        ]
    )
    sh(host, "ip link del d0; ip link set lo down")  # counters change only with a test's packets
    sh(host, f"{command}-restore -c <<'E'\n{script}E")

    def others():
        saved = sh(host, f"{command}-save -c").splitlines()
        return [line for line in saved if line[:1] in "[:*" and "GALACTIC" not in line]

    before = others()
    assert len(before) > 600
    put(host, RULES, backend)
    assert others() == before
    sh(host, f"{command} -D FORWARD -j GALACTIC-FORWARD; {command} -t raw -F GALACTIC-PREROUTING")
    sh(host, f"{command} -A FORWARD -j GALACTIC-FORWARD")
    put(host, RULES, backend)
    assert others() == before
    put(host, (), backend)
    assert others() == before


COMPETITOR = """
import itertools, subprocess, sys
command, chain = sys.argv[1:]
for n in itertools.count():
    for what in ("-A", "-D"):
        done = subprocess.run(
            [command, "-w", what, chain, "-m", "comment", "--comment", f"mine {n}", "-j", "ACCEPT"],
            capture_output=True,
        )
        print(done.returncode, what, flush=True)
"""


def test_beside_a_program_that_changes_the_same_table_all_the_time(host, sh, backend):
    """Neither loses a change: each command of the other program succeeds, and so does each of Galactic's."""
    command = [sys.executable, "-c", COMPETITOR, f"ip6tables-{backend}", "FORWARD"]
    other = host.run(lambda: subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    lines = []
    reading = threading.Thread(target=lambda: lines.extend(iter(other.stdout.readline, "")))
    try:
        assert other.stdout.readline() == "0 -A\n"
        reading.start()
        rounds = during = 0
        while rounds < 3 or during < 10:
            before = len(lines)
            put(host, RULES, backend)
            during += len(lines) - before
            assert "GALACTIC-FORWARD" in listed(sh, host, backend)
            before = len(lines)
            put(host, (), backend)
            during += len(lines) - before
            assert "GALACTIC" not in listed(sh, host, backend)
            rounds += 1
    finally:
        other.kill()
        reading.join()
        other.wait()
        other.stdout.close()
    assert {line.split()[0] for line in lines} == {"0"}


def test_a_host_that_changes_its_backend_is_cleaned_up(host, sh):
    """kube-proxy or an administrator moves from one to the other: Galactic's rules follow, and none is left behind."""
    sh(host, "iptables-legacy -P FORWARD DROP")
    assert put(host, RULES)["backend"] == "legacy"
    sh(host, "iptables-legacy -P FORWARD ACCEPT; iptables-nft -P INPUT DROP; iptables-nft -P FORWARD DROP")
    installed = put(host, RULES)
    assert (installed["backend"], len(installed["changed"])) == ("nft", 16)
    for six in (False, True):
        for table in ("filter", "raw"):
            assert "GALACTIC" not in listed(sh, host, "legacy", table, six)
            assert "GALACTIC" in listed(sh, host, "nft", table, six)
    assert put(host, RULES)["changed"] == []
    sh(host, "iptables-nft -P INPUT ACCEPT; iptables-nft -P FORWARD ACCEPT; iptables-legacy -P FORWARD DROP")
    installed = put(host, RULES)
    assert installed["backend"] == "legacy", installed
    for table in ("filter", "raw"):
        assert "GALACTIC" not in listed(sh, host, "nft", table)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("-t raw -D PREROUTING -j GALACTIC-PREROUTING", id="jump-gone"),
        pytest.param("-t raw -I PREROUTING -p tcp -j ACCEPT", id="not-first"),
        pytest.param("-F GALACTIC-INPUT", id="rules-gone"),
        pytest.param("-R GALACTIC-FORWARD 1 -i G+ -j DROP", id="other-target"),
        pytest.param("-R GALACTIC-FORWARD 1 -i H+ -j ACCEPT", id="other-interface"),
        pytest.param("-t raw -D GALACTIC-PREROUTING 1", id="first-rule-gone"),
    ],
)
def test_damage_changes_the_fingerprint_and_traffic_does_not(host, sh, until, backend, damage):
    """Nor do others' rules, however many come and go."""
    good = put(host, RULES, backend)["fingerprint"]
    seen = host.run(lambda: fingerprint(backend))
    sh(
        host,
        f"ip6tables-{backend} -A INPUT -s 2001:db8::/32 -j DROP; ip6tables-{backend} -A FORWARD -j ACCEPT",
    )
    sh(host, f"ip6tables-{backend} -N OTHERS; ip6tables-{backend} -I OTHERS -j ACCEPT")
    until(lambda: answered(sh, host, "fd00::1"))  # counted by the jumps
    assert seen == good == host.run(lambda: fingerprint(backend))
    sh(host, f"ip6tables-{backend} {damage}")
    assert host.run(lambda: fingerprint(backend)) != good
    put(host, RULES, backend)
    assert host.run(lambda: fingerprint(backend)) == good


ERROR = """
import socket
sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
sock.bind(("fd00:a::2", 0))
sock.sendto(bytes([2, 0, 0, 0]) + bytes(44), ("%s", 0))  # packet too big
"""


def test_what_the_rules_do_to_packets(sh, until, backend):
    """Tenants never reach a SID; the outside neither, but its ICMPv6 errors reach the loopback; other nodes do."""
    loopback, sid, neighbour = srv6.loopback(PREFIX), "2001:db8:ff01:100::1:5", "2001:db8:ff02:100::9"
    with Namespace.fresh() as node, Namespace.fresh() as peer:
        for number, (device, end) in enumerate((("eth0", "pa"), ("G000000001001H", "pb"))):
            descriptor = f"/proc/{os.getpid()}/fd/{peer._fd}"
            sh(node, f"ip link add {device} type veth peer name {end} netns {descriptor}")
            sh(node, f"ip addr add fd00:{end[1]}::1/64 dev {device} nodad; ip link set {device} up")
            sh(peer, f"ip addr add fd00:{end[1]}::2/64 dev {end} nodad; ip link set dev {end} up")
            sh(peer, f"ip -6 route add 2001:db8:ff01:100::/64 via fd00:{end[1]}::1 metric {100 + number}")
        sh(
            node,
            f"ip link set lo up; ip addr add {sid}/128 dev lo nodad; ip addr add {loopback}/128 dev lo nodad",
        )
        sh(node, f"ip -6 route add {neighbour}/128 via fd00:a::2")
        sh(peer, f"ip link set lo up; ip addr add {neighbour}/128 dev lo nodad")

        outside, tenant, node_to_node = f"-I fd00:a::2 {sid}", f"-I pb {sid}", f"-I {neighbour} {sid}"
        for way in (outside, tenant, node_to_node):
            until(lambda way=way: answered(sh, peer, way))
        put(node, RULES, backend)
        assert [answered(sh, peer, way) for way in (outside, tenant)] == [False, False]
        until(lambda: answered(sh, peer, node_to_node))
        subprocess_in(peer, ERROR % loopback)

        def counted():
            listing = sh(node, f"ip6tables-{backend} -w -t raw -nvxL GALACTIC-PREROUTING").splitlines()[2:]
            return [int(line.split()[0]) for line in listing]

        until(lambda: counted()[10])  # what eth0 brings: the second of four kinds of errors, after lo's
        forged, _, to_sid, _, _, *errors, from_outside, by_lo, by_eth0, _, _ = counted()
        assert (forged, to_sid, errors, from_outside) == (0, 1, [0] * 5 + [1, 0, 0], 1)
        assert by_eth0
        assert not by_lo


def answered(sh, namespace, destination):
    """Whether one ping was answered in time."""
    return " 0% packet loss" in sh(namespace, f"ping -c1 -W1 {destination}", check=False)


def subprocess_in(namespace, program):
    namespace.run(lambda: subprocess.run([sys.executable, "-c", program], check=True))


PROGRAM = """
import asyncio
from galactic.errors import Unreachable
from galactic.linux import firewall
from galactic.linux.firewall import FirewallRule, install
firewall._TIMEOUT = 250.0
try:
    print(asyncio.run(install([FirewallRule(4, "FORWARD", "%s", in_interface="G+")], backend="nft")))
except Unreachable as error:
    print(f"Unreachable: {error}")
"""


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        pytest.param(
            "ACCEPT",
            "Installed(backend='nft', reason='as asked for', changed=('IPv4 FORWARD',), lacking='', fingerprint='",
            id="installed",
        ),
        pytest.param("NONSENSE", "Unreachable: iptables: ", id="impossible"),
    ],
)
def test_the_outcome_of_install(target, expected):
    """In the network namespace of a child, as ``install`` works on that of its own process."""
    command = ["unshare", "-n", sys.executable, "-c", PROGRAM % target]
    output = subprocess.run(command, text=True, capture_output=True, check=True).stdout
    assert output.startswith(expected)
    assert "NONSENSE" in output or target == "ACCEPT"
