"""A packet of the size of a pod's interface MTU arrives unfragmented, one byte more is refused with the
size that fits, TCP runs in full segments; where the underlay is made smaller, running pods follow (docs/mtu.md).
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from story import Tenant, eventually

from galactic_lab.cluster import Lab

OUTER = 40  # encap.red of one segment: an IPv6 header
HEADERS = {4: 20, 6: 40}
ICMP = 8
TCP = 20 + 12  # with timestamps
STREAM = Path(__file__).with_name("stream.py")
BYTES = 4_096_000
ADDRESSES = {4: "10.1.1.2", 6: "2001:10:1:1::2"}


@pytest.fixture
def underlay(lab: Lab) -> Iterator[Callable[[int], None]]:
    """Sets the MTU of every link between fabric and nodes; afterwards it is as before."""

    def resize(mtu: int) -> None:
        for member in lab.state.members:
            lab.exec("fabric", ["ip", "link", "set", member.name, "mtu", str(mtu)])
            lab.exec(member.name, ["ip", "link", "set", "eth0", "mtu", str(mtu)])

    yield resize
    resize(1500)


def test_mtu(tenants: Callable[..., Tenant], lab: Lab, underlay: Callable[[int], None]) -> None:
    blue = tenants("blue")
    blue.settle(
        {
            "one": ("node-1", "10.1.1.1/24", "2001:10:1:1::1/64"),
            "two": ("node-2", "10.1.1.2/24", "2001:10:1:1::2/64"),
        }
    )
    blue.all_reach(("one", address) for address in ADDRESSES.values())
    fits(blue, 1500 - OUTER)

    # A link on the way that is smaller than the nodes' own, in one direction: what fits goes on passing.
    lab.exec("fabric", ["ip", "link", "set", "node-2", "mtu", "1400"])
    assert not passes(blue, 4, 1500 - OUTER)
    assert passes(blue, 4, 1400 - OUTER)

    underlay(1400)
    for pod in ("one", "two"):
        eventually(f"{pod} follows the underlay", lambda pod=pod: mtu(blue, pod) == 1400 - OUTER)
    fits(blue, 1400 - OUTER)


def fits(blue: Tenant, size: int) -> None:
    """Exactly that, in both families, and TCP makes use of it."""
    assert mtu(blue, "one") == mtu(blue, "two") == size
    for family, address in ADDRESSES.items():
        assert passes(blue, family, size)
        argv = ["ping", "-n", "-M", "do", "-c1", "-W1", f"-s{size - HEADERS[family] - ICMP + 1}", address]
        refused = blue.lab.run(f"pod/{blue.namespace}/one", argv, check=False)
        assert refused.returncode
        output = (refused.stdout + refused.stderr).replace("mtu: ", "mtu=")
        assert f"message too long, mtu={size}" in output
        argv = [sys.executable, "-P", str(STREAM), blue.netns("two"), address, blue.netns("one"), str(BYTES)]
        stream = blue.lab.run("kernel", argv, timeout=600).stdout
        result = json.loads(stream.splitlines()[-1])
        assert result["error"] is None
        assert result["received"] == result["sent"] > 0
        assert result["mss"] == size - HEADERS[family] - TCP


def passes(blue: Tenant, family: int, size: int) -> bool:
    """Whether an echo of that many bytes, not to be fragmented, comes back."""
    payload = size - HEADERS[family] - ICMP
    argv = ["ping", "-n", "-M", "do", "-c3", "-i0.2", "-W5", f"-s{payload}", ADDRESSES[family]]
    return blue.lab.run(f"pod/{blue.namespace}/one", argv, check=False).returncode == 0


def mtu(blue: Tenant, pod: str) -> int:
    (link,) = json.loads(blue.run(pod, ["ip", "-j", "link", "show", "galactic0"]))
    return int(link["mtu"])
