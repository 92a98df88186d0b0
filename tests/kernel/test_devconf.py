"""Sysctls of devices, read from a dump of links: each is the one that the file of that name has."""

from pathlib import Path

import pytest

from galactic.linux import devconf
from galactic.linux.devconf import IPV4, IPV6, Setting
from galactic.linux.kernel import LinuxKernel
from galactic.linux.objects import Objects, change

pytestmark = pytest.mark.every_kernel

SETTINGS = [Setting("ipv4", "d0", name) for name in IPV4] + [Setting("ipv6", "d0", name) for name in IPV6]


def write(host, setting, value):
    file = Path("/proc/sys") / str(setting)
    host.run(lambda: file.write_text(value))


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("devices", [1, 9], ids=["asked-for-alone", "dumped"])
async def test_a_name_is_that_of_its_file(host, sh, setting, devices):
    """One value is changed, and changes under that name alone."""
    write(host, Setting("ipv6", "d0", "forwarding"), "0")  # with it accept_ra 1 is as 0
    others = [Setting("ipv4", f"x{number}", "rp_filter") for number in range(1, devices)]
    before = await devconf.read(host, [*SETTINGS, *others])
    assert before.keys() == {str(known) for known in SETTINGS}
    value = "0" if before[str(setting)] != "0" else "1"
    write(host, setting, value)
    after = await devconf.read(host, [*SETTINGS, *others])
    changed = {path: value for path, value in after.items() if before[path] != value}
    assert changed.pop(str(setting)) == value
    assert {path for path in changed if "/ipv6/" not in path} == set()


@pytest.mark.parametrize(
    ("accept", "forwarding", "read"), [(0, 1, "0"), (1, 1, "0"), (2, 1, "2"), (1, 0, "1")]
)
async def test_router_advertisements_where_the_kernel_accepts_them(host, accept, forwarding, read):
    write(host, Setting("ipv6", "d0", "forwarding"), str(forwarding))
    write(host, Setting("ipv6", "d0", "accept_ra"), str(accept))
    assert await devconf.read(host, [Setting("ipv6", "d0", "accept_ra")]) == {
        "net/ipv6/conf/d0/accept_ra": read
    }


@pytest.mark.parametrize("name", IPV4)
async def test_ipv4_over_netlink(host, name):
    setting = Setting("ipv4", "d0", name)
    for value in (1, 0):
        await devconf.set_ipv4(host, "d0", {name: value})
        file = Path("/proc/sys") / str(setting)
        assert host.run(file.read_text) == f"{value}\n"


async def test_devices_that_are_gone_are_not_remembered(host, sh):
    device = "G000000001001H"
    wanted = Objects(sysctls={f"net/ipv4/conf/{device}/rp_filter": "0"})
    sh(host, f"ip link add {device} type veth peer name x")
    async with LinuxKernel(host) as kernel:
        await kernel.write(change(wanted, Objects()))
        assert await kernel.sysctls() == wanted.sysctls
        sh(host, f"ip link del {device}")
        assert await kernel.sysctls() == {}
        assert not kernel._sysctls
