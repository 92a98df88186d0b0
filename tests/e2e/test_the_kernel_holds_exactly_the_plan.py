"""The objects of Galactic that `ip` shows on a node are the plan of docs/architecture.md, line by line, and no
others.
"""

import re
from collections.abc import Callable
from ipaddress import IPv6Address
from zlib import crc32

from story import Tenant, eventually, returns_to, steady

from galactic import names
from galactic_lab.cluster import Lab

NODE_1, NODE_2 = "2001:db8:ff01:100", "2001:db8:ff02:100"


def lines(lab: Lab, node: str, *arguments: str) -> set[str]:
    """Lines that ip prints, white space folded."""
    return {" ".join(line.split()) for line in lab.exec(node, ["ip", *arguments]).splitlines()}


def ours(lab: Lab, node: str, table: str) -> set[str]:
    """The routes of both families with our protocol number in a table."""
    query = ("route", "show", "table", table, "proto", "154")
    return lines(lab, node, "-4", *query) | lines(lab, node, "-6", *query)


def test_plan(tenants: Callable[..., Tenant], lab: Lab) -> None:
    blue = tenants("blue")
    terminates = ({"destination": "192.168.3.0/24", "via": "10.1.1.1"},)
    pods = {"one": ("node-1", "10.1.1.1/24", "2001:10:1:1::1/64"), "two": ("node-2", "10.1.1.2/24")}
    blue.settle(pods, routes={"one": terminates})
    blue.reaches("one", "10.1.1.2")
    vpc = int(lab.get("vpc", "-n", blue.namespace, "vpc")["status"]["identifier"], 16)
    one, two = (int(blue.attachment(name)["status"]["identifier"], 16) for name in ("one", "two"))
    here, there = (
        eventually("it is recorded where it is", lambda name=name: blue.endpoint(name))["sid"]
        for name in ("one", "two")
    )
    assert there.startswith(f"{NODE_2}:")
    assert here.startswith(f"{NODE_1}:")
    assert here.endswith(f":{one:x}")
    assert there.endswith(f":{two:x}")

    vrf, host_end = names.vrf(vpc), names.host_end(vpc, one)
    (shown,) = lines(lab, "node-1", "-d", "-o", "link", "show", "dev", vrf)
    table = re.search(r"vrf table (\d+)", shown)[1]
    assert table == str(1_000_000_000 + vpc % 1_000_000_000)
    metric = 1 + crc32(IPv6Address(there).packed) % (1 << 24)
    assert ours(lab, "node-1", table) == {
        f"10.1.1.1 dev {host_end} scope link",
        f"10.1.1.2 encap seg6 mode encap.red segs 1 [ {there} ] dev lo-galactic scope link metric {metric}",
        f"192.168.3.0/24 via 10.1.1.1 dev {host_end} onlink",
        f"2001:10:1:1::1 dev {host_end} metric 1024 pref medium",
        "unreachable default metric 4278198272",
        "unreachable default dev lo metric 4278198272 pref medium",
    }
    main = {line for line in ours(lab, "node-1", "main") if here in line or "unreachable" in line}
    assert main == {
        f"{here} encap seg6local action End.DT46 vrftable {table} dev {vrf} metric 1024 pref medium",
        f"unreachable {NODE_1}::/64 dev lo metric 1024 pref medium",
    }
    assert "999: from all to 2001:db8:ff00::/40 lookup main proto 154" in lines(lab, "node-1", "-6", "rule")
    addresses = lines(lab, "node-1", "-br", "addr", "show", "dev", host_end)
    assert {"169.254.1.1/32", "fe80::1/64"} <= set(" ".join(addresses).split())
    (loopback,) = lines(lab, "node-1", "-6", "-br", "addr", "show", "dev", "lo-galactic")
    assert f"{NODE_1}:ffff:ffff:ffff:ffff/128" in loopback
    assert f"master {vrf}" in " ".join(lines(lab, "node-1", "-o", "link", "show", "dev", host_end))

    pod = f"pod/{blue.namespace}/one"
    inside = {" ".join(line.split()) for line in lab.run(pod, ["ip", "route"]).stdout.splitlines()}
    assert inside == {
        "10.1.1.0/24 via 169.254.1.1 dev galactic0 proto 154 metric 2154 onlink",
        "169.254.1.1 dev galactic0 proto 154 scope link metric 2154",
    }
    assert "10.1.1.1/24" in lab.run(pod, ["ip", "-br", "addr", "show", "galactic0"]).stdout


def test_removed_objects_are_put_back(tenants: Callable[..., Tenant], lab: Lab) -> None:
    blue = tenants("blue")
    blue.settle({"one": ("node-1", "10.1.1.1/24"), "two": ("node-2", "10.1.1.2/24")})
    blue.reaches("one", "10.1.1.2")
    sid = eventually("it is recorded where it is", lambda: blue.endpoint("one"))["sid"]
    removals = (
        f"ip -6 route del {sid}",
        "ip -6 rule del pref 999",  # for outer packets
        "sysctl -qw net.vrf.strict_mode=0",
        "ip addr flush dev lo-galactic",
    )
    before = steady(lab, "node-1", lambda: state(lab))
    lab.exec("node-1", ["sh", "-ec", "\n".join(removals)])
    returns_to("node-1", before, lambda: state(lab))
    blue.reaches("two", "10.1.1.1")


def state(lab: Lab) -> list[str]:
    """Everything that the story above takes away."""
    shown = "ip -6 route show proto 154; ip -6 rule; ip -6 addr show dev lo-galactic scope global"
    return lab.exec("node-1", ["sh", "-c", f"{shown}; sysctl net.vrf.strict_mode"]).splitlines()
