"""The order of the policy rules: a VRF's table before ``local``, on hosts where others have rules as well.

A VRF with a pod of 10.1.1.1 and 2001:10:1:1::1; the node has the same addresses itself, as docker0 or IPVS' kube-ipvs0
would. What ``ip rule`` does stands for other programs.
"""

import asyncio
import subprocess
from ipaddress import IPv6Network

import pytest

from galactic.linux.kernel import LinuxKernel
from galactic.linux.objects import MAIN_TABLE, LookupOrder, Objects, Rule, change

SPACE = IPv6Network("2001:db8:ff00::/40")
WANTED = Objects(
    rules={Rule(999, SPACE, MAIN_TABLE): None}, lookups={4: LookupOrder(), 6: LookupOrder(block=SPACE)}
)
FAMILIES = {4: "-4", 6: "-6"}
ADDRESSES = {4: "10.1.1.1", 6: "2001:10:1:1::1"}
KERNELS_OWN = {
    4: ["0: from all lookup local", "32766: from all lookup main", "32767: from all lookup default"],
    6: ["0: from all lookup local", "32766: from all lookup main"],
}

pytestmark = pytest.mark.vrf


@pytest.fixture
async def kernel(host, sh):
    """The node: a VRF with a host end, and the addresses of the pod behind it."""
    sh(
        host,
        "ip link add vrf1 type vrf table 1001; ip link set vrf1 up;"
        "ip link add p0 type veth peer name p1; ip link set p0 master vrf1 up; ip link set p1 up;"
        "ip route add 10.1.1.1 dev p0 table 1001; ip -6 route add 2001:10:1:1::1 dev p0 table 1001;"
        "ip route add unreachable default table 1001 metric 4278198272;"
        "ip -6 route add unreachable default table 1001 metric 4278198272;"
        "ip link add docker0 type dummy; ip link set docker0 up;"
        "ip address add 10.1.1.1/24 dev docker0; ip -6 address add 2001:10:1:1::1/64 dev docker0 nodad;"
        f"ip -6 route add {SPACE} via fd00::2 dev d0",
    )
    async with LinuxKernel(host) as made:
        yield made


async def ordered(kernel, wanted=WANTED):
    await kernel.write(change(wanted, await kernel.read()))
    left = change(wanted, await kernel.read())
    assert not left.lookups, left.lookups
    assert not left.rules


def rules(sh, host, family):
    return [" ".join(line.split()) for line in sh(host, f"ip {FAMILIES[family]} rule").splitlines()]


def leaves_by(sh, host, destination, device=""):
    """The device that a packet to that address from ``device``, a VRF, is sent by."""
    family = "-6" if ":" in destination else "-4"
    answer = sh(host, f"ip {family} route get {destination} {device and f'oif {device}'}", check=False)
    words = answer.split()
    return words[words.index("dev") + 1] if "dev" in words else ""


def vpcs_are_first(sh, host):
    for address in ADDRESSES.values():
        assert leaves_by(sh, host, address, "vrf1") == "p0"
        assert leaves_by(sh, host, address) == "lo"
    assert leaves_by(sh, host, "2001:db8:ff02::1", "vrf1") == "d0"


@pytest.mark.every_kernel
async def test_an_address_that_the_node_has_too_is_the_pods_inside_the_vrf(kernel, host, sh):
    for address in ADDRESSES.values():
        assert leaves_by(sh, host, address, "vrf1") == "lo", "the kernel's own order"
    await ordered(kernel)
    vpcs_are_first(sh, host)


@pytest.mark.every_kernel
async def test_the_rules_of_the_kernel_are_as_before_when_galactic_goes(kernel, host, sh):
    before = {family: rules(sh, host, family) for family in FAMILIES}
    await ordered(kernel)
    assert {family: rules(sh, host, family) for family in FAMILIES} != before
    await ordered(kernel, Objects())
    assert {family: rules(sh, host, family) for family in FAMILIES} == before


FLUSH = "ip rule flush; ip -6 rule flush"


@pytest.mark.parametrize(
    "others",
    [
        pytest.param(FLUSH, id="flush", marks=pytest.mark.every_kernel),
        pytest.param(
            f"{FLUSH}; ip rule del pref 0 lookup local; ip -6 rule del pref 0 lookup local", id="all"
        ),
        pytest.param("ip rule del pref 0; ip -6 rule del pref 0; ip -6 rule del pref 0", id="vrf-rule"),
        pytest.param("ip -6 rule del pref 999", id="way-of-outer-packets"),
        pytest.param(
            "for f in -4 -6; do ip $f rule add pref 32765 lookup local; ip $f rule del pref 0 lookup local; done",
            id="local-at-32765",
        ),
        pytest.param(
            "for f in -4 -6; do ip $f rule add pref 100 lookup local; ip $f rule del pref 0 lookup local; done",
            id="cilium",
        ),
        pytest.param(
            "for f in -4 -6; do ip $f rule add pref 0 lookup local; ip $f rule del pref 0 lookup local; done",
            id="local-behind",
        ),
        pytest.param(
            "ip rule add to 10.1.1.1 lookup main; ip -6 rule add to 2001:10:1:1::1 lookup main", id="more"
        ),
    ],
)
async def test_what_others_do_to_the_rules(kernel, host, sh, others):
    await ordered(kernel)
    sh(host, others)
    await ordered(kernel)
    vpcs_are_first(sh, host)
    for family in FAMILIES:
        listed = rules(sh, host, family)
        assert sum(line.endswith(" lookup local") for line in listed) == 1, listed
        assert sum(line.endswith("from all lookup main") for line in listed) == 1, listed
        assert sum("l3mdev" in line and "goto" not in line and line.startswith("0:") for line in listed) == 1


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_local_rule_of_another_program_stays_alone(kernel, host, sh, family):
    """Cilium has it at 100, behind its own rules for proxies: a second one at 0 would come before those."""
    sh(host, f"ip {FAMILIES[family]} rule add pref 100 lookup local; ip {FAMILIES[family]} rule del pref 0")
    await ordered(kernel)
    assert [line for line in rules(sh, host, family) if "local" in line] == ["100: from all lookup local"]
    vpcs_are_first(sh, host)
    await ordered(kernel, Objects())
    assert [line for line in rules(sh, host, family) if "local" in line] == ["100: from all lookup local"]


@pytest.mark.parametrize("family", FAMILIES)
async def test_rules_of_others_come_after_local_as_before(kernel, host, sh, family):
    """One for several uplinks, one without a priority: the node's own addresses stay its own."""
    f, far = FAMILIES[family], {4: "default via 10.0.0.2", 6: "default via fd00::2"}[family]
    own = {4: "10.0.0.1", 6: "fd00::1"}[family]
    await ordered(kernel)
    sh(host, f"ip {f} route add {far} table 7; ip {f} rule add pref 512 lookup 7; ip {f} rule add lookup 7")
    assert leaves_by(sh, host, own) == "lo"
    vpcs_are_first(sh, host)


@pytest.mark.every_kernel
async def test_there_is_a_local_rule_at_every_moment(kernel, host, sh):
    """Every rule that comes and goes, in the kernel's own order."""
    for family, flag in FAMILIES.items():
        monitor = host.run(
            lambda flag=flag: subprocess.Popen(
                ["ip", flag, "monitor", "rule"], stdout=subprocess.PIPE, text=True, bufsize=1
            )
        )
        try:
            await asyncio.sleep(0.5)
            await ordered(kernel)
            await ordered(kernel, Objects())
            sh(host, f"ip {flag} rule add pref 77 lookup 77; ip {flag} rule del pref 77")
            count, seen = 1, []
            for line in monitor.stdout:
                seen.append(line)
                if line.rstrip().endswith(("lookup local", "lookup local proto kernel")):
                    count += -1 if line.startswith("Deleted") else 1
                    assert count > 0, (family, seen)
                if line.startswith("Deleted 77:"):
                    break
            assert count == 1
        finally:
            monitor.terminate()
            monitor.wait()
