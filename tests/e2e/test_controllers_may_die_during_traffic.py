"""Router and node controllers are killed during a ping, and not one packet is lost."""

import re
import signal
from collections.abc import Callable

import pytest
from story import Tenant, eventually

from galactic.lab.cluster import Lab


@pytest.mark.parametrize("component", ["router", "controller/node-1", "controller/node-2", "mosquitto"])
def test_no_packet_is_lost(component: str, tenants: Callable[..., Tenant], lab: Lab) -> None:
    blue = tenants("blue")
    blue.make_vpc()
    blue.attach("one", "10.1.1.1/24")
    blue.attach("two", "10.1.1.2/24")
    blue.pod("one", "node-1")
    blue.pod("two", "node-2")
    blue.reaches("one", "10.1.1.2")
    ping = lab.popen(
        f"pod/{blue.namespace}/one", ["ping", "-n", "-q", "-i0.1", "-c150", "-W2", "10.1.1.2"], stdout=-1
    )
    lab.kill(component, signal.SIGKILL)
    said, _ = ping.communicate(timeout=60)
    sent, received = map(int, re.search(r"(\d+) packets transmitted, (\d+) received", said).groups())
    assert (sent, received) == (150, 150)

    # and what comes after it works as before
    blue.attach("three", "10.1.1.3/24")
    blue.pod("three", "node-2")
    blue.reaches("one", "10.1.1.3")
    eventually("the new endpoint is recorded", lambda: blue.endpoint("three"))
