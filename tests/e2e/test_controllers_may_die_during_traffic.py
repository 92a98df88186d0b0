"""Router, node controllers and broker are killed during a ping, and not one packet is lost."""

import re
import signal
import subprocess
from collections.abc import Callable

from story import Tenant, eventually

from galactic.lab.cluster import Lab

PINGS = 100
MORTAL = ("router", "controller/node-1", "controller/node-2", "mosquitto")


def test_no_packet_is_lost(tenants: Callable[..., Tenant], lab: Lab) -> None:
    blue = tenants("blue")
    blue.make_vpc()
    blue.attach("one", "10.1.1.1/24")
    blue.attach("two", "10.1.1.2/24")
    blue.pod("one", "node-1")
    blue.pod("two", "node-2")
    blue.reaches("one", "10.1.1.2")
    answered = {component: pinged_while_killed(lab, blue, component) for component in MORTAL}
    assert answered == dict.fromkeys(MORTAL, (PINGS, PINGS))

    # and what comes after it works as before
    blue.attach("three", "10.1.1.3/24")
    blue.pod("three", "node-2")
    blue.reaches("one", "10.1.1.3")
    eventually("the new endpoint is recorded", lambda: blue.endpoint("three"))


def pinged_while_killed(lab: Lab, tenant: Tenant, component: str) -> tuple[int, int]:
    """(sent, received) of a ping of ten seconds, at whose begin the component is killed and comes back by itself."""
    argv = ["ping", "-n", "-q", "-i0.1", f"-c{PINGS}", "-W2", "10.1.1.2"]
    ping = lab.popen(f"pod/{tenant.namespace}/one", argv, stdout=subprocess.PIPE)
    lab.kill(component, signal.SIGKILL)
    said, _ = ping.communicate(timeout=60)
    found = re.search(r"(\d+) packets transmitted, (\d+) received", said)
    assert found, said
    return int(found[1]), int(found[2])
