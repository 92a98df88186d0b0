"""The capabilities and files of docs/privileges.md: exactly these are enough, and one less is not."""

import json
import subprocess
import sys
import uuid
from ipaddress import IPv6Network

import pytest

from galactic.linux.namespace import Namespace

pytestmark = pytest.mark.vrf

NEEDED = ("net_admin", "sys_admin", "net_raw")
PREFIX = IPv6Network("2001:db8:ff01:100::/56")
PROGRAM = """
import asyncio, json, sys
from ipaddress import IPv6Network, ip_interface
from galactic import srv6
from galactic.linux import devconf, firewall as filtering, firewall_fingerprint
from galactic.linux.events import Events
from galactic.linux.firewall import firewall, install
from galactic.linux.kernel import LinuxKernel
from galactic.linux.namespace import Namespace
from galactic.linux.nftables import Nftables, Table, difference, lacking, rewrite
from galactic.linux.objects import Objects, change
from galactic.linux.preflight import preflight
from galactic.node.dataplane import plan
from galactic.node.policies.rules import Rules
from galactic.node.policies.ruleset import TABLE, table
from galactic.node.state.attachment import Attachment

filtering._TIMEOUT = 900.0  # a guest on a machine that has much else to do is slow
SPACE, PREFIX = IPv6Network("2001:db8:ff00::/40"), IPv6Network("2001:db8:ff01:100::/56")
addresses = ip_interface("10.1.1.1/24"), ip_interface("2001:10:1:1::1/64")
pod = Attachment(1, 1, "t/1", "c", sys.argv[1], "galactic0", addresses)
facts = plan.Host(PREFIX, SPACE, "eth0")
parts = plan.host(facts), plan.vpc(1, 100001), plan.attached(facts, 100001, pod, lambda _: True)
wanted = Objects()
for part in parts:
    for kind in ("links", "addresses", "routes", "rules", "sysctls", "lookups"):
        getattr(wanted, kind).update(getattr(part, kind))


async def preflights():
    found = await preflight()
    assert found.ok, [each.message for each in found.findings if not each.ok]


async def kernel():
    with Events() as events:
        async with LinuxKernel() as kernel:
            await kernel.write(change(wanted, await kernel.read()))
            left = change(wanted, await kernel.read())
            assert not left, left
            await anext(events)
            for device in ("G000000001000V", "G000000001001H"):
                await devconf.set_ipv4(Namespace.own(), device, {"rp_filter": 1, "forwarding": 0, "proxy_arp": 1})
            wrong = change(wanted, await kernel.read())
            assert len(wrong) == len(wrong.sysctls) == 6, wrong
            await kernel.write(wrong)
            left = change(wanted, await kernel.read())
            assert not left, left


async def inside():
    async with LinuxKernel() as kernel:
        await kernel.write_pod(pod.netns, change(plan.pod(pod), Objects()))
        assert await kernel.read_pod(pod.netns, pod.ifname) == plan.pod(pod)


async def filtered(backend):
    rules = firewall(SPACE, srv6.locator(PREFIX), srv6.loopback(PREFIX), ("eth0",))
    made = await install(rules, backend=backend)
    assert not made.lacking and firewall_fingerprint.fingerprint(backend) == made.fingerprint


async def ruled():
    kernel, wanted = Nftables(), table({"G000000001001H": [Rules("policy-a", False, (), ())]}, {})
    assert not await lacking()
    await kernel.apply(difference(Table(TABLE), wanted))
    assert await kernel.fingerprint(wanted) and kernel.generation()
    await kernel.apply(rewrite(await kernel.present(TABLE), Table(TABLE)))
    assert not (await kernel.present(TABLE)).exists


async def main():
    works = dict(
        preflight=preflights(), kernel=kernel(), pod=inside(), legacy=filtered("legacy"), nft=filtered("nft"),
        rules=ruled(),
    )
    told = {}
    for name, work in works.items():
        try:
            await work
            told[name] = "ok"
        except Exception as error:
            told[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(told))

asyncio.run(main())
"""


@pytest.fixture
def pod():
    """A pod's namespace where a container runtime puts it."""
    name = f"privileges-{uuid.uuid4()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield f"/run/netns/{name}"
    subprocess.run(["ip", "netns", "delete", name], check=True)


def outcomes(pod: str, capabilities: tuple[str, ...], first: str = "true") -> dict[str, str]:
    """The outcome of each part of the work, with those capabilities alone, and on a read-only root file system."""
    bounding = ",".join(["-all", *(f"+{name}" for name in capabilities)])
    command = (
        f"{first}; mount -o remount,bind,ro / 2>/dev/null || mount --bind / / && mount -o remount,bind,ro /;"
        f'exec setpriv --no-new-privs --inh-caps=-all --bounding-set={bounding} "$@"'
    )
    with Namespace.fresh() as node:
        host = "ip link set lo up; ip link add eth0 type dummy; ip link set eth0 up; modprobe -q vrf; "
        done = node.run(
            lambda: subprocess.run(
                ["unshare", "-m", "sh", "-c", host + command, "sh", sys.executable, "-c", PROGRAM, pod],
                text=True,
                capture_output=True,
                check=False,
            )
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def failing(results: dict[str, str]) -> set[str]:
    return {name for name, result in results.items() if result != "ok"}


@pytest.mark.every_kernel
def test_these_are_enough(pod):
    results = outcomes(pod, NEEDED)
    assert not failing(results), results


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        pytest.param("net_admin", {"preflight", "kernel", "pod", "legacy", "nft", "rules"}, id="net_admin"),
        pytest.param("sys_admin", {"preflight", "pod"}, id="sys_admin"),
        pytest.param("net_raw", {"legacy"}, id="net_raw"),
    ],
)
def test_one_less_is_not(pod, missing, expected):
    results = outcomes(pod, tuple(name for name in NEEDED if name != missing))
    assert failing(results) >= expected, results


def test_with_sysctls_that_cannot_be_written(pod):
    """As in the long-running container: the work of galactic-node-prepare before it is enough."""
    prepare = (
        f"{sys.executable} -m galactic.node.prepare --srv6-block 2001:db8:ff00::/40 --underlay-interface eth0"
    )
    results = outcomes(pod, NEEDED, first=f"{prepare} >&2 || exit 9; mount -o bind,ro /proc/sys /proc/sys")
    assert not failing(results), results
    without = outcomes(pod, NEEDED, first="mount -o bind,ro /proc/sys /proc/sys")
    assert {"preflight", "kernel"} <= failing(without)
    assert "galactic-node-prepare" in without["preflight"]


def test_a_pod_without_ipv6_where_sysctls_cannot_be_written(pod):
    """The failure names the sysctl and where it comes from; where they can be written it is enabled."""
    disabled = f"nsenter --net={pod} sysctl -qw net.ipv6.conf.default.disable_ipv6=1"
    prepare = (
        f"{sys.executable} -m galactic.node.prepare --srv6-block 2001:db8:ff00::/40 --underlay-interface eth0"
    )
    results = outcomes(
        pod, NEEDED, first=f"{prepare} >&2 || exit 9; {disabled}; mount -o bind,ro /proc/sys /proc/sys"
    )
    assert failing(results) == {"pod"}, results
    assert "net.ipv6.conf.galactic0.disable_ipv6 is 1" in results["pod"]
    assert "securityContext.sysctls" in results["pod"]
    results = outcomes(pod, NEEDED, first=f"{disabled}; ip -n {pod.rpartition('/')[2]} link del galactic0")
    assert not failing(results), results


def test_preparing_twice_changes_nothing_and_reports_it(tmp_path):
    with Namespace.fresh() as node:
        command = (
            "ip link set lo up; ip link add eth0 type dummy; ip link set eth0 up; "
            f"prepare='{sys.executable} -m galactic.node.prepare --socket {tmp_path}/agent.sock';"
            'prepare="$prepare --underlay-interface eth0";'
            f"cd {tmp_path}; $prepare > once; grep -q '^Changes ' once; $prepare > twice; $prepare > thrice;"
            "cmp twice thrice; cat twice;"
            "sysctl -n net.vrf.strict_mode net.ipv6.conf.eth0.forwarding net.ipv4.conf.default.rp_filter"
        )
        done = node.run(
            lambda: subprocess.run(["sh", "-ec", command], text=True, capture_output=True, check=True)
        )
    assert done.stdout.endswith("this host is ready\n1\n1\n0\n")


def test_its_changes_can_be_reverted(tmp_path):
    """Before, after a second run (which must not take its own values for the host's), and set back."""
    show = "sysctl net.ipv4.conf net.ipv6.conf | grep -E '(forwarding|rp_filter|accept_ra|autoconf|seg6_enabled) ='"
    with Namespace.fresh() as node:
        command = (
            "ip link set lo up; ip link add eth0 type dummy; ip link add eth0.7 type dummy;"
            "ip link set eth0.7 up; sysctl -qw net.ipv4.conf.all.rp_filter=2 net.ipv6.conf.eth0/7.autoconf=1;"
            f"{show} > {tmp_path}/before;"
            f"prepare='{sys.executable} -m galactic.node.prepare --socket {tmp_path}/agent.sock';"
            f"$prepare --underlay-interface eth0.7; {show} > {tmp_path}/after;"
            "sysctl -qw net.ipv4.conf.all.rp_filter=1; $prepare --underlay-interface eth0.7 >&2;"
            f"sysctl -p {tmp_path}/sysctls.before >&2; {show} > {tmp_path}/back"
        )
        done = node.run(
            lambda: subprocess.run(["sh", "-ec", command], text=True, capture_output=True, check=False)
        )
    assert done.returncode == 0, done.stderr
    before, after, back = ((tmp_path / name).read_text() for name in ("before", "after", "back"))
    assert "net.ipv4.conf.all.rp_filter 2 → 0" in done.stdout
    assert before != after
    assert back == before


def test_a_host_that_is_not_ready_is_reported_and_fails():
    with Namespace.fresh() as node:
        command = (
            "sysctl -qw net.ipv6.conf.all.disable_ipv6=1;"
            f"{sys.executable} -m galactic.node.prepare --underlay-interface eth7"
        )
        done = node.run(
            lambda: subprocess.run(["sh", "-c", command], text=True, capture_output=True, check=False)
        )
    assert done.returncode == 1
    assert done.stdout.endswith("this host is not ready: Underlay, IPv6\n")
    assert "set net.ipv6.conf.all.disable_ipv6 and net.ipv6.conf.default.disable_ipv6 to 0" in done.stdout
    assert "there is no interface 'eth7'" in done.stdout
