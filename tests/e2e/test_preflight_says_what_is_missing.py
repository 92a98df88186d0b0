"""A node that cannot do its work reports the reason in its NodeSegment, goes on running, and recovers without a restart
once the missing part is there.
"""

import signal
from collections.abc import Iterator

import pytest
from story import eventually

from galactic_lab.cluster import Lab

NODE = "node-3"


@pytest.fixture
def read_only(lab: Lab) -> Iterator[None]:
    """The node's programs see a read-only /proc/sys, as in a container without privileges, and strict mode is off."""
    lab.exec(NODE, ["sh", "-c", "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys"])
    namespace = lab.state.node(NODE).namespace
    lab.run("kernel", ["ip", "netns", "exec", namespace, "sysctl", "-qw", "net.vrf.strict_mode=0"])
    yield
    if mounted(lab):
        lab.exec(NODE, ["umount", "--lazy", "/proc/sys"])


def mounted(lab: Lab) -> bool:
    return " /proc/sys " in lab.exec(NODE, ["cat", "/proc/self/mountinfo"])


def conditions(lab: Lab) -> dict[str, dict[str, str]]:
    return {
        condition["type"]: condition for condition in lab.get("nseg", NODE)["status"].get("conditions") or ()
    }


def reported(lab: Lab, status: str, words: str = "") -> bool:
    """Whether the node's condition Ready has that status and its message those words."""
    ready = conditions(lab).get("Ready", {})
    return ready.get("status") == status and words in ready.get("message", "")


def test_a_sysctl_that_may_not_be_written(lab: Lab, read_only: None) -> None:
    before = lab.controller_pid(NODE)
    lab.kill(f"controller/{NODE}", signal.SIGKILL)
    pid = eventually("the controller runs again", lambda: (one := lab.controller_pid(NODE)) != before and one)
    eventually("the node reports the sysctl", lambda: reported(lab, "False", "strict_mode"))
    assert lab.controller_pid(NODE) == pid, "it does not run in circles"

    # Lazily, as the controller looks at sysctls while it waits.
    lab.exec(NODE, ["umount", "--lazy", "/proc/sys"])
    eventually("the node is ready", lambda: reported(lab, "True"), seconds=90)
    assert lab.controller_pid(NODE) == pid
    assert lab.exec(NODE, ["sysctl", "-n", "net.vrf.strict_mode"]).strip() == "1"
