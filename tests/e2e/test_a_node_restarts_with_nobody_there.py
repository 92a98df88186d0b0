"""A node's controller dies while API server and broker are away, then loses its records as well: traffic goes on."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import audit
from story import ANSWER_SECONDS, Tenant, eventually, steady

from galactic_lab.cluster import Lab

PLUGIN = Path(__file__).parents[2] / "src" / "cni_plugin" / "main.py"
FOLDER = "/var/run/galactic"
AWAY = ("kube-apiserver", "mosquitto")


def test_traffic_goes_on_and_all_converges(tenants: Callable[..., Tenant], lab: Lab) -> None:
    blue = tenants("blue")
    blue.make_vpc()
    for name, address in (("one", "10.1.1.1/24"), ("two", "10.1.1.2/24"), ("three", "10.1.1.3/24")):
        blue.attach(name, address)
    blue.pod("one", "node-1")
    blue.pod("two", "node-2")
    blue.reaches("one", "10.1.1.2")
    eventually("the endpoint is recorded", lambda: endpoints(lab))
    before = steady(lab, "node-1", lambda: kernel(lab))
    (epoch,) = (endpoint["epoch"] for endpoint in endpoints(lab))
    stop = f"/tmp/story-restarts-{lab.state.name}"
    ping = pinging(lab, blue, "10.1.1.2", stop)
    monitor = lab.popen(
        "node-1", ["ip", "-ts", "monitor", "link", "route", "address"], stdout=subprocess.PIPE
    )
    try:
        for component in AWAY:
            lab.supervisor.stop(component)
        try:
            killed = lab.controller_pid("node-1")
            lab.kill("controller/node-1")
            eventually(
                "there is another controller", lambda: lab.controller_pid("node-1") not in (None, killed)
            )
            eventually("it has looked at the kernel", lambda: able(lab))
            assert kernel(lab) == before

            lab.hold("node-1")
            lab.exec("node-1", ["find", FOLDER, "-mindepth", "1", "-delete"])
            lab.release("node-1")
            eventually(
                "there is another controller, which lost with its records what it knew of itself",
                lambda: "does not know its SRv6 prefix" in answer(lab),
            )
            assert kernel(lab) == before
        finally:
            lab.release("node-1")
            for component in reversed(AWAY):
                lab.supervisor.start(component)
        eventually("pods can be attached again", lambda: able(lab))
        eventually(
            "the attachment is known again",
            lambda: [endpoint["epoch"] for endpoint in endpoints(lab)] == [epoch],
        )
        right = ("get", "vpcattachments")  # see ELSEWHERE in test_rights_of_each_program.py
        assert audit.asked(lab.state.audit, "galactic-node-node-1", *right)
        assert kernel(lab) == before
    finally:
        lab.exec("node-1", ["touch", stop])
        output, _ = ping.communicate(timeout=ANSWER_SECONDS)
        lab.exec("node-1", ["rm", "-f", stop])
        monitor.terminate()
    changes, _ = monitor.communicate(timeout=ANSWER_SECONDS)
    answers = [int(number) for number in re.findall(r"icmp_seq=(\d+)", output)]
    assert len(answers) > 100
    assert answers == list(range(1, len(answers) + 1)), f"a ping was lost; meanwhile:\n{changes}"
    gone = [line for line in changes.splitlines() if "Deleted" in line and re.search(r"\bG\w{13}\b", line)]
    assert not gone

    # Later changes work as before.
    blue.pod("three", "node-2")
    blue.reaches("one", "10.1.1.3")
    blue.delete_pod("one")
    eventually("the pod that was taken in again leaves nothing", lambda: not endpoints(lab))


def pinging(lab: Lab, tenant: Tenant, address: str, stop: str) -> "subprocess.Popen[str]":
    """A ping from pod ``one``, ten a second, until there is a file ``stop``."""
    lab.exec("node-1", ["rm", "-f", stop])
    script = f"ping -n -D -i0.1 -W2 {address} & while [ ! -e {stop} ]; do sleep 0.2; done; kill -INT $!; wait"
    return lab.popen(f"pod/{tenant.namespace}/one", ["sh", "-c", script], stdout=subprocess.PIPE)


def kernel(lab: Lab) -> set[str]:
    """Galactic's links and routes on node-1, in lines of `ip`."""
    links = {link["ifname"] for link in json.loads(lab.exec("node-1", ["ip", "-json", "link"]))}
    routes = [
        line.strip()
        for family in ("-4", "-6")
        for line in lab.exec(
            "node-1", ["ip", family, "route", "show", "table", "all", "proto", "154"]
        ).splitlines()
    ]
    return {name for name in links if re.fullmatch(r"G\w{13}", name)} | set(routes)


def endpoints(lab: Lab) -> list[dict[str, object]]:
    """The endpoints that node-1's segment lists."""
    return list(lab.get("nseg", "node-1").get("status", {}).get("endpoints") or ())


def answer(lab: Lab) -> str:
    """``able`` if the CNI plugin reports that node-1 can attach pods; else its error."""
    config = json.dumps({"cniVersion": "1.1.0", "name": "x", "type": "galactic"})
    argv = ["env", "CNI_COMMAND=STATUS", "CNI_PATH=/opt/cni/bin", sys.executable, "-ISE", str(PLUGIN)]
    done = lab.run("node-1", argv, stdin=config, check=False)
    if done.returncode == 0:
        return "able"
    return str(json.loads(done.stdout or '{"msg": ""}')["msg"])


def able(lab: Lab) -> bool:
    return answer(lab) == "able"
